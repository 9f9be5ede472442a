//! Numbers that cannot become a picture: NaN, infinities, constants.

/// Whether no number is NaN or infinite; without an early end, so that it compiles to vector instructions.
pub(crate) fn all_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !numbers.iter().fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT))
}

/// Whether all numbers are one; where some are NaN, they are not.
pub(crate) fn is_constant(numbers: &[f32]) -> bool {
    numbers.iter().all(|x| Some(x) == numbers.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_numbers_are_told_from_others() {
        assert!(all_finite(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!all_finite(&[0.0, bad, 1.0]));
        }
    }

    #[test]
    fn constants_are_told_from_others() {
        assert!(is_constant(&[2.0, 2.0, 2.0]));
        assert!(!is_constant(&[2.0, 2.0, 2.5]));
        assert!(!is_constant(&[f32::NAN, f32::NAN]));
    }
}
