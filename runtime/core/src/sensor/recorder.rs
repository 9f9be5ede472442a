//! A thread that reads all sensors while work runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Sensors;
use super::record::{Record, Recorded};
use crate::{Error, ErrorKind, Result};

/// Reads all sensors at a steady rate, from its start to its stop.
#[derive(Debug)]
pub struct Recorder {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<(Sensors, Recorded)>,
}

/// Fastest and slowest rate, in readings a second: with a slower one no energy could be told.
const RATES: (f64, f64) = (2.0, 100.0);

impl Recorder {
    /// Readings of each sensor a second, unless somebody says otherwise.
    pub const USUAL_RATE: f64 = 10.0;

    /// Begins to read, `per_second` times a second, 2 to 100; what is beyond is taken as the nearer of the two.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) where the system starts no thread.
    pub fn start(mut sensors: Sensors, per_second: f64) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let period = Duration::from_secs_f64(1.0 / per_second.clamp(RATES.0, RATES.1));
        let clock = Instant::now();
        let work = move || {
            let recorded = record(&mut sensors, clock, period, &seen);
            (sensors, recorded)
        };
        let thread = thread::Builder::new().name("sensors".into()).spawn(work).map_err(|e| {
            Error::new(ErrorKind::Internal, format!("no thread can be started to read sensors: {e}")).because(e)
        })?;
        Ok(Self { is_over, thread })
    }

    /// Reads once more, and gives back the sensors and what they told.
    pub fn stop(self) -> (Sensors, Recorded) {
        self.is_over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn record(sensors: &mut Sensors, clock: Instant, period: Duration, is_over: &AtomicBool) -> Recorded {
    let sources: Vec<_> = sensors.present().cloned().collect();
    let mut record = Record::begin(&sources, sensors.summed().clone(), 0.0);
    let mut values = vec![None; sources.len()];
    let mut due = Duration::ZERO;
    loop {
        // What was asked for before this reading: the last reading is made after the end of the work.
        let is_last = is_over.load(Ordering::Acquire);
        let seconds = clock.elapsed().as_secs_f64();
        sensors.read_into(&mut values);
        record.add(seconds, &values);
        sensors.told(&values, |column, told| record.tell(column, told));
        if is_last {
            return record.end(seconds);
        }
        // A reading that came too late is not made up for.
        let now = clock.elapsed();
        due = if due + period > now { due + period } else { now };
        while clock.elapsed() < due && !is_over.load(Ordering::Acquire) {
            thread::park_timeout(due.saturating_sub(clock.elapsed()));
        }
    }
}
