//! What `benches/own_code.rs` measures and nobody else needs: inner loops of private modules.

use image::RgbImage;

use crate::tiling::{Cut, Plane};
use crate::{InputPicture, Result, decoder};

/// An input picture as planes in −1 … 1 of another size.
pub fn input_planes(picture: &InputPicture, width: usize, height: usize) -> Vec<f32> {
    picture.planes(width, height)
}

/// A decoder's planes in −1 … 1 as pixels.
///
/// # Errors
/// As whatever decodes: NaN, all black.
pub fn rgb8(planes: &[f32], width: usize, height: usize) -> Result<RgbImage> {
    decoder::rgb(planes, width, height)
}

/// `side`² pixels joined from tiles of `tile`², of a decoder that gives 8 pixels a cell each way and costs nothing.
///
/// # Errors
/// None.
pub fn join_tiles(side: usize, tile: usize) -> Result<Vec<f32>> {
    const SCALE: usize = 8;
    let cut = Cut::new(side / SCALE, None, Some(tile / SCALE));
    let plane = Plane { size: (side / SCALE, side / SCALE), cut: (cut, cut), channels: 3, scale: SCALE };
    plane.tiled(|rows, columns| Ok(vec![0.5; 3 * rows.len() * columns.len() * SCALE * SCALE]))
}
