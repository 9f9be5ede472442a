//! Stopping a generation from another thread.

use safelight::Cancel;

use crate::guard::infallible;

/// Stops what runs under it, from any thread and as often as wanted. Once used it stays so: make one for each
/// generation. What runs under it keeps it alive.
pub struct SafelightCancel(pub(crate) Cancel);

/// A handle that nobody has used yet; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_cancel_new() -> Box<SafelightCancel> {
    Box::new(SafelightCancel(Cancel::new()))
}

/// Stops what runs under the handle, between two nodes of a graph, and whatever would start under it later, with
/// `SAFELIGHT_CANCELLED`. Any thread may call it, at any time; a signal handler must not. Nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_cancel(cancel: Option<&SafelightCancel>) {
    infallible(|| cancel.into_iter().for_each(|cancel| cancel.0.cancel()));
}

/// Gives the handle back; what runs under it goes on. Nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_cancel_free(cancel: Option<Box<SafelightCancel>>) {
    drop(cancel);
}
