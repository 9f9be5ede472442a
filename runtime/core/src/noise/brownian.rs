//! The noise of a Brownian motion over sigma, so that fewer or more steps refine one and the same path.

use ndarray::Array4;

use super::numpy::seed_sequence;
use super::{Seeds, Source, TorchCpu};
use crate::{Error, Result};

/// A time is a multiple of 1/`PARTS`: torchsde's `tol` of 1e-6.
const PARTS: f64 = 1e6;
/// torchsde's `pool_size`.
const POOL: usize = 24;

/// Increments of a Brownian motion W over sigma, each divided by its own deviation: the numbers of k-diffusion's
/// `BrownianTreeNoiseSampler` (torchsde's `BrownianTree`) for a float32 latent on a CPU.
///
/// The motion is the virtual Brownian tree of Li et al. 2020 (arXiv:2001.01328): intervals are halved, and a half's
/// increment follows from the whole's by a Brownian bridge. For `s < m < e`, `W(s, m)` is normal with mean
/// `(m − s)/(e − s)·W(s, e)` and variance `(m − s)(e − m)/(e − s)`. Each node has a seed of its own, so no query
/// changes a later one.
///
/// torchsde adds up the nodes between two times. Here each time's value is found by one walk from the root, in
/// float64, and an increment is the difference of two values. The last two values are kept, so that a sampler, which
/// goes on from where it was, pays for one walk a call: about 24 draws of the latent's size for SD's sigmas.
#[derive(Debug, Clone)]
pub struct Brownian {
    root: Node,
    /// Standard deviation of the increment over all sigmas.
    deviation: f64,
    trees: Source<Tree>,
    scratch: Scratch,
}

impl Brownian {
    /// The largest `sigma_max` that is accepted: far above any schedule, far below where float64 lacks six decimals.
    pub const MAX_SIGMA: f64 = 1e6;

    /// Motions between the smallest and the largest sigma that a sampler will ask for.
    ///
    /// [`Seeds::PerImage`] is k-diffusion's list of seeds, one tree an image, [`Seeds::Shared`] its single seed, one
    /// tree for the whole batch; all 64 bits of a seed count. Sigmas are rounded to float32 and then, as in torchsde,
    /// to six decimals.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) unless `0 ≤ sigma_min < sigma_max ≤ MAX_SIGMA`, and at least
    /// 1e-6 apart.
    pub fn new(seeds: Seeds, sigma_min: f64, sigma_max: f64) -> Result<Self> {
        let root = Node { start: time_of(sigma_min), end: time_of(sigma_max), key: 0, depth: 0 };
        if !(sigma_min >= 0.0 && root.start < root.end && sigma_max <= Self::MAX_SIGMA) {
            return Err(bad_range(sigma_min, sigma_max));
        }
        let deviation = distance(sigma_min, sigma_max).sqrt();
        Ok(Self { root, deviation, trees: Source::start(seeds, Tree::new), scratch: Scratch::default() })
    }

    /// Overwrites `latent`, of shape `[batch, channels, height, width]`, with
    /// `(W(to_sigma) − W(from_sigma)) / √|to_sigma − from_sigma|`, which is standard normal.
    ///
    /// The numbers depend on the shape, as those of [`TorchCpu`] do. k-diffusion gives the same ones for either order
    /// of the two sigmas but for the sign. Scratch is allocated by the first call of a shape.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a sigma outside of the tree's by more than rounding, for two
    /// that round to the same time, and if there is one seed an image and `batch` is not their number.
    pub fn fill(&mut self, latent: &mut Array4<f32>, from_sigma: f64, to_sigma: f64) -> Result<()> {
        let (from, to) = (self.locate(from_sigma)?, self.locate(to_sigma)?);
        if from == to {
            return Err(no_interval(from_sigma, to_sigma));
        }
        let Self { root, deviation, trees, scratch } = self;
        let norm = distance(from_sigma, to_sigma).sqrt();
        trees.fill(latent, |tree, out| {
            scratch.fit(out.len());
            tree.fit(out.len());
            for time in [from, to] {
                tree.visit(time, |seed, value| scratch.walk(seed, *root, *deviation, time, value));
            }
            let [to, from] = &tree.points;
            for ((out, to), from) in out.iter_mut().zip(&to.value).zip(&from.value) {
                *out = ((to - from) / norm) as f32;
            }
            Ok(())
        })
    }

    /// The tree's time of a sigma, which may lie outside by a few roundings of float32.
    fn locate(&self, sigma: f64) -> Result<f64> {
        let Node { start, end, .. } = self.root;
        let slack = 1.0 / PARTS + 4.0 * f64::from(f32::EPSILON) * end;
        if !(start - slack..=end + slack).contains(&sigma) {
            return Err(Error::usage(format!(
                "cannot draw Brownian noise at sigma {sigma}: expected one from {start} to {end}, the \
                 range that it was made for"
            )));
        }
        Ok(time_of(sigma).clamp(start, end))
    }
}

fn bad_range(sigma_min: f64, sigma_max: f64) -> Error {
    Error::usage(format!(
        "cannot make Brownian noise from sigma {sigma_min} to {sigma_max}: expected 0 <= sigma_min < sigma_max <= {}, \
         and at least {} between them",
        Brownian::MAX_SIGMA,
        1.0 / PARTS
    ))
}

fn no_interval(from_sigma: f64, to_sigma: f64) -> Error {
    Error::usage(format!(
        "cannot draw Brownian noise from sigma {from_sigma} to {to_sigma}: expected at least {} between them; take \
         fewer steps",
        1.0 / PARTS
    ))
}

/// The time of a sigma: float32, as k-diffusion holds sigmas, then six decimals.
fn time_of(sigma: f64) -> f64 {
    round(f64::from(sigma as f32))
}

/// Distance of two sigmas as k-diffusion holds them.
fn distance(from_sigma: f64, to_sigma: f64) -> f64 {
    f64::from((to_sigma as f32 - from_sigma as f32).abs())
}

/// Python's `round(value, 6)`: the decimal nearest to the exact binary value, the even one of two.
fn round(value: f64) -> f64 {
    let scaled = value * PARTS;
    let whole = scaled.floor();
    // The product is itself rounded; what that lost decides where it seems to lie half-way.
    let lost = value.mul_add(PARTS, -scaled);
    let nearest = if scaled - whole != 0.5 || lost == 0.0 {
        scaled.round_ties_even()
    } else if lost > 0.0 {
        whole + 1.0
    } else {
        whole
    };
    nearest / PARTS
}

/// An interval of the tree.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: f64,
    end: f64,
    /// The way from the root in binary, right is 1.
    key: u64,
    depth: u32,
}

impl Node {
    /// The seed of the numbers that split this node.
    fn seed(self, entropy: u64) -> u32 {
        let (low, high) = (self.key as u32, (self.key >> 32) as u32);
        if high == 0 {
            seed_sequence::<POOL>(entropy, &[low, self.depth])
        } else {
            seed_sequence::<POOL>(entropy, &[low, high, self.depth])
        }
    }

    fn middle(self) -> f64 {
        round(0.5 * (self.start + self.end))
    }

    fn left(self) -> Self {
        Self { end: self.middle(), key: 2 * self.key, depth: self.depth + 1, ..self }
    }

    fn right(self) -> Self {
        Self { start: self.middle(), key: 2 * self.key + 1, depth: self.depth + 1, ..self }
    }
}

/// One motion: its seed, and its values at the two times asked for last, the latest first.
#[derive(Debug, Clone)]
struct Tree {
    seed: u64,
    points: [Point; 2],
}

#[derive(Debug, Clone, Default)]
struct Point {
    time: Option<f64>,
    value: Vec<f64>,
}

impl Tree {
    fn new(seed: u64) -> Self {
        Self { seed, points: Default::default() }
    }

    /// Forgets the values of another length.
    fn fit(&mut self, len: usize) {
        for point in &mut self.points {
            if point.value.len() != len {
                *point = Point { time: None, value: vec![0.0; len] };
            }
        }
    }

    /// Puts the value at `time` first, computing it with `walk` in place of the older one if it is neither.
    fn visit(&mut self, time: f64, walk: impl FnOnce(u64, &mut [f64])) {
        if self.points[0].time == Some(time) {
            return;
        }
        self.points.swap(0, 1);
        let point = &mut self.points[0];
        if point.time != Some(time) {
            walk(self.seed, &mut point.value);
            point.time = Some(time);
        }
    }
}

/// What a walk needs besides its result, as long as that.
#[derive(Debug, Clone, Default)]
struct Scratch {
    normal: Vec<f32>,
    increment: Vec<f64>,
}

impl Scratch {
    fn fit(&mut self, len: usize) {
        self.normal.resize(len, 0.0);
        self.increment.resize(len, 0.0);
    }

    /// Overwrites `value` with W at `time`, relative to the root's start, by descending to a node that ends there.
    fn walk(&mut self, entropy: u64, root: Node, deviation: f64, time: f64, value: &mut [f64]) {
        value.fill(0.0);
        if time <= root.start {
            return;
        }
        TorchCpu::new(seed_sequence::<POOL>(entropy, &[]).into()).fill(&mut self.normal);
        self.increment.iter_mut().zip(&self.normal).for_each(|(w, &z)| *w = deviation * f64::from(z));
        let mut node = root;
        while time < node.end {
            node = self.descend(entropy, node, time, value);
        }
        value.iter_mut().zip(&self.increment).for_each(|(value, w)| *value += w);
    }

    /// Replaces the increment of `node` by that of its half around `time`; what lies before it goes into `value`.
    fn descend(&mut self, entropy: u64, node: Node, time: f64, value: &mut [f64]) -> Node {
        let Self { normal, increment } = self;
        TorchCpu::new(node.seed(entropy).into()).fill(normal);
        let (left, right) = (node.left(), node.right());
        let share = (left.end - left.start) / (node.end - node.start);
        let deviation = (share * (right.end - right.start)).sqrt();
        let bridge = |w: f64, z: f32| share * w + deviation * f64::from(z);
        if time <= left.end {
            increment.iter_mut().zip(&*normal).for_each(|(w, &z)| *w = bridge(*w, z));
            return left;
        }
        for ((w, &z), value) in increment.iter_mut().zip(&*normal).zip(value) {
            let before = bridge(*w, z);
            *value += before;
            *w -= before;
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::noise::tests::{assert_close, assert_standard_normal, golden};

    const RANGE: (f64, f64) = (0.02916753, 14.614641);

    fn motion(seeds: Seeds) -> Brownian {
        Brownian::new(seeds, RANGE.0, RANGE.1).unwrap()
    }

    fn draw(motion: &mut Brownian, batch: usize, from: f64, to: f64) -> Vec<f32> {
        let mut latent = Array4::zeros((batch, 1, 4, 8));
        motion.fill(&mut latent, from, to).unwrap();
        latent.into_raw_vec_and_offset().0
    }

    #[test]
    fn numbers_are_those_recorded_from_k_diffusion() {
        for case in golden().brownian {
            let seeds = case.shared_seed.map(Seeds::Shared).or(case.seeds.map(Seeds::PerImage)).unwrap();
            let mut motion = Brownian::new(seeds, case.sigmas[0], case.sigmas[1]).unwrap();
            let mut latent = Array4::zeros(case.shape);
            for ([from, to], expected) in case.steps.into_iter().zip(case.values) {
                motion.fill(&mut latent, from, to).unwrap();
                let found: Vec<f32> = latent.iter().copied().step_by(case.every).collect();
                assert_close(&found, &expected, 1e-5);
            }
        }
    }

    #[test]
    fn increments_add_up() {
        let mut motion = motion(Seeds::Shared(3));
        let points = [14.614641, 9.0, 0.7, 0.69999, 0.02916753];
        let whole = draw(&mut motion, 1, points[0], points[4]);
        let mut sum = vec![0.0; whole.len()];
        for ends in points.windows(2) {
            let part = draw(&mut motion, 1, ends[0], ends[1]);
            let norm = distance(ends[0], ends[1]).sqrt() as f32;
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part * norm);
        }
        let norm = distance(points[0], points[4]).sqrt() as f32;
        sum.iter_mut().for_each(|sum| *sum /= norm);
        assert_close(&sum, &whole, 2e-6);
    }

    #[test]
    fn a_query_is_the_same_whatever_came_before() {
        let (mut fresh, mut used) = (motion(Seeds::Shared(1)), motion(Seeds::Shared(1)));
        let expected = draw(&mut fresh, 1, 3.0, 2.0);
        for (from, to) in [(14.0, 13.0), (13.0, 2.0), (2.0, 3.0), (0.1, 0.2)] {
            draw(&mut used, 1, from, to);
            assert_eq!(draw(&mut used, 1, 3.0, 2.0), expected);
            assert_eq!(draw(&mut used, 1, 3.0, 2.0), expected);
        }
        let backwards: Vec<f32> = draw(&mut used, 1, 2.0, 3.0).iter().map(|value| -value).collect();
        assert_eq!(backwards, expected);
        draw(&mut used, 2, 3.0, 2.0);
        assert_eq!(draw(&mut used, 1, 3.0, 2.0), expected);
    }

    #[test]
    fn an_image_with_its_own_seed_is_the_same_in_any_batch() {
        let (mut both, mut alone) = (motion(Seeds::PerImage(vec![4, 5])), motion(Seeds::PerImage(vec![5])));
        for (from, to) in [(14.0, 5.0), (5.0, 0.5)] {
            assert_eq!(draw(&mut both, 2, from, to)[32..], draw(&mut alone, 1, from, to));
        }
    }

    #[test]
    fn layout_of_the_array_does_not_matter() {
        let (mut plain, mut permuted) = (Array4::zeros((1, 2, 3, 4)), Array4::zeros((4, 3, 2, 1)).reversed_axes());
        motion(Seeds::Shared(6)).fill(&mut plain, 2.0, 1.0).unwrap();
        motion(Seeds::Shared(6)).fill(&mut permuted, 2.0, 1.0).unwrap();
        assert_eq!(plain, permuted);
    }

    #[test]
    fn increments_are_standard_normal_and_independent() {
        let mut motion = motion(Seeds::Shared(8));
        let mut draw = |from, to| {
            let mut latent = Array4::zeros((1, 4, 64, 64));
            motion.fill(&mut latent, from, to).unwrap();
            latent.into_raw_vec_and_offset().0
        };
        let (first, second) = (draw(14.0, 5.0), draw(5.0, 0.03));
        assert_standard_normal(&first);
        assert_standard_normal(&second);
        let product: f32 = first.iter().zip(&second).map(|(a, b)| a * b).sum();
        assert!((product / first.len() as f32).abs() < 0.04);
    }

    #[test]
    fn sigmas_may_lie_outside_by_rounding_only() {
        let mut motion = motion(Seeds::Shared(1));
        let expected = draw(&mut motion, 1, RANGE.1, RANGE.0);
        assert_close(&draw(&mut motion, 1, RANGE.1 + 1e-6, RANGE.0 - 1e-7), &expected, 1e-6);
        let mut latent = Array4::zeros((1, 1, 4, 8));
        let bad = [
            (15.0, 1.0),
            (1.0, 0.0),
            (1.0, -1.0),
            (2.0, 2.0),
            (2.0, 2.0 + 1e-8),
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (1.0, f64::NEG_INFINITY),
        ];
        for (from, to) in bad {
            assert_eq!(motion.fill(&mut latent, from, to).unwrap_err().kind(), ErrorKind::Usage, "{from} {to}");
        }
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let bad = [
            (1.0, 1.0),
            (1.0, 1.0 + 1e-9),
            (2.0, 1.0),
            (-1.0, 1.0),
            (0.0, 2e6),
            (0.0, f64::INFINITY),
            (f64::NAN, 1.0),
            (0.0, f64::NAN),
        ];
        for (min, max) in bad {
            assert_eq!(Brownian::new(Seeds::Shared(0), min, max).unwrap_err().kind(), ErrorKind::Usage, "{min} {max}");
        }
    }

    #[test]
    fn number_of_seeds_must_be_the_batch() {
        for seeds in [vec![], vec![1], vec![1, 2, 3]] {
            let error = motion(Seeds::PerImage(seeds)).fill(&mut Array4::zeros((2, 1, 4, 4)), 2.0, 1.0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn the_widest_tree_ends() {
        let mut motion = Brownian::new(Seeds::Shared(0), 0.0, Brownian::MAX_SIGMA).unwrap();
        for (from, to) in [(0.0, 1e-6), (1e6, 999_999.9), (123_456.7, 1.234_567), (1e6, 0.0)] {
            assert!(draw(&mut motion, 1, from, to).iter().all(|value| value.is_finite() && value.abs() < 6.0));
        }
    }

    #[test]
    fn rounding_is_that_of_python() {
        // Half-way exactly (1/128 and 3/128), then half-way only after a rounded product, then others.
        let cases = [
            (0.0078125, 0.007812),
            (0.0234375, 0.023438),
            (0.1234565, 0.123456),
            (0.0000005, 0.0),
            (2.5e-6, 0.000003),
            (3.5e-6, 0.000003),
            (1.0000015, 1.000001),
            (0.5000005, 0.5),
            (1.0000005, 1.000001),
            (14.614641189575195, 14.614641),
            (80.0, 80.0),
        ];
        for (value, expected) in cases {
            assert_eq!(round(value), expected, "{value}");
        }
    }
}
