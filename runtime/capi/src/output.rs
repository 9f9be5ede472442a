//! The pictures that were made, and what there is to tell of them.

use std::ffi::{CString, c_char};
use std::mem::size_of;
use std::path::Path;
use std::ptr;

use image::RgbImage;
use safelight::{Format, Picture, Result, Timings, save};

use crate::SafelightError;
use crate::guard::{fallible, infallible};
use crate::text::{check_size, owned, present, read, usage};

/// What a generation or a verification gave. It is never changed, so any thread may read it.
pub struct SafelightOutput {
    pictures: Vec<(Picture, CString)>,
    timings: Timings,
    report: CString,
}

impl SafelightOutput {
    pub(crate) fn new(pictures: Vec<Picture>, timings: Timings, report: &serde_json::Value) -> Self {
        let with_provenance = |picture: Picture| {
            let provenance = serde_json::to_string(&picture.provenance).unwrap_or_default();
            (picture, owned(provenance))
        };
        let pictures = pictures.into_iter().map(with_provenance).collect();
        Self { pictures, timings, report: owned(report.to_string()) }
    }

    fn picture(&self, index: usize) -> Result<&(Picture, CString)> {
        let told = || usage(format!("there is no picture {index}: the output has {}, from 0", self.pictures.len()));
        self.pictures.get(index).ok_or_else(told)
    }
}

/// A picture: rows of 8-bit red, green and blue from the top. It belongs to what it came from.
#[repr(C)]
pub struct SafelightPicture {
    /// `sizeof(SafelightPicture)`, set by whoever made the struct.
    pub size: usize,
    /// The first byte of the first row.
    pub pixels: *const u8,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// The seed that made it.
    pub seed: u64,
    /// How to make it again, as JSON; NULL for a preview.
    pub provenance: *const c_char,
}

impl SafelightPicture {
    /// A picture that is no output's.
    pub(crate) fn preview(pixels: &RgbImage) -> Self {
        Self::new(pixels, 0, ptr::null())
    }

    fn new(pixels: &RgbImage, seed: u64, provenance: *const c_char) -> Self {
        Self {
            size: size_of::<Self>(),
            pixels: pixels.as_ptr(),
            width: pixels.width() as usize,
            height: pixels.height() as usize,
            stride: 3 * pixels.width() as usize,
            seed,
            provenance,
        }
    }
}

/// Where the time of a generation went, in milliseconds, and how often the text encoder was spared. The report has each
/// step.
#[repr(C)]
pub struct SafelightTimings {
    /// `sizeof(SafelightTimings)`, set by the caller.
    pub size: usize,
    /// Finding the library, verifying hashes and opening graphs; once a pipeline.
    pub open_ms: f64,
    /// Opening graphs during the generation, and giving them back.
    pub reopen_ms: f64,
    /// Prompts to hidden states.
    pub text_encoder_ms: f64,
    /// The picture to begin with to its latent, with its mask.
    pub encoder_ms: f64,
    /// All steps of all pictures.
    pub denoiser_ms: f64,
    /// Latents to pixels.
    pub decoder_ms: f64,
    /// Estimates to previews.
    pub preview_ms: f64,
    /// The whole generation, with everything above but the first opening.
    pub total_ms: f64,
    /// The part of it inside ONNX Runtime.
    pub graphs_ms: f64,
    /// The part of it that is safelight's own.
    pub own_ms: f64,
    /// Prompts, or chunks of them, that came from the prompt cache on disk.
    pub text_hits: u64,
    /// Prompts, or chunks of them, that a text encoder read.
    pub text_misses: u64,
}

impl From<&Timings> for SafelightTimings {
    fn from(timings: &Timings) -> Self {
        Self {
            size: size_of::<Self>(),
            open_ms: timings.open_ms,
            reopen_ms: timings.reopen_ms,
            text_encoder_ms: timings.text_encoder_ms,
            encoder_ms: timings.encoder_ms,
            denoiser_ms: timings.denoiser_ms,
            decoder_ms: timings.decoder_ms,
            preview_ms: timings.preview_ms,
            total_ms: timings.total_ms,
            graphs_ms: timings.graphs_ms,
            own_ms: timings.own_ms(),
            text_hits: timings.text_hits as u64,
            text_misses: timings.text_misses as u64,
        }
    }
}

/// How many pictures an output has; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_output_count(output: Option<&SafelightOutput>) -> usize {
    output.map_or(0, |output| output.pictures.len())
}

/// Tells of the picture `index`, from 0, where it is. Pixels and provenance belong to the output, and are valid until it is
/// freed.
///
/// Errors: `SAFELIGHT_USAGE` where there is no such picture.
///
/// # Safety
/// `picture` is null, or points to as many bytes as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_output_picture(
    output: Option<&SafelightOutput>,
    index: usize,
    picture: *mut SafelightPicture,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let (made, provenance) = present(output, "output")?.picture(index)?;
        let told = SafelightPicture::new(&made.pixels, made.provenance.seed, provenance.as_ptr());
        // SAFETY: as this function demands.
        unsafe { fill(picture, told, "SafelightPicture", "picture") }
    })
}

/// Writes the picture `index` to a file, under a temporary name that becomes `path` once it is whole. The name says the
/// format: .png, which carries the provenance, .jpg or .webp.
///
/// Errors: `SAFELIGHT_USAGE` where there is no such picture or format, `SAFELIGHT_IO` for the file.
///
/// # Safety
/// `path` is NUL-terminated or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_output_save(
    output: Option<&SafelightOutput>,
    index: usize,
    path: *const c_char,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let (made, _) = present(output, "output")?.picture(index)?;
        // SAFETY: as this function demands.
        let path = Path::new(unsafe { read(path, "path")? });
        let told = || usage(format!("{}: its name says no format; end it with .png, .jpg or .webp", path.display()));
        let format = Format::of_path(path).ok_or_else(told)?;
        save(path, &made.encode(format)?)
    })
}

/// Tells where the time went.
///
/// Errors: `SAFELIGHT_USAGE` for NULL and for another version's struct.
///
/// # Safety
/// `timings` is null, or points to as many bytes as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_output_timings(
    output: Option<&SafelightOutput>,
    timings: *mut SafelightTimings,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let told = SafelightTimings::from(&present(output, "output")?.timings);
        // SAFETY: as this function demands.
        unsafe { fill(timings, told, "SafelightTimings", "timings") }
    })
}

/// All there is to tell as JSON: of a generation each picture's provenance, timings with each step's, warnings, what became
/// of caches; of a verification each comparison. Valid until the output is freed; NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_output_report(output: Option<&SafelightOutput>) -> *const c_char {
    output.map_or(ptr::null(), |output| output.report.as_ptr())
}

/// Gives an output back, and with it all that was told of it; nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_output_free(output: Option<Box<SafelightOutput>>) {
    infallible(|| drop(output));
}

/// Fills a caller's struct, once its size is known to be right.
///
/// # Safety
/// `place` is null, or points to as many bytes as its first field says, which is a size.
unsafe fn fill<T>(place: *mut T, value: T, of: &str, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(usage(format!("{name} is NULL")));
    }
    // SAFETY: the first field is there, whatever it says.
    check_size(unsafe { place.cast::<usize>().read() }, size_of::<T>(), of)?;
    // SAFETY: it is of this version's size.
    unsafe { place.write(value) };
    Ok(())
}
