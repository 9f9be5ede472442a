//! Checks of the machine: what it is, and what keeps it from being as fast as it could be.

use super::{Severity, Subject, Told, mib, ok, or_ok, told};
use crate::Target;
use crate::sensor::thermal::{self, Zone};
use crate::sensor::throttle::{self, FirmwareBits};
use crate::sensor::{self, Governor, PowerMode, State};

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
    sensor::memory(subject.files(), field)
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
    let Some(PowerMode { known: modes, now }) = sensor::power_mode(subject.files()) else {
        return vec![ok("not a Jetson: there is no /etc/nvpmodel.conf")];
    };
    let Some(now) = now else {
        return vec![told(
            Severity::Note,
            "/var/lib/nvpmodel/status tells no power mode of /etc/nvpmodel.conf",
            "ask for it: sudo nvpmodel -q",
        )];
    };
    let fastest = modes.iter().max_by_key(|(_, name)| watts(name));
    match fastest.filter(|(_, name)| watts(name) > watts(&now)) {
        Some((id, name)) => vec![told(
            Severity::Warning,
            format!("power mode {now}, and {name} is there, too"),
            format!("sudo nvpmodel -m {id}, where power supply and cooling are made for it"),
        )],
        None => vec![ok(format!("power mode {now}"))],
    }
}

/// Watts that a mode's name tells, as in MODE_15W; MAXN has no bound, and MAXN_SUPER is above it.
fn watts(name: &str) -> u32 {
    if name.starts_with("MAXN") {
        return u32::MAX - u32::from(name == "MAXN");
    }
    let number = name.split('_').find_map(|word| word.strip_suffix('W')?.parse().ok());
    number.unwrap_or(0)
}

/// What the firmware of a Raspberry Pi tells of its power supply and cooling.
pub(super) fn throttled(subject: &Subject<'_>) -> Vec<Told> {
    let text = throttle::firmware_file(subject.files()).and_then(|path| subject.text(path));
    let bits = match text.as_deref().map(FirmwareBits::parse) {
        None => return vec![ok("no file tells: it is no Raspberry Pi, or its system has only vcgencmd get_throttled")],
        Some(None) => return vec![ok("not told: get_throttled holds no hexadecimal number")],
        Some(Some(bits)) => bits,
    };
    let severity = if bits.is_now() { Severity::Warning } else { Severity::Note };
    let words = bits.words();
    let findings = (!words.is_empty()).then(|| {
        let evidence = format!("get_throttled is {:#x}: {}", bits.0, words.join(", "));
        told(severity, evidence, "take a power supply of 5 A for a Pi 5 (3 A for a Pi 4), and a fan")
    });
    or_ok(findings.into_iter().collect(), "get_throttled is 0")
}

/// How near to a trip point is told.
const NEAR_CELSIUS: f64 = 5.0;

/// Temperatures against the trip points at which the kernel slows the machine down.
pub(super) fn thermal(subject: &Subject<'_>) -> Vec<Told> {
    let zones = thermal::zones(subject.files());
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

fn hot_zone(subject: &Subject<'_>, zone: &Zone) -> Option<Told> {
    let found = thermal::celsius(subject.files(), zone)?;
    let trips = subject.list(&zone.folder, "trip_point_").into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix("_type")?.to_owned();
        let kind = subject.text(&path)?;
        matches!(kind.as_str(), "passive" | "hot" | "critical").then_some(())?;
        let trip = subject.files().number(zone.folder.join(format!("{name}_temp")))?;
        Some((trip / 1000.0, kind)).filter(|(trip, _)| *trip > 0.0)
    });
    let (trip, kind) = trips.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
    let evidence = format!("{} is at {found:.1} °C, its {kind} trip point is {trip:.1} °C", zone.name);
    let severity = if found >= trip { Severity::Warning } else { Severity::Note };
    (trip - found <= NEAR_CELSIUS).then(|| told(severity, evidence, COOL))
}

/// Drivers whose governor powersave still follows the load.
const DRIVERS_THAT_FOLLOW: &[&str] = &["intel_pstate", "amd-pstate-epp", "amd_pstate_epp"];

/// Governors that keep the clock at its lowest.
pub(super) fn governor(subject: &Subject<'_>) -> Vec<Told> {
    let governors = sensor::governors(subject.files());
    let is_slow = |governor: &&Governor| {
        let driver = subject.text(governor.folder.join("scaling_driver"));
        governor.name == "powersave" && !driver.is_some_and(|driver| DRIVERS_THAT_FOLLOW.contains(&driver.as_str()))
    };
    let slow = governors.iter().filter(is_slow).count();
    let Some(Governor { name: first, .. }) = governors.first() else { return vec![ok("no governor here")] };
    match slow {
        0 => vec![ok(format!("governor {first}"))],
        _ => vec![told(
            Severity::Warning,
            format!("{slow} of {} cores have the governor powersave, which keeps their clock lowest", governors.len()),
            "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )],
    }
}

/// Share of the time that some task waited for a processor, from which on it is told.
const BUSY_SHARE: f64 = 0.1;

/// What else keeps the processor busy.
pub(super) fn load(subject: &Subject<'_>) -> Vec<Told> {
    let State { load, cpu_pressure: pressure, .. } = State::read(subject.root);
    let cores = subject.machine().cores;
    let evidence = match (load, pressure) {
        (None, None) => return vec![ok("not told by this system")],
        (load, pressure) => {
            let load = load.map(|load| format!("load {load:.2} on {cores} cores"));
            let pressure = pressure.map(|share| format!("tasks waited {:.1} % of the last 10 s", 100.0 * share));
            load.into_iter().chain(pressure).collect::<Vec<_>>().join("; ")
        }
    };
    let is_busy = load.is_some_and(|load| load > cores as f64) || pressure.is_some_and(|share| share > BUSY_SHARE);
    match is_busy {
        true => vec![told(Severity::Warning, evidence, "end other work before you measure anything")],
        false => vec![ok(evidence)],
    }
}
