//! The device around a measurement: waiting until it is quiet and cool, sensors, and what else keeps it busy.

use std::path::Path;
use std::time::Duration;

use safelight::bench::protocol::Around;
use safelight::sensor::contention::Watch;
use safelight::sensor::quiet::Quiet;
use safelight::sensor::{Contention, Recorded, Recorder, Sensors, Source, State};
use safelight::target::Measuring;
use safelight::{Cancel, Result, Target};

/// This machine.
const ROOT: &str = "/";

/// Seconds that a busy machine is waited for: its pressure is a mean of ten.
const BUSY_SECONDS: u64 = 30;

/// Share of the last ten seconds in which some task may have waited for a processor.
const MOST_PRESSURE: f64 = 0.1;

/// Seconds over which power is measured before any work.
const IDLE: Duration = Duration::from_secs(5);

/// The device, with all that reads it.
pub(crate) struct Device {
    /// None while a pass reads them.
    sensors: Option<Sensors>,
    measuring: Measuring,
    wait: Option<u64>,
    idle_watts: Option<f64>,
    is_rested: bool,
}

impl Device {
    pub(crate) fn new(target: &Target, wait: Option<u64>) -> Self {
        let measuring = target.bench.clone();
        let sensors = Some(Sensors::find(Path::new(ROOT), &measuring));
        Self { sensors, measuring, wait, idle_watts: None, is_rested: false }
    }

    /// Every sensor that was looked for.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sensors.as_ref().map(Sensors::sources).unwrap_or_default()
    }

    /// Waits until it is quiet and cool; returns what it was not when time was up.
    pub(crate) fn wait(&mut self, cancel: &Cancel, tell: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
        let Measuring { start_celsius, cool_down_seconds, .. } = self.measuring;
        let busy = Quiet { start_celsius: None, most_pressure: MOST_PRESSURE, most_seconds: BUSY_SECONDS };
        let hot = Quiet { start_celsius, most_pressure: 1.0, most_seconds: cool_down_seconds };
        let mut left = Vec::new();
        for quiet in [busy, hot] {
            let quiet = Quiet { most_seconds: self.wait.unwrap_or(quiet.most_seconds), ..quiet };
            left.extend(quiet.wait(Path::new(ROOT), cancel, &mut std::thread::sleep, tell)?.left);
        }
        Ok(left)
    }

    /// Measures once what the device takes when nothing works, where anything measures power.
    pub(crate) fn rest(&mut self, tell: &mut dyn FnMut(&str)) {
        let measures = self.sensors.as_ref().is_some_and(|sensors| sensors.measured_energy().is_ok());
        if self.is_rested || !measures {
            return;
        }
        tell("measuring the power of an idle device");
        self.is_rested = true;
        let mut around = self.around(Vec::new(), 0.0);
        around.begin();
        std::thread::sleep(IDLE);
        around.end();
        let (recorded, _) = self.take_back(around);
        self.idle_watts = recorded.energy.map(|energy| energy.watts);
    }

    /// What is to read the device during a pass of the processes `pids`, or of those that this one starts and waits for.
    pub(crate) fn around(&mut self, pids: Vec<u32>, per_second: f64) -> Watched {
        let (recorded, contention) = (Recorded::default(), Contention::default());
        Watched { sensors: self.sensors.take(), pids, per_second, under_way: None, recorded, contention }
    }

    /// Ends a pass; returns what was read during it.
    pub(crate) fn take_back(&mut self, watched: Watched) -> (Recorded, Contention) {
        let Watched { sensors, mut recorded, contention, .. } = watched;
        self.sensors = sensors;
        if let Some(energy) = &mut recorded.energy {
            energy.idle_watts = self.idle_watts;
        }
        (recorded, contention)
    }
}

/// Reads the device during a headline pass.
pub(crate) struct Watched {
    sensors: Option<Sensors>,
    pids: Vec<u32>,
    per_second: f64,
    under_way: Option<(Watch, Option<Recorder>)>,
    recorded: Recorded,
    contention: Contention,
}

impl Around for Watched {
    fn begin(&mut self) {
        let recorder = self.sensors.take().and_then(|sensors| Recorder::start(sensors, self.per_second).ok());
        self.under_way = Some((Watch::begin(Path::new(ROOT), &self.pids), recorder));
    }

    fn end(&mut self) {
        let Some((watch, recorder)) = self.under_way.take() else { return };
        self.contention = watch.end();
        if let Some((sensors, recorded)) = recorder.map(Recorder::stop) {
            (self.sensors, self.recorded) = (Some(sensors), recorded);
        }
    }
}

/// What of a device's state should be otherwise before it is measured.
pub(crate) fn warnings(state: &State) -> Vec<String> {
    let governor = state.governor.as_ref().filter(|governor| *governor != "performance");
    let governor = governor.map(|governor| {
        format!(
            "the clock governor is {governor}, with which clocks change while it is measured; performance holds them"
        )
    });
    let swapped = state.swapped_bytes.filter(|bytes| *bytes > MOST_SWAPPED);
    let swapped = swapped.map(|bytes| format!("{} MiB are swapped out already: end what else runs", bytes >> 20));
    let battery = state.on_battery.filter(|on| *on);
    let battery = battery.map(|_| "the device runs from its battery, which may slow it down: plug it in".to_owned());
    let load = state.load.filter(|load| *load > MOST_LOAD);
    let load = load.map(|load| format!("{load:.1} tasks were runnable over the last minute: end what else runs"));
    [governor, swapped, battery, load].into_iter().flatten().collect()
}

/// Pages that were swapped out long ago do no harm; more than this is a sign of too little memory.
const MOST_SWAPPED: u64 = 64 << 20;

/// Runnable tasks over the last minute on a device where nothing runs.
const MOST_LOAD: f64 = 0.5;
