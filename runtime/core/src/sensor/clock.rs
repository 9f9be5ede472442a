//! Clocks and use: cores by cpufreq, graphics and other processors by devfreq.

use std::path::{Path, PathBuf};

use super::Quantity::{Load, Megahertz};
use super::file::{Found, Kept, file_name, source};
use crate::root::Root;

/// Clock domains that are told one by one; of more their mean is told, so that a server does not fill a report.
const MOST_POLICIES: usize = 8;

/// Clock domains that such a mean is taken over.
const MOST_READ: usize = 32;

const KHZ: f64 = 1e-3;
const HZ: f64 = 1e-6;

/// Clocks of the cores (`Documentation/admin-guide/pm/cpufreq.rst`).
pub(super) fn cores(root: Root<'_>) -> Vec<Found> {
    let policies = root.list("/sys/devices/system/cpu/cpufreq", "policy");
    let paths: Vec<_> = policies.iter().map(|policy| policy.join("scaling_cur_freq")).collect();
    if policies.len() > MOST_POLICIES {
        let read = &paths[..paths.len().min(MOST_READ)];
        let covers = format!("mean of {} of {} clock domains of cores", read.len(), paths.len());
        return vec![Found::files(root, source("cpufreq/mean", Megahertz, covers), read, mean)];
    }
    let one = |(policy, path): (&PathBuf, PathBuf)| {
        let cores = root.text(policy.join("related_cpus")).unwrap_or_default();
        let what = source(format!("cpufreq/{}", file_name(policy)), Megahertz, format!("cores {cores}"));
        Found::file(root, what, path, KHZ)
    };
    policies.iter().zip(paths).map(one).collect()
}

fn mean(files: &mut [Kept]) -> Option<f64> {
    let count = files.len() as f64;
    let sum: Option<f64> = files.iter_mut().map(Kept::number).sum();
    Some(sum? / count * KHZ)
}

/// Clock and use of what devfreq drives: a Jetson's graphics processor, Mali, memory.
pub(super) fn devices(root: Root<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for device in root.list("/sys/class/devfreq", "") {
        let name = file_name(&device);
        let what = source(format!("devfreq/{name}/clock"), Megahertz, format!("clock of {name}"));
        found.push(Found::file(root, what, device.join("cur_freq"), HZ));
        found.extend(load(root, &name, &device));
    }
    let alone = Path::new("/sys/devices/platform/gpu.0/load");
    if found.is_empty() && root.at(alone).exists() {
        found.push(permille(root, "gpu.0", alone.to_path_buf()));
    }
    found
}

/// A Jetson tells per mille beside the device, Rockchip's kernel `PERCENT@CLOCKHz` in the devfreq folder.
fn load(root: Root<'_>, name: &str, device: &Path) -> Option<Found> {
    let (tegra, rockchip) = (device.join("device/load"), device.join("load"));
    if root.at(&tegra).exists() {
        return Some(permille(root, name, tegra));
    }
    root.at(&rockchip).exists().then(|| {
        let percent = |files: &mut [Kept]| Some(files[0].text()?.split('@').next()?.parse::<f64>().ok()? / 100.0);
        Found::files(root, use_of(name), &[rockchip], percent)
    })
}

fn permille(root: Root<'_>, name: &str, path: PathBuf) -> Found {
    Found::file(root, use_of(name), path, 1e-3)
}

fn use_of(name: &str) -> super::Source {
    source(format!("devfreq/{name}/load"), Load, format!("use of {name}"))
}
