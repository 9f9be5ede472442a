//! Whether the device is slowed down: for heat, voltage or current.

use std::path::PathBuf;

use super::file::{Found, Kept, source};
use super::{Quantity, Sensor, Source};
use crate::root::Root;

/// Bits of `get_throttled` (Raspberry Pi documentation, `vcgencmd`).
const FIRMWARE_BITS: &[(u32, &str)] = &[
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirmwareBits(pub(crate) u32);

impl FirmwareBits {
    /// A hexadecimal number, as the firmware writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok().map(Self)
    }

    /// Whether any bit tells of now, not only of some time since the start.
    pub(crate) fn is_now(self) -> bool {
        self.0 & ((1 << FIRST_PAST_BIT) - 1) != 0
    }

    /// Every bit that is set, in words.
    pub(crate) fn words(self) -> Vec<&'static str> {
        FIRMWARE_BITS.iter().filter(|(bit, _)| self.0 >> bit & 1 == 1).map(|(_, what)| *what).collect()
    }
}

/// Where a Raspberry Pi's firmware tells.
pub(crate) fn firmware_file(root: Root<'_>) -> Option<PathBuf> {
    let outer = root.list("/sys/devices/platform", "soc");
    let folders = outer.iter().flat_map(|folder| root.list(folder, "soc")).chain(outer.clone());
    folders.map(|folder| folder.join("get_throttled")).find(|path| root.at(path).exists())
}

/// The firmware of a Raspberry Pi.
pub(super) fn firmware(root: Root<'_>) -> Vec<Found> {
    let Some(path) = firmware_file(root) else { return Vec::new() };
    let what = source("firmware", Quantity::Throttled, "the board, as its firmware tells");
    vec![Watched::find(
        root,
        what,
        vec![path],
        Box::new(|files, told| {
            let bits = FirmwareBits::parse(files[0].text()?)?;
            let now = FirmwareBits(bits.0 & ((1 << FIRST_PAST_BIT) - 1));
            if bits.is_now() {
                *told = now.words().join(", ");
            }
            Some(f64::from(u8::from(bits.is_now())))
        }),
    )]
}

/// Counters of Intel's processors: how often a package was too hot.
pub(super) fn package_counters(root: Root<'_>) -> Vec<Found> {
    let mut packages = std::collections::BTreeMap::new();
    for core in root.list("/sys/devices/system/cpu", "cpu") {
        let counter = core.join("thermal_throttle/package_throttle_count");
        if root.at(&counter).exists() {
            // All cores of a package tell the same number.
            let package = root.text(core.join("topology/physical_package_id")).unwrap_or_default();
            packages.entry(package).or_insert(counter);
        }
    }
    let one = |(package, path)| {
        let covers = format!("how often processor package {package} was too hot");
        grown(root, source(format!("thermal_throttle/package-{package}"), Quantity::Throttled, covers), path)
    };
    packages.into_iter().map(one).collect()
}

/// Events of a Jetson's power supply (Jetson Linux Developer Guide, over-current throttling).
const EVENTS: [&str; 3] = ["too low voltage", "too much current on average", "too much current at once"];

/// Counters of a Jetson: how often voltage or current slowed it down.
pub(super) fn supply_counters(root: Root<'_>) -> Vec<Found> {
    let monitors = root.list("/sys/class/hwmon", "hwmon").into_iter();
    let chips = monitors.filter(|folder| root.text(folder.join("name")).as_deref() == Some("soctherm_oc"));
    let of_chip = |chip: PathBuf| {
        EVENTS.into_iter().enumerate().filter_map(move |(index, event)| {
            let path = chip.join(format!("oc{}_event_cnt", index + 1));
            let what = source(format!("soctherm/oc{}", index + 1), Quantity::Throttled, event);
            root.at(&path).exists().then(|| grown(root, what, path))
        })
    };
    chips.flat_map(of_chip).collect()
}

/// 1 where a counter has grown since the reading before.
fn grown(root: Root<'_>, what: Source, path: PathBuf) -> Found {
    let covers = what.covers.clone();
    let mut last: Option<f64> = None;
    Watched::find(
        root,
        what,
        vec![path],
        Box::new(move |files, told| {
            let now = files[0].number()?;
            let is_grown = last.replace(now).is_some_and(|last| now > last);
            if is_grown {
                told.clone_from(&covers);
            }
            Some(f64::from(u8::from(is_grown)))
        }),
    )
}

/// What slows a device down when the kernel finds it too hot; others, such as fans, only cool it.
const SLOWING: &[&str] = &["cpufreq-", "thermal-cpufreq", "devfreq-", "thermal-devfreq", "Processor"];

/// Cooling devices that are read; a server has one for each of its processors.
const MOST_COOLING: usize = 32;

/// Linux's cooling devices that slow something down (`Documentation/driver-api/thermal/sysfs-api.rst`).
pub(super) fn cooling(root: Root<'_>) -> Vec<Found> {
    let devices = root.list("/sys/class/thermal", "cooling_device").into_iter();
    let named = devices.filter_map(|device| Some((root.text(device.join("type"))?, device)));
    let slows = |(name, _): &(String, PathBuf)| {
        SLOWING.iter().any(|start| name.starts_with(start)) || name.ends_with("throttle-alert")
    };
    let named = named.filter(slows).take(MOST_COOLING);
    let (names, paths): (Vec<_>, Vec<_>) = named.map(|(name, device)| (name, device.join("cur_state"))).unzip();
    if names.is_empty() {
        return Vec::new();
    }
    let mut kinds = names.clone();
    kinds.dedup();
    let what = source("cooling", Quantity::Throttled, format!("the kernel slows down: {}", kinds.join(", ")));
    vec![Watched::find(
        root,
        what,
        paths,
        Box::new(move |files, told| {
            let mut is_slow = false;
            for (file, name) in files.iter_mut().zip(&names) {
                if file.number()? > 0.0 {
                    is_slow = true;
                    told.clone_from(name);
                }
            }
            Some(f64::from(u8::from(is_slow)))
        }),
    )]
}

/// Reads files, and says in words what it found where it is not nothing.
type Look = Box<dyn FnMut(&mut [Kept], &mut String) -> Option<f64> + Send>;

/// A sensor that can say in words why something is slowed down.
struct Watched {
    source: Source,
    files: Vec<Kept>,
    look: Look,
    told: String,
}

impl Watched {
    fn find(root: Root<'_>, source: Source, paths: Vec<PathBuf>, look: Look) -> Found {
        let opened: Result<Vec<_>, _> = paths.iter().map(|path: &PathBuf| Kept::open(root, path)).collect();
        match opened {
            Err(reason) => Found::absent(source, reason),
            Ok(files) => Found::Here(Box::new(Self { source, files, look, told: String::new() })),
        }
    }
}

impl Sensor for Watched {
    fn source(&self) -> &Source {
        &self.source
    }

    fn read(&mut self) -> Option<f64> {
        (self.look)(&mut self.files, &mut self.told)
    }

    fn told(&self) -> Option<&str> {
        Some(self.told.as_str()).filter(|told| !told.is_empty())
    }
}
