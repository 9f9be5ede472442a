//! Machines as folders, written as their kernels have them: for tests. Contents are what such boards tell, by their
//! documentation and public logs; none was read on a board here.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Paths and contents.
pub(super) type Files = &'static [(&'static str, &'static str)];

/// A machine that is a folder.
pub(super) struct Board(TempDir);

impl Board {
    pub(super) fn new(files: &[Files]) -> Self {
        let board = Self(tempfile::tempdir().unwrap());
        files.iter().copied().flatten().for_each(|(path, content)| board.write(path, content));
        board
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).unwrap();
    }
}

/// What every Linux has; two processors, of which a quarter was busy.
pub(super) const LINUX: Files = &[
    ("proc/stat", "cpu  200 0 40 700 20 0 10 30 0 0\ncpu0 100 0 20 350 10 0 5 15 0 0\nbtime 1"),
    (
        "proc/pressure/cpu",
        "some avg10=1.50 avg60=0.80 avg300=0.24 total=1000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0",
    ),
    (
        "proc/pressure/memory",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0",
    ),
    ("proc/loadavg", "0.52 0.58 0.59 2/512 31337"),
    ("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\nSwapTotal: 1000 kB\nSwapFree: 400 kB"),
    ("proc/vmstat", "nr_free_pages 1\npswpin 10\npswpout 20"),
    ("proc/sys/kernel/osrelease", "5.15.148-tegra"),
];

/// Zones, clocks and cooling of a Jetson with Orin: a part without power tells −256 °C.
const ORIN: Files = &[
    ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >"),
    ("var/lib/nvpmodel/status", "pmode:0001"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
    ("sys/class/thermal/thermal_zone0/temp", "51718"),
    ("sys/class/thermal/thermal_zone1/type", "gpu-thermal"),
    ("sys/class/thermal/thermal_zone1/temp", "48500"),
    ("sys/class/thermal/thermal_zone2/type", "cv0-thermal"),
    ("sys/class/thermal/thermal_zone2/temp", "-256000"),
    ("sys/class/thermal/thermal_zone10/type", "tj-thermal"),
    ("sys/class/thermal/thermal_zone10/temp", "51718"),
    ("sys/class/thermal/cooling_device0/type", "pwm-fan"),
    ("sys/class/thermal/cooling_device0/cur_state", "3"),
    ("sys/class/thermal/cooling_device1/type", "cpu-throttle-alert"),
    ("sys/class/thermal/cooling_device1/cur_state", "0"),
    ("sys/class/thermal/cooling_device2/type", "cpufreq-cpu0"),
    ("sys/class/thermal/cooling_device2/cur_state", "0"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1510400"),
    ("sys/devices/system/cpu/cpufreq/policy0/related_cpus", "0 1 2 3"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil"),
    ("sys/class/devfreq/17000000.gpu/cur_freq", "624750000"),
    ("sys/class/devfreq/17000000.gpu/device/load", "957"),
    ("sys/class/hwmon/hwmon0/name", "soctherm_oc"),
    ("sys/class/hwmon/hwmon0/oc1_event_cnt", "0"),
    ("sys/class/hwmon/hwmon0/oc2_event_cnt", "2"),
    ("sys/class/hwmon/hwmon0/oc3_event_cnt", "0"),
];

const NANO_RAILS: Files = &[
    ("sys/class/hwmon/hwmon1/name", "ina3221"),
    ("sys/class/hwmon/hwmon1/in1_label", "VDD_IN"),
    ("sys/class/hwmon/hwmon1/in1_input", "4984"),
    ("sys/class/hwmon/hwmon1/curr1_input", "1856"),
    ("sys/class/hwmon/hwmon1/in2_label", "VDD_CPU_GPU_CV"),
    ("sys/class/hwmon/hwmon1/in2_input", "4984"),
    ("sys/class/hwmon/hwmon1/curr2_input", "600"),
    ("sys/class/hwmon/hwmon1/in3_label", "VDD_SOC"),
    ("sys/class/hwmon/hwmon1/in3_input", "4976"),
    ("sys/class/hwmon/hwmon1/curr3_input", "400"),
    ("sys/class/hwmon/hwmon1/in7_label", "sum of shunt voltages"),
    ("sys/class/hwmon/hwmon1/in7_input", "760"),
];

const AGX_RAILS: Files = &[
    ("sys/class/hwmon/hwmon3/name", "ina3221"),
    ("sys/class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC"),
    ("sys/class/hwmon/hwmon3/in1_input", "19000"),
    ("sys/class/hwmon/hwmon3/curr1_input", "500"),
    ("sys/class/hwmon/hwmon3/in2_label", "VDD_CPU_CV"),
    ("sys/class/hwmon/hwmon3/in2_input", "19000"),
    ("sys/class/hwmon/hwmon3/curr2_input", "100"),
    ("sys/class/hwmon/hwmon3/in3_label", "VIN_SYS_5V0"),
    ("sys/class/hwmon/hwmon3/in3_input", "5000"),
    ("sys/class/hwmon/hwmon3/curr3_input", "1000"),
    ("sys/class/hwmon/hwmon4/name", "ina3221"),
    ("sys/class/hwmon/hwmon4/in1_label", "NC"),
    ("sys/class/hwmon/hwmon4/in1_input", "0"),
    ("sys/class/hwmon/hwmon4/curr1_input", "0"),
    ("sys/class/hwmon/hwmon4/in2_label", "VDDQ_VDD2_1V8AO"),
    ("sys/class/hwmon/hwmon4/in2_input", "5000"),
    ("sys/class/hwmon/hwmon4/curr2_input", "200"),
];

const PI: Files = &[
    ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
    ("sys/class/thermal/thermal_zone0/temp", "63350"),
    ("sys/class/thermal/cooling_device0/type", "pwm-fan"),
    ("sys/class/thermal/cooling_device0/cur_state", "2"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "2400000"),
    ("sys/devices/system/cpu/cpufreq/policy0/related_cpus", "0 1 2 3"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand"),
    ("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50000"),
];

/// An Intel laptop: RAPL for root only, a battery that tells current and voltage, twelve cores with a clock each.
const LAPTOP: Files = &[
    ("sys/class/thermal/thermal_zone0/type", "acpitz"),
    ("sys/class/thermal/thermal_zone0/temp", "27800"),
    ("sys/class/thermal/thermal_zone1/type", "acpitz"),
    ("sys/class/thermal/thermal_zone1/temp", "29800"),
    ("sys/class/thermal/cooling_device0/type", "Processor"),
    ("sys/class/thermal/cooling_device0/cur_state", "0"),
    ("sys/class/thermal/cooling_device1/type", "intel_powerclamp"),
    ("sys/class/thermal/cooling_device1/cur_state", "-1"),
    ("sys/class/hwmon/hwmon0/name", "coretemp"),
    ("sys/class/hwmon/hwmon0/temp1_input", "71000"),
    ("sys/class/powercap/intel-rapl:0/name", "package-0"),
    ("sys/class/powercap/intel-rapl:0/energy_uj", "262143000000"),
    ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850"),
    ("sys/class/powercap/intel-rapl:0:0/name", "core"),
    ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5000000"),
    ("sys/class/powercap/intel-rapl:0:0/max_energy_range_uj", "262143328850"),
    ("sys/class/powercap/intel-rapl:1/name", "psys"),
    ("sys/class/powercap/intel-rapl:1/energy_uj", "9000000"),
    ("sys/class/powercap/intel-rapl:1/max_energy_range_uj", "262143328850"),
    ("sys/class/powercap/intel-rapl-mmio:0/name", "package-0"),
    ("sys/class/powercap/intel-rapl-mmio:0/energy_uj", "1"),
    ("sys/class/power_supply/AC/online", "0"),
    ("sys/class/power_supply/BAT0/status", "Discharging"),
    ("sys/class/power_supply/BAT0/capacity", "83"),
    ("sys/class/power_supply/BAT0/current_now", "1000000"),
    ("sys/class/power_supply/BAT0/voltage_now", "12000000"),
    ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "7"),
    ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0"),
    ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "7"),
    ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "0"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
];

pub(super) fn orin_nano() -> Board {
    Board::new(&[LINUX, ORIN, NANO_RAILS])
}

pub(super) fn agx_orin() -> Board {
    Board::new(&[LINUX, ORIN, AGX_RAILS])
}

pub(super) fn raspberry_pi_5() -> Board {
    Board::new(&[LINUX, PI])
}

pub(super) fn laptop() -> Board {
    let board = Board::new(&[LINUX, LAPTOP]);
    for core in 0..12 {
        let policy = format!("sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq");
        board.write(&policy, &format!("{}", 1_000_000 + 100_000 * core));
    }
    board
}
