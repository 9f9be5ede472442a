//! Which sensors' power adds up to the device's: never one that another contains.

use super::record::Summed;
use super::{Quantity, Source};
use crate::target::Measuring;

/// Sets of rails of a Jetson that are the whole module, and what they cover.
const MODULES: &[(&[&str], &str)] = &[
    (&["VDD_IN"], "whole module, without its carrier board (VDD_IN)"),
    (&["POM_5V_IN"], "whole module, without its carrier board (POM_5V_IN)"),
    // VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0.
    (
        &["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
        "module, without its carrier board (VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0)",
    ),
];

/// The sensors that the target names; without any a Jetson's whole module, else processor packages and boards of
/// graphics processors, else the battery.
pub(super) fn choose(present: &[Source], absent: &[Source], wanted: &Measuring) -> Result<Summed, String> {
    if !wanted.rails.is_empty() {
        return named(present, absent, wanted);
    }
    let usual = module(present).or_else(|| parts(present)).or_else(|| battery(present));
    let summed = usual.ok_or_else(|| missing(present, absent))?;
    Ok(Summed { covers: wanted.covers.clone().unwrap_or(summed.covers), ..summed })
}

/// Every rail by a sensor's whole name, or by what follows its slash, as in `VDD_IN` for `ina3221/VDD_IN`.
fn named(present: &[Source], absent: &[Source], wanted: &Measuring) -> Result<Summed, String> {
    let is = |source: &Source, rail: &str| {
        source.name == rail || source.name.split_once('/').is_some_and(|(_, name)| name == rail)
    };
    let column = |rail: &String| {
        let found = present.iter().position(|source| is_energy(source) && is(source, rail));
        found.ok_or_else(|| {
            let reason = absent.iter().find(|source| is(source, rail)).and_then(|source| source.absent.as_deref());
            let reason = reason.unwrap_or("no sensor of power or energy has this name; safelight sensors lists them");
            format!("the target's bench.rails has {rail}: {reason}")
        })
    };
    let columns: Vec<_> = wanted.rails.iter().map(column).collect::<Result<_, _>>()?;
    let covers = columns.iter().map(|column| present[*column].covers.clone()).collect::<Vec<_>>().join("; ");
    Ok(Summed { columns, covers: wanted.covers.clone().unwrap_or(covers) })
}

fn is_energy(source: &Source) -> bool {
    matches!(source.quantity, Quantity::Watts | Quantity::Joules)
}

fn module(present: &[Source]) -> Option<Summed> {
    let column = |rail: &&str| present.iter().position(|source| source.name.strip_prefix("ina3221/") == Some(*rail));
    MODULES.iter().find_map(|(rails, covers)| {
        let columns: Option<Vec<_>> = rails.iter().map(column).collect();
        Some(Summed { columns: columns?, covers: (*covers).into() })
    })
}

/// Packages of processors, and boards of graphics processors: by their counter of energy where they have one.
fn parts(present: &[Source]) -> Option<Summed> {
    let counts = |board: &str| present.iter().any(|source| source.name == format!("{board}/energy"));
    let is_part = |source: &Source| match source.name.split('/').collect::<Vec<_>>()[..] {
        ["rapl", package] => package.starts_with("package-"),
        ["nvml", _, "energy"] => true,
        ["nvml", index, "power"] => !counts(&format!("nvml/{index}")),
        _ => false,
    };
    all(present, is_part)
}

fn battery(present: &[Source]) -> Option<Summed> {
    all(present, |source| source.name.starts_with("battery/") && source.quantity == Quantity::Watts)
}

fn all(present: &[Source], is_part: impl Fn(&Source) -> bool) -> Option<Summed> {
    let columns: Vec<_> = (0..present.len()).filter(|column| is_part(&present[*column])).collect();
    let covers = columns.iter().map(|column| present[*column].covers.as_str()).collect::<Vec<_>>().join("; ");
    (!columns.is_empty()).then_some(Summed { columns, covers })
}

/// Why nothing is measured: what was nearest to it.
fn missing(present: &[Source], absent: &[Source]) -> String {
    let unknown: Vec<_> =
        present.iter().filter(|source| is_energy(source)).map(|source| source.name.as_str()).collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        return format!("which of {names} add up to the device is not known; name them in the target's bench.rails");
    }
    let refused = absent.iter().filter(|source| is_energy(source)).filter_map(|source| source.absent.as_deref());
    let reasons: Vec<_> = refused.filter(|reason| !reason.starts_with("not here")).collect();
    match reasons.is_empty() {
        true => "nothing here measures power; put a meter between supply and device".into(),
        false => format!("nothing here that can be read measures power: {}", reasons.join("; ")),
    }
}
