//! A benchmark's report without a benchmark: every field filled, the same every time.
#![allow(dead_code, reason = "no test file needs everything")]

use std::collections::{BTreeMap, BTreeSet};

use rand_mt::Mt;
use safelight::bench::report::{
    Case, ColdStart, Detailed, GoldensHeld, GraphUsed, Images, LibraryUsed, MemoryUsed, ModelUsed, OutputHash,
    PictureHeld, Protocol, Quality, Report, Scenario, TargetUsed, Tool, Validity, Workload,
};
use safelight::bench::summary::summarise;
use safelight::machine::{Feature, Machine};
use safelight::memory::StageMemory;
use safelight::sensor::{Contention, Energy, Quantity, Source, State, Throttling, Timeline};
use safelight::{Precision, Stage};

/// What a made-up case is like.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) workload: Workload,
    /// Images of the headline pass.
    pub(crate) images: usize,
    /// About what an image takes, in ms.
    pub(crate) ms: f64,
    /// By how much of that images differ.
    pub(crate) spread: f64,
    /// Of the noise.
    pub(crate) seed: u32,
}

impl Default for Made {
    fn default() -> Self {
        let workload = Workload {
            scenario: Scenario::SingleStream,
            precision: Precision::Int8,
            steps: 4,
            width: 128,
            height: 128,
            batch: 1,
            sampler: "lcm".into(),
        };
        Self { workload, images: 150, ms: 200.0, spread: 0.03, seed: 1 }
    }
}

/// A report of a valid benchmark.
pub(crate) fn report(cases: impl IntoIterator<Item = Made>) -> Report {
    Report {
        schema: Report::SCHEMA.into(),
        created: "2026-01-02T03:04:05Z".into(),
        finished: true,
        tool: Tool {
            safelight: "0.1.0".into(),
            release: true,
            arguments: vec!["bench".into(), "--steps".into(), "4".into()],
        },
        library: LibraryUsed { version: "1.22.0".into(), file: "libonnxruntime.so.1.22.0".into(), sha256: hash(1) },
        machine: Machine {
            os: "linux".into(),
            arch: "aarch64".into(),
            board: Some("Raspberry Pi 5 Model B Rev 1.0".into()),
            compatible: vec!["raspberrypi,5-model-b".into(), "brcm,bcm2712".into()],
            l4t: None,
            processor: Some("Cortex-A76".into()),
            features: BTreeSet::from([Feature::Dotprod]),
            cores: 4,
            memory_bytes: Some(8 << 30),
            gpus: Vec::new(),
        },
        warnings: vec!["the clock governor is ondemand: clocks may change while it is measured".into()],
        state: State {
            kernel: Some("6.6.31".into()),
            power_mode: Some("MAXN".into()),
            governor: Some("performance".into()),
            hottest_celsius: Some(41.5),
            available_bytes: Some(6 << 30),
            swapped_bytes: Some(0),
            load: Some(0.1),
            on_battery: Some(false),
            ..State::default()
        },
        notes: vec!["22 °C, active cooler".into()],
        target: TargetUsed {
            name: "raspberry-pi-5".into(),
            title: "Raspberry Pi 5, 8 GB".into(),
            settings: serde_json::json!({ "session": { "intra_op_threads": 4 }, "limits": { "max_pixels": 262_144 } }),
        },
        model: ModelUsed { name: "emoji".into(), title: "Emoji".into() },
        protocol: protocol(),
        sensors: sensors(),
        cases: cases.into_iter().map(case).collect(),
    }
}

/// A valid case: noise about a time, with a heavy right tail.
pub(crate) fn case(made: Made) -> Case {
    let Made { workload, images, ms, spread, seed } = made;
    let mut random = Mt::new(seed);
    let mut sample = |ms: f64| {
        let mut share = || f64::from(random.next_u32()) / f64::from(u32::MAX);
        ms * (1.0 + spread * (share() + share() + share() - 1.5) + spread * share().powi(8))
    };
    let times: Vec<f64> = (0..images).map(|_| sample(ms)).collect();
    let start_s = times.iter().scan(0.0, |now, ms| Some(std::mem::replace(now, *now + ms / 1e3))).collect();
    let detailed: Vec<_> = (0..8).map(|_| detailed(sample(ms), workload.steps)).collect();
    let cold: Vec<_> = (0..3).map(|_| cold(sample(ms))).collect();
    let seconds = times.iter().sum::<f64>() / 1e3;
    let images = Images { start_s, ms: times, outputs: outputs(images), non_finite: 0 };
    Case {
        error: None,
        graphs: graphs(workload.precision),
        warm_up_ms: vec![1.4 * ms, 1.02 * ms, ms],
        summary: summarise(workload.scenario, &images, &detailed, &cold, workload.batch),
        images,
        detailed,
        cold,
        memory: Some(memory()),
        timeline: timeline(seconds),
        energy: Some(energy(seconds)),
        throttling: Throttling { seen: Some(false), evidence: vec!["vcgencmd get_throttled: 0x0".into()] },
        contention: Contention {
            others: Some(0.004),
            stolen: Some(0.0),
            cpu_pressure: Some(0.02),
            memory_pressure: Some(0.0),
            swapped_bytes: Some(0),
            involuntary_switches: Some(12),
        },
        quality: Some(quality()),
        validity: Validity {
            valid: true,
            reasons: Vec::new(),
            checks: BTreeMap::from([("enough_images".into(), Some(true)), ("no_throttling".into(), Some(true))]),
        },
        advice: Vec::new(),
        workload,
    }
}

/// Words of 64 hexadecimal digits that look like a hash.
pub(crate) fn hash(number: u32) -> String {
    format!("{number:08x}").repeat(8)
}

fn protocol() -> Protocol {
    Protocol {
        requests: 16,
        requests_sha256: hash(2),
        cold_processes: 3,
        warm_up_images: [3, 20],
        warm_up_tolerance: 0.05,
        least_images: 64,
        least_seconds: 60.0,
        most_seconds: 600.0,
        detailed_images: 8,
        compared_pictures: 4,
        readings_per_second: 10.0,
        most_contention: 0.1,
        most_drift: 0.05,
        start_celsius: Some(50.0),
    }
}

fn sensors() -> Vec<Source> {
    let source = |name: &str, quantity, absent: Option<&str>| Source {
        name: name.into(),
        quantity,
        covers: "the whole board".into(),
        absent: absent.map(str::to_owned),
    };
    vec![
        source("thermal/cpu-thermal", Quantity::Celsius, None),
        source("cpufreq/policy0", Quantity::Megahertz, None),
        source("pmic/total", Quantity::Watts, None),
        source("rapl/package-0", Quantity::Joules, Some("/sys/class/powercap: no such folder")),
    ]
}

fn timeline(seconds: f64) -> Timeline {
    let rows = seconds as usize;
    let column = |at: fn(f64) -> f64| (0..rows).map(|row| Some(at(row as f64 / rows as f64))).collect();
    Timeline {
        seconds: (0..rows).map(|row| row as f64).collect(),
        values: BTreeMap::from([
            ("thermal/cpu-thermal".into(), column(|at| 45.0 + 15.0 * at)),
            ("cpufreq/policy0".into(), column(|_| 2400.0)),
            ("pmic/total".into(), column(|at| 7.0 + at)),
        ]),
    }
}

fn energy(seconds: f64) -> Energy {
    Energy {
        sources: vec!["pmic/total".into()],
        covers: "the whole board".into(),
        joules: 7.5 * seconds,
        seconds,
        watts: 7.5,
        idle_watts: Some(3.0),
    }
}

fn graphs(precision: Precision) -> BTreeMap<Stage, GraphUsed> {
    let graph = |number: u32| GraphUsed {
        precision,
        sha256: hash(number),
        providers: vec!["cpu".into()],
        nodes: BTreeMap::from([("CPUExecutionProvider".into(), 100 + number as usize)]),
    };
    BTreeMap::from([(Stage::TextEncoder, graph(10)), (Stage::Denoiser, graph(11)), (Stage::Decoder, graph(12))])
}

fn outputs(images: usize) -> Vec<OutputHash> {
    let count = |request: usize| images / 16 + usize::from(request < images % 16);
    let output = |request: usize| OutputHash { request, sha256: hash(100 + request as u32), count: count(request) };
    (0..16.min(images)).map(output).collect()
}

fn cold(first_image_ms: f64) -> ColdStart {
    ColdStart {
        process_ms: 4.0,
        open_ms: 300.0,
        first_image_ms,
        total_ms: 305.0 + first_image_ms,
        peak_bytes: Some(190 << 20),
        cache: BTreeMap::from([(Stage::Denoiser, "hit".into())]),
    }
}

fn detailed(total_ms: f64, steps: usize) -> Detailed {
    let denoiser_ms = 0.8 * total_ms;
    Detailed {
        total_ms,
        reopen_ms: 0.0,
        text_encoder_ms: 0.05 * total_ms,
        denoiser_ms,
        steps_ms: vec![denoiser_ms / steps as f64; steps],
        decoder_ms: 0.14 * total_ms,
        own_ms: 0.01 * total_ms,
    }
}

fn memory() -> MemoryUsed {
    let stage = |after: u64| StageMemory {
        before: 40 << 20,
        opening_peak: Some(after + (20 << 20)),
        opened: Some(after),
        peak: Some(after + (10 << 20)),
        after,
    };
    MemoryUsed {
        peak_bytes: 190 << 20,
        stages: BTreeMap::from([(Stage::Denoiser, stage(150 << 20)), (Stage::Decoder, stage(170 << 20))]),
        device_bytes: None,
    }
}

fn quality() -> Quality {
    let picture = |seed: u64| PictureHeld {
        prompt: "a red apple".into(),
        seed,
        psnr_db: Some(30.0 + seed as f64),
        latent_l2: 0.04,
        steps_l2: vec![0.01, 0.02, 0.03, 0.04],
        file: None,
        reference_file: None,
    };
    Quality {
        goldens: Some(GoldensHeld {
            made: 2,
            failed: 0,
            least_psnr_db: Some(33.0),
            most_latent_l2: Some(0.03),
            first_divergence: None,
        }),
        reference: Some("fp32 on the CPU".into()),
        pictures: vec![picture(1), picture(2)],
        passed: Some(true),
        notes: Vec::new(),
    }
}
