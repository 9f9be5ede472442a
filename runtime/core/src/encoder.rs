//! RGB picture → the distribution of latents that it may have come from.

use ndarray::{Array3, s};

use crate::cancel::Cancel;
use crate::graph::{Contract, Graph, Source};
use crate::guard::all_finite;
use crate::library::Library;
use crate::model::{LatentGeometry, Model};
use crate::noise::Noise;
use crate::onnx::Outline;
use crate::request::{NoiseLayout, Plan};
use crate::residency::RunsGraph;
use crate::sampler::Latent;
use crate::stage::Stage;
use crate::tiling::Plane;
use crate::{Error, Result};

/// The encoder's graph, opened.
pub(crate) struct Encoder {
    graph: Graph,
    input: usize,
    latent: LatentGeometry,
    gives: Gives,
}

/// What the graph tells of a latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    /// Its mean and the logarithm of its variance, one after the other.
    Parameters,
    /// The latent itself: autoencoders without a distribution, and older exports.
    Sample,
}

impl Gives {
    fn of(outline: &Outline, model: &Model) -> Self {
        let has = |name| outline.outputs.iter().any(|output| output.name == model.tensor(Stage::Encoder, name));
        if !has("latent_parameters") && has("latent_sample") { Self::Sample } else { Self::Parameters }
    }

    fn channels(self, latent: LatentGeometry) -> usize {
        match self {
            Self::Parameters => 2 * latent.channels,
            Self::Sample => latent.channels,
        }
    }
}

/// The latents of a picture as the encoder tells them, in the encoder's own scale: a normal distribution, or one latent.
pub(crate) struct Posterior {
    /// `[channels, height, width]`.
    mean: Array3<f32>,
    /// Standard deviations, where there are any.
    deviation: Option<Array3<f32>>,
    latent: LatentGeometry,
}

impl RunsGraph for Encoder {
    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl Encoder {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, plan: &Plan) -> Result<Self> {
        let gives = Gives::of(&source.outline, model);
        let name = model.tensor(Stage::Encoder, "sample");
        let side = |cells: usize| plan.tile.map_or(cells, |tile| tile.min(cells)) * model.latent.downscale;
        let (_, height, width) = plan.latent;
        let contract =
            Contract::of_model(Stage::Encoder, model).usually(name, &[1, 3, side(height), side(width)].map(Some));
        let graph = Graph::open(library, source, &contract)?;
        let input = graph.find_input(name).expect("the contract has checked that it is there");
        Ok(Self { graph, input, latent: model.latent, gives })
    }

    /// How the graph cuts the picture of a request.
    pub(crate) fn plane(&self, plan: &Plan) -> Plane {
        let fixed = |axis| Some(self.graph.fixed_size(self.input, axis)? / self.latent.downscale);
        Plane::new(plan, [fixed(2), fixed(3)], (self.gives.channels(self.latent), 1))
    }

    /// Encodes a picture, `[3, height, width]` in −1 … 1, cut as `plane` says.
    pub(crate) fn encode(&mut self, picture: &[f32], plane: &Plane, cancel: &Cancel) -> Result<Posterior> {
        let downscale = self.latent.downscale;
        let (height, width) = plane.size;
        let mut part = Vec::new();
        let told = plane.tiled(|rows, columns| {
            part.clear();
            for colour in picture.chunks_exact(height * width * downscale * downscale) {
                for y in rows.start * downscale..rows.end * downscale {
                    let row = y * width * downscale;
                    part.extend_from_slice(&colour[row + columns.start * downscale..row + columns.end * downscale]);
                }
            }
            self.run(&part, (rows.len(), columns.len()), cancel)
        })?;
        self.posterior(told, plane)
    }

    /// One run of the graph, for a picture of so many cells.
    fn run(&mut self, picture: &[f32], (height, width): (usize, usize), cancel: &Cancel) -> Result<Vec<f32>> {
        let downscale = self.latent.downscale;
        self.graph.reshape(self.input, &[1, 3, height * downscale, width * downscale])?;
        self.graph.write(self.input, 0, picture)?;
        let expected = [1, self.gives.channels(self.latent), height, width];
        let (told, shape) = self.graph.run(cancel)?;
        if shape != expected {
            return Err(Error::model(format!("encoder: returned {shape:?}, expected {expected:?}")));
        }
        if !all_finite(told) {
            return Err(Error::numeric(
                "encoder: the latent has NaN or infinite numbers; an encoder in another precision may do better \
                 (--precision)",
            ));
        }
        Ok(told.to_vec())
    }

    fn posterior(&self, told: Vec<f32>, plane: &Plane) -> Result<Posterior> {
        /// Where diffusers' `DiagonalGaussianDistribution` cuts the logarithm of the variance.
        const LOG_VARIANCES: (f32, f32) = (-30.0, 20.0);
        let (height, width) = plane.size;
        let shape = (plane.channels, height, width);
        let told = Array3::from_shape_vec(shape, told)
            .map_err(|e| Error::new(crate::ErrorKind::Internal, format!("a latent of another shape: {e}")))?;
        let channels = self.latent.channels;
        let mean = told.slice(s![..channels, .., ..]).to_owned();
        let deviation = (self.gives == Gives::Parameters).then(|| {
            let logs = told.slice(s![channels.., .., ..]);
            logs.mapv(|log| (0.5 * log.clamp(LOG_VARIANCES.0, LOG_VARIANCES.1)).exp())
        });
        Ok(Posterior { mean, deviation, latent: self.latent })
    }
}

impl Posterior {
    /// A picture, `[3, height, width]` in −1 … 1, of a model that makes pixels: these are its latent. One channel is the
    /// luma (ITU-R 601).
    pub(crate) fn of_pixels(planes: &[f32], plan: &Plan, latent: LatentGeometry) -> Result<Self> {
        const LUMA: [f32; 3] = [0.299, 0.587, 0.114];
        let (channels, height, width) = plan.latent;
        let values = match channels {
            1 => {
                let weighted =
                    |i: usize| LUMA.iter().zip(planes.chunks_exact(height * width)).map(move |(w, p)| w * p[i]);
                (0..height * width).map(|i| weighted(i).sum()).collect()
            }
            _ => planes.to_vec(),
        };
        let mean = Array3::from_shape_vec(plan.latent, values).map_err(|_| {
            let what = "a picture has 3 channels, and this model's are";
            Error::model(format!("{what} {channels}: it cannot begin with one"))
        })?;
        Ok(Self { mean, deviation: None, latent })
    }

    /// Draws a latent for each picture of a batch, in the scale of the denoiser: `(mean + deviation·noise − shift)·scale`.
    /// With a generator for all of them, all have one latent, as in diffusers where one picture is given.
    pub(crate) fn sample(&self, noise: &mut Noise, layout: NoiseLayout, rows: usize) -> Result<Latent> {
        let (channels, height, width) = self.mean.dim();
        let mut drawn = self.draw(noise, layout, rows)?;
        let (scale, shift) = (self.latent.scale as f32, self.latent.shift as f32);
        for mut latent in drawn.outer_iter_mut() {
            if let Some(deviation) = &self.deviation {
                latent *= deviation;
            }
            latent += &self.mean;
            latent.mapv_inplace(|x| (x - shift) * scale);
        }
        match drawn.dim().0 {
            drawn_rows if drawn_rows == rows => Ok(drawn),
            _ => {
                Ok(drawn.broadcast((rows, channels, height, width)).map_or_else(|| drawn.clone(), |all| all.to_owned()))
            }
        }
    }

    /// The noise of [`sample`](Self::sample) alone: zeros where there is nothing to draw.
    pub(crate) fn draw(&self, noise: &mut Noise, layout: NoiseLayout, rows: usize) -> Result<Latent> {
        let (channels, height, width) = self.mean.dim();
        let draws = if layout == NoiseLayout::Shared { 1 } else { rows };
        let mut drawn = Latent::zeros((draws, channels, height, width));
        if self.deviation.is_some() {
            noise.fill(&mut drawn)?;
        }
        Ok(drawn)
    }
}
