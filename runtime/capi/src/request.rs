//! What to make, by the names of the command line.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use image::{GrayImage, RgbImage};
use safelight::{InputMask, InputPicture, Request, Result};

use crate::SafelightError;
use crate::guard::fallible;
use crate::text::{present, read, usage};

/// What to make. One thread may change it at a time; while none does, many may read it.
#[derive(Default)]
pub struct SafelightRequest(pub(crate) Request);

/// A request whose fields all have their defaults: the model's, one picture, seed 0; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_request_new() -> Box<SafelightRequest> {
    Box::default()
}

/// Sets a field to a value, in the place of what it was. Names and values are those of the command's options, such as
/// `"steps"`, `"4"`; what is a switch there is `"true"` or `"false"` here. docs/embedding-c.md lists them. Both texts are
/// copied. After an error the request is what it was.
///
/// Errors: `SAFELIGHT_USAGE` for a name that is no field's, with the names that are, and for a text that is no value of
/// it. Whether model and target go along with a value is told by `safelight_generate`.
///
/// # Safety
/// `name` and `value` are NUL-terminated or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_request_set(
    request: Option<&mut SafelightRequest>,
    name: *const c_char,
    value: *const c_char,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let request = present(request, "request")?;
        // SAFETY: as this function demands.
        let (name, value) = unsafe { (read(name, "name")?, named_value(name, value)?) };
        request.0.set(name, value)
    })
}

/// A value, whose errors tell the name that it was for.
///
/// # Safety
/// As [`read`], and `name` has been read.
pub(crate) unsafe fn named_value<'a>(name: *const c_char, value: *const c_char) -> Result<&'a str> {
    // SAFETY: as this function demands.
    unsafe { read(value, "value") }.map_err(|e| {
        // SAFETY: it has been read.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        e.context(name.chars().take(80).collect::<String>())
    })
}

/// Sets the picture to begin with: rows of 8-bit red, green and blue from the top, `stride` bytes from one to the next.
/// It is copied, and resized to the size of the pictures. `"strength"` says how much of it noise takes.
///
/// Errors: `SAFELIGHT_USAGE` for NULL, for no pixels and for a stride that is less than a row.
///
/// # Safety
/// `pixels` is null or points to `(height - 1) * stride + 3 * width` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_request_set_image(
    request: Option<&mut SafelightRequest>,
    pixels: *const u8,
    width: usize,
    height: usize,
    stride: usize,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let request = present(request, "request")?;
        let plane = Plane { width, height, stride, channels: 3 };
        // SAFETY: as this function demands.
        let pixels = unsafe { plane.copied(pixels)? };
        let image = RgbImage::from_raw(width as u32, height as u32, pixels);
        request.0.image = image.map(|image| Arc::new(InputPicture::from(image)));
        Ok(())
    })
}

/// Sets which part of the picture is painted anew: rows of bytes from the top, 128 or more is painted. As large as the
/// picture. It is copied.
///
/// Errors: as `safelight_request_set_image`.
///
/// # Safety
/// `pixels` is null or points to `(height - 1) * stride + width` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_request_set_mask(
    request: Option<&mut SafelightRequest>,
    pixels: *const u8,
    width: usize,
    height: usize,
    stride: usize,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let request = present(request, "request")?;
        let plane = Plane { width, height, stride, channels: 1 };
        // SAFETY: as this function demands.
        let pixels = unsafe { plane.copied(pixels)? };
        let mask = GrayImage::from_raw(width as u32, height as u32, pixels);
        request.0.mask = mask.map(|mask| Arc::new(InputMask::from(mask)));
        Ok(())
    })
}

/// Gives a request back; what is made of it goes on. Nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_request_free(request: Option<Box<SafelightRequest>>) {
    drop(request);
}

/// How a caller's picture lies in memory.
struct Plane {
    width: usize,
    height: usize,
    stride: usize,
    channels: usize,
}

impl Plane {
    /// Longest side of a picture: beyond it only a mistake is that large.
    const MOST: usize = 65_535;

    /// Bytes of a row, and of all up to the last pixel.
    fn bytes(&self) -> Result<(usize, usize)> {
        let Self { width, height, stride, channels } = *self;
        if width == 0 || height == 0 || width > Self::MOST || height > Self::MOST {
            return Err(usage(format!(
                "the picture is {width}×{height} pixels, expected 1 to {} each way",
                Self::MOST
            )));
        }
        let row = width * channels;
        if stride < row {
            return Err(usage(format!("stride is {stride} bytes, less than a row of {width} pixels ({row} bytes)")));
        }
        let all = stride.checked_mul(height - 1).and_then(|bytes| bytes.checked_add(row));
        let all = all.filter(|&bytes| isize::try_from(bytes).is_ok());
        Ok((row, all.ok_or_else(|| usage(format!("stride is {stride} bytes, which is more than any memory has")))?))
    }

    /// Its pixels, without gaps.
    ///
    /// # Safety
    /// `pixels` is null, or points to as many bytes as [`bytes`](Self::bytes) tells.
    unsafe fn copied(&self, pixels: *const u8) -> Result<Vec<u8>> {
        let (row, all) = self.bytes()?;
        if pixels.is_null() {
            return Err(usage("pixels is NULL"));
        }
        // SAFETY: it points to that many bytes, whose number fits into isize.
        let pixels = unsafe { std::slice::from_raw_parts(pixels, all) };
        Ok(pixels.chunks(self.stride).flat_map(|line| &line[..row]).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_copied_without_what_lies_between_them() {
        let padded = [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12];
        let plane = Plane { width: 2, height: 2, stride: 8, channels: 3 };
        // SAFETY: there are 14 bytes.
        assert_eq!(unsafe { plane.copied(padded.as_ptr()) }.unwrap(), (1..=12).collect::<Vec<u8>>());
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (width, height, stride, expected) in [
            (0, 1, 3, "0×1 pixels"),
            (1, 70_000, 3, "1×70000 pixels"),
            (usize::MAX, 1, usize::MAX, "pixels, expected 1 to 65535"),
            (2, 1, 5, "stride is 5 bytes, less than a row of 2 pixels (6 bytes)"),
            (1, 3, usize::MAX, "more than any memory has"),
            (1, 2, isize::MAX as usize, "more than any memory has"),
        ] {
            let error = Plane { width, height, stride, channels: 3 }.bytes().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
