//! How far numbers are from others.

use serde::Serialize;

/// How far one array of numbers is from another of the same shape. All sums are in double precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Largest |found − expected|.
    pub max_abs: f64,
    /// ‖found − expected‖₂ / ‖expected‖₂; infinite where only the expected numbers are all 0.
    pub relative_l2: f64,
    /// Cosine of the angle between the two; 1 is the same direction.
    pub cosine: f64,
}

impl Difference {
    /// Compares number by number; the numbers are finite.
    pub fn between<'a>(expected: impl IntoIterator<Item = &'a f32>, found: impl IntoIterator<Item = &'a f32>) -> Self {
        let (mut max_abs, mut squares, mut dot) = (0.0_f64, 0.0, 0.0);
        let (mut expected_squares, mut found_squares) = (0.0, 0.0);
        for (&expected, &found) in expected.into_iter().zip(found) {
            let (expected, found) = (f64::from(expected), f64::from(found));
            let difference = found - expected;
            max_abs = max_abs.max(difference.abs());
            squares += difference * difference;
            dot += expected * found;
            expected_squares += expected * expected;
            found_squares += found * found;
        }
        let relative_l2 = if squares == 0.0 { 0.0 } else { (squares / expected_squares).sqrt() };
        let norms = expected_squares.sqrt() * found_squares.sqrt();
        // Rounding may leave the cosine of equals a little above 1.
        let cosine = if squares == 0.0 {
            1.0
        } else if norms == 0.0 {
            0.0
        } else {
            (dot / norms).clamp(-1.0, 1.0)
        };
        Self { max_abs, relative_l2, cosine }
    }
}

/// Peak signal-to-noise ratio of 8-bit pixels in dB, 10·log₁₀(255² / mean squared difference); `None` where they are
/// the same.
pub fn psnr_db(expected: &[u8], found: &[u8]) -> Option<f64> {
    let square = |(&expected, &found): (&u8, &u8)| u64::from(expected.abs_diff(found)).pow(2);
    let squares: u64 = expected.iter().zip(found).map(square).sum();
    let mean = squares as f64 / expected.len() as f64;
    (squares > 0).then(|| 10.0 * (255.0 * 255.0 / mean).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_the_formulae_say() {
        let difference = Difference::between(&[3.0, 0.0, 4.0], &[3.0, 1.0, 2.0]);
        assert_eq!(difference.max_abs, 2.0);
        assert!((difference.relative_l2 - 5.0_f64.sqrt() / 5.0).abs() < 1e-15);
        assert!((difference.cosine - 17.0 / (5.0 * 14.0_f64.sqrt())).abs() < 1e-15);
    }

    #[test]
    fn equals_and_zeros_have_no_nan() {
        let same = Difference { max_abs: 0.0, relative_l2: 0.0, cosine: 1.0 };
        assert_eq!(Difference::between(&[0.0; 3], &[0.0; 3]), same);
        assert_eq!(Difference::between(&[0.1, 0.7], &[0.1, 0.7]), same);
        let from_nothing = Difference { max_abs: 2.0, relative_l2: f64::INFINITY, cosine: 0.0 };
        assert_eq!(Difference::between(&[0.0; 2], &[2.0, 0.0]), from_nothing);
        let to_nothing = Difference { max_abs: 2.0, relative_l2: 1.0, cosine: 0.0 };
        assert_eq!(Difference::between(&[2.0, 0.0], &[0.0; 2]), to_nothing);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let difference = Difference::between(&[f32::MAX; 4], &[f32::MIN; 4]);
        assert_eq!((difference.relative_l2, difference.cosine), (2.0, -1.0));
    }

    #[test]
    fn psnr_is_in_decibels_of_the_mean_square() {
        assert_eq!(psnr_db(&[0, 128, 255], &[0, 128, 255]), None);
        let one_off = psnr_db(&[10, 10, 10, 10], &[10, 11, 10, 10]).unwrap();
        assert!((one_off - 54.151_403_521_958_73).abs() < 1e-9, "{one_off}");
        assert_eq!(psnr_db(&[0], &[255]), Some(0.0));
    }
}
