//! Temperatures: Linux's thermal zones (`Documentation/ABI/testing/sysfs-class-thermal`), and the processors' own hwmon
//! drivers.

use std::path::PathBuf;

use super::Quantity::Celsius;
use super::file::{Found, source};
use crate::root::Root;

/// A thermal zone.
pub(crate) struct Zone {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// What it measures, such as `cpu-thermal`.
    pub(crate) name: String,
}

/// Below this a zone is switched off: a Jetson tells −256 °C of a part without power.
const LEAST_CELSIUS: f64 = -100.0;

/// Drivers of hwmon that measure a processor.
const PROCESSORS: &[&str] = &["coretemp", "k10temp"];

/// Zones that are read; a telephone has a hundred.
const MOST_ZONES: usize = 32;

/// All thermal zones, in order.
pub(crate) fn zones(root: Root<'_>) -> Vec<Zone> {
    let named = |folder: PathBuf| {
        let name = root.text(folder.join("type")).unwrap_or_else(|| folder.display().to_string());
        Zone { folder, name }
    };
    root.list("/sys/class/thermal", "thermal_zone").into_iter().map(named).collect()
}

/// Temperature of a zone in °C; nothing where it is switched off or does not tell.
pub(crate) fn celsius(root: Root<'_>, zone: &Zone) -> Option<f64> {
    from_milli(root.number(zone.folder.join("temp"))?)
}

/// The hottest of zones and processors, in °C.
pub(crate) fn hottest(root: Root<'_>) -> Option<f64> {
    let zones = zones(root).into_iter().filter_map(|zone| celsius(root, &zone));
    let processors = processors(root).into_iter().filter_map(|(_, path)| from_milli(root.number(path)?));
    zones.chain(processors).reduce(f64::max)
}

pub(super) fn zones_found(root: Root<'_>) -> Vec<Found> {
    let one = |zone: Zone| {
        let what = source(format!("thermal/{}", zone.name), Celsius, format!("thermal zone {}", zone.name));
        let path = zone.folder.join("temp");
        match root.number(&path) {
            Some(milli) if from_milli(milli).is_none() => {
                Found::absent(what, format!("{}: switched off, tells {} °C", path.display(), milli / 1000.0))
            }
            _ => Found::files(root, what, &[path], |files| from_milli(files[0].number()?)),
        }
    };
    let zones = zones(root);
    let others = zones.len().saturating_sub(MOST_ZONES);
    let reason = format!("{others} zones are not read: the first {MOST_ZONES} are enough");
    let others = (others > 0).then(|| Found::absent(source("thermal/others", Celsius, "other thermal zones"), reason));
    zones.into_iter().take(MOST_ZONES).map(one).chain(others).collect()
}

pub(super) fn processors_found(root: Root<'_>) -> Vec<Found> {
    let one = |(driver, path): (String, PathBuf)| {
        let what = source(format!("hwmon/{driver}"), Celsius, "the processor's package");
        Found::files(root, what, &[path], |files| from_milli(files[0].number()?))
    };
    processors(root).into_iter().map(one).collect()
}

fn from_milli(milli: f64) -> Option<f64> {
    Some(milli / 1000.0).filter(|celsius| *celsius > LEAST_CELSIUS)
}

/// Driver and file of each processor's package.
fn processors(root: Root<'_>) -> Vec<(String, PathBuf)> {
    let monitors = root.list("/sys/class/hwmon", "hwmon").into_iter();
    let named = monitors.filter_map(|folder| Some((root.text(folder.join("name"))?, folder)));
    let processors = named.filter(|(driver, _)| PROCESSORS.contains(&driver.as_str()));
    // Both drivers give the whole package first.
    processors.map(|(driver, folder)| (driver, folder.join("temp1_input"))).collect()
}
