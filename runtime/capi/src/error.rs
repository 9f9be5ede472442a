//! Errors that the caller owns.

use std::ffi::{CStr, CString, c_char, c_int};

use safelight::{Error, ErrorKind};

/// The request, the target file or a call itself asks for something that does not exist or cannot be.
pub const SAFELIGHT_USAGE: c_int = 2;
/// The model folder, its manifest or one of its graphs is not what it should be.
pub const SAFELIGHT_MODEL: c_int = 3;
/// ONNX Runtime or an execution provider cannot be used.
pub const SAFELIGHT_LIBRARY: c_int = 4;
/// What is asked for exceeds a limit of the target or of the library.
pub const SAFELIGHT_LIMIT: c_int = 5;
/// A graph produced NaN, a constant latent or a black picture, or numbers are beyond a bound.
pub const SAFELIGHT_NUMERIC: c_int = 6;
/// A file could not be read or written.
pub const SAFELIGHT_IO: c_int = 7;
/// The caller cancelled.
pub const SAFELIGHT_CANCELLED: c_int = 8;
/// A mistake of safelight itself.
pub const SAFELIGHT_INTERNAL: c_int = 70;

/// Why something could not be done. The caller owns it. It is never changed, so any thread may read it.
pub struct SafelightError {
    code: c_int,
    message: CString,
}

impl From<Error> for SafelightError {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Usage => SAFELIGHT_USAGE,
            ErrorKind::Model => SAFELIGHT_MODEL,
            ErrorKind::Library => SAFELIGHT_LIBRARY,
            ErrorKind::Limit => SAFELIGHT_LIMIT,
            ErrorKind::Numeric => SAFELIGHT_NUMERIC,
            ErrorKind::Io => SAFELIGHT_IO,
            ErrorKind::Cancelled => SAFELIGHT_CANCELLED,
            _ => SAFELIGHT_INTERNAL,
        };
        Self { code, message: crate::text::owned(error.to_string()) }
    }
}

/// The code of an error, one of `SAFELIGHT_USAGE` … `SAFELIGHT_INTERNAL`, which are the exit codes of the command
/// `safelight`; 0 for NULL. Codes that a later version adds are other numbers: treat what you do not know as
/// `SAFELIGHT_INTERNAL`.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_error_code(error: Option<&SafelightError>) -> c_int {
    error.map_or(0, |error| error.code)
}

/// What was attempted, what was found, and what to do next: UTF-8, for people, and no part of the interface. Valid until
/// the error is freed; an empty text for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_error_message(error: Option<&SafelightError>) -> *const c_char {
    const NOTHING: &CStr = c"";
    error.map_or(NOTHING, |error| &error.message).as_ptr()
}

/// Gives an error back; nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_error_free(error: Option<Box<SafelightError>>) {
    drop(error);
}
