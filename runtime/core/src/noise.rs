//! Seed to Gaussian numbers: the only place where randomness enters.
//!
//! By default the numbers are those of PyTorch's CPU generator, so a seed gives the picture that diffusers gives for
//! it, on every machine; [`GENERATORS`] names the others that published seeds refer to. Numbers are always float32;
//! a float16 graph receives them cast. (PyTorch's own float16 `randn` is a different stream, which no published seed
//! refers to.) [`Brownian`] is the noise of SDE samplers that must not depend on the number of steps.

use std::slice;

use ndarray::Array4;

use crate::error::unknown;
use crate::{Error, Result};
use walk::Between;

mod torch_cpu;
mod torch_cuda;
mod numpy;
mod brownian;
mod walk;

pub use brownian::Brownian;
pub use numpy::Numpy;
pub use torch_cpu::TorchCpu;
pub use torch_cuda::TorchCuda;
pub use walk::Leg;
pub(crate) use walk::leg;

/// A generator of standard normal numbers with the name that users type.
#[derive(Debug, Clone, Copy)]
pub struct Generator {
    /// The name in requests, manifests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    start: fn(seed: u64) -> Stream,
}

/// The default: what diffusers draws where it is given no generator of a GPU.
pub const TORCH_CPU: Generator = Generator {
    name: "torch_cpu",
    about: "torch.randn on a CPU, as diffusers' documentation advises",
    start: |seed| Stream::TorchCpu(Box::new(TorchCpu::new(seed))),
};

/// Every generator that a request can name, the default first.
pub const GENERATORS: &[Generator] = &[
    TORCH_CPU,
    Generator {
        name: "torch_cuda",
        about: "torch.randn on an NVIDIA GPU",
        start: |seed| Stream::TorchCuda(TorchCuda::new(seed)),
    },
    Generator {
        name: "numpy",
        about: "numpy.random.RandomState, as diffusers' ONNX pipelines",
        start: |seed| Stream::Numpy(Box::new(Numpy::new(seed))),
    },
];

/// Looks a generator up by name.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), listing the known names.
pub fn find_generator(name: &str) -> Result<&'static Generator> {
    let found = GENERATORS.iter().find(|generator| generator.name == name);
    found.ok_or_else(|| Error::usage(unknown("generator", name, GENERATORS.iter().map(|generator| generator.name))))
}

/// A generator at work: its numbers depend on the seed and on the calls before.
#[derive(Debug, Clone)]
enum Stream {
    TorchCpu(Box<TorchCpu>),
    TorchCuda(TorchCuda),
    Numpy(Box<Numpy>),
}

impl Stream {
    fn fill(&mut self, out: &mut [f32]) -> Result<()> {
        match self {
            Self::TorchCpu(generator) => generator.fill(out),
            Self::TorchCuda(generator) => generator.fill(out)?,
            Self::Numpy(generator) => generator.fill(out),
        }
        Ok(())
    }
}

/// Where a batch of images draws its numbers from.
#[derive(Debug, Clone)]
pub struct Noise(Source<Stream>);

impl Noise {
    /// Noise of a batch of images from its seeds.
    pub fn start(generator: &Generator, seeds: Seeds) -> Self {
        Self(Source::start(seeds, generator.start))
    }

    /// One generator for the whole batch, as diffusers' `generator=g`: an image depends on the batch it is in.
    pub fn shared(generator: &Generator, seed: u64) -> Self {
        Self::start(generator, Seeds::Shared(seed))
    }

    /// One generator an image, as diffusers' `generator=[g, …]`: an image is the same alone and in any batch.
    pub fn per_image(generator: &Generator, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self::start(generator, Seeds::PerImage(seeds.into_iter().collect()))
    }

    /// Overwrites `latent`, of shape `[batch, channels, height, width]`, with standard normal numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if there is one generator an image and `batch` is not
    /// their number, or if one draw is longer than [`TorchCuda::MAX_LEN`] and the generator is that one.
    pub fn fill(&mut self, latent: &mut Array4<f32>) -> Result<()> {
        self.0.fill(latent, Stream::fill)
    }
}

/// Seeds of a batch of images.
#[derive(Debug, Clone, PartialEq)]
pub enum Seeds {
    /// One for the whole batch: an image depends on the batch it is in.
    Shared(u64),
    /// One an image: an image is the same alone and in any batch.
    PerImage(Vec<u64>),
    /// A place between two seeds an image: an image is the same alone and in any batch.
    Walk(Vec<Leg>),
}

/// Whatever numbers come from, for the whole batch or for each of its images.
#[derive(Debug, Clone)]
enum Source<T> {
    Shared(T),
    PerImage(Vec<T>),
    Walk(Vec<Between<T>>),
}

impl<T> Source<T> {
    fn start(seeds: Seeds, mut start: impl FnMut(u64) -> T) -> Self {
        match seeds {
            Seeds::Shared(seed) => Self::Shared(start(seed)),
            Seeds::PerImage(seeds) => Self::PerImage(seeds.into_iter().map(start).collect()),
            Seeds::Walk(legs) => Self::Walk(legs.into_iter().map(|leg| Between::start(leg, &mut start)).collect()),
        }
    }

    /// Has each source fill its part of the batch, in C order.
    fn fill(
        &mut self,
        latent: &mut Array4<f32>,
        mut fill_one: impl FnMut(&mut T, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        if !latent.is_standard_layout() {
            *latent = Array4::zeros(latent.raw_dim());
        }
        let batch = latent.shape()[0];
        let values = latent.as_slice_mut().expect("the layout is standard");
        match self {
            Self::Shared(source) => fill_parts(slice::from_mut(source), values, fill_one),
            Self::PerImage(sources) => {
                check_batch(batch, sources.len())?;
                fill_parts(sources, values, fill_one)
            }
            Self::Walk(sources) => {
                check_batch(batch, sources.len())?;
                fill_parts(sources, values, |between, part| between.fill(part, &mut fill_one))
            }
        }
    }
}

/// Has each source fill as many numbers as the others.
fn fill_parts<T>(
    sources: &mut [T],
    values: &mut [f32],
    mut fill_one: impl FnMut(&mut T, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let len = (values.len() / sources.len().max(1)).max(1);
    sources.iter_mut().zip(values.chunks_exact_mut(len)).try_for_each(|(source, part)| fill_one(source, part))
}

fn check_batch(batch: usize, seeds: usize) -> Result<()> {
    if batch == seeds {
        return Ok(());
    }
    Err(Error::usage(format!(
        "cannot draw noise for a batch of {batch} from {seeds} seeds: give one seed for each image"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::ErrorKind;

    /// The numbers of tests/golden/noise_sources.json.
    #[derive(serde::Deserialize)]
    pub(super) struct Golden {
        pub(super) torch_cuda: Vec<Calls>,
        pub(super) numpy: Vec<Calls>,
        pub(super) seed_sequence: Vec<Word>,
        pub(super) brownian: Vec<Steps>,
    }

    /// Successive calls on one generator, their numbers end to end.
    #[derive(serde::Deserialize)]
    pub(super) struct Calls {
        pub(super) seed: u64,
        pub(super) sizes: Vec<usize>,
        pub(super) values: Vec<f32>,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Word {
        pub(super) entropy: u64,
        pub(super) spawn_key: Vec<u32>,
        pub(super) word: u32,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Steps {
        pub(super) seeds: Option<Vec<u64>>,
        pub(super) shared_seed: Option<u64>,
        pub(super) shape: [usize; 4],
        pub(super) sigmas: [f64; 2],
        pub(super) steps: Vec<[f64; 2]>,
        #[serde(default = "every_number")]
        pub(super) every: usize,
        pub(super) values: Vec<Vec<f32>>,
    }

    fn every_number() -> usize {
        1
    }

    pub(super) fn open_golden(name: &str) -> File {
        File::open(format!("{}/../../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    pub(super) fn golden() -> Golden {
        serde_json::from_reader(open_golden("noise_sources.json")).unwrap()
    }

    pub(super) fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        for (index, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= tolerance, "number {index}: found {a}, expected {b}");
        }
    }

    /// Holds the first four moments to five standard errors each.
    pub(super) fn assert_standard_normal(values: &[f32]) {
        assert!(values.iter().all(|value| value.is_finite()));
        let count = values.len() as f64;
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0_f64)] {
            let moment = values.iter().map(|&value| f64::from(value).powi(power)).sum::<f64>() / count;
            let bound = 5.0 * (variance / count).sqrt();
            assert!((moment - expected).abs() < bound, "moment {power}: found {moment}, expected {expected} ± {bound}");
        }
    }

    #[test]
    fn generators_are_found_by_name() {
        for generator in GENERATORS {
            assert_eq!(find_generator(generator.name).unwrap().name, generator.name);
        }
        let error = find_generator("cuda").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.to_string(), "unknown generator \"cuda\"; known: torch_cpu, torch_cuda, numpy");
    }

    #[test]
    fn names_draw_from_their_generators() {
        let first = |name| {
            let mut latent = Array4::zeros((1, 1, 4, 4));
            Noise::shared(find_generator(name).unwrap(), 0).fill(&mut latent).unwrap();
            latent[[0, 0, 0, 0]]
        };
        assert_close(&["torch_cpu", "torch_cuda", "numpy"].map(first), &[-1.1258, -0.9247, 1.7641], 1e-4);
    }

    #[test]
    fn shared_noise_is_one_draw_of_the_whole_shape() {
        let (mut latent, mut expected) = (Array4::zeros((3, 1, 3, 3)), [0.0; 27]);
        Noise::shared(&TORCH_CPU, 4).fill(&mut latent).unwrap();
        TorchCpu::new(4).fill(&mut expected);
        assert_eq!(latent.as_slice().unwrap(), expected);
    }

    #[test]
    fn an_image_with_its_own_seed_is_the_same_in_any_batch() {
        for generator in GENERATORS {
            let (mut both, mut alone) = (Array4::zeros((2, 1, 5, 5)), Array4::zeros((1, 1, 5, 5)));
            let mut noise = Noise::per_image(generator, [4, 5]);
            let mut of_each = [4, 5].map(|seed| Noise::shared(generator, seed));
            for _ in 0..2 {
                noise.fill(&mut both).unwrap();
                for (image, noise) in both.outer_iter().zip(&mut of_each) {
                    noise.fill(&mut alone).unwrap();
                    assert_eq!(image, alone.index_axis(ndarray::Axis(0), 0));
                }
            }
        }
    }

    #[test]
    fn layout_of_the_array_does_not_matter() {
        let (mut plain, mut permuted) = (Array4::zeros((1, 2, 3, 4)), Array4::zeros((4, 3, 2, 1)).reversed_axes());
        Noise::shared(&TORCH_CPU, 6).fill(&mut plain).unwrap();
        Noise::shared(&TORCH_CPU, 6).fill(&mut permuted).unwrap();
        assert_eq!(plain, permuted);
    }

    #[test]
    fn number_of_seeds_must_be_the_batch() {
        for seeds in [vec![], vec![1], vec![1, 2, 3]] {
            let error = Noise::per_image(&TORCH_CPU, seeds).fill(&mut Array4::zeros((2, 1, 4, 4))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        Noise::per_image(&TORCH_CPU, []).fill(&mut Array4::zeros((0, 4, 8, 8))).unwrap();
        Noise::per_image(&TORCH_CPU, [1, 2]).fill(&mut Array4::zeros((2, 0, 8, 8))).unwrap();
    }

    #[test]
    fn the_longest_draw_of_torch_cuda_is_an_image_where_each_has_its_seed() {
        let generator = find_generator("torch_cuda").unwrap();
        let mut latent = Array4::zeros((2, 1, 1, TorchCuda::MAX_LEN));
        Noise::per_image(generator, [1, 2]).fill(&mut latent).unwrap();
        assert_eq!(Noise::shared(generator, 1).fill(&mut latent).unwrap_err().kind(), ErrorKind::Usage);
    }
}
