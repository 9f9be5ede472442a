//! The graphs of a diffusion model, and the precisions that they come in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The part that a graph plays in the way from words to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Token ids → hidden states.
    TextEncoder,
    /// The same by a second encoder, whose hidden states stand beside the first one's (SDXL).
    #[serde(rename = "text_encoder_2")]
    TextEncoder2,
    /// Noisy latent, timestep and hidden states → prediction.
    Denoiser,
    /// Latent → picture.
    Decoder,
    /// Picture → latent.
    Encoder,
}

impl Stage {
    /// Those that read words.
    pub const TEXT_ENCODERS: [Self; 2] = [Self::TextEncoder, Self::TextEncoder2];

    /// Those that make pictures from words, in the order of the data; a model may do without all but the denoiser.
    pub const TEXT_TO_IMAGE: [Self; 4] = [Self::TextEncoder, Self::TextEncoder2, Self::Denoiser, Self::Decoder];

    /// All of them.
    pub const ALL: [Self; 5] = [Self::TextEncoder, Self::TextEncoder2, Self::Denoiser, Self::Decoder, Self::Encoder];

    /// Its name in manifests, target files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Denoiser => "denoiser",
            Self::Decoder => "decoder",
            Self::Encoder => "encoder",
        }
    }

    /// What Optimum calls its graph's inputs and outputs.
    pub(crate) fn tensors(self) -> &'static [&'static str] {
        match self {
            Self::TextEncoder | Self::TextEncoder2 => &["input_ids", "last_hidden_state", "text_embeds"],
            Self::Denoiser => &[
                "sample",
                "timestep",
                "encoder_hidden_states",
                "timestep_cond",
                "text_embeds",
                "time_ids",
                "out_sample",
            ],
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

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| Error::usage("expected int8, fp16 or fp32, or several joined by commas, best first"))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
