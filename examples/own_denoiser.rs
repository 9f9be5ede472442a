//! A denoiser written in Rust, without any graph: safelight's noise, schedules and samplers over a function.
//!
//! The function is exact. If data were one of a few known pictures, blurred by a little Gaussian noise, then the best
//! estimate behind a noisy picture is their mean, each weighed by how likely it is to have become that noisy picture.
//! Sampling from noise then gives one of them, chosen by the seed: here a sun, a house or a tree.
//!
//! ```sh
//! cargo run --example own_denoiser            # writes album.png into pictures/
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use safelight::image::{ImageFormat, Rgb, RgbImage};
use safelight::model::Defaults;
use safelight::noise::{Noise, TORCH_CPU};
use safelight::sampler::Latent;
use safelight::training::{EdmSpec, EdmTimestep, Level, Prediction, Training};
use safelight::{Error, ErrorKind, Result, Route, Sampling};

const SIDE: usize = 64;
/// Standard deviation of the data around each of the known pictures.
const BLUR: f64 = 0.05;

/// What picture `index` shows at a place from −1 to 1 each way, as red, green and blue from −1 to 1.
fn drawing(index: usize, x: f64, y: f64) -> [f32; 3] {
    match index {
        0 if x.hypot(y) < 0.5 => [1.0, 0.8, -0.6],
        1 if y > 0.0 && y < 0.7 && x.abs() < 0.5 => [0.7, -0.3, -0.4],
        1 if y <= 0.0 && y > -0.6 && x.abs() < 0.7 * (y + 0.6) / 0.6 => [0.3, -0.7, -0.7],
        2 if y < 0.3 && x.hypot(y + 0.2) < 0.5 => [-0.7, 0.3, -0.6],
        2 if (0.2..0.8).contains(&y) && x.abs() < 0.1 => [0.0, -0.4, -0.7],
        _ => [0.1, 0.5, 0.9 - 0.4 * y as f32],
    }
}

/// The known pictures, `[3, SIDE, SIDE]` each.
fn album() -> Vec<Vec<f32>> {
    let place = |i: usize| 2.0 * i as f64 / (SIDE - 1) as f64 - 1.0;
    let value = |index, i: usize| drawing(index, place(i % SIDE), place(i / SIDE % SIDE))[i / SIDE / SIDE];
    (0..3).map(|index| (0..3 * SIDE * SIDE).map(|i| value(index, i)).collect()).collect()
}

/// One noisy picture `x = alpha·x₀ + sigma·noise` → the mean of what may lie behind it.
fn estimate(album: &[Vec<f32>], x: &[f32], at: Level, estimate: &mut [f32]) {
    let variance = (at.alpha * BLUR).powi(2) + at.sigma.powi(2);
    let distance = |known: &[f32]| -> f64 {
        known.iter().zip(x).map(|(known, x)| (f64::from(*x) - at.alpha * f64::from(*known)).powi(2)).sum()
    };
    let logs: Vec<_> = album.iter().map(|known| -distance(known) / (2.0 * variance)).collect();
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let likely: Vec<_> = logs.iter().map(|log| (log - highest).exp()).collect();
    let all: f64 = likely.iter().sum();
    // How far the noisy picture itself, and not only the known one, says where within the blur it came from.
    let pull = at.alpha * BLUR.powi(2) / variance;
    for (i, out) in estimate.iter_mut().enumerate() {
        let behind = |known: f64| known + pull * (f64::from(x[i]) - at.alpha * known);
        let mean = album.iter().zip(&likely).map(|(known, share)| share / all * behind(f64::from(known[i])));
        *out = mean.sum::<f64>() as f32;
    }
}

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("pictures".into()));
    let cannot = |e: &dyn std::error::Error| Error::new(ErrorKind::Io, e.to_string());
    std::fs::create_dir_all(&out).map_err(|e| cannot(&e))?;

    // The process of Karras et al. 2022: noise of 0.01 to 20 times the pictures' range, told as sigma itself.
    let (prediction, timestep) = (Prediction::Sample, EdmTimestep::Sigma);
    let spec = EdmSpec { sigma_min: 0.01, sigma_max: 20.0, sigma_data: 0.5, timestep, timestep_scale: 1.0, prediction };
    let options = BTreeMap::new();
    let defaults =
        Defaults { sampler: "dpmpp_2m".into(), schedule: "karras".into(), steps: 12, guidance: 1.0, options };
    let route = Route::over(Training::new(spec)?, &Sampling::default(), &defaults, None)?;

    let (album, seeds) = (album(), 1..=8);
    let mut denoiser = |x: &Latent, at: Level, denoised: &mut Latent| {
        for (x, mut denoised) in x.outer_iter().zip(denoised.outer_iter_mut()) {
            if let (Some(x), Some(denoised)) = (x.as_slice(), denoised.as_slice_mut()) {
                estimate(&album, x, at, denoised);
            }
        }
        Ok(())
    };
    let mut noise = Noise::per_image(&TORCH_CPU, seeds.clone());
    let shape = (seeds.count(), 3, SIDE, SIDE);
    let clean = route.walk(&mut denoiser, shape, &mut noise, &mut |step| {
        println!("step {}: sigma {:.3} → {:.3}", step.index + 1, step.from.sigma, step.to.sigma);
        Ok(())
    })?;

    let pixel = |x: u32, y: u32| {
        let (index, x, y) = (x as usize / SIDE, x as usize % SIDE, y as usize);
        Rgb([0, 1, 2].map(|channel| ((clean[[index, channel, y, x]] + 1.0) * 127.5).round() as u8))
    };
    let sheet = RgbImage::from_fn((shape.0 * SIDE) as u32, SIDE as u32, pixel);
    sheet.save_with_format(out.join("album.png"), ImageFormat::Png).map_err(|e| cannot(&e))
}
