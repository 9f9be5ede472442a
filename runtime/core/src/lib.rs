//! safelight develops latent images on edge devices.
pub mod error;
pub use error::{Error, ErrorKind, Result};
