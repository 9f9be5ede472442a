//! Pictures → files, with their provenance inside, never half-written under their final name.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use ndarray::Array3;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::curve::Curve;
use crate::graph::Opened;
use crate::noise::Leg;
use crate::prompt::{LongPrompts, Syntax};
use crate::request::{KeptPixels, NoiseLayout, SamplerNoise};
use crate::sampler::Tally;
use crate::stage::Stage;
use crate::trajectory::Restart;
use crate::unfinished::Unfinished;
use crate::{Error, ErrorKind, Result};

/// One picture.
#[derive(Debug)]
pub struct Picture {
    /// Its pixels.
    pub pixels: RgbImage,
    /// The latent that it was decoded from, `[channels, height, width]`.
    pub latent: Array3<f32>,
    /// Everything needed to make it again.
    pub provenance: Provenance,
}

/// Everything that is needed to make a picture again.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Provenance {
    /// Version of safelight.
    pub safelight: &'static str,
    /// What was asked for.
    pub prompt: String,
    /// What was asked to be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
    /// How both were read.
    #[serde(skip_serializing_if = "is_default")]
    pub syntax: Syntax,
    /// What became of them where they were long.
    #[serde(skip_serializing_if = "is_default")]
    pub long_prompts: LongPrompts,
    /// Numbers that steered the denoiser besides.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, f64>,
    /// Seed of this picture; of one between two seeds, the first of them.
    pub seed: u64,
    /// Where between two seeds its noise lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub walk: Option<Leg>,
    /// Where noise came from.
    pub noise: NoiseLayout,
    /// Seed of the sampler's own noise, where that does not continue the initial noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_seed: Option<u64>,
    /// Generator of noise.
    pub generator: &'static str,
    /// How the sampler's own noise hangs together.
    pub sampler_noise: SamplerNoise,
    /// Sampler, or several in turn.
    pub sampler: String,
    /// Those of them that are the application's own: name and source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub own_samplers: BTreeMap<&'static str, &'static str>,
    /// Name of the schedule, `timesteps` or `sigmas`.
    pub schedule: String,
    /// Timesteps that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timesteps: Vec<f64>,
    /// Sigmas that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sigmas: Vec<f64>,
    /// Intervals that were walked again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Restart>,
    /// Number of steps.
    pub steps: usize,
    /// Runs of the denoiser's graph for the batch of this picture.
    pub evaluations: usize,
    /// Runs that were spared where guidance rested.
    pub evaluations_saved: usize,
    /// Steps that an adaptive sampler took and threw away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Tally>,
    /// Guidance scale; 1 or less is off.
    pub guidance: Curve,
    /// How the two predictions were combined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_method: Option<&'static str>,
    /// What sampler, schedule and guidance were tuned with.
    pub options: BTreeMap<&'static str, Curve>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// SHA-256 of the picture that it began with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_sha256: Option<String>,
    /// SHA-256 of the mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_sha256: Option<String>,
    /// How much of the picture that it began with noise took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// What became of the part that the mask keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptPixels>,
    /// Width and height in pixels of the tiles that a stage worked in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiles: BTreeMap<Stage, [usize; 2]>,
    /// Name of the model.
    pub model: String,
    /// What each stage ran.
    pub graphs: BTreeMap<Stage, Opened>,
    /// Name of the target.
    pub target: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A file format, with the name that users type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Lossless, carries the provenance.
    Png,
    /// Lossy, quality 92.
    Jpeg,
    /// Lossless.
    WebP,
}

/// JPEG quality at which artefacts do not show on photographs.
const JPEG_QUALITY: u8 = 92;

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::WebP];

    /// The name that users type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// The format that a file name asks for, if it does.
    pub fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        if extension == "jpg" {
            return Some(Self::Jpeg);
        }
        Self::ALL.into_iter().find(|format| format.name() == extension)
    }
}

impl Picture {
    /// The bytes of a file in `format`. A PNG carries the provenance twice: as JSON under `safelight`, and under
    /// `parameters` in the form that the field's picture viewers read.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where the encoder fails, which only memory should make it do.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>> {
        encode(&self.pixels, &self.provenance, format)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("encoding {}: {e}", format.name())))
    }
}

fn encode(pixels: &RgbImage, provenance: &Provenance, format: Format) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Cursor::new(Vec::with_capacity(pixels.as_raw().len() / 2));
    let (width, height) = pixels.dimensions();
    match format {
        Format::Png => encode_png(pixels, provenance, &mut bytes)?,
        Format::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(pixels)?,
        Format::WebP => {
            WebPEncoder::new_lossless(&mut bytes).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
        }
    }
    Ok(bytes.into_inner())
}

fn encode_png(
    pixels: &RgbImage,
    provenance: &Provenance,
    target: &mut impl Write,
) -> Result<(), Box<dyn std::error::Error>> {
    let (width, height) = pixels.dimensions();
    let mut encoder = png::Encoder::new(target, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // The fast setting costs a few per cent of size and saves most of the time.
    encoder.set_compression(png::Compression::Fast);
    encoder.add_itxt_chunk("safelight".into(), serde_json::to_string(provenance)?)?;
    encoder.add_itxt_chunk("parameters".into(), parameters(provenance))?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.as_raw())?;
    writer.finish()?;
    Ok(())
}

/// The one-paragraph form that began with the Stable Diffusion web UI.
fn parameters(provenance: &Provenance) -> String {
    let Provenance { prompt, negative, steps, sampler, schedule, guidance, seed, walk, width, height, model, .. } =
        provenance;
    let negative = negative.as_ref().map(|negative| format!("\nNegative prompt: {negative}")).unwrap_or_default();
    let strength = provenance.strength.map(|strength| format!("Denoising strength: {strength}, ")).unwrap_or_default();
    let walk = walk.map(|Leg { to, share, .. }| format!(", Variation seed: {to}, Variation seed strength: {share}"));
    let walk = walk.unwrap_or_default();
    let text = format!(
        "{prompt}{negative}\nSteps: {steps}, Sampler: {sampler}, Schedule type: {schedule}, CFG scale: {guidance}, \
         Seed: {seed}{walk}, Size: {width}x{height}, {strength}Model: {model}, Version: safelight {}",
        provenance.safelight
    );
    text.replace('\0', " ")
}

/// Writes a file under a temporary name beside it, and renames it once it is whole. Devices and pipes, such as
/// `/dev/stdout`, are written to as they are.
///
/// # Errors
/// [`ErrorKind::Io`] naming the file; nothing is left behind.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    save_then(path, bytes, |_| Ok(()))
}

/// [`save`], and the disk has the file and its name before this returns: it outlives a power cut.
///
/// # Errors
/// As [`save`].
pub fn save_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    save_then(path, bytes, std::fs::File::sync_all)?;
    sync_folder(path);
    Ok(())
}

/// Waits until the disk has the name of a file. Some file systems cannot be asked for that, and have it soon.
pub(crate) fn sync_folder(path: &Path) {
    if cfg!(unix) {
        let _ = std::fs::File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    }
}

fn save_then(path: &Path, bytes: &[u8], whole: fn(&std::fs::File) -> std::io::Result<()>) -> Result<()> {
    let fault = |e: std::io::Error| unwritable(path, e);
    if is_device(path) {
        return std::fs::write(path, bytes).map_err(fault);
    }
    let (_unfinished, mut file) = temporary_beside(path).map_err(fault)?;
    file.write_all(bytes).map_err(fault)?;
    whole(file.as_file()).map_err(fault)?;
    let (file, temporary) = file.into_parts();
    close(file).map_err(fault)?;
    temporary.persist(path).map_err(|e| fault(e.error))?;
    Ok(())
}

/// Closes a file, and tells what a network's file system tells only now: that there was no room for it.
#[cfg(unix)]
fn close(file: std::fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd as _;
    // SAFETY: the descriptor was the file's own, and nobody has it any more.
    unsafe { rustix::io::try_close(file.into_raw_fd()) }.map_err(Into::into)
}

#[cfg(not(unix))]
fn close(file: std::fs::File) -> std::io::Result<()> {
    drop(file);
    Ok(())
}

/// Checks that [`save`] can write beside `path`, so that a fault is told before the work and not after it.
///
/// # Errors
/// As [`save`].
pub fn check_save(path: &Path) -> Result<()> {
    if is_device(path) {
        return Ok(());
    }
    temporary_beside(path).map(drop).map_err(|e| unwritable(path, e))
}

pub(crate) fn unwritable(path: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Kind;
    let advice = match error.kind() {
        Kind::NotFound => {
            return Error::io(format!(
                "{}: cannot be written: its folder does not exist; create it first",
                path.display()
            ));
        }
        Kind::StorageFull | Kind::QuotaExceeded => "; make room, or choose another place",
        Kind::FileTooLarge => "; raise the limit on file sizes (ulimit -f), or choose another place",
        _ => "",
    };
    // What else is told is the name of the temporary file.
    let told = error.to_string();
    let reason = told.split_once(" at path \"").map_or(told.as_str(), |(reason, _)| reason);
    Error::io(format!("{}: cannot be written: {reason}{advice}", path.display()))
}

/// Renaming onto a device would replace it.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn temporary_beside(path: &Path) -> std::io::Result<(Unfinished, NamedTempFile)> {
    let mut named = tempfile::Builder::new();
    named.prefix(".safelight-");
    // Temporary files are private to their user; a picture is as readable as the user's mask lets new files be.
    #[cfg(unix)]
    named.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    Unfinished::make(|| named.tempfile_in(folder_of(path)), NamedTempFile::path)
}
