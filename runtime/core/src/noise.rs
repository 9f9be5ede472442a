//! Seed to Gaussian numbers: the only place where randomness enters.
//!
//! The numbers are those of PyTorch's CPU generator, so a seed gives the picture that diffusers gives for it,
//! on every machine. They are always drawn as float32; a float16 graph receives them cast. (PyTorch's own
//! float16 `randn` is a different stream, which no published seed refers to.)

use std::f32::consts::PI;

use ndarray::Array4;
use rand_mt::Mt;

use crate::{Error, Result};

/// PyTorch draws this many numbers or more in blocks of this size, fewer one by one.
const BLOCK: usize = 16;

/// The standard normal numbers of `torch.randn` with a CPU generator: MT19937 and the Box–Muller transform.
#[derive(Debug, Clone)]
pub struct TorchCpu {
    engine: Mt,
    /// The second number of the last pair, when a short draw used only the first.
    spare: Option<f64>,
}

impl TorchCpu {
    /// The generator after `manual_seed(seed)`; like PyTorch's it sees only the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt::new(seed as u32), spare: None }
    }

    /// Overwrites `out` with what `torch.randn(out.len(), generator=g)` returns, in float32.
    ///
    /// The numbers depend on the length, so a shape must be drawn in one call.
    pub fn fill(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.iter_mut().for_each(|value| *value = self.next_normal() as f32);
            return;
        }
        out.iter_mut().for_each(|value| *value = self.next_uniform_f32());
        out.chunks_exact_mut(BLOCK).for_each(transform_block);
        if !out.len().is_multiple_of(BLOCK) {
            let start = out.len() - BLOCK;
            let tail = &mut out[start..];
            tail.iter_mut().for_each(|value| *value = self.next_uniform_f32());
            transform_block(tail);
        }
    }

    fn next_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * std::f64::consts::PI * self.next_uniform_f64();
        let radius = (-2.0 * (-self.next_uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// In [0, 1), 24 bits.
    fn next_uniform_f32(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// In [0, 1), 53 bits.
    fn next_uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// Turns 16 uniform numbers into 16 normal ones; number `j` and number `j + 8` make a pair.
fn transform_block(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let (sin, cos) = (2.0 * PI * *b).sin_cos();
        *a = radius * cos;
        *b = radius * sin;
    }
}

/// Where a batch of images draws its numbers from.
#[derive(Debug, Clone)]
pub struct Noise(Source);

#[derive(Debug, Clone)]
enum Source {
    Shared(Box<TorchCpu>),
    PerImage(Vec<TorchCpu>),
}

impl Noise {
    /// One generator for the whole batch, as diffusers' `generator=g`: an image depends on the batch it is in.
    pub fn shared(seed: u64) -> Self {
        Self(Source::Shared(Box::new(TorchCpu::new(seed))))
    }

    /// One generator an image, as diffusers' `generator=[g, …]`: an image is the same alone and in any batch.
    pub fn per_image(seeds: impl IntoIterator<Item = u64>) -> Self {
        Self(Source::PerImage(seeds.into_iter().map(TorchCpu::new).collect()))
    }

    /// Overwrites `latent`, of shape `[batch, channels, height, width]`, with standard normal numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if there is one generator an image and `batch` is not
    /// their number.
    pub fn fill(&mut self, latent: &mut Array4<f32>) -> Result<()> {
        if let Source::PerImage(generators) = &self.0 {
            check_batch(latent.shape()[0], generators.len())?;
        }
        if !latent.is_standard_layout() {
            *latent = Array4::zeros(latent.raw_dim());
        }
        let values = latent.as_slice_mut().expect("the layout is standard");
        match &mut self.0 {
            Source::Shared(generator) => generator.fill(values),
            Source::PerImage(generators) => {
                let image_len = values.len() / generators.len().max(1);
                for (index, generator) in generators.iter_mut().enumerate() {
                    generator.fill(&mut values[index * image_len..][..image_len]);
                }
            }
        }
        Ok(())
    }
}

fn check_batch(batch: usize, generators: usize) -> Result<()> {
    if batch == generators {
        return Ok(());
    }
    Err(Error::usage(format!(
        "cannot draw noise for a batch of {batch} from {generators} seeds: give one seed for each image"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::Array1;
    use ndarray_npy::NpzReader;

    use super::*;
    use crate::ErrorKind;

    fn draw(generator: &mut TorchCpu, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        generator.fill(&mut out);
        out
    }

    fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        for (index, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= tolerance, "number {index}: found {a}, expected {b}");
        }
    }

    #[test]
    fn seed_0_starts_as_printed_by_torch() {
        let expected = [
            -1.1258, -1.1524, -0.2506, -0.4339, 0.8487, 0.6920, -0.3160, -2.1152, 0.3223, -1.2633, 0.3500, 0.3081,
            0.1198, 1.2377, 1.1168, -0.2473,
        ];
        assert_close(&draw(&mut TorchCpu::new(0), 16), &expected, 1e-4);
        assert_close(&draw(&mut TorchCpu::new(0), 3), &[1.5410, -0.2934, -2.1788], 1e-4);
    }

    /// The npz holds what each case's calls on one generator returned, end to end.
    #[test]
    fn numbers_are_those_recorded_from_torch() {
        #[derive(serde::Deserialize)]
        struct Golden {
            cases: Vec<Case>,
        }
        #[derive(serde::Deserialize)]
        struct Case {
            array: String,
            seed: u64,
            sizes: Vec<usize>,
        }
        let open =
            |name: &str| File::open(format!("{}/../../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let golden: Golden = serde_json::from_reader(open("noise.json")).unwrap();
        let mut arrays = NpzReader::new(open("noise.npz")).unwrap();
        for case in golden.cases {
            let mut generator = TorchCpu::new(case.seed);
            let found: Vec<f32> = case.sizes.iter().flat_map(|&len| draw(&mut generator, len)).collect();
            let expected: Array1<f32> = arrays.by_name(&case.array).unwrap();
            assert_close(&found, expected.as_slice().unwrap(), 1e-6);
        }
    }

    #[test]
    fn seed_is_taken_modulo_32_bits() {
        let expected = draw(&mut TorchCpu::new(7), 64);
        assert_eq!(draw(&mut TorchCpu::new((5 << 32) + 7), 64), expected);
        assert_ne!(draw(&mut TorchCpu::new(8), 64), expected);
    }

    #[test]
    fn odd_tail_redraws_the_last_block() {
        let (whole, odd) = (draw(&mut TorchCpu::new(1), 32), draw(&mut TorchCpu::new(1), 39));
        assert_eq!(odd[..16], whole[..16]);
        assert_eq!(odd[16..23], whole[16..23]);
        assert_ne!(odd[23..32], whole[23..32]);
    }

    #[test]
    fn short_draws_share_a_pair_and_long_ones_leave_it_alone() {
        let pair = draw(&mut TorchCpu::new(2), 2);
        let mut generator = TorchCpu::new(2);
        assert_eq!(draw(&mut generator, 1), pair[..1]);
        draw(&mut generator, 16);
        assert_eq!(draw(&mut generator, 1), pair[1..]);
    }

    #[test]
    fn numbers_are_standard_normal() {
        let values = draw(&mut TorchCpu::new(3), 1 << 20);
        let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / values.len() as f64;
        // Five standard errors each.
        assert!(moment(1).abs() < 0.005);
        assert!((moment(2) - 1.0).abs() < 0.007);
        assert!(moment(3).abs() < 0.02);
        assert!((moment(4) - 3.0).abs() < 0.05);
        assert!(values.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn shared_noise_is_one_draw_of_the_whole_shape() {
        let mut latent = Array4::zeros((3, 1, 3, 3));
        Noise::shared(4).fill(&mut latent).unwrap();
        assert_eq!(latent.into_raw_vec_and_offset().0, draw(&mut TorchCpu::new(4), 27));
    }

    #[test]
    fn an_image_with_its_own_seed_is_the_same_in_any_batch() {
        let mut latent = Array4::zeros((2, 1, 5, 5));
        let mut noise = Noise::per_image([4, 5]);
        let (mut first, mut second) = (TorchCpu::new(4), TorchCpu::new(5));
        for _ in 0..2 {
            noise.fill(&mut latent).unwrap();
            let values = latent.as_slice().unwrap();
            assert_eq!(values[..25], draw(&mut first, 25));
            assert_eq!(values[25..], draw(&mut second, 25));
        }
    }

    #[test]
    fn layout_of_the_array_does_not_matter() {
        let (mut plain, mut permuted) = (Array4::zeros((1, 2, 3, 4)), Array4::zeros((4, 3, 2, 1)).reversed_axes());
        Noise::shared(6).fill(&mut plain).unwrap();
        Noise::shared(6).fill(&mut permuted).unwrap();
        assert_eq!(plain, permuted);
    }

    #[test]
    fn number_of_seeds_must_be_the_batch() {
        for seeds in [vec![], vec![1], vec![1, 2, 3]] {
            let error = Noise::per_image(seeds).fill(&mut Array4::zeros((2, 1, 4, 4))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        Noise::per_image([]).fill(&mut Array4::zeros((0, 4, 8, 8))).unwrap();
    }
}
