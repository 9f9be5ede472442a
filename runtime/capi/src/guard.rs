//! The one place where panics end.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use safelight::{Error, ErrorKind, Result};

use crate::SafelightError;

/// Does what a function of the interface was asked. A panic is an internal error.
pub(crate) fn fallible(body: impl FnOnce() -> Result<()>) -> Option<Box<SafelightError>> {
    quiet::install();
    // What a body leaves half done is either its own or a pipeline's, which is not used again.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(internal(panic.as_ref())));
    outcome.err().map(|error| Box::new(error.into()))
}

/// Does what cannot fail, such as giving back; a panic is passed over.
pub(crate) fn infallible(body: impl FnOnce()) {
    quiet::install();
    let _ = catch_unwind(AssertUnwindSafe(body));
}

fn internal(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let place = quiet::take_place();
    let told = format!("a mistake of safelight: {}{place}; please report it", text.unwrap_or("it panicked"));
    Error::new(ErrorKind::Internal, told)
}

/// Rust would tell a panic to standard error, which is not ours to write to. Its place is kept for the error instead.
mod quiet {
    use std::cell::RefCell;
    use std::sync::Once;

    thread_local! {
        static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
    }

    pub(super) fn install() {
        static ONCE: Once = Once::new();
        // The test harness tells panics itself.
        if cfg!(test) {
            return;
        }
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| {
                let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
                let _ = PLACE.try_with(|kept| kept.replace(place.unwrap_or_default()));
            }));
        });
    }

    pub(super) fn take_place() -> String {
        PLACE.try_with(RefCell::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SAFELIGHT_INTERNAL, SAFELIGHT_IO, safelight_error_code};

    #[test]
    fn a_panic_is_an_internal_error() {
        let panicked = fallible(|| panic!("{} went wrong", "it"));
        assert_eq!(safelight_error_code(panicked.as_deref()), SAFELIGHT_INTERNAL);
        let error = internal(&"it went wrong".to_owned());
        assert_eq!(error.to_string(), "a mistake of safelight: it went wrong; please report it");
        let failed = fallible(|| Err(Error::new(ErrorKind::Io, "gone")));
        assert_eq!(safelight_error_code(failed.as_deref()), SAFELIGHT_IO);
        assert!(fallible(|| Ok(())).is_none());
        infallible(|| panic!("nobody hears this"));
    }
}
