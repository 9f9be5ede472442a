//! safelight develops latent images on edge devices.
pub mod error;
pub mod noise;
pub mod tokenizer;
pub use error::{Error, ErrorKind, Result};
