//! What a device tells of itself while it works: temperatures, clocks, power, load, whether it is slowed down.
//!
//! Every source is one file below `sensor/` and one row of a table; each may be absent, and says why.

use serde::{Deserialize, Serialize};

/// Something that can be read again and again.
pub trait Sensor: Send {
    /// What it reads.
    fn source(&self) -> &Source;

    /// Its value now, in the unit of its [`Quantity`]; nothing where it could not be read this time.
    fn read(&mut self) -> Option<f64>;
}

/// What a sensor reads, or why it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name, unique among a device's: the kind of source, and which of them, such as `thermal/cpu-thermal` or
    /// `ina3221/VDD_IN`.
    pub name: String,
    /// What it measures.
    pub quantity: Quantity,
    /// What of the device it covers, for people.
    pub covers: String,
    /// Why it cannot be read, such as `/sys/class/powercap/intel-rapl:0/energy_uj: permission denied; run as root`;
    /// absent where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
}

/// What a sensor measures, and in which unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Temperature in °C.
    Celsius,
    /// Clock in MHz.
    Megahertz,
    /// Power in W.
    Watts,
    /// Energy since some moment in J; it only grows.
    Joules,
    /// Busy share, 0 to 1.
    Load,
    /// Share of the time, 0 to 1, in which something waited for a resource.
    Pressure,
    /// 1 while the device is slowed down for heat, voltage or power, else 0.
    Throttled,
    /// Memory of an accelerator in use, in bytes.
    Bytes,
    /// State of charge, 0 to 1.
    Charge,
}

/// What sensors told over a stretch of time, one column a sensor. It is kept at about one row a second; powers and
/// energies are integrated from every reading.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Timeline {
    /// Seconds since the stretch began, one a row.
    pub seconds: Vec<f64>,
    /// By the sensor's name: its mean over each row's time; nothing where it could not be read.
    pub values: std::collections::BTreeMap<String, Vec<Option<f64>>>,
}

/// Energy of a stretch of time, from the best source that there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// Names of the sensors that were added up.
    pub sources: Vec<String>,
    /// What they cover together; nothing is subtracted.
    pub covers: String,
    /// Energy in J.
    pub joules: f64,
    /// Seconds over which it was measured.
    pub seconds: f64,
    /// Mean power in W.
    pub watts: f64,
    /// Mean power in W before the work began; absent where it was not measured.
    pub idle_watts: Option<f64>,
}

/// Whether the device was slowed down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Throttling {
    /// Whether it was; absent where nothing tells.
    pub seen: Option<bool>,
    /// What tells, and what it told.
    pub evidence: Vec<String>,
}

/// What else kept the machine busy over a stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Contention {
    /// Share, 0 to 1, of all processors' time that other processes used.
    pub others: Option<f64>,
    /// Share, 0 to 1, of all processors' time that a hypervisor gave to other machines.
    pub stolen: Option<f64>,
    /// Share of the time, 0 to 1, in which some task waited for a processor (PSI, `some`), our own tasks included.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
    /// Bytes that were swapped in and out.
    pub swapped_bytes: Option<u64>,
    /// How often a process that is measured had to leave a processor to another.
    pub involuntary_switches: Option<u64>,
}

/// The state of a device at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The kernel's release.
    pub kernel: Option<String>,
    /// What virtualises it, as far as it tells; absent on bare metal, and where nothing tells.
    pub hypervisor: Option<String>,
    /// The power mode's name, such as `MAXN` of a Jetson.
    pub power_mode: Option<String>,
    /// The clock governor of the first core.
    pub governor: Option<String>,
    /// The hottest thermal zone, in °C.
    pub hottest_celsius: Option<f64>,
    /// Bytes of memory that could be used without swapping.
    pub available_bytes: Option<u64>,
    /// Bytes that are swapped out.
    pub swapped_bytes: Option<u64>,
    /// Mean number of runnable tasks over the last minute.
    pub load: Option<f64>,
    /// Share of the last ten seconds, 0 to 1, in which some task waited for a processor.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
    /// Whether it runs from a battery.
    pub on_battery: Option<bool>,
}
