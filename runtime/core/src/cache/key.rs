//! What the files of an entry depend on, in clear, so that it can be told what has changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::DataFile;
use crate::provider::{Provider, ProviderName};
use crate::stage::Stage;
use crate::target::Session;
use crate::{Error, ErrorKind, Machine, Result, bounded, hash};

/// The format of entries; part of every key.
pub(crate) const FORMAT: &str = "safelight-cache/1";

/// Facts that make an entry another one, rather than an old one: of the same facts here, the newest is kept.
const IDENTITY: &[&str] = &["stage", "graph", "weights", "fixed axes", "providers"];

/// Facts about the machine, which change under a cache without anybody touching the target.
pub(crate) const MACHINE: &[&str] = &["processor", "driver", "graphics processors"];

/// The fact that is the library's version.
pub(crate) const LIBRARY: &str = "ONNX Runtime";

/// All that the files of an entry depend on: facts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(BTreeMap<String, String>);

impl Key {
    /// Begins with the graph, and the axes that it is opened with only one size of.
    pub(crate) fn of_graph(stage: Stage, sha256: &str, fixed: &[(String, usize)]) -> Self {
        let mut key = Self::default();
        key.add("stage", stage.name());
        key.add("graph", sha256);
        let axes: Vec<_> = fixed.iter().map(|(axis, size)| format!("{axis} {size}")).collect();
        key.add("fixed axes", if axes.is_empty() { "none".into() } else { axes.join(", ") });
        key
    }

    /// Weights outside of the graph: by their hashes where a manifest promises these, else by length and time, because
    /// hashing may be gigabytes of reading.
    pub(crate) fn add_weights(&mut self, data: &[DataFile]) -> Result<()> {
        let fact = |file: &DataFile| match &file.sha256 {
            Some(sha256) => Ok(sha256.clone()),
            None => {
                let told = |e: std::io::Error| {
                    Error::model(format!("{}: cannot be read: {e}", file.path.display())).because(e)
                };
                stamp(&file.path).map_err(told)
            }
        };
        let facts = data.iter().map(fact).collect::<Result<Vec<_>>>()?;
        if !facts.is_empty() {
            self.add("weights", facts.join(", "));
        }
        Ok(())
    }

    /// What of a session's settings changes what is kept. Threads and memory do not.
    pub(crate) fn add_session(&mut self, session: &Session) -> Result<()> {
        let optimization = session.graph_optimization.as_ref().map(json).transpose()?;
        self.add("graph optimization", optimization.as_deref().map_or("usual", |name| name.trim_matches('"')));
        self.add("session keys", json(&session.keys)?);
        Ok(())
    }

    pub(crate) fn add_library(&mut self, version: &str, build: &str) {
        self.add(LIBRARY, version);
        self.add("build of ONNX Runtime", build);
    }

    /// Which build of the library it is, wherever it lies; what the system's loader finds is told by its version alone.
    pub(crate) fn add_library_file(&mut self, path: &Path) {
        if let Ok(stamp) = stamp(path) {
            self.add("file of ONNX Runtime", stamp);
        }
    }

    /// The providers that the graph is opened with, and the device that they are for: the processor's alone where
    /// nothing else computes.
    pub(crate) fn add_providers(&mut self, providers: &[Provider], around: &Surroundings) -> Result<()> {
        let names: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
        self.add("providers", names.join(", "));
        let options: Vec<_> =
            providers.iter().map(|provider| (provider.name, &provider.options, provider.device)).collect();
        self.add("options of providers", json(&options)?);
        let plugins: Vec<_> = providers.iter().filter_map(plugin).collect();
        if !plugins.is_empty() {
            self.add("plug-ins", plugins.join(", "));
        }
        self.add("processor", &around.processor);
        if providers.iter().any(|provider| provider.name != ProviderName::CPU) {
            self.add("driver", &around.driver);
            self.add("graphics processors", &around.gpus);
        }
        Ok(())
    }

    fn add(&mut self, name: &str, fact: impl Into<String>) {
        self.0.insert(name.into(), fact.into());
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The name of the entry's folder: SHA-256 of the format and all facts, in lower-case hex.
    pub(crate) fn name(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(FORMAT);
        self.0.iter().for_each(|(name, fact)| {
            add(name);
            add(fact);
        });
        hash::hex(&hash.finalize())
    }

    /// The sizes that the graph is opened for, for people.
    pub(crate) fn axes(&self) -> String {
        match self.get("fixed axes") {
            None | Some("none") => "for any size".into(),
            Some(axes) => format!("for {axes}"),
        }
    }

    /// Whether an entry of this key takes the place of one of another.
    pub(crate) fn succeeds(&self, other: &Self) -> bool {
        self != other && IDENTITY.iter().all(|name| self.get(name) == other.get(name))
    }

    /// Whether both are of the same graph.
    pub(crate) fn is_of_the_graph_of(&self, other: &Self) -> bool {
        ["stage", "graph"].iter().all(|name| self.get(name) == other.get(name))
    }

    /// What differs from an older key, for people: `driver: was A, is B`.
    pub(crate) fn differences(&self, older: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(older.0.keys()).collect();
        let told = |key: &Self, name: &str| shorten(key.get(name).unwrap_or("none"));
        let changed = names.into_iter().filter(|name| self.get(name) != older.get(name));
        changed.map(|name| format!("{name}: was {}, is {}", told(older, name), told(self, name))).collect()
    }
}

/// Most characters of a fact that are told.
const TOLD_CHARACTERS: usize = 160;

fn shorten(fact: &str) -> String {
    match fact.char_indices().nth(TOLD_CHARACTERS) {
        Some((end, _)) => format!("{}…", &fact[..end]),
        None => fact.to_owned(),
    }
}

/// A file's length and time, where its hash would take too long.
fn stamp(path: &Path) -> std::io::Result<String> {
    let meta = path.metadata()?;
    let since = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} bytes of {}.{:09} s", meta.len(), since.as_secs(), since.subsec_nanos()))
}

/// Which build of a plug-in a provider is, wherever it lies; one that is missing is the provider's to tell.
fn plugin(provider: &Provider) -> Option<String> {
    let stamp = stamp(provider.library.as_ref()?).unwrap_or_else(|_| "missing".into());
    Some(format!("{}: {stamp}", provider.name))
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Internal, format!("key of a cache: {e}")))
}

/// What of a machine decides whether files that were made on it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) processor: String,
    pub(crate) driver: String,
    pub(crate) gpus: String,
}

/// Files whose first line tells a driver's version: NVIDIA's kernel module, and the release of Linux for Tegra, which
/// comes with its own CUDA and TensorRT.
const DRIVERS: &[&str] = &["proc/driver/nvidia/version", "etc/nv_tegra_release"];

/// Longest file of a driver that is read.
const MAX_BYTES: u64 = 64 << 10;

impl Surroundings {
    /// Reads below `root`, which is `/` for this machine.
    pub(crate) fn read(root: &Path) -> Self {
        let Machine { arch, processor, features, gpus, .. } = Machine::read(root);
        let features = features.iter().map(ToString::to_string);
        let processor: Vec<_> = [arch].into_iter().chain(processor).chain(features).collect();
        let first_line = |file: &&str| {
            let text = bounded::read(&root.join(file), MAX_BYTES).ok()?;
            text.lines().next().map(|line| line.trim().to_owned())
        };
        let driver: Vec<_> = DRIVERS.iter().filter_map(first_line).collect();
        let or_none = |list: Vec<String>| if list.is_empty() { "none".into() } else { list.join(", ") };
        Self { processor: processor.join(", "), driver: or_none(driver), gpus: or_none(gpus) }
    }

    /// A fact of [`MACHINE`].
    pub(crate) fn fact(&self, name: &str) -> &str {
        match name {
            "driver" => &self.driver,
            "graphics processors" => &self.gpus,
            _ => &self.processor,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::provider::{Need, Scalar};
    use crate::target::GraphOptimization;

    fn provider(name: &str, options: &[(&str, &str)]) -> Provider {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), Scalar::Text((*value).into()))).collect();
        Provider { options, ..Provider::plain(name.to_owned().try_into().unwrap(), Need::Required) }
    }

    fn around(driver: &str) -> Surroundings {
        Surroundings { processor: "x86_64, avx2".into(), driver: driver.into(), gpus: "H200".into() }
    }

    /// A key like those of a GPU, changed in one way.
    pub(crate) fn key(change: &str) -> Key {
        let pick = |name, changed, usual| if change == name { changed } else { usual };
        let mut key = Key::of_graph(
            if change == "stage" { Stage::Decoder } else { Stage::Denoiser },
            pick("graph", "bb", "aa"),
            &[("batch".to_owned(), if change == "axes" { 2 } else { 1 })],
        );
        key.add_weights(&[DataFile { path: "w".into(), bytes: 1, sha256: Some(pick("weights", "dd", "cc").into()) }])
            .unwrap();
        let mut session = Session { intra_threads: (change == "threads").then_some(4), ..Session::default() };
        session.graph_optimization = (change == "optimization").then_some(GraphOptimization::Basic);
        if change == "keys" {
            session.keys.insert("session.dynamic_block_base".into(), Scalar::Integer(4));
        }
        key.add_session(&session).unwrap();
        key.add_library(pick("library", "1.32.0", "1.31.1"), pick("build", "git-commit-id=2", "git-commit-id=1"));
        let options = [("trt_fp16_enable", pick("options", "0", "1"))];
        let mut providers = vec![provider("tensorrt", &options), provider("cpu", &[])];
        providers.truncate(if change == "providers" { 1 } else { 2 });
        key.add_providers(&providers, &around(pick("driver", "550", "535"))).unwrap();
        key
    }

    #[test]
    fn whatever_changes_the_files_changes_the_name() {
        let changes = [
            "",
            "stage",
            "graph",
            "axes",
            "weights",
            "optimization",
            "keys",
            "library",
            "build",
            "options",
            "providers",
            "driver",
        ];
        let names: std::collections::BTreeSet<_> = changes.iter().map(|change| key(change).name()).collect();
        assert_eq!(names.len(), changes.len());
        assert_eq!(key("threads").name(), key("").name());
        assert_eq!(key("").name().len(), 64);
    }

    #[test]
    fn an_entry_succeeds_one_whose_settings_or_machine_were_others() {
        for change in ["optimization", "keys", "library", "build", "options", "driver"] {
            assert!(key("").succeeds(&key(change)), "{change}");
        }
        for change in ["", "stage", "graph", "axes", "weights", "providers"] {
            assert!(!key("").succeeds(&key(change)), "{change}");
        }
    }

    #[test]
    fn differences_are_told_by_name() {
        assert_eq!(key("").differences(&key("driver")), ["driver: was 550, is 535"]);
        assert_eq!(key("library").differences(&key("")), ["ONNX Runtime: was 1.31.1, is 1.32.0"]);
        assert_eq!(key("").differences(&key("axes")), ["fixed axes: was batch 2, is batch 1"]);
        assert_eq!(key("").differences(&key("")), [""; 0]);
        let long = Key([("build".to_owned(), "é".repeat(1000))].into());
        assert!(long.differences(&Key::default())[0].chars().count() < 200);
    }

    #[test]
    fn what_runs_on_the_processor_does_not_depend_on_a_driver() {
        let mut keys = ["535", "550"].map(|driver| {
            let mut key = Key::default();
            key.add_providers(&[provider("cpu", &[])], &around(driver)).unwrap();
            key
        });
        assert_eq!(keys[0], keys[1]);
        keys[1].add_providers(&[provider("cuda", &[])], &around("550")).unwrap();
        assert_eq!(keys[1].get("driver"), Some("550"));
    }

    #[test]
    fn another_build_of_a_plug_in_is_another_key_and_another_place_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let key = |name: &str, content: &str| {
            let library = folder.path().join(name);
            fs::write(&library, content).unwrap();
            fs::File::options().write(true).open(&library).unwrap().set_modified(time).unwrap();
            let mut key = Key::default();
            let plugin = Provider { library: Some(library), ..provider("openvino", &[]) };
            key.add_providers(&[plugin], &around("none")).unwrap();
            key
        };
        assert_eq!(key("a.so", "build"), key("b.so", "build"));
        assert_ne!(key("a.so", "build"), key("a.so", "another build"));
    }

    #[test]
    fn a_machine_is_told_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        let none = Surroundings::read(root.path());
        assert_eq!((none.driver.as_str(), none.gpus.as_str()), ("none", "none"));
        for (path, text) in [
            ("proc/cpuinfo", "processor : 0\nmodel name : Xeon\nflags : fpu avx2 avx512f\n"),
            (
                "proc/driver/nvidia/version",
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05\nGCC version: 12\n",
            ),
            ("proc/driver/nvidia/gpus/0/information", "Model: NVIDIA H200\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let told = Surroundings::read(root.path());
        assert!(told.processor.ends_with("Xeon, avx2, avx512f"), "{told:?}");
        assert_eq!(told.driver, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05");
        assert_eq!(told.gpus, "NVIDIA H200");
    }
}
