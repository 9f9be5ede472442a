//! Checks of the machine: what it is, and what keeps it from being as fast as it could be.

use std::path::Path;

use super::{Severity, Subject, Told, mib, ok, or_ok, told};
use crate::Target;

/// Whether a target that is here is made for this machine.
pub(super) fn machine(subject: &Subject<'_>) -> Vec<Told> {
    let machine = subject.machine();
    let board = machine.board.as_deref().or(machine.processor.as_deref()).unwrap_or("no name");
    let what = format!("{board}, {} on {}, {} cores", machine.os, machine.arch, machine.cores);
    match machine.best_target(subject.targets) {
        Some(choice) => vec![ok(format!("{what}: {} fits best ({})", choice.target.name, choice.reason))],
        None => {
            let evidence = format!("{what}: none of {} targets here fits", subject.targets.len());
            let advice = "choose one with --target, or write one: docs/adding-a-target.md";
            vec![told(Severity::Note, evidence, advice)]
        }
    }
}

/// Whether the target can be used, and whether it is made for another machine.
pub(super) fn target(subject: &Subject<'_>) -> Vec<Told> {
    let target: &Target = match subject.target {
        Ok(target) => target,
        Err(error) => {
            let told = told(Severity::Problem, error.to_string(), "correct the target file, or choose with --target");
            return vec![Told { kind: Some(error.kind()), ..told }];
        }
    };
    let name = &target.name;
    if target.detect.is_none() {
        return vec![ok(format!("target {name}; it does not say which machines it is for"))];
    }
    match subject.machine().best_target(std::slice::from_ref(target)) {
        Some(choice) => vec![ok(format!("target {name} is for this machine ({})", choice.reason))],
        None => {
            let evidence = format!("target {name} is made for another machine");
            vec![told(Severity::Warning, evidence, "safelight targets --detect tells which fit this one")]
        }
    }
}

/// Bytes of a field of `/proc/meminfo`.
pub(super) fn memory(subject: &Subject<'_>, field: &str) -> Option<u64> {
    let text = subject.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Swapped-out bytes from which on it is told.
const NOTABLE_SWAP_BYTES: u64 = 64 << 20;

/// Swap that is in use: what was swapped out is fetched back in the middle of a picture.
pub(super) fn swap(subject: &Subject<'_>) -> Vec<Told> {
    let (Some(total), Some(free)) = (memory(subject, "SwapTotal"), memory(subject, "SwapFree")) else {
        return vec![ok("not told by this system")];
    };
    let used = total.saturating_sub(free);
    let swaps = subject.text("/proc/swaps").unwrap_or_default();
    let devices: Vec<_> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let where_to = if devices.is_empty() { "swap".into() } else { devices.join(", ") };
    let evidence = format!("{} of {} are swapped out to {where_to}", mib(used), mib(total));
    match used >= NOTABLE_SWAP_BYTES {
        true => vec![told(Severity::Note, evidence, "end other programs, or expect the first pictures to take longer")],
        false if total == 0 => vec![ok("there is no swap")],
        false => vec![ok(evidence)],
    }
}

/// The power mode of a Jetson against the others that its configuration has.
pub(super) fn power(subject: &Subject<'_>) -> Vec<Told> {
    let Some(configuration) = subject.text("/etc/nvpmodel.conf") else {
        return vec![ok("not a Jetson: there is no /etc/nvpmodel.conf")];
    };
    let modes: Vec<_> = configuration.lines().filter_map(power_mode).collect();
    let status = subject.text("/var/lib/nvpmodel/status");
    let current = status.as_deref().and_then(|status| status.strip_prefix("pmode:")?.trim().parse::<u32>().ok());
    let Some((_, now)) = modes.iter().find(|(id, _)| Some(*id) == current) else {
        return vec![told(
            Severity::Note,
            "/var/lib/nvpmodel/status tells no power mode of /etc/nvpmodel.conf",
            "ask for it: sudo nvpmodel -q",
        )];
    };
    let fastest = modes.iter().max_by_key(|(_, name)| watts(name));
    match fastest.filter(|(_, name)| watts(name) > watts(now)) {
        Some((id, name)) => vec![told(
            Severity::Warning,
            format!("power mode {now}, and {name} is there, too"),
            format!("sudo nvpmodel -m {id}, where power supply and cooling are made for it"),
        )],
        None => vec![ok(format!("power mode {now}"))],
    }
}

/// Number and name of `< POWER_MODEL ID=0 NAME=MAXN >`.
fn power_mode(line: &str) -> Option<(u32, &str)> {
    let words = line.trim().strip_prefix('<')?.split_whitespace();
    let words: Vec<_> = words.collect();
    (*words.first()? == "POWER_MODEL").then_some(())?;
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Some((value("ID")?.parse().ok()?, value("NAME")?.trim_end_matches('>')))
}

/// Watts that a mode's name tells, as in MODE_15W; MAXN has no bound, and MAXN_SUPER is above it.
fn watts(name: &str) -> u32 {
    if name.starts_with("MAXN") {
        return u32::MAX - u32::from(name == "MAXN");
    }
    let number = name.split('_').find_map(|word| word.strip_suffix('W')?.parse().ok());
    number.unwrap_or(0)
}

/// Bits of `get_throttled` (Raspberry Pi documentation, `vcgencmd`).
const THROTTLED: &[(u32, &str)] = &[
    (0, "the voltage is too low"),
    (1, "the clock is capped"),
    (2, "it is throttled"),
    (3, "it is near its temperature limit"),
    (16, "the voltage was too low"),
    (17, "the clock was capped"),
    (18, "it was throttled"),
    (19, "it was at its temperature limit"),
];

/// First bit of what happened since the start, and may be over.
const FIRST_PAST_BIT: u32 = 16;

/// What the firmware of a Raspberry Pi tells of its power supply and cooling.
pub(super) fn throttled(subject: &Subject<'_>) -> Vec<Told> {
    let platform = Path::new("/sys/devices/platform");
    let outer = subject.list(platform, "soc");
    let folders = outer.iter().flat_map(|folder| subject.list(folder, "soc")).chain(outer.clone());
    let text = folders.into_iter().find_map(|folder| subject.text(folder.join("get_throttled")));
    let bits = text.as_deref().map(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16));
    let bits = match bits {
        None => return vec![ok("no file tells: it is no Raspberry Pi, or its system has only vcgencmd get_throttled")],
        Some(Err(_)) => return vec![ok("not told: get_throttled holds no hexadecimal number")],
        Some(Ok(bits)) => bits,
    };
    let set: Vec<_> = THROTTLED.iter().filter(|(bit, _)| bits >> bit & 1 == 1).collect();
    let severity = match set.iter().any(|(bit, _)| *bit < FIRST_PAST_BIT) {
        true => Severity::Warning,
        false => Severity::Note,
    };
    let words: Vec<_> = set.iter().map(|(_, what)| *what).collect();
    let findings = (!words.is_empty()).then(|| {
        let evidence = format!("get_throttled is {bits:#x}: {}", words.join(", "));
        told(severity, evidence, "take a power supply of 5 A for a Pi 5 (3 A for a Pi 4), and a fan")
    });
    or_ok(findings.into_iter().collect(), "get_throttled is 0")
}

/// How near to a trip point is told, in thousandths of a degree Celsius.
const NEAR_MILLIDEGREES: i64 = 5_000;

/// Temperatures against the trip points at which the kernel slows the machine down.
pub(super) fn thermal(subject: &Subject<'_>) -> Vec<Told> {
    let zones = subject.list("/sys/class/thermal", "thermal_zone");
    let findings = zones.iter().filter_map(|zone| hot_zone(subject, zone)).collect();
    let count = zones.len();
    or_ok(
        findings,
        if count == 0 {
            "no thermal zone here".into()
        } else {
            format!("{count} of {count} zones are below their trip points")
        },
    )
}

const COOL: &str = "cool it, or expect pictures to take longer as it slows down";

fn hot_zone(subject: &Subject<'_>, zone: &Path) -> Option<Told> {
    let number = |path: &Path| subject.text(path)?.parse::<i64>().ok();
    // A zone that is switched off tells -256.
    let found = number(&zone.join("temp")).filter(|found| *found > 0)?;
    let trips = subject.list(zone, "trip_point_").into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix("_type")?.to_owned();
        let kind = subject.text(&path)?;
        matches!(kind.as_str(), "passive" | "hot" | "critical").then_some(())?;
        Some((number(&zone.join(format!("{name}_temp"))).filter(|trip| *trip > 0)?, kind))
    });
    let (trip, kind) = trips.min()?;
    let name = subject.text(zone.join("type")).unwrap_or_else(|| zone.display().to_string());
    let degrees = |milli: i64| milli as f64 / 1000.0;
    let evidence = format!("{name} is at {:.1} °C, its {kind} trip point is {:.1} °C", degrees(found), degrees(trip));
    let severity = if found >= trip { Severity::Warning } else { Severity::Note };
    (trip - found <= NEAR_MILLIDEGREES).then(|| told(severity, evidence, COOL))
}

/// Drivers whose governor powersave still follows the load.
const DRIVERS_THAT_FOLLOW: &[&str] = &["intel_pstate", "amd-pstate-epp", "amd_pstate_epp"];

/// Governors that keep the clock at its lowest.
pub(super) fn governor(subject: &Subject<'_>) -> Vec<Told> {
    let cores = subject.list("/sys/devices/system/cpu", "cpu").into_iter().map(|core| core.join("cpufreq"));
    let told_of = |core: &std::path::PathBuf| Some((subject.text(core.join("scaling_governor"))?, core.clone()));
    let governors: Vec<_> = cores.filter_map(|core| told_of(&core)).collect();
    let follows = |core: &Path| {
        let driver = subject.text(core.join("scaling_driver"));
        driver.is_some_and(|driver| DRIVERS_THAT_FOLLOW.contains(&driver.as_str()))
    };
    let slow = governors.iter().filter(|(name, core)| name == "powersave" && !follows(core)).count();
    let Some((first, _)) = governors.first() else { return vec![ok("no governor here")] };
    match slow {
        0 => vec![ok(format!("governor {first}"))],
        _ => vec![told(
            Severity::Warning,
            format!("{slow} of {} cores have the governor powersave, which keeps their clock lowest", governors.len()),
            "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )],
    }
}

/// Share of time, in per cent, that some task waited for a processor, from which on it is told.
const BUSY_PERCENT: f64 = 10.0;

/// What else keeps the processor busy.
pub(super) fn load(subject: &Subject<'_>) -> Vec<Told> {
    let number = |text: Option<String>| text?.split_whitespace().next()?.parse::<f64>().ok();
    let load = number(subject.text("/proc/loadavg"));
    let pressure = subject.text("/proc/pressure/cpu");
    let pressure = pressure.as_deref().and_then(|text| text.strip_prefix("some avg10="));
    let pressure = number(pressure.map(str::to_owned));
    let cores = subject.machine().cores;
    let evidence = match (load, pressure) {
        (None, None) => return vec![ok("not told by this system")],
        (load, pressure) => {
            let load = load.map(|load| format!("load {load:.2} on {cores} cores"));
            let pressure = pressure.map(|share| format!("tasks waited {share:.1} % of the last 10 s"));
            load.into_iter().chain(pressure).collect::<Vec<_>>().join("; ")
        }
    };
    let is_busy = load.is_some_and(|load| load > cores as f64) || pressure.is_some_and(|share| share > BUSY_PERCENT);
    match is_busy {
        true => vec![told(Severity::Warning, evidence, "end other work before you measure anything")],
        false => vec![ok(evidence)],
    }
}
