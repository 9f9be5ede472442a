//! Latent → RGB picture.

use image::RgbImage;
use ndarray::{ArrayView3, s};

use crate::cancel::Cancel;
use crate::graph::{Contract, Graph, Source};
use crate::guard::all_finite;
use crate::library::Library;
use crate::model::{LatentGeometry, Model};
use crate::request::Plan;
use crate::residency::RunsGraph;
use crate::stage::Stage;
use crate::tiling::Plane;
use crate::{Error, Result};

/// The decoder's graph, opened.
pub(crate) struct Decoder {
    graph: Graph,
    input: usize,
    latent: LatentGeometry,
    scaled: Vec<f32>,
}

impl RunsGraph for Decoder {
    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl Decoder {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, plan: &Plan) -> Result<Self> {
        let name = |name| model.tensor(Stage::Decoder, name);
        let (channels, height, width) = plan.latent;
        let side = |cells: usize| plan.tile.map_or(cells, |tile| tile.min(cells));
        let contract = Contract::of_model(Stage::Decoder, model)
            .usually(name("latent_sample"), &[1, channels, side(height), side(width)].map(Some));
        let graph = Graph::open(library, source, &contract)?;
        let input = graph.find_input(name("latent_sample")).expect("the contract has checked that it is there");
        Ok(Self { graph, input, latent: model.latent, scaled: Vec::new() })
    }

    /// How the graph cuts the latents of a request.
    pub(crate) fn plane(&self, plan: &Plan) -> Plane {
        let fixed = |axis| self.graph.fixed_size(self.input, axis);
        Plane::new(plan, [fixed(2), fixed(3)], (3, self.latent.downscale))
    }

    /// Decodes one latent, `[channels, height, width]`, cut as `plane` says. Pictures of a batch go one by one: decoding is
    /// the peak of memory.
    pub(crate) fn decode(&mut self, latent: ArrayView3<f32>, plane: &Plane, cancel: &Cancel) -> Result<RgbImage> {
        let (height, width) = (plane.size.0 * plane.scale, plane.size.1 * plane.scale);
        if plane.tiles() == 1 {
            return rgb(self.run(latent, cancel)?, width, height);
        }
        let planes =
            plane.tiled(|rows, columns| Ok(self.run(latent.slice(s![.., rows, columns]), cancel)?.to_vec()))?;
        rgb(&planes, width, height)
    }

    /// One run of the graph: a latent → its planes.
    fn run(&mut self, latent: ArrayView3<f32>, cancel: &Cancel) -> Result<&[f32]> {
        let (channels, height, width) = latent.dim();
        let LatentGeometry { scale, shift, downscale, .. } = self.latent;
        let (factor, shift) = ((1.0 / scale) as f32, shift as f32);
        self.scaled.clear();
        self.scaled.extend(latent.iter().map(|x| x * factor + shift));
        self.graph.reshape(self.input, &[1, channels, height, width])?;
        self.graph.write(self.input, 0, &self.scaled)?;
        let (planes, shape) = self.graph.run(cancel)?;
        let (height, width) = (height * downscale, width * downscale);
        if shape != [1, 3, height, width] {
            return Err(Error::model(format!("decoder: returned {shape:?}, expected [1, 3, {height}, {width}]")));
        }
        Ok(planes)
    }
}

/// The picture that a latent is, where a model makes pixels: `[3 or 1, height, width]` in −1 … 1, once scale and shift are
/// taken off it.
pub(crate) fn pixels(latent: ArrayView3<f32>, geometry: LatentGeometry) -> Result<RgbImage> {
    let (channels, height, width) = latent.dim();
    let (factor, shift) = ((1.0 / geometry.scale) as f32, geometry.shift as f32);
    let planes = latent.iter().map(|x| x * factor + shift);
    let planes: Vec<_> =
        if channels == 1 { planes.cycle().take(3 * width * height).collect() } else { planes.collect() };
    rgb(&planes, width, height)
}

/// Planes of reds, greens and blues in −1 … 1 → interleaved bytes, rounded as NumPy rounds.
pub(crate) fn rgb(planes: &[f32], width: usize, height: usize) -> Result<RgbImage> {
    let (red, rest) = planes.split_at(width * height);
    let (green, blue) = rest.split_at(width * height);
    if !all_finite(planes) {
        return Err(Error::numeric(
            "decoder: the picture has NaN or infinite pixels; a decoder in another precision may do better \
             (--precision)",
        ));
    }
    let mut bytes = vec![0; planes.len()];
    for (pixel, ((&red, &green), &blue)) in bytes.chunks_exact_mut(3).zip(red.iter().zip(green).zip(blue)) {
        pixel.copy_from_slice(&[byte(red), byte(green), byte(blue)]);
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(Error::numeric(
            "decoder: the picture is all black; a decoder in another precision may do better (--precision)",
        ));
    }
    RgbImage::from_raw(width as u32, height as u32, bytes)
        .ok_or_else(|| Error::new(crate::ErrorKind::Internal, "a picture's bytes do not match its size"))
}

/// −1 … 1 → 0 … 255, to the nearest, ties to even. Adding 2²³ leaves that number in the lowest bits, which is several
/// times faster than a rounding function where the processor is assumed to have none.
fn byte(x: f32) -> u8 {
    const TWO_TO_23: f32 = 8_388_608.0;
    ((x * 127.5 + 127.5).clamp(0.0, 255.0) + TWO_TO_23).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn planes_become_pixels() {
        let picture = rgb(&[-1.0, 1.0, 0.0, 9.0, -9.0, 0.5], 2, 1).unwrap();
        assert_eq!(picture.as_raw(), &[0, 128, 0, 255, 255, 191]);
    }

    #[test]
    fn bytes_are_rounded_as_numpy_rounds() {
        for i in -3000..=3000 {
            let x = i as f32 / 2000.0;
            let expected = (x * 127.5 + 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
            assert_eq!(byte(x), expected, "{x}");
        }
    }

    #[test]
    fn black_and_broken_pictures_are_errors() {
        assert_eq!(rgb(&[-1.0; 12], 2, 2).unwrap_err().kind(), ErrorKind::Numeric);
        assert_eq!(rgb(&[0.0, f32::NAN, 0.0], 1, 1).unwrap_err().kind(), ErrorKind::Numeric);
    }
}
