//! Stopping a generation from another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ort::session::RunOptions;

use crate::{Error, ErrorKind, Result};

/// A handle that stops a generation, from any thread, between two nodes of the graph that is running.
///
/// Clones share one state. Once cancelled it stays so: give each generation its own.
///
/// ```
/// use safelight::{Cancel, Request};
///
/// let first = Request::default();
/// first.cancel.clone().cancel();
/// assert!(first.cancel.is_cancelled());
///
/// // A copy of a request shares its handle: what repeats a request gives it a new one.
/// let again = Request { cancel: Cancel::new(), ..first.clone() };
/// assert!(!again.cancel.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    running: Mutex<Vec<Arc<RunOptions>>>,
}

impl Cancel {
    /// A handle that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops what runs under this handle, and whatever would start under it later.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for options in self.running().iter() {
            // A run that has just ended cannot be terminated any more, which is what was wanted.
            let _ = options.terminate();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`ErrorKind::Cancelled`] once [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "cancelled")) } else { Ok(()) }
    }

    /// Runs `body`, during which a cancellation terminates the run that `options` belong to.
    pub(crate) fn during<T>(&self, options: &Arc<RunOptions>, body: impl FnOnce() -> T) -> Result<T> {
        {
            // The flag is read under the lock: a cancellation either is seen here or finds the options listed.
            let mut running = self.running();
            self.check()?;
            running.push(Arc::clone(options));
        }
        let result = body();
        self.running().retain(|other| !Arc::ptr_eq(other, options));
        if self.is_cancelled() {
            let _ = options.unterminate();
        }
        self.check().map(|()| result)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Arc<RunOptions>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}
