//! The four graphs of a latent diffusion model, and the precisions that they come in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The part that a graph plays in the way from words to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Token ids → hidden states.
    TextEncoder,
    /// Noisy latent, timestep and hidden states → prediction.
    Denoiser,
    /// Latent → picture.
    Decoder,
    /// Picture → latent.
    Encoder,
}

impl Stage {
    /// Those that make pictures from words, in the order of the data.
    pub const TEXT_TO_IMAGE: [Self; 3] = [Self::TextEncoder, Self::Denoiser, Self::Decoder];

    /// All of them.
    pub const ALL: [Self; 4] = [Self::TextEncoder, Self::Denoiser, Self::Decoder, Self::Encoder];

    /// Its name in manifests, target files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Denoiser => "denoiser",
            Self::Decoder => "decoder",
            Self::Encoder => "encoder",
        }
    }

    /// What Optimum calls its graph's inputs and outputs.
    pub(crate) fn tensors(self) -> &'static [&'static str] {
        match self {
            Self::TextEncoder => &["input_ids", "last_hidden_state"],
            Self::Denoiser => &["sample", "timestep", "encoder_hidden_states", "timestep_cond", "out_sample"],
            Self::Decoder => &["latent_sample", "sample"],
            Self::Encoder => &["sample", "latent_parameters", "latent_sample"],
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number format of a graph's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 8-bit integers, quantised ahead of time.
    Int8,
    /// IEEE half precision.
    Fp16,
    /// IEEE single precision.
    Fp32,
}

impl Precision {
    /// All of them, smallest first.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Fp16, Self::Fp32];

    /// Its name in manifests, target files, requests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp16 => "fp16",
            Self::Fp32 => "fp32",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
