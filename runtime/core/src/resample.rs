//! Pictures in another size, by Lanczos' filter as Pillow has it, bit for bit: diffusers resizes with Pillow.

use image::{ImageBuffer, Pixel};

/// Weights are whole numbers of 2⁻²², so that a sum of 8-bit pixels fits into 32 bits with its sign.
const PRECISION_BITS: u32 = 22;
/// Zero crossings of the filter on each side.
const LOBES: f64 = 3.0;

/// A picture of 8-bit channels.
pub(crate) type Pixels<P> = ImageBuffer<P, Vec<u8>>;

/// The picture in `width` × `height` pixels; its own pixels where it has that size.
pub(crate) fn resize<P: Pixel<Subpixel = u8>, const CHANNELS: usize>(
    picture: &Pixels<P>,
    width: u32,
    height: u32,
) -> Pixels<P> {
    const { assert!(CHANNELS == P::CHANNEL_COUNT as usize) };
    let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
    let (width, height) = (width as usize, height as usize);
    let mut pixels = picture.as_raw().clone();
    if width != from_width {
        pixels = along_rows::<CHANNELS>(&pixels, from_width, &windows(from_width, width));
    }
    if height != from_height {
        pixels = along_columns(&pixels, width * CHANNELS, &windows(from_height, height));
    }
    ImageBuffer::from_raw(width as u32, height as u32, pixels).expect("both passes return a picture of this size")
}

/// Pixels that make one of another size: the first of them, and the weight of each.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // A picture that shrinks is smoothed over what becomes one pixel.
    let spread = scale.max(1.0);
    let support = LOBES * spread;
    let window = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights = (first..end).map(|x| lanczos((x as f64 - centre + 0.5) / spread));
        let weights: Vec<_> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: &f64| (weight / sum * f64::from(1 << PRECISION_BITS)).round() as i32;
        Window { first, weights: weights.iter().map(whole).collect() }
    };
    (0..to).map(window).collect()
}

fn lanczos(x: f64) -> f64 {
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// A sum of weighted pixels, rounded.
fn pixel(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
}

fn along_rows<const CHANNELS: usize>(pixels: &[u8], from_width: usize, windows: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(pixels.len() / from_width * windows.len());
    for row in pixels.as_chunks::<CHANNELS>().0.chunks_exact(from_width) {
        for Window { first, weights } in windows {
            let mut sums = [0; CHANNELS];
            for (values, &weight) in row[*first..].iter().zip(weights) {
                sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
            }
            resized.extend(sums.map(pixel));
        }
    }
    resized
}

fn along_columns(pixels: &[u8], row: usize, windows: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(row * windows.len());
    let mut sums = vec![0; row];
    for Window { first, weights } in windows {
        sums.fill(0);
        for (values, &weight) in pixels[first * row..].chunks_exact(row).zip(weights) {
            sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        resized.extend(sums.iter().map(|&sum| pixel(sum)));
    }
    resized
}

#[cfg(test)]
mod tests {
    use image::{Luma, RgbImage};

    use super::*;

    /// 8 pixels that look like noise.
    fn row(width: u32, height: u32) -> Pixels<Luma<u8>> {
        ImageBuffer::from_fn(width, height, |x, y| Luma([((x * 97 + y * 61 + x * y * 13) % 256) as u8]))
    }

    /// `numpy.asarray(PIL.Image.fromarray(a).resize(size, PIL.Image.LANCZOS))` of Pillow 13.0.0, with `a` as in [`row`].
    #[test]
    fn pixels_are_those_of_pillow() {
        for ((width, height), expected) in PILLOW {
            let got = resize::<_, 1>(&row(8, 4), *width, *height);
            assert_eq!(got.as_raw(), expected, "{width}×{height}");
        }
    }

    #[test]
    fn a_picture_of_the_size_is_left_as_it_is() {
        let picture = row(8, 4);
        assert_eq!(resize::<_, 1>(&picture, 8, 4), picture);
    }

    #[test]
    fn channels_are_resized_apart() {
        let grey = row(8, 4);
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([grey.get_pixel(x, y)[0], 7, 255]));
        let (grey, picture) = (resize::<_, 1>(&grey, 3, 9), resize::<_, 3>(&picture, 3, 9));
        assert!(picture.pixels().zip(grey.pixels()).all(|(rgb, grey)| rgb.0 == [grey[0], 7, 255]));
    }

    #[rustfmt::skip]
    const PILLOW: &[((u32, u32), &[u8])] = &[
        ((5, 4), &[39, 145, 93, 177, 121, 111, 76, 177, 167, 119, 171, 181, 169, 156, 166, 135, 130, 147, 164, 159]),
        ((8, 3), &[10, 105, 146, 47, 175, 183, 117, 125, 92, 224, 53, 201, 174, 162, 151, 139, 173, 113, 189, 125, 172, 141, 184, 153]),
        ((3, 2), &[94, 147, 146, 150, 159, 160]),
        ((12, 7), &[0, 21, 126, 222, 127, 14, 79, 221, 226, 67, 101, 202, 10, 53, 129, 149, 84, 63, 157, 201, 169, 129, 117, 125, 43, 118, 153, 50, 44, 155, 247, 169, 106, 202, 141, 46, 71, 186, 225, 49, 105, 237, 188, 159, 161, 153, 144, 138, 115, 189, 227, 131, 178, 218, 110, 164, 215, 104, 146, 230, 175, 140, 126, 178, 160, 132, 165, 158, 147, 177, 170, 151, 206, 102, 52, 195, 131, 71, 221, 154, 87, 238, 185, 74]),
        ((1, 1), &[142]),
        ((8, 9), &[0, 89, 222, 25, 110, 253, 45, 188, 5, 103, 171, 43, 151, 209, 91, 149, 30, 127, 89, 78, 216, 136, 167, 87, 65, 179, 20, 145, 243, 100, 209, 66, 92, 245, 32, 222, 174, 162, 151, 139, 118, 251, 103, 239, 104, 224, 92, 212, 153, 175, 163, 178, 131, 188, 134, 191, 178, 87, 192, 101, 196, 115, 210, 129, 189, 34, 208, 53, 237, 71, 255, 90]),
    ];
}
