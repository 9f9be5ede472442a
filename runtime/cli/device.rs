//! The arguments that say which model runs where and how, which several subcommands take.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use safelight::cache::{Opening, default_folder};
use safelight::target::Session;
use safelight::{Error, ErrorKind, Library, Precision, Result, Target};

use crate::{folders, tell};

#[derive(clap::Args)]
pub(crate) struct DeviceArguments {
    /// Model: a name in models/, or a folder with a model.yaml or an exported diffusers pipeline
    /// [default: the only one]
    #[arg(short, long, value_name = "NAME|FOLDER")]
    pub(crate) model: Option<String>,
    /// Target: a name in targets/, a YAML file, or auto for the one that fits this machine best
    #[arg(short, long, value_name = "NAME|FILE", default_value = Target::AUTO)]
    target: String,
    /// Precisions, best first [default: the target's]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    precision: Vec<Precision>,
    /// Threads inside a graph's nodes [default: the target's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads())]
    threads: Option<u16>,
    /// ONNX Runtime library to open, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Keep what providers make of graphs in this folder [default: where the target's cache is, if it has one]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Build nothing: fail where the cache lacks what safelight warm would have built
    #[arg(long)]
    pub(crate) cached_only: bool,
    /// Open graphs that were never opened here without trying them in a process of its own first
    #[arg(long)]
    no_probe: bool,
}

impl DeviceArguments {
    /// The target with its own precisions, and lines that tell which was chosen and why.
    pub(crate) fn described_target(&self) -> Result<(Target, Vec<String>)> {
        let (target, choice) = folders::target(&self.target)?;
        let target = self.with_probe(self.with_cache(target)?)?;
        Ok((self.threads.map_or_else(|| target.clone(), |threads| target.clone().with_threads(threads)), choice))
    }

    /// The same target, whose cache, where it is to have one, has a folder.
    fn with_cache(&self, target: Target) -> Result<Target> {
        let is_open = target.cache.as_ref().is_some_and(|caching| caching.folder.is_none());
        let folder = match &self.cache {
            None if is_open => Some(default_folder(&|name| std::env::var_os(name)).ok_or_else(|| {
                let what =
                    format!("target {} asks for a cache, and neither SAFELIGHT_CACHE nor HOME is set", target.name);
                Error::new(ErrorKind::Usage, format!("{what}; give a folder with --cache"))
            })?),
            given => given.clone(),
        };
        let target = match folder {
            Some(folder) => {
                let told = |e| Error::new(ErrorKind::Usage, format!("--cache {}: {e}", folder.display()));
                target.with_cache(&std::path::absolute(&folder).map_err(told)?)?
            }
            None => target,
        };
        if self.cached_only { target.with_cached_only() } else { Ok(target) }
    }

    /// The same target, whose graphs this executable tries first.
    fn with_probe(&self, target: Target) -> Result<Target> {
        if self.no_probe {
            return Ok(target.without_probe());
        }
        let executable = std::env::current_exe().map_err(|e| {
            let what = format!("this executable cannot be found to try graphs with: {e}; give --no-probe");
            Error::new(ErrorKind::Io, what)
        })?;
        let cache = target.cache.as_ref().and_then(|caching| caching.folder.clone());
        let folder = cache.or_else(|| default_folder(&|name| std::env::var_os(name)));
        Ok(target.with_probe(&executable, folder.as_deref()))
    }

    /// The same target with the precisions that were asked for, if any were.
    pub(crate) fn narrowed(&self, target: Target) -> Target {
        if self.precision.is_empty() { target } else { target.with_precision(self.precision.clone()) }
    }

    /// The precisions that were asked for.
    pub(crate) fn precisions(&self) -> &[Precision] {
        &self.precision
    }

    /// The same arguments but model and precision, as another process of this executable takes them.
    pub(crate) fn as_flags(&self) -> Vec<OsString> {
        let named = |name: &str, value: Option<&OsStr>| value.map(|value| [name.into(), value.to_owned()]);
        let threads = self.threads.map(|threads| threads.to_string());
        let valued = [
            named("--target", Some(OsStr::new(&self.target))),
            named("--threads", threads.as_deref().map(OsStr::new)),
            named("--library", self.library.as_deref().map(Path::as_os_str)),
            named("--cache", self.cache.as_deref().map(Path::as_os_str)),
        ];
        let plain = [("--cached-only", self.cached_only), ("--no-probe", self.no_probe)];
        let plain = plain.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.into());
        valued.into_iter().flatten().flatten().chain(plain).collect()
    }

    /// Opens the library that was asked for; without it the first use finds one.
    pub(crate) fn open_library(&self) -> Result<()> {
        self.library.as_deref().map_or(Ok(()), |path| Library::open(Some(path)).map(drop))
    }
}

/// Tells what a pipeline is busy with while it opens a graph, where that may take long.
pub(crate) fn tell_opening(opening: &Opening) {
    match opening {
        Opening::Probing { stage } => tell(&format!("{stage}: trying it in a process of its own first")),
        Opening::Waiting { stage } => {
            tell(&format!("{stage}: waiting for another process that builds it for the cache"))
        }
        Opening::Building { stage, why } => tell(&format!("{stage}: building it for the cache ({why})")),
        _ => (),
    }
}

fn threads() -> impl clap::builder::TypedValueParser {
    clap::value_parser!(u16).range(0..=i64::from(Session::MAX_THREADS))
}
