//! PyTorch's generator on an NVIDIA GPU: Philox 4x32-10 and the Box–Muller transform of cuRAND.

use crate::{Error, Result};

/// 2⁻³²: the step of a word that is spread over [0, 1].
const UNIT: f32 = 1.0 / 4_294_967_296.0;
/// The step of a word that is spread over a full turn, in radians.
const TURN: f32 = UNIT * std::f32::consts::TAU;

/// The standard normal numbers of `torch.randn(…, device="cuda")` in float32.
///
/// PyTorch gives each number of a draw to a GPU thread of its own, which takes the first number of cuRAND's
/// `curand_normal4` (aten/src/ATen/native/cuda/DistributionTemplates.h). That holds as long as the GPU has threads
/// enough; past `multiprocessors × threads of one` it hands a thread's further numbers out, at places that depend on
/// the GPU's model. So a draw of up to [`MAX_LEN`](Self::MAX_LEN) numbers is that of an RTX 3090 and of every larger
/// GPU (RTX 4090, V100, A100, H100); a smaller one agrees up to its own number of threads, as a T4 up to 40,960.
///
/// A GPU's fast sine moves the last digits: they agree to 3e-6 with PyTorch 2.11 on an H200, which has threads for draws of
/// 270,336 numbers, and not one further.
#[derive(Debug, Clone)]
pub struct TorchCuda {
    seed: u64,
    /// Calls so far; each takes one block of four words from every thread's stream.
    calls: u64,
}

impl TorchCuda {
    /// The longest draw: the threads that an RTX 3090 holds at once, 82 multiprocessors of 1536 each.
    ///
    /// A latent of 4 channels for a picture of 1024×1024 has 65,536 numbers.
    pub const MAX_LEN: usize = 82 * 1536;

    /// The generator after `manual_seed(seed)`; all 64 bits count.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: 0 }
    }

    /// Overwrites `out` with what `torch.randn(out.len(), device="cuda", generator=g)` returns.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for more than [`MAX_LEN`](Self::MAX_LEN) numbers; the generator
    /// stays as it was.
    pub fn fill(&mut self, out: &mut [f32]) -> Result<()> {
        if out.len() > Self::MAX_LEN {
            return Err(too_long(out.len()));
        }
        if out.is_empty() {
            return Ok(());
        }
        let (key, [low, high]) = (halves(self.seed), halves(self.calls));
        for (thread, value) in (0..).zip(&mut *out) {
            let [first, second, ..] = philox([low, high, thread, 0], key);
            *value = normal(first, second);
        }
        self.calls = self.calls.wrapping_add(1);
        Ok(())
    }
}

fn too_long(len: usize) -> Error {
    Error::usage(format!(
        "cannot draw {len} numbers at once as torch_cuda does: above {} they depend on the model of the GPU; \
         give each image its own seed, make fewer or smaller pictures, or use torch_cpu",
        TorchCuda::MAX_LEN
    ))
}

/// The low and the high word.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low_0, high_0] = halves(u64::from(counter[0]) * 0xd251_1f53);
        let [low_2, high_2] = halves(u64::from(counter[2]) * 0xcd9e_8d57);
        counter = [high_2 ^ counter[1] ^ key[0], low_2, high_0 ^ counter[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// The first normal number of a pair of words: both move by half a step, so that the logarithm stays finite.
fn normal(first: u32, second: u32) -> f32 {
    let uniform = first as f32 * UNIT + UNIT / 2.0;
    let angle = second as f32 * TURN + TURN / 2.0;
    (-2.0 * uniform.ln()).sqrt() * angle.sin()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::noise::tests::{assert_close, assert_standard_normal, golden, open_golden};

    fn draw(generator: &mut TorchCuda, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        generator.fill(&mut out).unwrap();
        out
    }

    /// The known answers of Random123, the library of Philox's authors.
    #[test]
    fn words_are_those_of_random123() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    /// What PyTorch printed on GPUs, in public reports.
    #[test]
    fn draws_are_those_printed_by_torch_on_a_gpu() {
        assert_close(&draw(&mut TorchCuda::new(0), 4), &[-0.9247, -0.4253, -2.6438, 0.1452], 1e-4);
        let mut generator = TorchCuda::new(42);
        let calls = [
            [0.1940, 2.1614, -0.1721, 0.8491],
            [0.1391, -0.1082, -0.7174, 0.7566],
            [-0.5187, 1.2268, 0.6255, -0.9117],
            [-0.6974, -1.8688, -0.8832, -1.6627],
        ];
        for expected in calls {
            assert_close(&draw(&mut generator, 4), &expected, 1e-4);
        }
    }

    #[derive(serde::Deserialize)]
    struct OfGpu {
        length: usize,
        kept: usize,
        calls: Vec<Call>,
    }

    #[derive(serde::Deserialize)]
    struct Call {
        seed: u64,
        draws: [Vec<f32>; 2],
    }

    /// What tests/reference/golden_torch_cuda.py was given by an H200.
    #[test]
    fn the_longest_draws_are_those_of_a_gpu() {
        let golden: OfGpu = serde_json::from_reader(open_golden("torch_cuda.json")).unwrap();
        assert_eq!((golden.length, golden.calls.len()), (TorchCuda::MAX_LEN, 3));
        for Call { seed, draws } in golden.calls {
            let mut generator = TorchCuda::new(seed);
            for expected in draws {
                let mut found = draw(&mut generator, golden.length);
                found.drain(golden.kept..golden.length - golden.kept);
                assert_close(&found, &expected, 3e-6);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_reference() {
        for case in golden().torch_cuda {
            let mut generator = TorchCuda::new(case.seed);
            let found: Vec<f32> = case.sizes.iter().flat_map(|&len| draw(&mut generator, len)).collect();
            assert_close(&found, &case.values, 2e-6);
        }
    }

    #[test]
    fn a_draw_starts_as_a_shorter_one_and_an_empty_one_changes_nothing() {
        let long = draw(&mut TorchCuda::new(3), TorchCuda::MAX_LEN);
        let mut generator = TorchCuda::new(3);
        draw(&mut generator, 0);
        assert_eq!(draw(&mut generator, 100), long[..100]);
        assert_standard_normal(&long);
    }

    #[test]
    fn words_at_the_ends_give_finite_numbers() {
        for word in [0, 1, u32::MAX - 1, u32::MAX] {
            assert!(normal(word, word).is_finite());
        }
    }

    #[test]
    fn too_long_a_draw_is_refused_and_draws_nothing() {
        let mut generator = TorchCuda::new(1);
        let error = generator.fill(&mut vec![0.0; TorchCuda::MAX_LEN + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(draw(&mut generator, 4), draw(&mut TorchCuda::new(1), 4));
    }
}
