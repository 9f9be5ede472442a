//! NumPy's legacy generator, and the seed sequence with which NumPy makes many seeds of one.

use rand_mt::Mt;

/// The standard normal numbers of `numpy.random.RandomState(seed)`: MT19937 and Marsaglia's polar method.
#[derive(Debug, Clone)]
pub struct Numpy {
    engine: Mt,
    /// The second number of the last pair.
    spare: Option<f64>,
}

impl Numpy {
    /// The generator of `RandomState(seed % 2**32)`; NumPy itself refuses longer seeds.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt::new(seed as u32), spare: None }
    }

    /// Overwrites `out` with what `standard_normal(out.len())` returns, cast from float64 to float32.
    pub fn fill(&mut self, out: &mut [f32]) {
        out.iter_mut().for_each(|value| *value = self.next_normal() as f32);
    }

    /// As `legacy_gauss` in numpy/random/src/legacy/legacy-distributions.c.
    fn next_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.next_uniform() - 1.0, 2.0 * self.next_uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let radius = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(radius * x);
                return radius * y;
            }
        }
    }

    /// In [0, 1), 53 bits of two words.
    fn next_uniform(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32() >> 5);
        let low = u64::from(self.engine.next_u32() >> 6);
        (high << 26 | low) as f64 / (1u64 << 53) as f64
    }
}

/// The first word of `SeedSequence(entropy, spawn_key=spawn_key, pool_size=POOL).generate_state(1)`.
///
/// `spawn_key` is given as NumPy's 32-bit words; `POOL` is at least 4 (numpy/random/bit_generator.pyx; after
/// O'Neill 2015, "Developing a seed_seq alternative").
pub(super) fn seed_sequence<const POOL: usize>(entropy: u64, spawn_key: &[u32]) -> u32 {
    let mut hash = Hash { constant: 0x43b0_d7e5, factor: 0x931e_8875 };
    let mut pool = [0; POOL];
    pool[0] = entropy as u32;
    pool[1] = (entropy >> 32) as u32;
    pool.iter_mut().for_each(|word| *word = hash.next(*word));
    for source in 0..POOL {
        for target in (0..POOL).filter(|&target| target != source) {
            pool[target] = mix(pool[target], hash.next(pool[source]));
        }
    }
    for &key in spawn_key {
        pool.iter_mut().for_each(|word| *word = mix(*word, hash.next(key)));
    }
    Hash { constant: 0x8b51_f9dd, factor: 0x58f3_8ded }.next(pool[0])
}

/// A hash whose constant changes with every word.
struct Hash {
    constant: u32,
    factor: u32,
}

impl Hash {
    fn next(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.factor);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::tests::{assert_close, assert_standard_normal, golden};

    fn draw(generator: &mut Numpy, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        generator.fill(&mut out);
        out
    }

    #[test]
    fn numbers_are_those_recorded_from_numpy() {
        for case in golden().numpy {
            let mut generator = Numpy::new(case.seed);
            let found: Vec<f32> = case.sizes.iter().flat_map(|&len| draw(&mut generator, len)).collect();
            assert_close(&found, &case.values, 1e-6);
        }
    }

    #[test]
    fn numbers_do_not_depend_on_how_they_are_split_into_calls() {
        let mut generator = Numpy::new(5);
        let parts: Vec<f32> = [1, 16, 3].iter().flat_map(|&len| draw(&mut generator, len)).collect();
        assert_eq!(parts, draw(&mut Numpy::new((9 << 32) + 5), 20));
    }

    #[test]
    fn numbers_are_standard_normal() {
        assert_standard_normal(&draw(&mut Numpy::new(3), 1 << 18));
    }

    #[test]
    fn seeds_are_those_recorded_from_numpy() {
        for case in golden().seed_sequence {
            assert_eq!(seed_sequence::<24>(case.entropy, &case.spawn_key), case.word);
        }
    }
}
