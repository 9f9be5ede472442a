//! What a request's picture and mask are to the denoising: where it begins, and what it must keep.

use image::RgbImage;

use crate::encoder::Posterior;
use crate::model::Model;
use crate::noise::Noise;
use crate::request::{KeptPixels, NoiseLayout, Plan, Request};
use crate::sampler::{Denoise, Latent, Step};
use crate::stage::Stage;
use crate::target::Target;
use crate::training::Level;
use crate::{Error, Result};

/// Checks a picture to begin with, and that the model can read one; returns how much of it noise takes.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for what does not fit together,
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where the model has no encoder.
pub(crate) fn check(request: &Request, model: &Model, target: &Target) -> Result<Option<f64>> {
    if request.kept == KeptPixels::Pasted && request.mask.is_none() {
        return Err(Error::usage("pixels can be kept only where a mask tells which (--mask)"));
    }
    let strength = strength(request)?;
    let Some(image) = &request.image else { return Ok(None) };
    if request.mask.as_ref().is_some_and(|mask| mask.pixels.pixels().all(|grey| grey[0] < 128)) {
        return Err(Error::usage("the mask is black everywhere, so that nothing would be painted; white is painted"));
    }
    if model.stages.contains_key(&Stage::Decoder) {
        model.graph(Stage::Encoder, &target.stage(Stage::Encoder).precision).map_err(|e| {
            e.context("a picture to begin with needs the encoder of the model's autoencoder (vae_encoder)")
        })?;
    }
    let (width, height) = image.pixels.dimensions();
    let most = target.limits.max_input_pixels;
    if u64::from(width) * u64::from(height) > most {
        let what = format!("the picture is {width}×{height} pixels, more than the {most} that the target allows");
        return Err(Error::limit(format!("{what} (limits.max_input_pixels); make it smaller first")));
    }
    let least = model.latent.downscale as u32;
    if width < least || height < least {
        return Err(Error::usage(format!(
            "the picture is {width}×{height} pixels, less than one cell of the model's latents; expected at least \
             {least}×{least}"
        )));
    }
    if let Some(mask) = request.mask.as_ref().filter(|mask| mask.pixels.dimensions() != (width, height)) {
        let (mask_width, mask_height) = mask.pixels.dimensions();
        return Err(Error::usage(format!(
            "the mask is {mask_width}×{mask_height} pixels, but its picture {width}×{height}; make them one size"
        )));
    }
    Ok(strength)
}

/// What the caller should know of the picture to begin with.
pub(crate) fn warnings(request: &Request, (width, height): (usize, usize)) -> Vec<String> {
    /// A change of shape that shows.
    const STRETCHED: f64 = 1.02;
    let mut warnings = Vec::new();
    if let Some(image) = &request.image {
        warnings.extend(image.warnings.iter().cloned());
        let (own_width, own_height) = image.pixels.dimensions();
        let ratio = f64::from(own_width) * height as f64 / (f64::from(own_height) * width as f64);
        if ratio.max(1.0 / ratio) > STRETCHED {
            warnings.push(format!(
                "the picture is {own_width}×{own_height} pixels and is stretched to {width}×{height}; cut it to that shape, \
                 or ask for another size"
            ));
        }
    }
    warnings.extend(request.mask.iter().flat_map(|mask| mask.warnings.iter().cloned()));
    warnings
}

/// How much of a picture noise takes where nothing is said: of the whole, and of a part that a mask tells (diffusers).
const USUAL_STRENGTHS: (f64, f64) = (0.8, 1.0);

/// How much of the picture noise takes, where there is one.
fn strength(request: &Request) -> Result<Option<f64>> {
    let (whole, part) = USUAL_STRENGTHS;
    match (&request.image, &request.mask, request.sampling.strength) {
        (None, Some(_), _) => Err(Error::usage("there is a mask, but no picture that it belongs to (--image)")),
        (None, None, Some(strength)) => {
            let what = format!("strength {strength} would have no effect");
            Err(Error::usage(format!("{what}: there is no picture to begin with (--image)")))
        }
        (None, None, None) => Ok(None),
        (Some(_), mask, strength) => Ok(Some(strength.unwrap_or(if mask.is_some() { part } else { whole }))),
    }
}

/// What a request has the denoiser do with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// There is no picture.
    FromNoise,
    /// All of it is denoised, from where the strength says.
    WholePicture,
    /// A part of it; the other part is put back after each step.
    PutBack,
    /// A part of it, by a denoiser that is shown the mask and what is around it.
    Shown,
}

impl Task {
    /// What a request asks of a denoiser, which is shown masks or is not.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where it is shown masks and there is none.
    pub(crate) fn of(request: &Request, is_shown: bool) -> Result<Self> {
        match (request.image.is_some(), request.mask.is_some()) {
            (true, true) if is_shown => Ok(Self::Shown),
            (true, true) => Ok(Self::PutBack),
            _ if is_shown => Err(Error::usage(
                "this model paints a part of a picture anew: its denoiser takes a mask and what is around it; give it a \
                 picture and a mask (--image and --mask)",
            )),
            (true, false) => Ok(Self::WholePicture),
            (false, _) => Ok(Self::FromNoise),
        }
    }
}

/// A request's picture, encoded; the same for all that is made of it.
pub(crate) struct Original {
    pub(crate) task: Task,
    /// Its latents, where the denoising begins with them or puts them back.
    pub(crate) picture: Option<Posterior>,
    /// Those of the picture whose painted part is grey, where the denoiser is shown them.
    pub(crate) masked: Option<Posterior>,
    /// Whether the denoising begins with noise alone.
    pub(crate) begins_with_noise: bool,
    pub(crate) mask: Mask,
    /// The picture itself, where what is kept of it is pasted in the end.
    pub(crate) kept: Option<RgbImage>,
}

/// Which part of a picture is painted; nothing of it is said where all is.
#[derive(Default)]
pub(crate) struct Mask {
    /// `[height, width]` in pixels.
    pixels: Vec<bool>,
    /// `[height, width]` in latent cells: a cell is painted where its first pixel is, as in diffusers.
    cells: Vec<bool>,
}

impl Mask {
    pub(crate) fn new(pixels: Vec<bool>, plan: &Plan) -> Self {
        let (_, height, width) = plan.latent;
        let (tall, wide) = (plan.height / height, plan.width / width);
        let rows = pixels.chunks_exact(plan.width).step_by(tall);
        Self { cells: rows.flat_map(|row| row.iter().step_by(wide).copied()).collect(), pixels }
    }
}

/// Makes the painted part of a picture, `[3, height, width]`, grey.
pub(crate) fn grey_out(picture: &mut [f32], painted: &[bool]) {
    for (value, _) in picture.iter_mut().zip(painted.iter().cycle()).filter(|(_, painted)| **painted) {
        *value = 0.0;
    }
}

impl Original {
    /// For requests without a picture.
    pub(crate) fn none() -> Self {
        let (picture, masked, kept) = (None, None, None);
        Self { task: Task::FromNoise, picture, masked, begins_with_noise: true, mask: Mask::default(), kept }
    }

    /// Where a batch begins. Numbers are drawn in the order of diffusers' pipelines: for the picture's latents, the noise,
    /// for the masked picture's latents.
    pub(crate) fn begin<'a>(
        &'a self,
        noise: &mut Noise,
        (layout, rows): (NoiseLayout, usize),
        plan: &Plan,
    ) -> Result<Beginning<'a>> {
        let sample = |posterior: &Posterior, noise: &mut Noise| posterior.sample(noise, layout, rows);
        let picture = self.picture.as_ref().map(|picture| sample(picture, noise)).transpose()?;
        let (channels, height, width) = plan.latent;
        let mut fresh = Latent::zeros((rows, channels, height, width));
        noise.fill(&mut fresh)?;
        let shown = match (&self.masked, &self.picture) {
            (Some(masked), _) => {
                let mask = self.mask.cells.iter().map(|&painted| f32::from(u8::from(painted))).collect();
                Some(Shown { mask, masked: sample(masked, noise)? })
            }
            (None, Some(picture)) if self.task == Task::PutBack => {
                // diffusers encodes the masked picture for every model, which moves the generator on.
                picture.draw(noise, layout, rows)?;
                None
            }
            _ => None,
        };
        Ok(Beginning { original: self, noise: fresh, picture, shown })
    }

    /// Puts what the mask keeps into a picture, as it was.
    pub(crate) fn paste(&self, picture: &mut RgbImage) {
        let Some(kept) = &self.kept else { return };
        let pixels = picture.pixels_mut().zip(kept.pixels()).zip(&self.mask.pixels);
        pixels.filter(|(_, painted)| !**painted).for_each(|((to, from), _)| *to = *from);
    }
}

/// Where the denoising of a batch begins, and what it must keep.
pub(crate) struct Beginning<'a> {
    original: &'a Original,
    /// Before any scaling.
    noise: Latent,
    picture: Option<Latent>,
    shown: Option<Shown>,
}

/// A mask and what is around it, as a denoiser of 2·channels + 1 takes them.
pub(crate) struct Shown {
    /// `[height, width]`, 1 where it is painted.
    pub(crate) mask: Vec<f32>,
    /// Latents of the picture whose painted part is grey.
    pub(crate) masked: Latent,
}

impl Beginning<'_> {
    /// The batch's noise, before any scaling.
    pub(crate) fn noise(&self) -> &Latent {
        &self.noise
    }

    /// What a denoiser that takes masks is shown.
    pub(crate) fn shown(&self) -> Option<&Shown> {
        self.shown.as_ref()
    }

    /// The latent that the first step begins with: noise alone, or the picture under as much noise as its level has.
    pub(crate) fn latent(&self, plan: &Plan) -> Latent {
        match &self.picture {
            Some(picture) if !self.original.begins_with_noise => {
                let Level { alpha, sigma, .. } = plan.trajectory.start();
                let mut latent = picture * alpha as f32;
                latent.scaled_add(sigma as f32, &self.noise);
                latent
            }
            _ => &self.noise * plan.trajectory.initial_scale as f32,
        }
    }

    /// Puts back what is not painted after a step: the picture under as much noise as the level has that the step has led
    /// to, and after the last step the picture itself (`StableDiffusionInpaintPipeline` of diffusers).
    pub(crate) fn put_back(&self, step: &mut Step, is_last: bool) {
        self.put_back_at(if is_last { Level::CLEAN } else { step.to }, step.latent);
    }

    fn put_back_at(&self, level: Level, latent: &mut Latent) {
        let (Task::PutBack, Some(picture)) = (self.original.task, &self.picture) else { return };
        let (alpha, sigma) = (level.alpha as f32, level.sigma as f32);
        let painted = self.original.mask.cells.iter().cycle();
        let originals = picture.iter().zip(&self.noise);
        for ((x, (original, noise)), painted) in latent.iter_mut().zip(originals).zip(painted) {
            if !painted {
                *x = original * alpha + noise * sigma;
            }
        }
    }
}

/// A denoiser that sees what is not painted as it is put back, in evaluations inside of a step, too: diffusers puts it
/// back after each. The first sees what the denoising begins with.
pub(crate) struct PuttingBack<'a, D> {
    denoiser: &'a mut D,
    beginning: &'a Beginning<'a>,
    /// Of no rows where nothing is put back.
    seen: Latent,
    has_begun: bool,
}

impl<'a, D> PuttingBack<'a, D> {
    pub(crate) fn new(denoiser: &'a mut D, beginning: &'a Beginning<'a>) -> Self {
        let (rows, channels, height, width) = beginning.noise.dim();
        let rows = if beginning.original.task == Task::PutBack { rows } else { 0 };
        Self { denoiser, beginning, seen: Latent::zeros((rows, channels, height, width)), has_begun: false }
    }
}

impl<D: Denoise> Denoise for PuttingBack<'_, D> {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        if !std::mem::replace(&mut self.has_begun, true) || self.seen.is_empty() {
            return self.denoiser.denoise(x, at, denoised);
        }
        self.seen.assign(x);
        self.beginning.put_back_at(at, &mut self.seen);
        self.denoiser.denoise(&self.seen, at, denoised)
    }

    fn noise_estimate(&self) -> Option<&Latent> {
        self.denoiser.noise_estimate()
    }

    fn unlimited_estimate(&self) -> Option<&Latent> {
        self.denoiser.unlimited_estimate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_painted_part_becomes_grey() {
        let mut picture = vec![1.0; 6];
        grey_out(&mut picture, &[true, false]);
        assert_eq!(picture, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    }
}
