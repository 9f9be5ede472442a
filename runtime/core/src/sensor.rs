//! What a device tells of itself while it works: temperatures, clocks, power, load, whether it is slowed down.
//!
//! Every source is one file below `sensor/` and one row of a table; each may be absent, and says why.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::root::Root;
use crate::target::Measuring;

#[cfg(test)]
mod boards;
mod busy;
mod clock;
pub mod contention;
mod file;
mod nvml;
mod power;
pub mod quiet;
mod record;
mod recorder;
mod state;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod thermal;
pub(crate) mod throttle;
mod total;

pub use record::Recorded;
pub use recorder::Recorder;
pub(crate) use state::{Governor, PowerMode, driver, governors, memory, power_mode};
pub use table::{SOURCES, SourceKind};

use file::Found;
use record::Summed;

/// Something that can be read again and again.
pub trait Sensor: Send {
    /// What it reads.
    fn source(&self) -> &Source;

    /// Its value now, in the unit of its [`Quantity`]; nothing where it could not be read this time.
    fn read(&mut self) -> Option<f64>;

    /// What it found when it last was not zero, in words; only what [`Quantity::Throttled`] has such.
    fn told(&self) -> Option<&str> {
        None
    }
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

/// All sensors of a device, and those that are not there.
pub struct Sensors {
    sensors: Vec<Box<dyn Sensor>>,
    absent: Vec<Source>,
    summed: Result<Summed, String>,
}

impl Sensors {
    /// Looks for every kind of [`SOURCES`] below `root`, which is `/` for this machine. Files stay open, each was read
    /// once. `wanted` says which sensors' power adds up to the device's.
    pub fn find(root: &Path, wanted: &Measuring) -> Self {
        let (mut sensors, mut absent) = (Vec::new(), Vec::new());
        for found in SOURCES.iter().flat_map(|kind| kind.look(Root(root))) {
            match found {
                Found::Here(sensor) => sensors.push(sensor),
                Found::Absent(source) => absent.push(source),
            }
        }
        Self::with_absent(sensors, absent, wanted)
    }

    /// These sensors and no others: of a board's own kind, or of a test. Of two with one name the second is told as
    /// `NAME#2`.
    pub fn of(sensors: Vec<Box<dyn Sensor>>, wanted: &Measuring) -> Self {
        Self::with_absent(sensors, Vec::new(), wanted)
    }

    fn with_absent(sensors: Vec<Box<dyn Sensor>>, mut absent: Vec<Source>, wanted: &Measuring) -> Self {
        let mut named: Vec<Box<dyn Sensor>> = Vec::with_capacity(sensors.len());
        let mut names = std::collections::BTreeMap::<String, usize>::new();
        for sensor in sensors {
            let count = names.entry(sensor.source().name.clone()).or_default();
            *count += 1;
            match *count {
                1 => named.push(sensor),
                count => named.push(Renamed::numbered(sensor, count)),
            }
        }
        for source in &mut absent {
            let count = names.entry(source.name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                source.name = format!("{}#{count}", source.name);
            }
        }
        let present: Vec<_> = named.iter().map(|sensor| sensor.source().clone()).collect();
        let summed = total::choose(&present, &absent, wanted);
        Self { sensors: named, absent, summed }
    }

    /// Every sensor that was looked for, those that are there first.
    pub fn sources(&self) -> Vec<Source> {
        self.present().chain(&self.absent).cloned().collect()
    }

    /// Names of the sensors whose energy is added up, and what they cover together.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn measured_energy(&self) -> Result<(Vec<&str>, &str), &str> {
        let Summed { columns, covers } = self.summed.as_ref().map_err(String::as_str)?;
        let names = columns.iter().map(|column| self.sensors[*column].source().name.as_str());
        Ok((names.collect(), covers))
    }

    /// Every sensor that is there with its value now, in the unit of its quantity. What is a share of the time since the
    /// reading before has no value the first time.
    pub fn read(&mut self) -> Vec<(&Source, Option<f64>)> {
        let read = |sensor: &'_ mut Box<dyn Sensor>| sensor.read();
        let values: Vec<_> = self.sensors.iter_mut().map(read).collect();
        self.sensors.iter().map(|sensor| sensor.source()).zip(values).collect()
    }

    fn present(&self) -> impl Iterator<Item = &Source> {
        self.sensors.iter().map(|sensor| sensor.source())
    }

    fn summed(&self) -> &Result<Summed, String> {
        &self.summed
    }

    fn read_into(&mut self, values: &mut [Option<f64>]) {
        for (sensor, value) in self.sensors.iter_mut().zip(values) {
            *value = sensor.read();
        }
    }

    /// Hands over what sensors say in words that are slowed down by these values.
    fn told(&self, values: &[Option<f64>], mut tell: impl FnMut(usize, &str)) {
        for (column, (sensor, value)) in self.sensors.iter().zip(values).enumerate() {
            if sensor.source().quantity == Quantity::Throttled && value.is_some_and(|value| value > 0.0) {
                sensor.told().into_iter().for_each(|told| tell(column, told));
            }
        }
    }
}

impl std::fmt::Debug for Sensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.sources()).finish()
    }
}

/// A sensor whose name another one has.
struct Renamed {
    source: Source,
    sensor: Box<dyn Sensor>,
}

impl Renamed {
    fn numbered(sensor: Box<dyn Sensor>, number: usize) -> Box<dyn Sensor> {
        let source = sensor.source().clone();
        Box::new(Self { source: Source { name: format!("{}#{number}", source.name), ..source }, sensor })
    }
}

impl Sensor for Renamed {
    fn source(&self) -> &Source {
        &self.source
    }

    fn read(&mut self) -> Option<f64> {
        self.sensor.read()
    }

    fn told(&self) -> Option<&str> {
        self.sensor.told()
    }
}

impl Quantity {
    /// The unit of a timeline's values: of a counter of energy that is the unit of power. A share, 0 to 1, has none.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Celsius => "°C",
            Self::Megahertz => "MHz",
            Self::Watts | Self::Joules => "W",
            Self::Bytes => "B",
            Self::Load | Self::Pressure | Self::Throttled | Self::Charge => "",
        }
    }
}

/// What sensors told over a stretch of time, one column a sensor. It is kept at about one row a second; powers and
/// energies are integrated from every reading.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Timeline {
    /// Seconds since the stretch began, one a row: the mean of the row's readings.
    pub seconds: Vec<f64>,
    /// By the sensor's name: its mean over each row's time, of a counter of energy the mean power in W; nothing where it
    /// could not be read.
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
    /// The version of NVIDIA's driver, such as `580.159.04`; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The newest CUDA that this driver runs, such as `13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
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
