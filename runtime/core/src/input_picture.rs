//! Pictures and masks that a request begins with: read within limits, upright, opaque, 8 bits a channel.

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, Rgba, RgbaImage};

use crate::resample::resize;
use crate::target::Limits;
use crate::{Error, Result, hash};

/// A picture to begin with.
#[derive(Debug, Clone)]
pub struct InputPicture {
    /// Its pixels, of any size: they are resized to a request's with the filter that diffusers takes (Lanczos), whatever
    /// becomes of its shape.
    pub pixels: RgbImage,
    /// SHA-256, in lower-case hex, of the file that it was read from, or of the bytes of its pixels.
    pub sha256: String,
    /// What the caller should know, such as that only the first of several pictures was read.
    pub warnings: Vec<String>,
}

/// Which part of a picture is painted anew.
#[derive(Debug, Clone)]
pub struct InputMask {
    /// White is painted anew, black is kept, half-way (128) is painted. As large as the picture.
    pub pixels: GrayImage,
    /// SHA-256, in lower-case hex, of the file that it was read from, or of the bytes of its pixels.
    pub sha256: String,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

impl From<RgbImage> for InputPicture {
    fn from(pixels: RgbImage) -> Self {
        Self { sha256: hash::of(pixels.as_raw()), pixels, warnings: Vec::new() }
    }
}

impl From<GrayImage> for InputMask {
    fn from(pixels: GrayImage) -> Self {
        Self { sha256: hash::of(pixels.as_raw()), pixels, warnings: Vec::new() }
    }
}

impl InputPicture {
    /// Reads a PNG, JPEG or WebP file. It is turned as its EXIF says; where it is transparent, white shows through;
    /// 16 bits become 8, greys and palettes colours. Colour profiles are not followed: numbers are taken for sRGB.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) for a file that cannot be read, is none of the three or is damaged,
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for one that is larger than `limits` allow.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let Read { picture, sha256, warnings } = read(path, limits)?;
        Ok(Self { pixels: picture, sha256, warnings })
    }

    /// Its reds, greens and blues as `[3, height, width]` in −1 … 1, resized.
    pub(crate) fn planes(&self, width: usize, height: usize) -> Vec<f32> {
        let picture = self.resized(width, height);
        let mut planes = vec![0.0; 3 * width * height];
        let (red, rest) = planes.split_at_mut(width * height);
        let (green, blue) = rest.split_at_mut(width * height);
        let colours = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in picture.pixels().zip(colours) {
            [*red, *green, *blue] = pixel.0.map(|byte| f32::from(byte) / 255.0 * 2.0 - 1.0);
        }
        planes
    }

    /// The picture in another size.
    pub(crate) fn resized(&self, width: usize, height: usize) -> RgbImage {
        resize::<_, 3>(&self.pixels, width as u32, height as u32)
    }
}

impl InputMask {
    /// Reads a mask as [`InputPicture::open`] reads a picture. Colours become their luma; what is transparent is white,
    /// and so painted.
    ///
    /// # Errors
    /// As [`InputPicture::open`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let Read { picture, sha256, warnings } = read(path, limits)?;
        let mut pixels = GrayImage::new(picture.width(), picture.height());
        for (grey, colour) in pixels.pixels_mut().zip(picture.pixels()) {
            let [red, green, blue] = colour.0.map(u32::from);
            // The luma of ITU-R 601 in 65536ths, as Pillow has it.
            grey.0 = [((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8];
        }
        Ok(Self { pixels, sha256, warnings })
    }

    /// Which pixels are painted, `[height, width]`, resized.
    pub(crate) fn painted(&self, width: usize, height: usize) -> Vec<bool> {
        resize::<_, 1>(&self.pixels, width as u32, height as u32).pixels().map(|grey| grey[0] >= 128).collect()
    }
}

/// A file's picture, whatever it is for.
struct Read {
    picture: RgbImage,
    sha256: String,
    warnings: Vec<String>,
}

fn read(path: &Path, limits: &Limits) -> Result<Read> {
    let told = |e: Error| e.context(path.display());
    let bytes = read_bytes(path, limits.max_input_bytes).map_err(told)?;
    let (picture, warning) = decode(&bytes, limits.max_input_pixels).map_err(told)?;
    let warnings = warning.map(|warning| format!("{}: {warning}", path.display())).into_iter().collect();
    Ok(Read { picture, sha256: hash::of(&bytes), warnings })
}

fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::io("is missing"),
        _ => Error::io(format!("cannot be read: {e}")).because(e),
    };
    // Asked before it is opened: opening a pipe waits for whoever writes into it.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::io("is not a regular file; save the picture to one"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        let what = format!("is longer than the {most} bytes that the target allows (limits.max_input_bytes)");
        return Err(Error::limit(format!("{what}; make it smaller first")));
    }
    Ok(bytes)
}

/// Bytes of a pixel while it is decoded, at most: 16 bits of four channels.
const MOST_BYTES_A_PIXEL: u64 = 8;

/// A file's bytes → an upright and opaque picture, and what is worth knowing of it.
fn decode(bytes: &[u8], most_pixels: u64) -> Result<(RgbImage, Option<String>)> {
    let reader = || ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader().map_err(|e| Error::io(format!("cannot be read: {e}")).because(e))?;
    let format = match reader.format() {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        Some(other) => return Err(Error::io(format!("is a {other:?} file, expected PNG, JPEG or WebP"))),
        None => return Err(Error::io("is not a picture that is known, expected PNG, JPEG or WebP")),
    };
    if format == ImageFormat::Jpeg && jpeg_channels(bytes) == Some(4) {
        return Err(Error::io("is a CMYK JPEG, made for printing; convert it to RGB first"));
    }
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(most_pixels.saturating_mul(MOST_BYTES_A_PIXEL));
    reader.limits(limits);
    let damaged = |e: image::ImageError| match e {
        image::ImageError::Limits(_) => Error::limit("takes more memory than the target allows").because(e),
        _ => Error::io(format!("cannot be decoded: {e}")).because(e),
    };
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > most_pixels {
        let what = format!("is {width}×{height} pixels, more than the {most_pixels} that the target allows");
        return Err(Error::limit(format!("{what} (limits.max_input_pixels); make it smaller first")));
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    let warning = is_animated(bytes, format).then(|| "holds several pictures; only the first is taken".to_owned());
    let opaque = if picture.color().has_alpha() { on_white(&picture.into_rgba8()) } else { picture.into_rgb8() };
    Ok((opaque, warning))
}

fn is_animated(bytes: &[u8], format: ImageFormat) -> bool {
    let cursor = Cursor::new(bytes);
    match format {
        ImageFormat::Png => PngDecoder::new(cursor).and_then(|decoder| decoder.is_apng()).unwrap_or(false),
        ImageFormat::WebP => WebPDecoder::new(cursor).is_ok_and(|decoder| decoder.has_animation()),
        _ => false,
    }
}

/// How many channels a JPEG declares in its start of frame (ITU-T T.81, B.2.2).
fn jpeg_channels(bytes: &[u8]) -> Option<u8> {
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    loop {
        // Any number of 0xff may stand before a marker.
        let marker = rest.iter().position(|&byte| byte != 0xff).filter(|&at| at > 0)?;
        let (kind, segment) = (rest[marker], &rest[marker + 1..]);
        let is_start = (0xc0..=0xcf).contains(&kind) && ![0xc4, 0xc8, 0xcc].contains(&kind);
        if is_start {
            // Length (2), precision (1), height (2), width (2), channels.
            return segment.get(7).copied();
        }
        let length = u16::from_be_bytes([*segment.first()?, *segment.get(1)?]);
        rest = segment.get(usize::from(length)..)?;
    }
}

fn on_white(picture: &RgbaImage) -> RgbImage {
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (to, Rgba([red, green, blue, alpha])) in opaque.pixels_mut().zip(picture.pixels()) {
        let alpha = u32::from(*alpha);
        to.0 = [*red, *green, *blue].map(|byte| ((u32::from(byte) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    opaque
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{ColorType, ImageBuffer, ImageEncoder as _, Luma, Rgb};

    use super::*;
    use crate::ErrorKind;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn decoded(bytes: &[u8]) -> RgbImage {
        decode(bytes, 1 << 20).unwrap().0
    }

    #[test]
    fn what_is_transparent_becomes_white() {
        let picture = RgbaImage::from_fn(3, 1, |x, _| Rgba([100, 0, 200, [255, 128, 0][x as usize]]));
        let got = decoded(&encoded(picture, ImageFormat::Png));
        assert_eq!(got.as_raw(), &[100, 0, 200, 177, 127, 227, 255, 255, 255]);
    }

    #[test]
    fn greys_and_16_bits_become_8_bits_of_three_colours() {
        let grey = GrayImage::from_raw(2, 1, vec![7, 250]).unwrap();
        assert_eq!(decoded(&encoded(grey, ImageFormat::Png)).as_raw(), &[7, 7, 7, 250, 250, 250]);
        let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_raw(2, 1, vec![7 * 257, 65535_u16]).unwrap();
        assert_eq!(decoded(&encoded(deep, ImageFormat::Png)).as_raw(), &[7, 7, 7, 255, 255, 255]);
    }

    #[test]
    fn palettes_become_colours() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        encoder.write_header().unwrap().write_image_data(&[1, 0]).unwrap();
        assert_eq!(decoded(&bytes).as_raw(), &[40, 50, 60, 1, 2, 3]);
    }

    /// EXIF that holds the orientation and nothing else (TIFF 6.0, tag 274).
    fn exif(orientation: u8) -> Vec<u8> {
        let entry = [0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0];
        [b"MM\0*\0\0\0\x08", &entry[..]].concat()
    }

    #[test]
    fn pictures_are_turned_as_their_exif_says() {
        let picture = RgbImage::from_fn(16, 8, |x, _| if x < 8 { Rgb([255; 3]) } else { Rgb([0; 3]) });
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
        encoder.set_exif_metadata(exif(6)).unwrap();
        encoder.write_image(picture.as_raw(), 16, 8, ColorType::Rgb8.into()).unwrap();
        let got = decoded(&bytes);
        assert_eq!(got.dimensions(), (8, 16));
        // What was on the left is at the top.
        assert!(got.get_pixel(4, 0)[0] > 250 && got.get_pixel(4, 15)[0] < 5);
    }

    #[test]
    fn more_pixels_than_allowed_are_refused_before_they_are_decoded() {
        let bytes = encoded(RgbImage::new(40, 30), ImageFormat::Png);
        let error = decode(&bytes, 1199).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("is 40×30 pixels, more than the 1199"), "{error}");
        assert!(decode(&bytes, 1200).is_ok());
    }

    #[test]
    fn what_is_no_picture_is_told() {
        let png = encoded(RgbImage::new(40, 30), ImageFormat::Png);
        let four_channels = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc0\0\x14\x08\0\x08\0\x08\x04rest";
        let cases: [(&[u8], &str); 5] = [
            (b"", "is not a picture that is known"),
            (b"hello, world", "is not a picture that is known"),
            (b"GIF89a\x01\0\x01\0\0\0\0;", "is a Gif file, expected PNG, JPEG or WebP"),
            (&png[..60], "cannot be decoded"),
            (four_channels, "is a CMYK JPEG"),
        ];
        for (bytes, expected) in cases {
            let error = decode(bytes, 1 << 20).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn damaged_files_are_errors_or_pictures() {
        let picture = RgbImage::from_fn(24, 17, |x, y| Rgb([(x * 9) as u8, (y * 13) as u8, (x * y) as u8]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let bytes = encoded(picture.clone(), format);
            for place in 0..bytes.len() {
                let cut = &bytes[..place];
                assert!(decode(cut, 1 << 12).map_or(true, |(picture, _)| picture.dimensions() == (24, 17)));
                for value in [0, 0xff, bytes[place] ^ 1] {
                    let mut damaged = bytes.clone();
                    damaged[place] = value;
                    if let Ok((picture, _)) = decode(&damaged, 1 << 12) {
                        assert!(picture.width() * picture.height() <= 1 << 12);
                    }
                }
            }
        }
    }

    #[test]
    fn of_several_pictures_the_first_is_taken() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[9, 8, 7]).unwrap();
        writer.write_image_data(&[1, 1, 1]).unwrap();
        writer.finish().unwrap();
        let (picture, warning) = decode(&bytes, 100).unwrap();
        assert_eq!(picture.as_raw(), &[9, 8, 7]);
        assert!(warning.unwrap().contains("only the first is taken"));
    }

    #[test]
    fn files_are_read_within_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.jpg");
        let bytes = encoded(RgbImage::from_pixel(8, 8, Rgb([255, 0, 0])), ImageFormat::Png);
        std::fs::write(&path, &bytes).unwrap();
        let usual = Limits::default();
        let picture = InputPicture::open(&path, &usual).unwrap();
        // What a file is, its bytes say.
        assert_eq!((picture.pixels.dimensions(), picture.sha256), ((8, 8), hash::of(&bytes)));
        let mask = InputMask::open(&path, &usual).unwrap();
        assert!(mask.pixels.pixels().all(|grey| grey[0] == 76));
        assert!(mask.painted(4, 4).iter().all(|painted| !painted));
        let tight = Limits { max_input_bytes: bytes.len() as u64 - 1, ..usual };
        assert_eq!(InputPicture::open(&path, &tight).unwrap_err().kind(), ErrorKind::Limit);
        let error = InputPicture::open(folder.path(), &usual).unwrap_err();
        assert!(error.to_string().contains("is not a regular file"), "{error}");
        let error = InputPicture::open(&folder.path().join("absent"), &usual).unwrap_err();
        assert!(error.to_string().contains("is missing"), "{error}");
    }

    #[test]
    fn planes_are_colours_from_minus_one_to_one() {
        let picture = InputPicture::from(RgbImage::from_raw(2, 1, vec![0, 255, 51, 255, 0, 204]).unwrap());
        let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6];
        assert!(picture.planes(2, 1).iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
    }
}
