//! The C interface of safelight; `include/safelight.h` is generated from it.
//!
//! Every function that can fail returns an owned error, null where it has done what it was asked. Opaque types are made
//! by a function and given back by the one that ends in `_free`. No panic crosses: `guard` is the one place where they
//! are caught.

mod cancel;
mod error;
mod guard;
mod options;
mod output;
mod pipeline;
mod request;
mod text;
mod version;
mod watch;

pub use cancel::*;
pub use error::*;
pub use options::*;
pub use output::*;
pub use pipeline::*;
pub use request::*;
pub use version::*;
pub use watch::*;
