//! A computer as its own files tell of it → the target that fits it best.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Target;
use crate::root::Root;
use crate::sensor;

/// A computer, as far as targets ask for it. What could not be read is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Operating system, by Rust's name: linux, macos, windows, android.
    pub os: String,
    /// Processor architecture, by Rust's name: x86_64, aarch64.
    pub arch: String,
    /// The board's name in its device tree, such as "Raspberry Pi 5 Model B Rev 1.0".
    pub board: Option<String>,
    /// What else the device tree calls the board, most exact first, such as "rockchip,rk3588".
    pub compatible: Vec<String>,
    /// Major release of NVIDIA's Linux for Tegra: 35 is JetPack 5, 36 is JetPack 6.
    pub l4t: Option<u32>,
    /// The processor's own name.
    pub processor: Option<String>,
    /// What of the processor's instructions matters for quantised graphs.
    pub features: BTreeSet<Feature>,
    /// Logical cores.
    pub cores: usize,
    /// Bytes of memory that the system has.
    pub memory_bytes: Option<u64>,
    /// NVIDIA's graphics processors that have a driver.
    pub gpus: Vec<String>,
}

/// Instructions of a processor that decide how fast, and how right, quantised graphs run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors, which also decide in which blocks ONNX Runtime lays out channels.
    Avx512f,
    /// 8-bit dot products, in 512-bit or in 256-bit vectors.
    Vnni,
    /// 8-bit dot products in 512-bit vectors.
    Avx512Vnni,
    /// 8-bit dot products in 256-bit vectors.
    #[serde(rename = "avx_vnni")]
    AvxVnni,
    /// bfloat16 dot products in 512-bit vectors.
    Avx512Bf16,
    /// Tiles of 8-bit and bfloat16 numbers.
    Amx,
    /// ARM's 8-bit dot products.
    Dotprod,
    /// ARM's 8-bit matrix products.
    I8mm,
}

/// Linux's names of features in `/proc/cpuinfo`: any of them is enough.
const FEATURES: &[(Feature, &[&str])] = &[
    (Feature::Avx2, &["avx2"]),
    (Feature::Avx512f, &["avx512f"]),
    (Feature::Vnni, &["avx512_vnni", "avx_vnni"]),
    (Feature::Avx512Vnni, &["avx512_vnni"]),
    (Feature::AvxVnni, &["avx_vnni"]),
    (Feature::Avx512Bf16, &["avx512_bf16"]),
    (Feature::Amx, &["amx_int8"]),
    (Feature::Dotprod, &["asimddp"]),
    (Feature::I8mm, &["i8mm"]),
];

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a machine must be for a target to be chosen for it. All that is given must hold; nothing fits every machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Detect {
    /// Part of the board's name in its device tree, or of a name that the board is compatible with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<String>,
    /// Part of the name of an NVIDIA graphics processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Major releases of NVIDIA's Linux for Tegra, any of which will do: 35 is JetPack 5, 36 is JetPack 6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub l4t: Vec<u32>,
    /// What the processor must have, all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu: Vec<Feature>,
    /// Least memory in GiB, as boards are sold: a tenth less is let pass, because firmware keeps some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<u32>,
    /// Operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// Processor architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
}

/// An operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// Linux, but not Android.
    Linux,
    /// macOS.
    Macos,
    /// Windows.
    Windows,
    /// Android.
    Android,
}

/// A processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

impl fmt::Display for Os {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A target that fits a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<'a> {
    /// The target.
    pub target: &'a Target,
    /// What of the machine it asked for, such as `cpu avx2, vnni; arch x86_64`.
    pub reason: String,
}

impl Machine {
    /// Reads about a machine below `root`, which is `/` for this one: the device tree, `proc/cpuinfo`, `proc/meminfo`,
    /// NVIDIA's driver and its release of Linux for Tegra. Where there is no `proc/cpuinfo`, as on macOS and Windows,
    /// this process's own processor is asked. `os` and `arch` are those that safelight was built for.
    pub fn read(root: &Path) -> Self {
        let root = Root(root);
        let cpu = root.text("/proc/cpuinfo");
        let words = |file: &str| strings(&root.text(Path::new("/proc/device-tree").join(file)).unwrap_or_default());
        Self {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            board: words("model").into_iter().next(),
            compatible: words("compatible"),
            l4t: root.text("/etc/nv_tegra_release").and_then(|text| l4t_release(&text)),
            processor: cpu.as_deref().and_then(|cpu| field(cpu, "model name")).map(str::to_owned),
            features: cpu.as_deref().map_or_else(own_features, listed_features),
            cores: match cpu.as_deref().map_or(0, count_cores) {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                cores => cores,
            },
            memory_bytes: sensor::memory(root, "MemTotal"),
            gpus: gpus(root),
        }
    }

    /// The target that fits best: of those whose `detect` holds, the most specific; of equals, the first. More specific
    /// is, in this order: the board's name in the device tree, then the names that it is compatible with as they are
    /// listed there, and of one name a longer part; a longer part of the graphics processor's name; a release of Linux
    /// for Tegra; more of the processor's features; more memory; system and architecture.
    pub fn best_target<'a>(&self, targets: &'a [Target]) -> Option<Choice<'a>> {
        self.fitting_targets(targets).into_iter().next()
    }

    /// Every target that fits, the best first.
    pub fn fitting_targets<'a>(&self, targets: &'a [Target]) -> Vec<Choice<'a>> {
        let fit = |target: &'a Target| Some((target.detect.as_ref()?, target));
        let mut fitting: Vec<_> = targets
            .iter()
            .filter_map(fit)
            .filter_map(|(detect, target)| Some((detect, Choice { target, reason: self.fits(detect)? })))
            .map(|(detect, choice)| (self.specificity(detect), choice))
            .collect();
        fitting.sort_by(|(a, _), (b, _)| b.cmp(a));
        fitting.into_iter().map(|(_, choice)| choice).collect()
    }

    /// Why all that a target asks for holds; nothing where something does not.
    fn fits(&self, detect: &Detect) -> Option<String> {
        let Detect { device_tree, gpu, l4t, cpu, memory_gib, os, arch } = detect;
        let mut reasons = Vec::new();
        if let Some(part) = device_tree {
            let name = self.names().find(|name| holds(name, part))?;
            reasons.push(format!("device tree \"{name}\""));
        }
        if let Some(part) = gpu {
            reasons.push(format!("gpu \"{}\"", self.gpus.iter().find(|name| holds(name, part))?));
        }
        if !l4t.is_empty() {
            reasons.push(format!("l4t {}", self.l4t.filter(|release| l4t.contains(release))?));
        }
        if !cpu.is_empty() {
            cpu.iter().all(|feature| self.features.contains(feature)).then_some(())?;
            reasons.push(format!("cpu {}", cpu.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
        }
        if let Some(least) = memory_gib {
            let gib = self.memory_gib().filter(|gib| *gib >= 0.9 * f64::from(*least))?;
            reasons.push(format!("memory {gib:.1} GiB"));
        }
        if let Some(os) = os.filter(|os| os.to_string() == self.os) {
            reasons.push(format!("os {os}"));
        } else if os.is_some() {
            return None;
        }
        if let Some(arch) = arch.filter(|arch| arch.to_string() == self.arch) {
            reasons.push(format!("arch {arch}"));
        } else if arch.is_some() {
            return None;
        }
        Some(if reasons.is_empty() { "it fits every machine".into() } else { reasons.join("; ") })
    }

    /// Compares greater for what fits fewer machines.
    fn specificity(&self, detect: &Detect) -> [usize; 7] {
        let Detect { device_tree, gpu, l4t, cpu, memory_gib, os, arch } = detect;
        let length = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        let position = device_tree.as_ref().and_then(|part| self.names().position(|name| holds(name, part)));
        let exactness = position.map_or(0, |position| usize::MAX - position);
        let platform = usize::from(os.is_some()) + usize::from(arch.is_some());
        let memory_gib = memory_gib.map_or(0, |gib| gib as usize);
        [exactness, length(device_tree), length(gpu), usize::from(!l4t.is_empty()), cpu.len(), memory_gib, platform]
    }

    /// The device tree's names of the board, most exact first.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.board.iter().chain(&self.compatible)
    }

    /// Memory in GiB.
    pub fn memory_gib(&self) -> Option<f64> {
        Some(self.memory_bytes? as f64 / f64::from(1 << 30))
    }
}

/// Whether a name holds a part of it, in whatever case.
fn holds(name: &str, part: &str) -> bool {
    name.to_lowercase().contains(&part.to_lowercase())
}

/// The strings of a device tree's property: each ends with a NUL.
fn strings(text: &str) -> Vec<String> {
    text.split('\0').map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// The value of the first line `NAME : VALUE`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
}

fn count_cores(cpu: &str) -> usize {
    cpu.lines().filter(|line| line.split_once(':').is_some_and(|(name, _)| name.trim() == "processor")).count()
}

/// Features that `/proc/cpuinfo` lists: as `flags` on x86, as `Features` on ARM.
fn listed_features(cpu: &str) -> BTreeSet<Feature> {
    let listed: BTreeSet<_> =
        ["flags", "Features"].iter().filter_map(|name| field(cpu, name)).flat_map(str::split_whitespace).collect();
    let has = |names: &[&str]| names.iter().any(|name| listed.contains(name));
    FEATURES.iter().filter(|(_, names)| has(names)).map(|(feature, _)| *feature).collect()
}

/// Features of the processor that this process runs on. The standard library cannot tell of AMX yet.
#[cfg(target_arch = "x86_64")]
fn own_features() -> BTreeSet<Feature> {
    use std::arch::is_x86_feature_detected as detected;
    let (avx512, avx) = (detected!("avx512vnni"), detected!("avxvnni"));
    let told = [
        (Feature::Avx2, detected!("avx2")),
        (Feature::Avx512f, detected!("avx512f")),
        (Feature::Vnni, avx512 || avx),
        (Feature::Avx512Vnni, avx512),
        (Feature::AvxVnni, avx),
        (Feature::Avx512Bf16, detected!("avx512bf16")),
    ];
    told.into_iter().filter(|(_, has)| *has).map(|(feature, _)| feature).collect()
}

/// Features of the processor that this process runs on.
#[cfg(target_arch = "aarch64")]
fn own_features() -> BTreeSet<Feature> {
    use std::arch::is_aarch64_feature_detected as detected;
    let told = [(Feature::Dotprod, detected!("dotprod")), (Feature::I8mm, detected!("i8mm"))];
    told.into_iter().filter(|(_, has)| *has).map(|(feature, _)| feature).collect()
}

/// Of other processors nothing is asked.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn own_features() -> BTreeSet<Feature> {
    BTreeSet::new()
}

/// The 35 of `# R35 (release), REVISION: 4.1, …`.
fn l4t_release(text: &str) -> Option<u32> {
    text.strip_prefix("# R")?.split_whitespace().next()?.parse().ok()
}

/// NVIDIA's graphics processors: by name where the driver tells it, else one without a name where its device is.
fn gpus(root: Root<'_>) -> Vec<String> {
    let folders = root.list("/proc/driver/nvidia/gpus", "").into_iter();
    let told = folders.filter_map(|folder| root.text(folder.join("information")));
    let mut names: Vec<_> = told.filter_map(|text| field(&text, "Model").map(str::to_owned)).collect();
    names.sort();
    if names.is_empty() && root.at("/dev/nvidia0").exists() {
        names.push("NVIDIA GPU".into());
    }
    names
}
