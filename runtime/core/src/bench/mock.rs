//! What is measured in tests: images that take as long as a rule says, by a clock that only they move.

use super::report::Detailed;
use super::{Executor, Look, Made};
use crate::{Error, ErrorKind, Result};

/// Makes images by a rule from their number to their milliseconds; its clock is what they take.
pub(super) struct Mock<F> {
    ms: F,
    /// Which request was made, and how closely it was looked at.
    pub(super) made: Vec<(usize, Look)>,
    seconds: f64,
    /// Number of the image that fails, and how.
    pub(super) fault: Option<(usize, ErrorKind)>,
}

impl<F: Fn(usize) -> f64> Mock<F> {
    pub(super) fn new(ms: F) -> Self {
        Self { ms, made: Vec::new(), seconds: 100.0, fault: None }
    }
}

impl<F: Fn(usize) -> f64> Executor for Mock<F> {
    fn make(&mut self, request: usize, look: Look) -> Result<Made> {
        let number = self.made.len();
        if let Some((_, kind)) = self.fault.filter(|(at, _)| *at == number) {
            return Err(Error::new(kind, "the mock fails"));
        }
        self.made.push((request, look));
        let (ms, begun_s) = ((self.ms)(number), self.seconds);
        self.seconds += ms / 1000.0;
        let detailed = (look == Look::StagesAndSteps).then(|| Detailed {
            total_ms: ms,
            reopen_ms: 0.0,
            text_encoder_ms: 0.0,
            denoiser_ms: ms,
            steps_ms: vec![ms],
            decoder_ms: 0.0,
            own_ms: 0.0,
        });
        Ok(Made { begun_s, ms, sha256: format!("{request:064x}"), detailed })
    }

    fn seconds(&self) -> f64 {
        self.seconds
    }
}
