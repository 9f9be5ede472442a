//! Every kind of source: where it is looked for, and what it needs.

use super::Quantity::{self, Celsius, Joules, Load, Megahertz, Pressure, Throttled, Watts};
use super::file::{Found, source};
use super::{busy, clock, nvml, power, thermal, throttle};
use crate::root::Root;

/// One kind of source.
pub struct SourceKind {
    /// What its sensors' names begin with.
    pub name: &'static str,
    /// What its first sensor measures.
    pub quantity: Quantity,
    /// What it tells.
    pub tells: &'static str,
    /// Where it is looked for.
    pub place: &'static str,
    /// Who may read it.
    pub needs: &'static str,
    pub(super) find: fn(Root<'_>) -> Vec<Found>,
}

const NOTHING: &str = "nothing";

/// Every kind, in the order in which sensors are told.
#[rustfmt::skip]
pub const SOURCES: &[SourceKind] = &[
    SourceKind { name: "thermal", quantity: Celsius, tells: "temperature of each thermal zone", place: "/sys/class/thermal/thermal_zone*/temp", needs: NOTHING, find: thermal::zones_found },
    SourceKind { name: "hwmon", quantity: Celsius, tells: "temperature of a processor's package (coretemp, k10temp)", place: "/sys/class/hwmon/hwmon*/temp1_input", needs: NOTHING, find: thermal::processors_found },
    SourceKind { name: "cpufreq", quantity: Megahertz, tells: "clock of each clock domain of cores; of more than 8 their mean", place: "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq", needs: NOTHING, find: clock::cores },
    SourceKind { name: "devfreq", quantity: Megahertz, tells: "clock and use of graphics processors and memory (Jetson, Mali)", place: "/sys/class/devfreq/*/{cur_freq,load,device/load}, /sys/devices/platform/gpu.0/load", needs: NOTHING, find: clock::devices },
    SourceKind { name: "load", quantity: Load, tells: "use of all processors", place: "/proc/stat", needs: NOTHING, find: busy::load },
    SourceKind { name: "pressure", quantity: Pressure, tells: "share of the time in which some task waited for a processor or for memory", place: "/proc/pressure/{cpu,memory}", needs: "a kernel with PSI (4.20 or newer; some need psi=1 on its command line)", find: busy::pressure },
    SourceKind { name: "ina3221", quantity: Watts, tells: "power of each rail of a Jetson", place: "/sys/class/hwmon/hwmon*/{in,curr}[1-3]_input", needs: NOTHING, find: power::rails },
    SourceKind { name: "rapl", quantity: Joules, tells: "energy of each processor package of Intel and AMD", place: "/sys/class/powercap/intel-rapl:*/energy_uj", needs: "root, or sudo chmod a+r", find: power::packages },
    SourceKind { name: "nvml", quantity: Watts, tells: "power, energy, temperature, clock, slowing down, memory and use of NVIDIA's graphics processors", place: "libnvidia-ml.so.1 (nvml.dll)", needs: "NVIDIA's driver", find: nvml::find },
    SourceKind { name: "battery", quantity: Watts, tells: "power while discharging, and state of charge", place: "/sys/class/power_supply/BAT*/{power_now,current_now,voltage_now,capacity}", needs: NOTHING, find: power::batteries },
    SourceKind { name: "pmic", quantity: Watts, tells: "a Raspberry Pi 5's power; always absent, with the reason", place: "a Raspberry Pi 5: vcgencmd pmic_read_adc", needs: "a meter in the supply line instead", find: power::pmic },
    SourceKind { name: "firmware", quantity: Throttled, tells: "low voltage, capped clock, heat of a Raspberry Pi", place: "/sys/devices/platform/soc*/soc*/get_throttled", needs: NOTHING, find: throttle::firmware },
    SourceKind { name: "soctherm", quantity: Throttled, tells: "low voltage and over-current of a Jetson", place: "/sys/class/hwmon/hwmon*/oc[1-3]_event_cnt", needs: NOTHING, find: throttle::supply_counters },
    SourceKind { name: "thermal_throttle", quantity: Throttled, tells: "a package of Intel's that was too hot", place: "/sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count", needs: NOTHING, find: throttle::package_counters },
    SourceKind { name: "cooling", quantity: Throttled, tells: "cooling devices of Linux that slow something down", place: "/sys/class/thermal/cooling_device*/cur_state", needs: NOTHING, find: throttle::cooling },
    SourceKind { name: "powermetrics", quantity: Watts, tells: "macOS's own tool; always absent, with the reason", place: "macOS: powermetrics", needs: "root, and a program beside what is measured", find: powermetrics },
];

impl SourceKind {
    /// All its sensors, or one that says why there are none.
    pub(super) fn look(&self, root: Root<'_>) -> Vec<Found> {
        let found = (self.find)(root);
        if found.is_empty() {
            let what = source(self.name, self.quantity, self.tells);
            return vec![Found::absent(what, format!("not here: {}", self.place))];
        }
        found
    }
}

/// macOS tells power and heat to root only, and only through a program.
fn powermetrics(_: Root<'_>) -> Vec<Found> {
    if !cfg!(target_os = "macos") {
        return Vec::new();
    }
    let what = source("powermetrics", Quantity::Watts, "processor, graphics processor and neural engine");
    let reason = "it is for root, and runs beside what is measured: sudo powermetrics --samplers \
                  cpu_power,gpu_power,ane_power,thermal -i 1000 > power.txt";
    vec![Found::absent(what, reason)]
}
