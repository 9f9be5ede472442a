//! How fast, how heavy and how right a model is on a device: the protocol, and what it writes down.

use serde::{Deserialize, Serialize};

use crate::Result;

pub mod compare;
pub mod fleet;
mod field;
#[cfg(test)]
mod mock;
pub mod protocol;
pub mod quality;
pub mod report;
pub mod requests;
pub mod summary;
pub mod validity;
pub mod worker;

pub use report::Report;
pub use worker::Worker;

/// Makes what is measured: in this process, in another, or in a test without any clock.
pub trait Executor {
    /// Makes the images of a request once; requests are numbered from 0.
    ///
    /// # Errors
    /// Whatever keeps it from making them.
    fn make(&mut self, request: usize, look: Look) -> Result<Made>;

    /// Makes several requests, each right after the one before: nothing is told between them, which would take time from
    /// them.
    ///
    /// # Errors
    /// As [`Executor::make`]; what was made before is lost.
    fn make_each(&mut self, requests: &[usize], look: Look) -> Result<Vec<Made>> {
        requests.iter().map(|&request| self.make(request, look)).collect()
    }

    /// Seconds since some moment: the only clock that a protocol knows.
    fn seconds(&self) -> f64;
}

/// How closely a making is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// The whole image is timed, and nothing else.
    Image,
    /// Every stage and step is timed.
    StagesAndSteps,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// When it was begun, in seconds since some moment: the same for all that an executor makes.
    pub begun_s: f64,
    /// What the request took, in ms: from words to pixels in memory.
    pub ms: f64,
    /// SHA-256 of all its pixels.
    pub sha256: String,
    /// Stages and steps, where they were looked at.
    pub detailed: Option<report::Detailed>,
}
