//! Power and energy that Linux tells: rails of a Jetson, Intel's and AMD's packages, batteries.

use std::path::{Path, PathBuf};

use super::Quantity::{Charge, Joules, Watts};
use super::file::{Found, file_name, source};
use crate::root::Root;

/// What rails of NVIDIA's modules feed (Jetson Linux Developer Guide, platform power and performance).
const RAILS: &[(&str, &str)] = &[
    ("VDD_IN", "whole module, without its carrier board"),
    ("POM_5V_IN", "whole module, without its carrier board"),
    ("VDD_CPU_GPU_CV", "processor, graphics processor and vision accelerators; part of VDD_IN"),
    ("VDD_SOC", "what else is on the chip; part of VDD_IN"),
    ("VDD_GPU_SOC", "graphics processor and what else is on the chip"),
    ("VDD_CPU_CV", "processor, and vision accelerators"),
    ("VIN_SYS_5V0", "what the module has at 5 V, memory included"),
    ("VDDQ_VDD2_1V8AO", "memory; part of VIN_SYS_5V0"),
];

/// A chip of a Jetson with three channels of voltage and current (`Documentation/hwmon/ina3221.rst`).
pub(super) fn rails(root: Root<'_>) -> Vec<Found> {
    let monitors = root.list("/sys/class/hwmon", "hwmon").into_iter();
    let chips = monitors.filter(|folder| root.text(folder.join("name")).as_deref() == Some("ina3221"));
    chips.flat_map(|chip| (1..=3).filter_map(|channel| rail(root, &chip, channel)).collect::<Vec<_>>()).collect()
}

fn rail(root: Root<'_>, chip: &Path, channel: usize) -> Option<Found> {
    let label = root.text(chip.join(format!("in{channel}_label"))).filter(|label| label != "NC")?;
    let feeds = RAILS.iter().find(|(rail, _)| *rail == label).map_or("a rail of the board", |(_, feeds)| feeds);
    let paths = ["in", "curr"].map(|what| chip.join(format!("{what}{channel}_input")));
    let what = source(format!("ina3221/{label}"), Watts, feeds);
    // Millivolts and milliamperes.
    Some(Found::files(root, what, &paths, |files| Some(files[0].number()? * files[1].number()? * 1e-6)))
}

/// Intel's running average power limit, which AMD's processors have, too (`Documentation/power/powercap/powercap.rst`).
pub(super) fn packages(root: Root<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for zone in root.list("/sys/class/powercap", "intel-rapl:") {
        let Some(name) = root.text(zone.join("name")) else { continue };
        // intel-rapl:0:1 is a part of intel-rapl:0.
        let parent = zone.to_str().and_then(|path| path.rsplit_once(':')).map(|(parent, _)| Path::new(parent));
        let parent = parent.and_then(|parent| root.text(parent.join("name")));
        let (name, covers) = match parent {
            Some(parent) => (format!("rapl/{parent}/{name}"), format!("{name} of {parent}")),
            None => (format!("rapl/{name}"), covers(&name)),
        };
        let wraps_at = root.number(zone.join("max_energy_range_uj")).unwrap_or(0.0);
        let mut counter = Counter { wraps_at, last: None, sum: 0.0 };
        let what = source(name, Joules, covers);
        found.push(Found::files(root, what, &[zone.join("energy_uj")], move |files| {
            Some(counter.add(files[0].number()?) * 1e-6)
        }));
    }
    found
}

fn covers(zone: &str) -> String {
    match zone.strip_prefix("package-") {
        Some(number) => format!("processor package {number}: cores, caches, integrated graphics; no memory modules"),
        None if zone == "psys" => "the whole board, as its maker wired it".into(),
        None => zone.into(),
    }
}

/// A counter that begins again at 0 after its largest value, as one that only grows.
struct Counter {
    wraps_at: f64,
    last: Option<f64>,
    sum: f64,
}

impl Counter {
    fn add(&mut self, now: f64) -> f64 {
        let last = self.last.replace(now).unwrap_or(now);
        self.sum += if now >= last { now - last } else { now + (self.wraps_at - last).max(0.0) };
        self.sum
    }
}

/// Power and charge of batteries (`Documentation/ABI/testing/sysfs-class-power`).
pub(super) fn batteries(root: Root<'_>) -> Vec<Found> {
    let batteries = root.list("/sys/class/power_supply", "BAT");
    batteries.iter().flat_map(|battery| [discharge(root, battery), charge(root, battery)]).collect()
}

/// Power is what the battery gives: while it is charged, what is told flows the other way.
fn discharge(root: Root<'_>, battery: &Path) -> Found {
    let covers = "what the battery feeds: the whole device; its gauge tells a new value every few seconds at best";
    let what = source(format!("battery/{}/power", file_name(battery)), Watts, covers);
    let status = battery.join("status");
    let micro = |name: &str| battery.join(name);
    let paths: Vec<PathBuf> = match root.at(micro("power_now")).exists() {
        true => vec![status, micro("power_now")],
        false => vec![status, micro("current_now"), micro("voltage_now")],
    };
    Found::files(root, what, &paths, |files| {
        let [status, factors @ ..] = files else { return None };
        (status.text()? == "Discharging").then_some(())?;
        let product: Option<f64> = factors.iter_mut().map(|file| Some(file.number()? * 1e-6)).product();
        // Some drivers tell a discharging current as a negative one.
        product.map(f64::abs)
    })
}

fn charge(root: Root<'_>, battery: &Path) -> Found {
    let what = source(format!("battery/{}/charge", file_name(battery)), Charge, "state of charge");
    Found::file(root, what, battery.join("capacity"), 0.01)
}

/// Whether the device runs from a battery; nothing where it has none.
pub(super) fn on_battery(root: Root<'_>) -> Option<bool> {
    let batteries = root.list("/sys/class/power_supply", "BAT");
    let states = batteries.iter().filter_map(|battery| root.text(battery.join("status")));
    states.map(|status| status == "Discharging").reduce(|a, b| a || b)
}

/// A Raspberry Pi 5 measures its own power, and tells it only through its firmware's mailbox.
pub(super) fn pmic(root: Root<'_>) -> Vec<Found> {
    let board = root.text("/proc/device-tree/model").unwrap_or_default();
    if !board.contains("Raspberry Pi 5") && !board.contains("Compute Module 5") {
        return Vec::new();
    }
    let what = source("pmic", Watts, "what the board's power chip feeds, without USB and HATs");
    vec![Found::absent(
        what,
        "only a program tells, vcgencmd pmic_read_adc, and starting it ten times a second would disturb what is \
         measured; put a meter between supply and board",
    )]
}
