//! Pictures → what a page carries of them.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{ImageFormat, ImageReader, Limits};

/// Width and height in pixels at the most.
const MOST_PIXELS: u32 = 256;
/// Artefacts of JPEG must not be taken for those of quantisation.
const JPEG_QUALITY: u8 = 92;
/// A picture's file may come from strangers: what decoding it may take.
const MOST_SIDE: u32 = 16_384;
const MOST_BYTES: u64 = 512 << 20;

/// A picture in at most 256×256 pixels as a data URI, PNG or JPEG, whichever is shorter; nothing where it is none.
pub(super) fn data_uri(bytes: &[u8]) -> Option<String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let picture = reader.decode().ok()?;
    let small = picture.width() <= MOST_PIXELS && picture.height() <= MOST_PIXELS;
    let picture = if small { picture } else { picture.resize(MOST_PIXELS, MOST_PIXELS, FilterType::CatmullRom) };
    let picture = picture.to_rgb8();
    let (mut png, mut jpeg) = (Cursor::new(Vec::new()), Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).ok()?;
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)).ok()?;
    let (kind, bytes) = match png.into_inner() {
        png if png.len() <= jpeg.len() => ("png", png),
        _ => ("jpeg", jpeg),
    };
    Some(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_made_small_and_what_is_none_is_left_out() {
        let mut png = Cursor::new(Vec::new());
        let noise = |x, y| image::Rgb([(x * 37 % 251) as u8, (y * 91 % 241) as u8, (x * y % 239) as u8]);
        image::RgbImage::from_fn(600, 300, noise).write_to(&mut png, ImageFormat::Png).unwrap();
        let uri = data_uri(png.get_ref()).unwrap();
        let (head, body) = uri.split_once(',').unwrap();
        assert!(head == "data:image/jpeg;base64" || head == "data:image/png;base64", "{head}");
        let found = image::load_from_memory(&STANDARD.decode(body).unwrap()).unwrap();
        assert_eq!((found.width(), found.height()), (256, 128));
        for none in [&b""[..], b"<svg onload=alert(1)>", &png.get_ref()[..100]] {
            assert_eq!(data_uri(none), None);
        }
    }
}
