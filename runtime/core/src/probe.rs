//! Trying a graph that was never opened before in a process of its own: whatever crashes ONNX Runtime, keeps it busy for
//! ever or takes all memory then ends a process that nobody needs, and is told as an error.
//!
//! The probe asks one question: does the process survive opening the graph and running it once on zeros? A graph that
//! the library refuses in good order survives, and is refused where it is opened in earnest. What survived is remembered
//! by everything that this depends on, so that it is asked once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cache::key::{Key, Surroundings};
use crate::cache::{Opening, Watch};
use crate::cancel::Cancel;
use crate::forecast::rooms;
use crate::graph::session::PAST_ITS_LIMIT;
use crate::library::Library;
use crate::model::GraphFile;
use crate::provider::{Keeps, Need, Provider, ProviderName};
use crate::stage::Stage;
use crate::target::{StageSettings, Target};
use crate::{Error, Result, hash};

mod child;
mod process;
pub(crate) mod record;

use child::{Errand, Step, Told, Verdict};
pub use child::{Limits, serve};
use process::End;

/// Whether, with what limits and by which program graphs are tried before they are opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probing {
    /// When it is done.
    pub when: When,
    /// Seconds after which a graph has kept a process busy for too long.
    pub max_seconds: u64,
    /// Bytes that a graph may take, where it is less than machine, container and board have. Linux alone enforces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// A `safelight` executable; without one nothing is tried. An application's own executable is not started unasked.
    #[serde(skip)]
    pub program: Option<PathBuf>,
    /// The folder below which it is remembered what has passed; without one it is remembered nowhere.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
}

/// When graphs are tried in a process of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before they are opened for the first time with this library and these settings.
    #[default]
    Once,
    /// Before they are opened, each time.
    Always,
    /// Not at all.
    Never,
}

impl Default for Probing {
    fn default() -> Self {
        Self { when: When::default(), max_seconds: 300, max_bytes: None, program: None, folder: None }
    }
}

impl Probing {
    /// Least bytes that a limit may be.
    const LEAST_BYTES: u64 = 64 << 20;

    pub(crate) fn check(&self) -> Result<()> {
        if self.max_seconds == 0 {
            return Err(Error::usage("probe: max_seconds is 0, so that no graph could pass; say when: never instead"));
        }
        match self.max_bytes {
            Some(bytes) if bytes < Self::LEAST_BYTES => {
                let least = Self::LEAST_BYTES;
                let what = format!("probe: max_bytes is {bytes}, expected at least {least}");
                Err(Error::usage(format!("{what}: ONNX Runtime itself takes about as much")))
            }
            _ => Ok(()),
        }
    }
}

/// A graph that is about to be opened.
pub(crate) struct Subject<'a> {
    pub(crate) stage: Stage,
    pub(crate) file: &'a GraphFile,
    pub(crate) sha256: &'a str,
    pub(crate) settings: &'a StageSettings,
    /// Axes that it is opened with one size of.
    pub(crate) fixed: &'a [(String, usize)],
    /// Names and sizes of its inputs, as most requests have them.
    pub(crate) inputs: Vec<(String, Vec<usize>)>,
}

/// Tries the graphs of one pipeline.
pub(crate) struct Prober {
    probing: Probing,
    program: PathBuf,
    limits: Limits,
    around: Surroundings,
    cancel: Cancel,
    watch: Option<Watch>,
}

impl Prober {
    /// Nothing where the target's graphs are not tried, or nobody named a program that could.
    pub(crate) fn of(target: &Target, cancel: &Cancel, watch: Option<Watch>) -> Option<Arc<Self>> {
        let probing = target.probe.clone();
        let program = probing.program.clone().filter(|_| probing.when != When::Never)?;
        let root = Path::new("/");
        let least = rooms(target, root).into_iter().map(|room| room.bytes).chain(probing.max_bytes).min();
        let limits = Limits { max_seconds: probing.max_seconds, max_bytes: least };
        let (around, cancel) = (Surroundings::read(root), cancel.clone());
        Some(Arc::new(Self { probing, program, limits, around, cancel, watch }))
    }

    /// Tries a graph unless it has passed before; returns what is worth a warning.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it crashes the library, [`ErrorKind::Limit`] where it takes
    /// too long or too much, [`ErrorKind::Io`] where the program cannot be started, [`ErrorKind::Cancelled`].
    ///
    /// [`ErrorKind::Limit`]: crate::ErrorKind::Limit
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    /// [`ErrorKind::Cancelled`]: crate::ErrorKind::Cancelled
    pub(crate) fn pass(&self, library: &Library, subject: &Subject) -> Result<Option<String>> {
        let settings = built_nowhere(subject.settings);
        let key = self.key(library, subject, &settings)?;
        let folder = self.probing.folder.as_deref();
        if self.probing.when == When::Once && folder.is_some_and(|folder| record::is_kept(folder, &key)) {
            return Ok(None);
        }
        let since = Instant::now();
        let errand = Errand {
            library: library.path().to_path_buf(),
            stage: subject.stage,
            graph: subject.file.path.clone(),
            settings,
            fixed: subject.fixed.to_vec(),
            inputs: subject.inputs.clone(),
        };
        let waiting = || {
            if let Some(watch) = &self.watch {
                watch(&Opening::Probing { stage: subject.stage });
            }
        };
        let end = process::run(&self.program, &errand, (self.limits, &self.cancel), &waiting)?;
        let told = self.survived(end, library)?;
        if told.verdict == Verdict::Provider {
            return Ok(Some(format!("it was opened without a probe, in which it could not be: {}", told.message)));
        }
        Ok(self.remember(folder, &key, &told, since.elapsed()))
    }

    /// What a process told that has survived the graph, or why it has not.
    fn survived(&self, end: End, library: &Library) -> Result<Told> {
        Err(match end {
            End::Told(told) => match told.verdict {
                Verdict::Passed | Verdict::Refused | Verdict::Provider => return Ok(told),
                // The target's own limit of a provider, not the process's.
                Verdict::Memory if told.message.contains(PAST_ITS_LIMIT) => Error::limit(told.message),
                Verdict::Memory => self.too_much(&told.message),
                Verdict::Library => unable(&told.message),
            },
            End::TooLong(step) => self.too_long(step),
            End::Died { step: Step::Starting | Step::Library, how, words } => {
                unable(&format!("it ended before it saw the graph ({how}){words}"))
            }
            End::Died { step, how, words } if is_of_memory(&how, &words) => {
                let advice = "ask for a smaller picture, or take a smaller precision or model";
                self.too_much(&format!("it ended {step} ({how}){words}; {advice}"))
            }
            End::Died { how, step, .. } if how == "SIGXCPU" => self.too_long(step),
            End::Died { step, how, words } => crashed(library, step, &how, &words),
        })
    }

    /// All that it depends on whether a graph crashes the library, but the sizes that it is opened for: those are the
    /// first that were asked for.
    fn key(&self, library: &Library, subject: &Subject, settings: &StageSettings) -> Result<Key> {
        let mut key = Key::of_graph(subject.stage, subject.sha256, &[]);
        key.add_weights(&subject.file.data)?;
        key.add_session(&settings.session)?;
        key.add_library(library.version(), ort::info());
        key.add_library_file(library.path());
        key.add_providers(&settings.providers, &self.around)?;
        Ok(key)
    }

    fn remember(&self, folder: Option<&Path>, key: &Key, told: &Told, took: Duration) -> Option<String> {
        match folder {
            _ if self.probing.when == When::Always => None,
            Some(folder) => record::keep(folder, key, told, took).err().map(|e| {
                let folder = record::folder(folder);
                format!("{}: cannot be written: {e}; graphs are probed again each time", folder.display())
            }),
            None => Some(
                "neither SAFELIGHT_CACHE nor HOME says where to remember which graphs have passed the probe: they are \
                 probed again each time; set one of them, or give --no-probe"
                    .into(),
            ),
        }
    }

    fn too_long(&self, step: Step) -> Error {
        let seconds = self.limits.max_seconds;
        Error::limit(format!(
            "kept a probe process busy for more than {seconds} s {step}; it is not opened here; raise probe: {{ \
             max_seconds: … }} in the target if it is that large and you trust it, or export it again"
        ))
    }

    fn too_much(&self, what: &str) -> Error {
        let most = self.limits.max_bytes.map_or_else(String::new, |bytes| format!(" of {} MiB", bytes >> 20));
        Error::limit(format!(
            "took all the memory{most} that a probe process may have: {what}; it is not opened here; where there is more, \
             raise probe: {{ max_bytes: … }} in the target"
        ))
    }
}

/// What is remembered of a graph below a cache folder: with which libraries it has passed. Graphs beyond 64 MiB would take
/// long to read for their hash, and are not asked about.
pub fn remembered(cache: &Path, graph: &Path) -> Option<String> {
    const MOST_BYTES: u64 = 64 << 20;
    let bytes = graph.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    let sha256 = (bytes <= MOST_BYTES).then(|| hash::of_file(graph).ok()).flatten()?;
    record::told(cache, &sha256)
}

fn crashed(library: &Library, step: Step, how: &str, words: &str) -> Error {
    Error::model(format!(
        "crashed ONNX Runtime {} in a probe process {step} ({how}){words}; it is not opened here; export it again, with \
         another opset or exporter, or try another ONNX Runtime, or session: {{ graph_optimization: basic }} in the target",
        library.version()
    ))
}

fn unable(what: &str) -> Error {
    Error::library(format!("could not be tried in a probe process: {what}; --no-probe opens it without"))
}

/// Whether a process was ended for its memory: by the system, or by its own hand when it was given none.
fn is_of_memory(how: &str, words: &str) -> bool {
    let told = ["bad_alloc", "memory allocation of", "Cannot allocate memory"];
    how == "SIGKILL" || told.iter().any(|told| words.contains(told))
}

/// The settings, but with the CPU alone where a provider would build an engine: minutes of work, of which nothing would
/// be kept. What reads, checks and rewrites the graph is the same.
fn built_nowhere(settings: &StageSettings) -> StageSettings {
    let mut settings = settings.clone();
    if settings.providers.iter().any(|provider| provider.name.keeps() != Keeps::Nothing) {
        settings.providers = vec![Provider::plain(ProviderName::CPU, Need::Required)];
        settings.allow_fallback = None;
        settings.session.forget_other_providers();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ended_for_its_memory_is_known() {
        let abort = "; its last words: terminate called after throwing an instance of 'std::bad_alloc'";
        assert!(is_of_memory("SIGKILL", "") && is_of_memory("SIGABRT", abort));
        assert!(!is_of_memory("SIGSEGV", "") && !is_of_memory("SIGABRT", "; its last words: malloc(): invalid size"));
    }

    #[test]
    fn engines_are_not_built_in_a_probe() {
        let target = |provider: &str| {
            Target::parse(&format!(
                "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [int8]\nsession: {{ keys: {{ \
                 session.disable_cpu_ep_fallback: true, session.disable_prepacking: true }} }}\n\
                 providers: [{{ name: {provider}, need: required }}]\n"
            ))
            .unwrap()
            .stage(Stage::Denoiser)
        };
        let probed = built_nowhere(&target("tensorrt"));
        assert_eq!(probed.providers, [Provider::plain(ProviderName::CPU, Need::Required)]);
        assert_eq!(probed.session.keys.len(), 1);
        assert_eq!(built_nowhere(&target("cuda")), target("cuda"));
    }
}
