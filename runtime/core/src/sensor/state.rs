//! The state of a device at one moment.

use super::{State, busy, nvml, power, thermal};
use crate::root::Root;
use std::path::{Path, PathBuf};

impl State {
    /// Reads it below `root`, which is `/` for this machine. What cannot be read is absent.
    pub fn read(root: &Path) -> Self {
        let root = Root(root);
        let pressure = |resource| busy::waited_share(&root.text(format!("/proc/pressure/{resource}"))?);
        let swap = memory(root, "SwapTotal").zip(memory(root, "SwapFree"));
        Self {
            kernel: root.text("/proc/sys/kernel/osrelease"),
            driver: driver(root),
            cuda: nvml::newest_cuda(root),
            hypervisor: hypervisor(root),
            power_mode: power_mode(root).and_then(|mode| mode.now),
            governor: governors(root).into_iter().next().map(|governor| governor.name),
            hottest_celsius: thermal::hottest(root),
            available_bytes: memory(root, "MemAvailable"),
            swapped_bytes: swap.map(|(total, free)| total.saturating_sub(free)),
            load: root.number("/proc/loadavg"),
            cpu_pressure: pressure("cpu"),
            memory_pressure: pressure("memory"),
            on_battery: power::on_battery(root),
        }
    }
}

/// The version of NVIDIA's driver, by its kernel module: the 580.159.04 of `NVRM version: NVIDIA UNIX Open Kernel Module
/// for x86_64  580.159.04  Release Build`.
pub(crate) fn driver(root: Root<'_>) -> Option<String> {
    let text = root.text("/proc/driver/nvidia/version")?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// Bytes of a field of `/proc/meminfo`.
pub(crate) fn memory(root: Root<'_>, field: &str) -> Option<u64> {
    let text = root.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Makers of virtual machines, as firmware names them, with what a product must be called where the maker sells both.
const VIRTUAL_MAKERS: &[(&str, &str)] = &[
    ("QEMU", ""),
    ("KVM", ""),
    ("VMware", ""),
    ("innotek", ""),
    ("Xen", ""),
    ("Parallels", ""),
    ("Google", "Google Compute Engine"),
    ("Microsoft", "Virtual"),
];

/// What virtualises the machine: by its firmware's names, the processor's flag, Xen's own file or the device tree.
fn hypervisor(root: Root<'_>) -> Option<String> {
    let firmware = |name: &str| root.text(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    let (maker, product) = (firmware("sys_vendor"), firmware("product_name"));
    let is_virtual = |(name, part): &(&str, &str)| maker.contains(name) && product.contains(part);
    let kind = root.text("/sys/hypervisor/type").or_else(|| root.text("/proc/device-tree/hypervisor/compatible"));
    let is_flagged = root.text("/proc/cpuinfo").is_some_and(|cpu| {
        let flags = cpu.lines().find_map(|line| line.strip_prefix("flags"));
        flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    });
    if !is_flagged && kind.is_none() && !VIRTUAL_MAKERS.iter().any(is_virtual) {
        return None;
    }
    let kind = kind.unwrap_or_default().replace('\0', " ");
    let names: Vec<_> =
        [maker.as_str(), &product, &kind].into_iter().map(str::trim).filter(|name| !name.is_empty()).collect();
    Some(match names.is_empty() {
        true => "a virtual machine".into(),
        false => format!("a virtual machine ({})", names.join(", ")),
    })
}

/// Power modes of a Jetson.
pub(crate) struct PowerMode {
    /// All that its configuration has: number and name.
    pub(crate) known: Vec<(u32, String)>,
    /// The name of the one that it is in.
    pub(crate) now: Option<String>,
}

/// Reads what nvpmodel is set to; nothing where there is none.
pub(crate) fn power_mode(root: Root<'_>) -> Option<PowerMode> {
    let configuration = root.text("/etc/nvpmodel.conf")?;
    let known: Vec<_> = configuration.lines().filter_map(listed_mode).collect();
    let status = root.text("/var/lib/nvpmodel/status");
    let current = status.as_deref().and_then(|status| status.strip_prefix("pmode:")?.trim().parse::<u32>().ok());
    let now = known.iter().find(|(id, _)| Some(*id) == current).map(|(_, name)| name.clone());
    Some(PowerMode { known, now })
}

/// Number and name of `< POWER_MODEL ID=0 NAME=MAXN >`.
fn listed_mode(line: &str) -> Option<(u32, String)> {
    let words: Vec<_> = line.trim().strip_prefix('<')?.split_whitespace().collect();
    (*words.first()? == "POWER_MODEL").then_some(())?;
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Some((value("ID")?.parse().ok()?, value("NAME")?.trim_end_matches('>').to_owned()))
}

/// The clock governor of a core.
pub(crate) struct Governor {
    /// Its name, such as `schedutil`.
    pub(crate) name: String,
    /// The folder that tells it.
    pub(crate) folder: PathBuf,
}

/// Governors of all cores.
pub(crate) fn governors(root: Root<'_>) -> Vec<Governor> {
    let folders = root.list("/sys/devices/system/cpu", "cpu").into_iter().map(|core| core.join("cpufreq"));
    let told = |folder: PathBuf| Some(Governor { name: root.text(folder.join("scaling_governor"))?, folder });
    folders.filter_map(told).collect()
}
