//! PyTorch's generator on a CPU: MT19937 and the Box–Muller transform.

use std::f32::consts::PI;

use rand_mt::Mt;

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

#[cfg(test)]
mod tests {
    use ndarray::Array1;
    use ndarray_npy::NpzReader;

    use super::*;
    use crate::noise::tests::{assert_close, assert_standard_normal, open_golden};

    fn draw(generator: &mut TorchCpu, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        generator.fill(&mut out);
        out
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
        let golden: Golden = serde_json::from_reader(open_golden("noise.json")).unwrap();
        let mut arrays = NpzReader::new(open_golden("noise.npz")).unwrap();
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
        assert_standard_normal(&draw(&mut TorchCpu::new(3), 1 << 20));
    }
}
