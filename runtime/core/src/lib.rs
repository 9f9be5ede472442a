//! safelight develops latent images on edge devices.
//!
//! It runs few-step latent diffusion models, exported ahead of time as INT8 or FP16 ONNX graphs, through ONNX
//! Runtime, as told by one YAML file a device. The way of the data, which is also the order of the modules:
//!
//! target → model → library and providers → graphs → text → noise → schedule → sampler over a denoiser → decoder →
//! picture
//!
//! ```no_run
//! use safelight::{Format, Model, Pipeline, Request, Target, save};
//!
//! # fn main() -> safelight::Result<()> {
//! let target = Target::open("targets/generic-cpu.yaml".as_ref())?;
//! let model = Model::open("models/emoji".as_ref())?;
//! let mut pipeline = Pipeline::open(&target, &model)?;
//! let request = Request { prompt: "a red apple".into(), seed: 7, ..Request::default() };
//! for picture in pipeline.generate(&request)?.pictures {
//!     save("apple.png".as_ref(), &picture.encode(Format::Png)?)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What an application uses
//!
//! | to | there is |
//! |---|---|
//! | say what the device is | [`Target`] ([`target`], [`provider`], [`residency`], [`cache`], [`probe`]) |
//! | say what runs on it | [`Model`] ([`model`], [`stage`], [`tokenizer`]), [`Library`] ([`library`]) |
//! | ask for pictures | [`Request`] and [`Sampling`] ([`request`], [`route`], [`prompt`], [`curve`], [`options`], [`input_picture`]) |
//! | know before what it will take | [`Plan`], [`Forecast`] ([`forecast`]) |
//! | make them | [`Pipeline`], [`Event`], [`Cancel`], [`PromptCache`] ([`pipeline`], [`cancel`], [`prompt_cache`]) |
//! | go on after the process was killed | [`Checkpoint`] ([`checkpoint`]) |
//! | keep them | [`Picture`], [`Provenance`], [`save`] ([`picture`]) |
//! | know what it took | [`Timings`], [`Memory`] ([`pipeline`], [`memory`]) |
//! | know what went wrong | [`Error`] and its [`ErrorKind`] ([`error`]) |
//! | bring a sampler or a denoiser of its own | [`sampler`], [`Route`], [`trajectory`], [`schedule`], [`training`], [`noise`], [`guidance`] |
//!
//! # What may change in any release
//!
//! The instruments behind the command's own subcommands are public, so that the command needs nothing that an
//! application could not have, but no promise covers them: [`bench`](mod@bench), [`stats`], [`verify`], [`placement`],
//! [`recording`], [`sensor`], [`inspect`], [`doctor`] and [`machine`].
//!
//! # Promises
//!
//! * **Versions.** Semantic versioning as Cargo reads it: 0.1.*x* adds and mends, 0.2.0 may break; each change of the
//!   interface is a change of `public-api.txt`, which a test compares, and stands in the changelog. The binding to ONNX
//!   Runtime, `ort`, is no part of the interface. `image` and `ndarray` are, with their pictures and arrays, and both are
//!   reexported.
//! * **Structures that an application fills** ([`Request`], [`Sampling`], [`Method`](sampler::Method)) gain fields in any
//!   release: end them with `..Request::default()`, `..Sampling::default()`, `..Method::PLAIN`.
//! * **The oldest Rust** is 1.92; a newer one is a minor version (0.2.0), never a patch.
//! * **Threads.** A [`Pipeline`] is `Send`: one thread at a time owns it. [`Cancel`] and everything that says what is to be
//!   done is `Send` and `Sync`.
//! * **Panics** are mistakes of safelight, whatever it was given; please report them.
//! * **The process** is the application's: no output, no signal handler, no network, and no child process that was not
//!   asked for ([`Target::with_probe`]). Opening ONNX Runtime sets one variable of the environment; see
//!   [`Library::open`].

pub mod target;
mod target_file;
pub mod machine;
pub mod model;
pub mod stage;
pub mod library;
pub mod provider;
mod onnx;
pub mod cache;
pub mod probe;
mod graph;
mod guard;
pub mod memory;
pub mod residency;
pub mod prompt;
pub mod tokenizer;
mod text;
pub mod prompt_cache;
pub mod noise;
pub mod training;
pub mod curve;
pub mod options;
pub mod schedule;
pub mod guidance;
mod resample;
pub mod input_picture;
mod tiling;
mod encoder;
mod original;
mod denoiser;
pub mod sampler;
pub mod trajectory;
pub mod route;
mod decoder;
pub mod picture;
pub mod request;
pub mod forecast;
pub mod pipeline;
pub mod recording;
pub mod checkpoint;
pub mod verify;
pub mod placement;
pub mod stats;
pub mod sensor;
pub mod bench;
pub mod inspect;
pub mod doctor;
pub mod cancel;
pub mod error;
mod catalogue;
mod child;
mod bounded;
mod root;
mod unfinished;
mod hash;
#[doc(hidden)]
pub mod own_code;
mod yaml;

// Whose types are in this interface: so an application needs no second line in its manifest, and never another version.
pub use {image, ndarray};

pub use cancel::Cancel;
pub use checkpoint::Checkpoint;
pub use curve::Curve;
pub use error::{Error, ErrorKind, Result};
pub use forecast::Forecast;
pub use graph::Opened;
pub use input_picture::{InputMask, InputPicture};
pub use library::Library;
pub use machine::Machine;
pub use memory::Memory;
pub use model::Model;
pub use picture::{Format, Picture, Provenance, save};
pub use pipeline::{Event, Output, Pipeline, Report, Timings};
pub use prompt::{LongPrompts, Prompt};
pub use prompt_cache::PromptCache;
pub use recording::Recording;
pub use request::{GuidanceRuns, KeptPixels, NoiseLayout, Plan, Request, SamplerNoise};
pub use residency::Residency;
pub use route::{Route, Sampling};
pub use stage::{Precision, Stage};
pub use target::Target;
pub use tiling::Tiling;
pub use unfinished::remove_unfinished;

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../../docs/embedding.md")]
struct Readme;
