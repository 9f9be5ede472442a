//! The arguments that give a request a picture to begin with.

use std::path::PathBuf;
use std::sync::Arc;

use image::{GrayImage, Luma, Rgb, RgbImage};
use safelight::{InputMask, InputPicture, KeptPixels, Model, Request, Sampling, Target, Tiling};

#[derive(clap::Args)]
pub(crate) struct PictureArguments {
    /// Picture to begin with instead of noise alone: PNG, JPEG or WebP, resized to the size of the pictures
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Which part of it is painted anew: white is, black is kept; as large as the picture
    #[arg(long, value_name = "FILE", requires = "image")]
    mask: Option<PathBuf>,
    /// Put the pixels that the mask keeps into the result as they were; without it they go through the autoencoder
    #[arg(long, requires = "mask")]
    keep_pixels: bool,
    /// Tiles that the autoencoder works in: their pixels each way, off or auto [default: the target's, which is usually auto]
    #[arg(long, value_name = "PIXELS")]
    tile: Option<Tiling>,
}

impl PictureArguments {
    /// The request with what these arguments say, its files read.
    pub(crate) fn apply(&self, request: Request, target: &Target) -> safelight::Result<Request> {
        let limits = &target.limits;
        let image = self.image.as_deref().map(|path| InputPicture::open(path, limits)).transpose()?;
        let mask = self.mask.as_deref().map(|path| InputMask::open(path, limits)).transpose()?;
        let kept = if self.keep_pixels { KeptPixels::Pasted } else { KeptPixels::Decoded };
        Ok(Request { image: image.map(Arc::new), mask: mask.map(Arc::new), kept, tile: self.tile, ..request })
    }
}

/// The request with a picture and a mask, for requests of which only what they run matters, not what they show.
pub(crate) fn with_stand_ins(request: Request, model: &Model) -> Request {
    let image = stand_in(request.size, model);
    let mask = GrayImage::from_pixel(image.pixels.width(), image.pixels.height(), Luma([255]));
    let sampling = Sampling { strength: Some(1.0), ..request.sampling };
    Request { image: Some(image), mask: Some(Arc::new(mask.into())), sampling, ..request }
}

/// A picture that nobody will look at.
pub(crate) fn stand_in(size: Option<(usize, usize)>, model: &Model) -> Arc<InputPicture> {
    let (width, height) = size.unwrap_or((model.picture.width, model.picture.height));
    let gradient = |x, y| Rgb([(x % 256) as u8, (y % 256) as u8, 128]);
    Arc::new(RgbImage::from_fn(width as u32, height as u32, gradient).into())
}
