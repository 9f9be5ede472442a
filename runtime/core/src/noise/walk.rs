//! Noise on the way from one seed to another.

use serde::Serialize;

use crate::Result;

/// A place on the way between the noise of two seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Leg {
    /// Seed at share 0.
    pub from: u64,
    /// Seed at share 1.
    pub to: u64,
    /// How much of the way is done, from 0 to 1.
    pub share: f64,
}

/// Where frame `frame` of `frames` is on the way along `seeds`, which are equally far from each other.
///
/// A frame that falls on a seed has that seed at both ends of its leg. The first frame is at the first seed and the
/// last at the last; those between fall on frames where `frames − 1` is a multiple of `seeds.len() − 1`. There must be a
/// seed, and a frame of that number.
pub(crate) fn leg(seeds: &[u64], frame: usize, frames: usize) -> Leg {
    debug_assert!(frame < frames, "frame {frame} of {frames}");
    // In whole numbers, so that no rounding keeps a frame off its seed.
    let (way, parts) = (frame as u128 * (seeds.len() - 1) as u128, (frames - 1).max(1) as u128);
    let (index, rest) = ((way / parts) as usize, way % parts);
    let to = if rest == 0 { index } else { index + 1 };
    Leg { from: seeds[index], to: seeds[to], share: rest as f64 / parts as f64 }
}

/// Turns `values` towards `to` by `share` of the angle Ω between them (Shoemake 1985):
/// `sin((1 − share)Ω)/sin Ω · from + sin(share·Ω)/sin Ω · to` of the two directions, of a length that goes evenly from
/// one's to the other's.
///
/// Noise in between is so as long as noise; a straight line between two seeds would pass at 0.7 of the length, which
/// denoisers have never seen. Share 0 changes nothing, share 1 gives `to` itself. Two vectors of (nearly) one
/// direction, or of opposite ones, of which no arc is the shortest, are joined by a straight line.
fn slerp(values: &mut [f32], to: &[f32], share: f64) {
    if share == 0.0 {
        return;
    }
    if share == 1.0 {
        values.copy_from_slice(to);
        return;
    }
    let (from_norm, to_norm) = (dot(values, values).sqrt(), dot(to, to).sqrt());
    let cosine = (dot(values, to) / (from_norm * to_norm)).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let (mut from_weight, mut to_weight) = (1.0 - share, share);
    // Also false where a norm is 0.
    if angle.sin() > 1e-6 {
        let norm = from_weight * from_norm + to_weight * to_norm;
        from_weight = norm * (from_weight * angle).sin() / (angle.sin() * from_norm);
        to_weight = norm * (to_weight * angle).sin() / (angle.sin() * to_norm);
    }
    for (value, to) in values.iter_mut().zip(to) {
        *value = (from_weight * f64::from(*value) + to_weight * f64::from(*to)) as f32;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Two sources, and how far it is from the first to the second.
#[derive(Debug, Clone)]
pub(super) struct Between<T> {
    from: T,
    /// None where this is the place of a seed.
    to: Option<T>,
    share: f64,
    scratch: Vec<f32>,
}

impl<T> Between<T> {
    pub(super) fn start(leg: Leg, start: &mut impl FnMut(u64) -> T) -> Self {
        let Leg { from, to, share } = leg;
        let apart = from != to && share > 0.0;
        Self { from: start(from), to: apart.then(|| start(to)), share, scratch: Vec::new() }
    }

    /// Has both sources fill in as many numbers, and leaves what lies between.
    pub(super) fn fill(
        &mut self,
        values: &mut [f32],
        mut fill_one: impl FnMut(&mut T, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        fill_one(&mut self.from, values)?;
        let Some(to) = &mut self.to else { return Ok(()) };
        self.scratch.resize(values.len(), 0.0);
        fill_one(to, &mut self.scratch)?;
        slerp(values, &self.scratch, self.share);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array4, Axis};

    use super::super::{Brownian, GENERATORS, Noise, Seeds, TORCH_CPU, TorchCpu};
    use super::*;

    fn normal(seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; 4 * 64 * 64];
        TorchCpu::new(seed).fill(&mut values);
        values
    }

    fn angle(a: &[f32], b: &[f32]) -> f64 {
        (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).acos()
    }

    #[test]
    fn the_arc_is_walked_evenly_and_keeps_the_norm() {
        let (from, to) = (normal(7), normal(9));
        let (whole, norms) = (angle(&from, &to), [&from, &to].map(|values| dot(values, values).sqrt()));
        for share in [0.1, 0.25, 0.5, 0.9] {
            let mut between = from.clone();
            slerp(&mut between, &to, share);
            assert!((angle(&from, &between) - share * whole).abs() < 1e-5, "{share}");
            assert!((angle(&between, &to) - (1.0 - share) * whole).abs() < 1e-5, "{share}");
            let norm = norms[0] + share * (norms[1] - norms[0]);
            assert!((dot(&between, &between).sqrt() / norm - 1.0).abs() < 1e-6, "{share}");
        }
    }

    #[test]
    fn the_arc_of_the_plane_is_a_circle() {
        let mut found = [1.0, 0.0];
        slerp(&mut found, &[0.0, 1.0], 1.0 / 3.0);
        let expected = [30_f32.to_radians().cos(), 30_f32.to_radians().sin()];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn ends_are_exact_and_no_direction_is_nan() {
        let (from, to) = (normal(7), normal(9));
        let walked = |from: &[f32], to: &[f32], share| {
            let mut between = from.to_vec();
            slerp(&mut between, to, share);
            between
        };
        assert_eq!(walked(&from, &to, 0.0), from);
        assert_eq!(walked(&from, &to, 1.0), to);
        for pair in [[0.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.0, 2.0], [-3.0, 0.0]] {
            let found = walked(&[pair[0]; 4], &[pair[1]; 4], 0.5);
            assert_eq!(found, [(pair[0] + pair[1]) / 2.0; 4], "{pair:?}");
        }
    }

    #[test]
    fn frames_fall_on_seeds() {
        let legs = |seeds: &[u64], frames| (0..frames).map(|frame| leg(seeds, frame, frames)).collect::<Vec<_>>();
        let at = |from, to, share| Leg { from, to, share };
        assert_eq!(legs(&[7, 9], 3), [at(7, 7, 0.0), at(7, 9, 0.5), at(9, 9, 0.0)]);
        assert_eq!(
            legs(&[7, 9, 12], 5),
            [at(7, 7, 0.0), at(7, 9, 0.5), at(9, 9, 0.0), at(9, 12, 0.5), at(12, 12, 0.0)]
        );
        assert_eq!(legs(&[7, 9, 12], 4)[1..3], [at(7, 9, 2.0 / 3.0), at(9, 12, 1.0 / 3.0)]);
        assert_eq!(legs(&[7, 9], 1), [at(7, 7, 0.0)]);
        for frames in [2, 3, 7, 1000, 99_991] {
            assert_eq!(leg(&[1, 2, 3, 4], frames - 1, frames), at(4, 4, 0.0));
        }
    }

    #[test]
    fn every_draw_of_every_source_is_walked() {
        let legs = vec![Leg { from: 7, to: 7, share: 0.0 }, Leg { from: 7, to: 9, share: 0.25 }];
        let (mut walked, mut ends) = (Array4::zeros((2, 4, 8, 8)), Array4::zeros((2, 4, 8, 8)));
        let check = |walked: &Array4<f32>, ends: &Array4<f32>| {
            assert_eq!(walked.index_axis(Axis(0), 0), ends.index_axis(Axis(0), 0));
            let mut between = ends.index_axis(Axis(0), 0).iter().copied().collect::<Vec<_>>();
            slerp(&mut between, ends.index_axis(Axis(0), 1).as_slice().unwrap(), 0.25);
            assert_eq!(walked.index_axis(Axis(0), 1).as_slice().unwrap(), between);
        };
        for generator in GENERATORS {
            let mut noise = Noise::start(generator, Seeds::Walk(legs.clone()));
            let mut of_ends = Noise::per_image(generator, [7, 9]);
            for _ in 0..2 {
                noise.fill(&mut walked).unwrap();
                of_ends.fill(&mut ends).unwrap();
                check(&walked, &ends);
            }
        }
        let mut motion = Brownian::new(Seeds::Walk(legs.clone()), 0.1, 10.0).unwrap();
        let mut of_ends = Brownian::new(Seeds::PerImage(vec![7, 9]), 0.1, 10.0).unwrap();
        motion.fill(&mut walked, 10.0, 5.0).unwrap();
        of_ends.fill(&mut ends, 10.0, 5.0).unwrap();
        check(&walked, &ends);

        let wrong = Noise::start(&TORCH_CPU, Seeds::Walk(legs)).fill(&mut Array4::zeros((3, 4, 8, 8)));
        assert_eq!(wrong.unwrap_err().kind(), crate::ErrorKind::Usage);
    }
}
