//! What providers make of graphs, kept on disk, so that it is made once: engines of TensorRT, blobs of OpenVINO, models
//! of Core ML, contexts of QNN, and the graph as ONNX Runtime optimises it for the CPU.
//!
//! A cache is a folder of entries, each a folder that is named after everything that its files depend on (`key`). Whoever
//! uses an entry holds a shared lock on the file `NAME.lock` beside it, whoever builds or removes it an exclusive one;
//! an entry without a valid `cache.json` is unfinished (`entry`).

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::library::Library;
use crate::model::{GraphFile, Model};
use crate::provider::{Keeps, Provider, ProviderName};
use crate::stage::Stage;
use crate::target::{GraphOptimization, StageSettings, Target};
use crate::{Error, Result};

pub(crate) mod entry;
pub(crate) mod key;
mod lock;
mod room;

pub(crate) use entry::{About, Access, Entry, Kept};
use key::{Key, Surroundings};
pub(crate) use lock::{Lock, is_still};
pub(crate) use room::holdings;

/// Whether and where a target keeps what its providers make of graphs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caching {
    /// What happens where an entry is missing.
    pub build: Build,
    /// Bytes that all entries of the folder take together; the one just built stays, whatever its size.
    pub max_bytes: u64,
    /// The folder, absolute; without one, whoever opens a pipeline chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Default for Caching {
    fn default() -> Self {
        Self { build: Build::WhenMissing, max_bytes: 8 << 30, folder: None }
    }
}

/// What happens where the cache lacks an entry, or has one that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Build {
    /// It is built, which may take minutes.
    #[default]
    WhenMissing,
    /// It is an error: for devices that are warmed before they are deployed.
    Never,
}

/// What became of a graph in the cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cached {
    /// Whether it was there.
    pub outcome: Outcome,
    /// Why it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Milliseconds for checking or building the entry, and for opening the graph with it.
    pub ms: f64,
    /// Bytes of the entry.
    pub bytes: u64,
}

/// Whether an entry was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was used.
    Hit,
    /// It was built.
    Built,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a pipeline tells while it opens a graph, from the thread that does it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Opening<'a> {
    /// The graph is tried in a process of its own, which takes long.
    Probing {
        /// Whose graph.
        stage: Stage,
    },
    /// Another process builds the entry, and this one waits for it.
    Waiting {
        /// Whose graph.
        stage: Stage,
    },
    /// The entry is about to be built.
    Building {
        /// Whose graph.
        stage: Stage,
        /// Why it is not there.
        why: &'a str,
    },
    /// The graph is open.
    Opened {
        /// Whose graph.
        stage: Stage,
        /// Nothing where nothing of it is kept.
        cached: Option<&'a Cached>,
    },
}

/// Who is told while a pipeline opens graphs.
pub type Watch = Arc<dyn Fn(&Opening) + Send + Sync>;

/// The user's folder for caches: `$SAFELIGHT_CACHE`, or `safelight` where the system keeps caches; nothing where no
/// variable tells.
pub fn default_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |rest: &str| folder("HOME").map(|home| home.join(rest));
    let own = if cfg!(target_os = "macos") {
        home("Library/Caches/safelight")
    } else if cfg!(windows) {
        folder("LOCALAPPDATA").map(|local| local.join("safelight").join("cache"))
    } else {
        folder("XDG_CACHE_HOME").map(|caches| caches.join("safelight")).or_else(|| home(".cache/safelight"))
    };
    folder("SAFELIGHT_CACHE").or(own)
}

impl Caching {
    /// Refuses what could not be meant.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_bytes == 0 {
            return Err(Error::usage("cache: max_bytes is 0, so that nothing could be kept; leave cache out"));
        }
        match &self.folder {
            Some(folder) if !folder.is_absolute() => {
                let what = format!("cache: folder {} is not absolute", folder.display());
                Err(Error::usage(format!("{what}; expected one such as /var/cache/safelight, or none")))
            }
            _ => Ok(()),
        }
    }
}

/// A cache as one pipeline uses it.
pub(crate) struct Store {
    caching: Caching,
    /// Name of the target, for which entries are built.
    target: String,
    /// The model's folder, for telling how to build what is missing.
    model: PathBuf,
    around: Surroundings,
    watch: Option<Watch>,
}

impl Store {
    /// The target's cache, if it has one.
    pub(crate) fn of(target: &Target, model: &Model, watch: Option<Watch>) -> Option<Arc<Self>> {
        let caching = target.cache.clone()?;
        let around = Surroundings::read(Path::new("/"));
        Some(Arc::new(Self { caching, target: target.name.clone(), model: model.root.clone(), around, watch }))
    }

    fn tell(&self, opening: &Opening) {
        if let Some(watch) = &self.watch {
            watch(opening);
        }
    }

    /// The entries of one graph, opened with these axes fixed.
    pub(crate) fn shelf(
        self: &Arc<Self>,
        (stage, file, sha256): (Stage, &GraphFile, &str),
        settings: &StageSettings,
        fixed: &[(String, usize)],
        library: &Library,
    ) -> Result<Shelf> {
        let mut key = Key::of_graph(stage, sha256, fixed);
        key.add_weights(&file.data)?;
        key.add_session(&settings.session)?;
        key.add_library(library.version(), ort::info());
        let is_optimized = settings.session.graph_optimization != Some(GraphOptimization::Disabled);
        Ok(Shelf { store: Arc::clone(self), stage, key, is_optimized })
    }
}

/// The entries of one graph: one for each list of providers.
pub(crate) struct Shelf {
    store: Arc<Store>,
    stage: Stage,
    /// All but what depends on the providers.
    key: Key,
    /// Whether ONNX Runtime rewrites the graph, so that there is something to keep on the CPU.
    is_optimized: bool,
}

/// By what means an entry keeps what was made of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// The library saves the graph that it optimised.
    OptimizedGraph,
    /// The library saves a graph whose nodes are a provider's contexts.
    Context,
    /// Providers write into a folder as they like.
    Folder,
}

impl Means {
    /// What these providers keep; nothing where nothing would be gained.
    fn of(providers: &[Provider], is_optimized: bool) -> Option<Self> {
        let keeps = |wanted: fn(&Keeps) -> bool| providers.iter().any(|provider| wanted(&provider.name.keeps()));
        if keeps(|keeps| matches!(keeps, Keeps::Context)) {
            Some(Self::Context)
        } else if keeps(|keeps| matches!(keeps, Keeps::Folder(_))) {
            Some(Self::Folder)
        } else {
            // A graph that holds what another provider compiled cannot be saved.
            let is_cpu_alone = matches!(providers, [only] if only.name == ProviderName::CPU);
            (is_cpu_alone && is_optimized).then_some(Self::OptimizedGraph)
        }
    }
}

/// Where what some providers make of a graph is kept.
pub(crate) struct Place<'a> {
    shelf: &'a Shelf,
    pub(crate) means: Means,
    pub(crate) entry: Entry,
}

impl Shelf {
    pub(crate) fn tell_opened(&self, cached: Option<&Cached>) {
        self.store.tell(&Opening::Opened { stage: self.stage, cached });
    }

    /// Where it is kept; nothing where these providers keep nothing.
    ///
    /// # Errors
    /// A message for people where the target asks for a cache and nobody said where.
    pub(crate) fn place(&self, providers: &[Provider]) -> Result<Option<Place<'_>>, String> {
        let Some(means) = Means::of(providers, self.is_optimized) else { return Ok(None) };
        let Some(folder) = &self.store.caching.folder else {
            return Err("cache: the target asks for one, but nobody said in which folder; nothing is kept".into());
        };
        let mut key = self.key.clone();
        key.add_providers(providers, &self.store.around).map_err(|e| e.to_string())?;
        let entry = Entry::new(folder, self.store.caching.max_bytes, key);
        Ok(Some(Place { shelf: self, means, entry }))
    }
}

impl Place<'_> {
    /// Waits for whoever builds the entry, and tells whether it can be used or has to be built.
    ///
    /// # Errors
    /// [`ErrorKind::Library`](crate::ErrorKind::Library) where it cannot be used and is not to be built.
    pub(crate) fn access(&self) -> Result<Access> {
        let Shelf { store, stage, .. } = self.shelf;
        let waiting = || store.tell(&Opening::Waiting { stage: *stage });
        if store.caching.build == Build::WhenMissing {
            return Ok(self.entry.access(&waiting));
        }
        match self.entry.look(&waiting) {
            Ok((Some(lock), Ok(checked))) => Ok(Access::Ready(lock, checked)),
            Ok((_, Err(fault))) => Err(self.missing(&self.entry.reason(fault))),
            Ok((None, Ok(_))) => Err(self.missing("it was not locked")),
            Err(e) => Err(self.missing(&format!("cannot be locked: {e}"))),
        }
    }

    /// That an entry cannot be used where none may be built.
    pub(crate) fn missing(&self, why: &str) -> Error {
        let Shelf { store, .. } = self.shelf;
        let folder = self.entry.cache();
        let command = format!(
            "safelight warm --model {} --target {} --cache {}",
            store.model.display(),
            store.target,
            folder.display()
        );
        let axes = self.entry.key().axes();
        Error::library(format!(
            "cache {}: has no entry of this graph ({axes}): {why}; nothing is built, as the target or --cached-only \
             says; build it, with the precision, size, guidance and batch that you asked for: {command}",
            folder.display()
        ))
    }

    /// Whether a missing entry may be built.
    pub(crate) fn may_build(&self) -> bool {
        self.shelf.store.caching.build == Build::WhenMissing
    }

    pub(crate) fn tell_building(&self, why: &str) {
        self.shelf.store.tell(&Opening::Building { stage: self.shelf.stage, why });
    }

    pub(crate) fn target(&self) -> &str {
        &self.shelf.store.target
    }
}
