//! Opening a session with what a cache keeps of it, or so that the cache can keep it.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::session::Failure;
use crate::cache::{About, Access, Kept, Lock, Means, Place, Shelf};
use crate::library::Nodes;
use crate::model::Stamp;
use crate::provider::Provider;

/// The file of an entry that ONNX Runtime opens in place of the graph.
const GRAPH: &str = "graph.onnx";
/// The weights of that graph, which are then mapped, where they would be parsed and copied.
const WEIGHTS: &str = "graph.weights";

/// What tells whether the weights of an entry, which are mapped, were written to; nothing where it has none.
pub(super) fn mapped_stamp(kept: &Kept) -> Option<Stamp> {
    Stamp::of(&kept.folder().join(WEIGHTS))
}

/// What a cache changes in how a session is opened.
pub(super) enum Aid<'a> {
    /// Nothing.
    Plain,
    /// What providers and library make is written into a folder.
    Writes(Means, &'a Path),
    /// It is read from a folder.
    Reads(Means, &'a Path),
}

impl Aid<'_> {
    /// A provider, told where its work is.
    pub(super) fn provider(&self, provider: &Provider) -> Provider {
        match self {
            Self::Plain => provider.clone(),
            Self::Writes(_, folder) | Self::Reads(_, folder) => provider.clone().keeping(&folder.display().to_string()),
        }
    }

    /// The file to open in place of a graph.
    pub(super) fn graph(&self, graph: &Path) -> PathBuf {
        match self {
            Self::Reads(Means::OptimizedGraph | Means::Context, folder) => folder.join(GRAPH),
            _ => graph.to_path_buf(),
        }
    }

    /// Session options on top of the target's.
    pub(super) fn configure(&self, builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        Ok(match self {
            Self::Plain | Self::Writes(Means::Folder, _) | Self::Reads(Means::Folder | Means::Context, _) => builder,
            Self::Writes(Means::OptimizedGraph, folder) => builder
                .with_optimized_model_path(folder.join(GRAPH))?
                .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)?,
            // It is what came out of the optimiser.
            Self::Reads(Means::OptimizedGraph, _) => {
                builder.with_optimization_level(GraphOptimizationLevel::Disable)?
            }
            Self::Writes(Means::Context, folder) => builder
                .with_config_entry("ep.context_enable", "1")?
                .with_config_entry("ep.context_embed_mode", "0")?
                .with_config_entry("ep.context_file_path", folder.join(GRAPH).display().to_string())?,
        })
    }
}

/// A session, and where its nodes went, if the library tells.
type Attempt = (Session, Option<Nodes>);

/// A session, and the entry that it uses.
pub(super) struct Opened {
    pub(super) session: Session,
    /// Where the nodes of the graph went when it was built, not those of what was made of it.
    pub(super) nodes: Option<Nodes>,
    pub(super) kept: Option<Kept>,
    pub(super) warnings: Vec<String>,
}

/// Opens a session with some providers, by `try_open`: with what the cache keeps of it, so that the cache keeps it, or
/// without, where there is no cache or it cannot be used.
pub(super) fn open(
    shelf: Option<&Shelf>,
    providers: &[Provider],
    try_open: &dyn Fn(&Aid) -> Result<Attempt, Failure>,
) -> Result<Opened, Failure> {
    let mut warnings = Vec::new();
    let place = shelf.map(|shelf| shelf.place(providers)).transpose().unwrap_or_else(|what| {
        warnings.push(what);
        None
    });
    let opened = match place.flatten() {
        Some(place) => open_at(&place, try_open, &mut warnings)?,
        None => (try_open(&Aid::Plain)?, None),
    };
    let ((session, nodes), kept) = opened;
    let nodes = kept.as_ref().and_then(Kept::nodes).or(nodes);
    if let Some(shelf) = shelf {
        shelf.tell_opened(kept.as_ref().map(|kept| &kept.cached));
    }
    Ok(Opened { session, nodes, kept, warnings })
}

type AttemptAndEntry = (Attempt, Option<Kept>);

fn open_at(
    place: &Place,
    try_open: &dyn Fn(&Aid) -> Result<Attempt, Failure>,
    warnings: &mut Vec<String>,
) -> Result<AttemptAndEntry, Failure> {
    let since = Instant::now();
    let folder = place.entry.folder();
    let mut refused = None;
    loop {
        match place.access().map_err(Failure::Other)? {
            Access::Ready(lock, checked) => match try_open(&Aid::Reads(place.means, folder)) {
                Ok(attempt) => {
                    let kept = place.entry.reuse(lock, checked, since);
                    let kept = kept.map_err(|e| warnings.push(format!("{e}; it will be built again"))).ok();
                    warnings.extend(kept.as_ref().and_then(Kept::complaint));
                    return Ok((attempt, kept));
                }
                Err(failure) if failure.may_be_of_an_entry() => {
                    drop(lock);
                    if !discard(place, &failure, warnings)? {
                        return Ok((try_open(&Aid::Plain)?, None));
                    }
                    refused = Some("it could not be opened".to_owned());
                }
                Err(failure) => return Err(failure),
            },
            Access::Build { lock, why, is_damaged } => {
                if is_damaged {
                    warnings.push(format!("cache entry {why}; it is built again"));
                }
                let why = refused.unwrap_or(why);
                place.tell_building(&why);
                return build(place, try_open, warnings, (lock, why, since));
            }
            Access::Refused(why) => {
                warnings.push(why);
                return Ok((try_open(&Aid::Plain)?, None));
            }
        }
    }
}

/// Removes an entry that the library refuses; whether it is gone, so that it can be built again.
fn discard(place: &Place, failure: &Failure, warnings: &mut Vec<String>) -> Result<bool, Failure> {
    let what = format!("{}: {failure}", place.entry.folder().display());
    if !place.may_build() {
        return Err(Failure::Other(place.missing(&what)));
    }
    let is_gone = place.entry.discard();
    let next = if is_gone { "built again" } else { "left alone, because another process uses it" };
    warnings.push(format!("cache entry {what}; it is {next}"));
    Ok(is_gone)
}

/// Opens a session so that the cache keeps what is made of it.
fn build(
    place: &Place,
    try_open: &dyn Fn(&Aid) -> Result<Attempt, Failure>,
    warnings: &mut Vec<String>,
    (lock, why, since): (Lock, String, Instant),
) -> Result<AttemptAndEntry, Failure> {
    let (entry, folder) = (&place.entry, place.entry.folder());
    let mut unkept = |what: &dyn Display| {
        warnings.push(format!("cache entry {}: {what}; nothing is kept", folder.display()));
    };
    if let Err(e) = entry.clear() {
        unkept(&format_args!("cannot be made: {e}"));
        return Ok((try_open(&Aid::Plain)?, None));
    }
    let attempt = match try_open(&Aid::Writes(place.means, folder)) {
        Ok(attempt) => attempt,
        Err(failure) => {
            entry.remove(lock);
            if !failure.may_be_of_an_entry() {
                return Err(failure);
            }
            // Graph and provider may be at fault, or what is written: a full disk, say.
            let attempt = try_open(&Aid::Plain)?;
            unkept(&failure);
            return Ok((attempt, None));
        }
    };
    if place.means != Means::Folder && !folder.join(GRAPH).is_file() {
        entry.remove(lock);
        unkept(&"the library saved no graph");
        return Ok((attempt, None));
    }
    let about = About { target: place.target(), nodes: attempt.1.as_ref(), since, why };
    match entry.seal(lock, about) {
        Ok(kept) => {
            warnings.extend(kept.make_room());
            Ok((attempt, Some(kept)))
        }
        Err(e) => {
            unkept(&e);
            entry.discard();
            Ok((attempt, None))
        }
    }
}
