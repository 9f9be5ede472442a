//! Texts and numbers that C gives and takes.

use std::ffi::{CStr, CString, c_char};

use safelight::{Error, ErrorKind, Result};

/// A mistake in how a function was called.
pub(crate) fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// What an argument points to.
pub(crate) fn present<T>(argument: Option<T>, name: &str) -> Result<T> {
    argument.ok_or_else(|| usage(format!("{name} is NULL")))
}

/// A caller's text.
///
/// # Safety
/// It is null, or NUL-terminated and unchanged for as long as the result is used.
pub(crate) unsafe fn read<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    if text.is_null() {
        return Err(usage(format!("{name} is NULL")));
    }
    // SAFETY: as this function demands.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| usage(format!("{name} is not UTF-8 after byte {}", e.valid_up_to())))
}

/// A text for C, which ends at the first NUL: those within it become spaces.
pub(crate) fn owned(text: String) -> CString {
    CString::new(text).unwrap_or_else(|e| {
        let bytes = e.into_vec().into_iter().map(|byte| if byte == 0 { b' ' } else { byte });
        CString::new(bytes.collect::<Vec<_>>()).unwrap_or_default()
    })
}

/// Checks the `size` that the caller gave a struct of that name: that of this version of the header.
pub(crate) fn check_size(given: usize, own: usize, name: &str) -> Result<()> {
    if given == own {
        return Ok(());
    }
    Err(usage(format!(
        "{name}.size is {given}, expected {own}: set it to sizeof({name}), and compile with the header of this library, {}",
        env!("CARGO_PKG_VERSION")
    )))
}
