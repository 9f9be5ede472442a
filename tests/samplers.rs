//! Every sampler against the reference, on an analytic denoiser: `tests/golden/samplers.json`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::OnceLock;

use ndarray::Zip;
use safelight::guidance::GUIDANCES;
use safelight::noise::{GENERATORS, TorchCpu};
use safelight::options::{OPTIONS, Opt, OptionKind, OptionRow, Options};
use safelight::sampler::{
    Denoise, Latent, Method, Part, Run, SAMPLERS, Step, Steps, Tally, ddim_inverse, find_sampler,
};
use safelight::schedule::{Grid, SCHEDULES, Schedule, find_schedule};
use safelight::training::{
    Betas, DiffusionSpec, DynamicShift, EdmSpec, EdmTimestep, FlowSpec, Level, Preconditioning, Prediction, Training,
    TrainingSpec,
};
use safelight::trajectory::{Relay, Restart, Trajectory, Walk};
use safelight::{Curve, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Weight, mean and deviation of each Gaussian of the mixture that every number of the data is drawn from.
const MIXTURE: [(f64, f64, f64); 3] = [(0.3, -1.2, 0.35), (0.5, 0.4, 0.5), (0.2, 1.5, 0.25)];
const SHAPE: (usize, usize, usize, usize) = (1, 2, 2, 2);

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    deviations: Vec<Case>,
    schedules: Vec<Sigmas>,
    alphas_cumprod: Vec<Alphas>,
}

#[derive(Deserialize)]
struct Case {
    sampler: String,
    process: String,
    schedule: String,
    steps: usize,
    options: BTreeMap<String, serde_json::Value>,
    predictions: Vec<String>,
    reference: String,
    seed: u64,
    scale: String,
    initial_scale: f64,
    #[serde(default)]
    initial: Vec<f64>,
    timesteps: Vec<f64>,
    sigmas: Vec<Option<f64>>,
    latent: Vec<f64>,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
struct Sigmas {
    name: String,
    steps: usize,
    options: BTreeMap<String, Curve>,
    sigmas: Vec<f64>,
}

#[derive(Deserialize)]
struct Alphas {
    #[serde(rename = "beta_schedule")]
    betas: Betas,
    beta_start: f64,
    beta_end: f64,
    indexes: Vec<usize>,
    values: Vec<f64>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/samplers.json");
    serde_json::from_reader(BufReader::new(File::open(path).unwrap())).unwrap()
}

fn named<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(name.into()).unwrap()
}

fn training(process: &str, prediction: Prediction) -> Training {
    let diffusion = DiffusionSpec {
        timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        betas: Betas::ScaledLinear,
        zero_terminal_snr: false,
        prediction,
        steps_offset: 1,
        set_alpha_to_one: false,
        original_steps: 50,
        timestep_scaling: 10.0,
    };
    let flow = FlowSpec { timesteps: 1000, shift: 3.0, dynamic_shift: None, prediction };
    let dynamic = DynamicShift { base: 0.5, most: 1.15, base_tokens: 256, most_tokens: 4096, patch: 2 };
    match process {
        "sd" => Training::new(diffusion),
        "sd_one" => Training::new(DiffusionSpec { set_alpha_to_one: true, ..diffusion }),
        "sd_zero" => Training::new(DiffusionSpec { zero_terminal_snr: true, ..diffusion }),
        "flow3" => Training::new(flow),
        // 1024 tokens of 2×2 latent cells.
        "flow_dynamic" => Training::new(FlowSpec { shift: 1.0, dynamic_shift: Some(dynamic), ..flow })
            .map(|training| training.at_size(64, 64)),
        "edm" => Training::new(EdmSpec {
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
            // Consistency models are told a thousand times as much.
            timestep: EdmTimestep::LogSigma,
            timestep_scale: if prediction == Prediction::Consistency { 1000.0 } else { 1.0 },
            prediction,
        }),
        other => panic!("{other}"),
    }
    .unwrap()
}

/// The exact estimate of one number.
fn mixture(x: f64, at: Level) -> f64 {
    estimate(&MIXTURE, x, at)
}

fn estimate(mixture: &[(f64, f64, f64); 3], x: f64, Level { alpha, sigma, .. }: Level) -> f64 {
    let parts = mixture.map(|(weight, mean, deviation): (f64, f64, f64)| {
        let variance = (alpha * deviation).powi(2) + sigma.powi(2);
        let apart = x - alpha * mean;
        let log_weight = weight.ln() - 0.5 * variance.ln() - apart.powi(2) / (2.0 * variance);
        (log_weight, mean + alpha * deviation.powi(2) / variance * apart)
    });
    let most = parts.iter().fold(f64::NEG_INFINITY, |most, (log_weight, _)| most.max(*log_weight));
    let weights = parts.map(|(log_weight, _)| (log_weight - most).exp());
    let sum: f64 = weights.iter().sum();
    parts.iter().zip(weights).map(|((_, estimate), weight)| estimate * weight / sum).sum()
}

/// What a graph of this prediction returns for the exact estimate, from its definition.
fn output(prediction: Prediction, x: f64, Level { alpha, sigma, .. }: Level, estimate: f64) -> f64 {
    let noise = (x - alpha * estimate) / sigma;
    let norm = alpha.hypot(sigma);
    match prediction {
        Prediction::Epsilon => noise,
        Prediction::V => (alpha * noise - sigma * estimate) / norm,
        Prediction::Sample => estimate,
        Prediction::Flow => noise - estimate,
        Prediction::Edm | Prediction::Consistency => {
            assert_eq!(alpha, 1.0);
            let beyond = if prediction == Prediction::Edm { sigma } else { sigma - 0.002 };
            let skip = 0.25 / (beyond.powi(2) + 0.25);
            (estimate - skip * x) / (beyond * 0.5 / (sigma.powi(2) + 0.25).sqrt())
        }
    }
}

/// The denoiser of a graph that knows the mixture, and every timestep that it was told.
struct Exact<'a> {
    training: &'a Training,
    timesteps: Vec<f64>,
    /// As option clip; 0 is none.
    clip: f64,
    /// As options threshold and threshold_max; 0 is none.
    threshold: (f64, f64),
    unlimited: Latent,
}

fn exact(training: &Training) -> Exact<'_> {
    Exact { training, timesteps: Vec::new(), clip: 0.0, threshold: (0.0, 0.0), unlimited: Latent::zeros(SHAPE) }
}

impl Denoise for Exact<'_> {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        self.timesteps.push(at.timestep);
        let Preconditioning { skip, out, .. } = self.training.preconditioning(at);
        Zip::from(&mut *denoised).and(x).for_each(|denoised, &x| {
            let output = output(self.training.prediction(), x.into(), at, mixture(x.into(), at)) as f32;
            *denoised = x * skip as f32 + output * out as f32;
        });
        self.unlimited.assign(denoised);
        let (quantile, most) = self.threshold;
        if self.clip > 0.0 {
            denoised.mapv_inplace(|value| value.clamp(-self.clip as f32, self.clip as f32));
        }
        if quantile > 0.0 {
            let mut sorted: Vec<f64> = denoised.iter().map(|&value| f64::from(value.abs())).collect();
            sorted.sort_by(f64::total_cmp);
            let place = quantile * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            let limit = (below + (above - below) * place.fract()).clamp(1.0, most) as f32;
            denoised.mapv_inplace(|value| value.clamp(-limit, limit) / limit);
        }
        Ok(())
    }

    fn noise_estimate(&self) -> Option<&Latent> {
        Some(&self.unlimited).filter(|_| self.clip > 0.0 || self.threshold.0 > 0.0)
    }
}

fn torch(seed: u64) -> impl FnMut(&mut Latent, Level, Level) -> Result<()> {
    let mut source = TorchCpu::new(seed);
    move |latent: &mut Latent, _, _| {
        source.fill(latent.as_slice_mut().unwrap());
        Ok(())
    }
}

struct Outcome {
    timesteps: Vec<f64>,
    schedule: Schedule,
    latent: Vec<f32>,
}

/// A schedule with its own default options.
fn scheduled(training: &Training, name: &str, grid: Grid, steps: usize) -> Result<Schedule> {
    let timetable = find_schedule(name)?;
    let options = Options::resolve(&[(name, timetable.options)], &BTreeMap::new())?;
    Schedule::new(training, timetable, grid, steps, &options)
}

fn options(case: &Case, method: &Method) -> Options {
    let given = case
        .options
        .iter()
        .filter(|(name, _)| !["final", "clip", "threshold", "threshold_max"].contains(&name.as_str()));
    let given = given.map(|(name, value)| (name.clone(), Curve::constant(value.as_f64().unwrap())));
    let mut given: BTreeMap<_, _> = given.collect();
    if given.contains_key("tau") {
        // The reference's own function of the timestep is replaced by a constant.
        given.extend([("tau_min".to_owned(), Curve::constant(0.0)), ("tau_max".to_owned(), Curve::constant(1.0))]);
    }
    Options::resolve(&[(method.name, method.options)], &given).unwrap()
}

fn schedule(case: &Case, training: &Training, grid: Grid) -> Schedule {
    let given: Vec<_> = case.sigmas.iter().flatten().copied().collect();
    let mut schedule = match case.schedule.as_str() {
        "timesteps" => Schedule::of_timesteps(training, &case.timesteps, grid),
        "sigmas" => Schedule::of_given_sigmas(training, &given, grid),
        name => scheduled(training, name, grid, case.steps),
    }
    .unwrap();
    if case.options.contains_key("final") {
        *schedule.levels.last_mut().unwrap() = training.at_index(0.0);
    }
    schedule
}

fn run(case: &Case, prediction: Prediction) -> Outcome {
    let training = training(&case.process, prediction);
    let inverse = case.sampler == "ddim_inverse";
    let method = find_sampler(if inverse { "ddim" } else { &case.sampler }).unwrap();
    let options = options(case, method);
    let schedule = schedule(case, &training, method.grid);
    let mut noise = torch(case.seed);
    let mut x = Latent::zeros(SHAPE);
    noise(&mut x, Level::CLEAN, Level::CLEAN).unwrap();
    x *= schedule.initial_scale as f32;
    if !case.initial.is_empty() {
        x = Latent::from_shape_vec(SHAPE, case.initial.iter().map(|&value| value as f32).collect()).unwrap();
    }
    let limit = |name: &str| case.options.get(name).map_or(0.0, |value| value.as_f64().unwrap());
    let mut denoiser = Exact {
        training: &training,
        timesteps: Vec::new(),
        clip: limit("clip"),
        threshold: (limit("threshold"), limit("threshold_max")),
        unlimited: Latent::zeros(SHAPE),
    };
    let mut run = Run {
        levels: &schedule.levels,
        training: &training,
        options: &options,
        noise: &mut noise,
        on_step: &mut |_| Ok(()),
        part: Part { before: 0, of: schedule.levels.len() - 1 },
        tally: Tally::default(),
    };
    let sample = if inverse { ddim_inverse } else { method.sample };
    let mut latent = sample(&mut denoiser, x, &mut run).unwrap();
    let last = schedule.levels[schedule.levels.len() - 1];
    if case.scale == "vp" {
        latent *= (training.in_own_scaling(last).alpha / last.alpha) as f32;
    }
    Outcome { timesteps: denoiser.timesteps, schedule, latent: latent.iter().copied().collect() }
}

fn relative(found: &[f32], expected: &[f64]) -> f64 {
    let distance: f64 = found.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (distance / expected.iter().map(|value| value.powi(2)).sum::<f64>()).sqrt()
}

fn name(case: &Case, prediction: &str) -> String {
    let Case { sampler, process, schedule, steps, options, reference, .. } = case;
    format!("{sampler} {process} {schedule} n={steps} {options:?} {prediction} ({reference})")
}

/// Where timesteps differ on purpose.
fn timestep_slack(case: &Case) -> f64 {
    match (case.sampler.as_str(), case.schedule.as_str()) {
        // The reference rounds every other of them; ours stay fractional, as those of euler and heun do in both.
        ("dpm2" | "dpm2_ancestral", "karras") => 0.5,
        // The reference subtracts two nearly equal squares of sigmas in single precision.
        ("dpm2_ancestral", _) => 2e-2,
        // The error of its first, short steps is that of rounding, and the length of the next ones follows from it.
        ("dpm_adaptive", _) => 3.0,
        // The reference cuts fractional timesteps off; ours go to the nearest, as with "karras" in both.
        (name, "exponential" | "beta") if find_sampler(name).is_ok_and(|method| method.grid == Grid::LogSnr) => 1.0,
        _ => 2e-3,
    }
}

/// Relative; more where the reference's single precision is at its end.
fn sigma_slack(case: &Case) -> f64 {
    match case.process.as_str() {
        "sd_zero" | "edm" => 3e-6,
        _ => 1e-6,
    }
}

/// Relative.
fn latent_slack(case: &Case) -> f64 {
    match case.sampler.as_str() {
        // The reference subtracts two nearly equal squares of sigmas in single precision.
        "dpm2_ancestral" => 2e-4,
        // Steps are of slightly different lengths, see above.
        "dpm_adaptive" => 2e-3,
        _ => 1e-4,
    }
}

/// What is wrong with an outcome, if anything.
fn faults(case: &Case, prediction: Prediction) -> Vec<String> {
    let Outcome { timesteps, schedule, latent } = run(case, prediction);
    let mut faults = Vec::new();
    let training = training(&case.process, prediction);
    let slack = timestep_slack(case);
    let same = timesteps.len() == case.timesteps.len()
        && timesteps.iter().zip(&case.timesteps).all(|(a, b)| (a - b).abs() <= slack);
    if !same {
        faults.push(format!("timesteps {timesteps:?}, expected {:?}", case.timesteps));
    }
    if case.sampler != "ddim_inverse" {
        let sigmas: Vec<_> = schedule.levels.iter().map(|&level| training.own_sigma(level)).collect();
        let fits = |(found, expected): (&f64, &Option<f64>)| match expected {
            None => *found == 1.0 || *found > 1e3,
            // The reference's last estimate is made at the least sigma's leave; ours ends clean, with the same numbers.
            Some(expected) if case.sampler == "consistency" && *found == 0.0 => *expected < 0.0021,
            Some(expected) => {
                // One reference tells ratios even where its process speaks of sigmas.
                let flow = case.process.starts_with("flow") && case.sigmas[0].is_none();
                let expected = if flow { expected / (1.0 + expected) } else { *expected };
                (found - expected).abs() <= sigma_slack(case) * expected.abs().max(1e-3)
            }
        };
        if sigmas.len() != case.sigmas.len() || !sigmas.iter().zip(&case.sigmas).all(fits) {
            faults.push(format!("sigmas {sigmas:?}, expected {:?}", case.sigmas));
        }
        // The reference's initial latent in ours: some of its classes have unit variance where we walk sigmas.
        let first = schedule.levels[0];
        let scale = if case.scale == "vp" { first.alpha.hypot(first.sigma) } else { 1.0 };
        let initial = case.initial_scale * scale;
        if (schedule.initial_scale - initial).abs() > 2e-6 * initial {
            faults.push(format!("initial scale {}, expected {initial}", schedule.initial_scale));
        }
    }
    let distance = relative(&latent, &case.latent);
    if distance.is_nan() || distance > latent_slack(case) {
        faults.push(format!("latent {latent:?}, expected {:?}: {distance:.1e}", case.latent));
    }
    faults
}

#[test]
fn every_sampler_is_the_reference() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in golden().cases {
        for prediction in &case.predictions {
            count += 1;
            let faults = faults(&case, named(prediction));
            if !faults.is_empty() {
                wrong.push(format!("{}: {}", name(&case, prediction), faults.join("; ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn where_we_differ_from_the_reference_we_still_do() {
    for case in golden().deviations.iter().filter(|case| case.steps > 2) {
        let prediction = named(&case.predictions[0]);
        let distance = relative(&run(case, prediction).latent, &case.latent);
        assert!(distance > 1e-3, "{}: {} ({distance:.1e})", name(case, &case.predictions[0]), case.why);
    }
}

#[test]
fn every_schedule_is_the_reference() {
    let training = training("sd", Prediction::Epsilon);
    for Sigmas { name, steps, options, sigmas } in golden().schedules {
        let timetable = find_schedule(&name).unwrap();
        let options = Options::resolve(&[(timetable.name, timetable.options)], &options).unwrap();
        let schedule = Schedule::new(&training, timetable, Grid::Sigmas, steps, &options).unwrap();
        let found: Vec<_> = schedule.levels.iter().map(|level| level.ratio()).collect();
        let fits = found.iter().zip(&sigmas).all(|(a, b)| (a - b).abs() <= 1e-6 * b.max(1e-3));
        assert!(fits && found.len() == sigmas.len(), "{name} n={steps}: {found:?}, expected {sigmas:?}");
    }
}

#[test]
fn betas_are_the_reference() {
    for Alphas { betas, beta_start, beta_end, indexes, values } in golden().alphas_cumprod {
        let TrainingSpec::Diffusion(usual) = training("sd", Prediction::Epsilon).spec().clone() else { unreachable!() };
        let training = Training::new(DiffusionSpec { betas, beta_start, beta_end, ..usual }).unwrap();
        for (index, expected) in indexes.into_iter().zip(values) {
            let found = training.alphas_cumprod()[index];
            assert!((found - expected).abs() < 1e-6 * expected, "{betas:?} {index}: {found}, expected {expected}");
        }
    }
}

const PROCESSES: [(&str, Prediction); 5] = [
    ("sd", Prediction::Epsilon),
    ("sd_zero", Prediction::V),
    ("flow3", Prediction::Flow),
    ("edm", Prediction::Edm),
    ("edm", Prediction::Consistency),
];

/// Walks a schedule with the exact denoiser of the mixture.
fn walk(relay: &Relay, training: &Training, schedule: &Schedule, options: &Options, seed: u64) -> Result<Latent> {
    let trajectory = Trajectory::new(relay, schedule, &[], training)?;
    let mut noise = torch(seed);
    let mut x = Latent::zeros(SHAPE);
    noise(&mut x, Level::CLEAN, Level::CLEAN)?;
    x *= trajectory.initial_scale as f32;
    let mut exact = exact(training);
    let mut walk = Walk { training, options, noise: &mut noise, on_step: &mut |_| Ok(()) };
    Ok(trajectory.walk(&mut exact, x, &mut walk)?.0)
}

fn defaults(method: &Method) -> Options {
    Options::resolve(&[(method.name, method.options)], &BTreeMap::new()).unwrap()
}

#[test]
fn few_steps_are_finite_with_every_sampler_and_schedule() {
    for (process, prediction) in PROCESSES {
        let training = training(process, prediction);
        for method in SAMPLERS {
            let relay = Relay::parse(method.name).unwrap();
            for (timetable, steps) in SCHEDULES.iter().flat_map(|timetable| [1, 2, 3, 7].map(|n| (timetable, n))) {
                let told = format!("{process} {prediction:?} {} {} n={steps}", method.name, timetable.name);
                if (method.steps != Steps::Any && steps > 1)
                    || (timetable.name.starts_with("ays") && !process.starts_with("sd"))
                {
                    continue;
                }
                let schedule = scheduled(&training, timetable.name, method.grid, steps).unwrap();
                let options = defaults(method);
                let latent = walk(&relay, &training, &schedule, &options, 3).unwrap_or_else(|e| panic!("{told}: {e}"));
                assert!(latent.iter().all(|value| value.is_finite()), "{told}: {latent}");
            }
        }
    }
}

#[test]
fn one_evaluation_from_noise_to_the_end_is_the_estimate() {
    for (process, prediction) in PROCESSES {
        let training = training(process, prediction);
        for method in SAMPLERS.iter().filter(|method| (method.evaluations)(1) == 1) {
            let mut schedule = scheduled(&training, "karras", method.grid, 1).unwrap();
            *schedule.levels.last_mut().unwrap() = Level::CLEAN;
            let mut x = Latent::zeros(SHAPE);
            torch(5)(&mut x, Level::CLEAN, Level::CLEAN).unwrap();
            x *= schedule.initial_scale as f32;
            let mut expected = Latent::zeros(SHAPE);
            exact(&training).denoise(&x, schedule.levels[0], &mut expected).unwrap();
            let relay = Relay::parse(method.name).unwrap();
            let found = walk(&relay, &training, &schedule, &defaults(method), 5).unwrap();
            let worst = (&found - &expected).iter().fold(0f32, |worst, d| worst.max(d.abs()));
            // The boundary condition of LCM keeps a trace of the latent.
            let slack = match (method.name, process) {
                // Its boundary condition is for timesteps, not for quarters of ln sigma.
                ("lcm", "edm") => continue,
                ("lcm", _) => 1e-1,
                // Slopes times a sigma of 4096 have the rounding of that.
                (_, "sd_zero") => 1e-3,
                _ => 1e-4,
            };
            assert!(worst < slack, "{process} {}: {worst}", method.name);
        }
    }
}

#[test]
fn evaluations_are_as_many_as_the_table_says() {
    let training = training("sd", Prediction::Epsilon);
    for method in SAMPLERS.iter().filter(|method| method.steps != Steps::Adaptive) {
        for steps in [1, 2, 3, 4, 10] {
            if method.steps == Steps::One && steps > 1 {
                continue;
            }
            let name = method.schedule.unwrap_or("trailing");
            let schedule = scheduled(&training, name, method.grid, steps).unwrap();
            let mut exact = exact(&training);
            let options = defaults(method);
            let mut run = Run {
                levels: &schedule.levels,
                training: &training,
                options: &options,
                noise: &mut torch(1),
                on_step: &mut |_| Ok(()),
                part: Part { before: 0, of: steps },
                tally: Tally::default(),
            };
            (method.sample)(&mut exact, Latent::ones(SHAPE), &mut run).unwrap();
            assert_eq!(exact.timesteps.len(), (method.evaluations)(steps), "{} n={steps}", method.name);
        }
    }
}

/// `n` steps evenly spread in log sigma, over an interval without ends of their own kind, so that the method counts alone.
fn even_levels(training: &Training, method: &Method, steps: usize) -> Vec<Level> {
    let at = |i: usize| training.at_sigma(FROM * (TO / FROM).powf(i as f64 / steps as f64));
    let scaled = |level| match method.grid {
        Grid::Timesteps | Grid::TimestepsToClean => training.in_own_scaling(level),
        Grid::Sigmas | Grid::LogSnr => level,
    };
    (0..=steps).map(|i| scaled(at(i))).collect()
}

const FROM: f64 = 8.0;
const TO: f64 = 0.3;
static SOLUTIONS: OnceLock<[f64; 8]> = OnceLock::new();
const STARTS: [f64; 8] = [5.0, -9.0, 2.0, -3.5, 0.4, 11.0, -1.0, 7.5];

/// Where the probability-flow ODE takes a number from `FROM` to `TO`: Runge–Kutta in double precision, a thousand steps.
fn solution(x: f64) -> f64 {
    let slope = |x: f64, log_sigma: f64| {
        let sigma = log_sigma.exp();
        x - mixture(x, Level { timestep: 0.0, alpha: 1.0, sigma })
    };
    let steps = 1000;
    let h = (TO / FROM).ln() / f64::from(steps);
    (0..steps).fold(x, |x, i| {
        let at = FROM.ln() + f64::from(i) * h;
        let k1 = slope(x, at);
        let k2 = slope(x + h / 2.0 * k1, at + h / 2.0);
        let k3 = slope(x + h / 2.0 * k2, at + h / 2.0);
        let k4 = slope(x + h * k3, at + h);
        x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    })
}

/// Root mean square over all numbers of a latent.
fn error_of(method: &Method, options: &Options, steps: usize) -> f64 {
    let training = training("edm", Prediction::Edm);
    let levels = even_levels(&training, method, steps);
    let mut run = Run {
        levels: &levels,
        training: &training,
        options,
        noise: &mut |_, _, _| panic!("no noise without eta"),
        on_step: &mut |_| Ok(()),
        part: Part { before: 0, of: steps },
        tally: Tally::default(),
    };
    let start = Latent::from_shape_vec(SHAPE, STARTS.iter().map(|&x| x as f32).collect()).unwrap();
    let mut exact = |x: &Latent, at: Level, denoised: &mut Latent| {
        Zip::from(denoised).and(x).for_each(|denoised, &x| *denoised = mixture(x.into(), at) as f32);
        Ok(())
    };
    let end = (method.sample)(&mut exact, start, &mut run).unwrap();
    let solutions = SOLUTIONS.get_or_init(|| STARTS.map(solution));
    let squares: f64 = end.iter().zip(solutions).map(|(&end, exact)| (f64::from(end) - exact).powi(2)).sum();
    (squares / STARTS.len() as f64).sqrt()
}

/// The slope of error over steps, as far out as single precision allows.
fn measured_order(method: &Method, options: &Options) -> f64 {
    let slope = |n: usize| {
        let (coarse, fine) = (error_of(method, options, n), error_of(method, options, 2 * n));
        ((coarse / fine).log2(), fine)
    };
    let clear = [128, 96, 64, 48, 32, 24, 16, 12, 8, 6].into_iter().map(slope).find(|(_, fine)| *fine > 2e-5);
    clear.unwrap_or_else(|| slope(4)).0
}

/// Deterministic forms of every sampler: its name, the options that make it so, and its order.
fn deterministic() -> Vec<(String, &'static Method, Options, usize)> {
    let mut forms = Vec::new();
    for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
        let takes = |opt: Opt| method.options.iter().any(|(taken, _)| *taken == opt);
        // The reverse SDE of the noise has no deterministic form.
        let can_be_still = !method.stochastic || takes(Opt::Eta) || takes(Opt::Tau);
        let Some(order) = method.order.filter(|_| can_be_still) else { continue };
        let still = [Opt::Eta, Opt::Tau].into_iter().filter(|&opt| takes(opt));
        let still: BTreeMap<_, _> = still.map(|opt| (opt.row().name.to_owned(), Curve::from(0.0))).collect();
        let orders = if takes(Opt::Order) { vec![1, 2, 3] } else { vec![0] };
        for chosen in orders {
            let mut given = still.clone();
            if chosen > 0 {
                given.insert("order".into(), f64::from(chosen).into());
            }
            let told: Vec<_> = given.iter().map(|(name, value)| format!("{name} {value}")).collect();
            let name = [method.name.to_owned(), told.join(", ")].join(" ").trim().to_owned();
            let options = Options::resolve(&[(method.name, method.options)], &given).unwrap();
            // UniPC's corrector raises the order of its first-order predictor.
            let order = if chosen == 1 && !method.name.starts_with("unipc") { 1 } else { order };
            forms.push((name, method, options, order));
        }
    }
    forms
}

#[test]
fn deterministic_samplers_converge_with_their_order() {
    for (name, method, options, order) in deterministic() {
        let measured = measured_order(method, &options);
        // Methods may do better than their first steps allow in theory, never worse.
        assert!((-0.2..1.0).contains(&(measured - order as f64)), "{name}: order {order}, measured {measured}");
    }
}

/// Data that is Gaussian, and its exact denoiser.
const MEAN: f64 = 0.7;
const DEVIATION: f64 = 0.4;

fn gaussian(x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
    let variance = DEVIATION.powi(2);
    let gain = at.alpha * variance / (at.alpha.powi(2) * variance + at.sigma.powi(2));
    Zip::from(denoised).and(x).for_each(|denoised, &x| {
        *denoised = (MEAN + gain * (f64::from(x) - at.alpha * MEAN)) as f32;
    });
    Ok(())
}

/// Forms of a stochastic sampler with half and all of its noise, as far as it has a say.
fn noisy_forms(method: &'static Method) -> Vec<(String, Options)> {
    let amount = [Opt::Eta, Opt::Tau].into_iter().find(|opt| method.options.iter().any(|(taken, _)| taken == opt));
    let given = match amount {
        Some(opt) => [0.5, 1.0].map(|value| BTreeMap::from([(opt.row().name.to_owned(), Curve::from(value))])).to_vec(),
        None => vec![BTreeMap::new()],
    };
    let form = |given: BTreeMap<String, Curve>| {
        let options = Options::resolve(&[(method.name, method.options)], &given).unwrap();
        (format!("{} {given:?}", method.name), options)
    };
    given.into_iter().map(form).collect()
}

#[test]
fn stochastic_samplers_draw_the_mean_and_the_variance_of_the_data() {
    let stochastic = SAMPLERS.iter().filter(|method| method.stochastic && method.order.is_some());
    for (method, (name, options)) in
        stochastic.flat_map(|method| noisy_forms(method).into_iter().map(move |form| (method, form)))
    {
        for (process, prediction, timetable) in [
            ("sd", Prediction::Epsilon, "exponential"),
            ("flow3", Prediction::Flow, "trailing"),
            ("edm", Prediction::Edm, "exponential"),
        ] {
            let training = training(process, prediction);
            let schedule = scheduled(&training, timetable, method.grid, 200).unwrap();
            let trajectory = Trajectory::new(&Relay::parse(method.name).unwrap(), &schedule, &[], &training).unwrap();
            let mut noise = torch(11);
            // Many independent numbers, distributed as the first level is.
            let mut x = Latent::zeros((1, 1, 64, 64));
            noise(&mut x, Level::CLEAN, Level::CLEAN).unwrap();
            let first = schedule.levels[0];
            let spread = (first.alpha * DEVIATION).hypot(first.sigma) as f32;
            x.mapv_inplace(|noise| (first.alpha * MEAN) as f32 + spread * noise);
            let mut walk = Walk { training: &training, options: &options, noise: &mut noise, on_step: &mut |_| Ok(()) };
            let (end, _) = trajectory.walk(&mut gaussian, x, &mut walk).unwrap();
            let (mean, deviation) = (f64::from(end.mean().unwrap()), f64::from(end.std(0.0)));
            // Five standard errors, and what two hundred steps leave: more where a group of steps is taken anew with
            // other noise than its evaluations had.
            let bias = if ["dpmpp_2s_sde", "dpmpp_3s_sde"].contains(&method.name) { 0.03 } else { 0.01 };
            let told = format!("{name} {process}: mean {mean}, deviation {deviation}");
            assert!((mean - MEAN).abs() < 5.0 * DEVIATION / 64.0, "{told}");
            assert!((deviation - DEVIATION).abs() < 5.0 * DEVIATION / (64.0 * 2f64.sqrt()) + bias, "{told}");
        }
    }
}

#[test]
fn noise_is_drawn_by_those_that_say_so() {
    let training = training("sd", Prediction::Epsilon);
    for method in SAMPLERS {
        let steps = if method.steps == Steps::Any { 4 } else { 1 };
        let schedule = scheduled(&training, "karras", method.grid, steps).unwrap();
        let options = defaults(method);
        let mut draws = 0;
        let mut run = Run {
            levels: &schedule.levels,
            training: &training,
            options: &options,
            noise: &mut |_, _, _| {
                draws += 1;
                Ok(())
            },
            on_step: &mut |_| Ok(()),
            part: Part { before: 0, of: steps },
            tally: Tally::default(),
        };
        (method.sample)(&mut gaussian, Latent::ones(SHAPE), &mut run).unwrap();
        assert_eq!(draws > 0, method.stochastic, "{}: {draws} draws", method.name);
    }
}

#[test]
fn few_steps_leave_pure_noise_as_the_table_says() {
    let training = training("sd_zero", Prediction::V);
    for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
        let schedule = scheduled(&training, "trailing", method.grid, 4).unwrap();
        let found = walk(&Relay::parse(method.name).unwrap(), &training, &schedule, &defaults(method), 3).unwrap();
        let largest = found.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        // The data lies within ±2.5.
        assert_eq!(largest < 3.0, method.from_pure_noise, "{}: {largest}", method.name);
    }
}

/// The error of a method on the mixture from its largest sigma to the clean end, and its evaluations.
fn work_of(name: &str, schedule: &str, steps: usize, given: &[(&str, f64)]) -> (f64, usize, Tally) {
    let training = training("edm", Prediction::Edm);
    let method = find_sampler(name).unwrap();
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let options = Options::resolve(&[(method.name, method.options)], &given).unwrap();
    let schedule = scheduled(&training, schedule, method.grid, steps).unwrap();
    let trajectory = Trajectory::new(&Relay::parse(name).unwrap(), &schedule, &[], &training).unwrap();
    let start = [60.0, -75.0, 20.0, -35.0, 4.0, 110.0, -10.0, 90.0];
    let x = Latent::from_shape_vec(SHAPE, start.iter().map(|&x| x as f32).collect()).unwrap();
    let mut evaluations = 0;
    let mut exact = |x: &Latent, at: Level, denoised: &mut Latent| {
        evaluations += 1;
        Zip::from(denoised).and(x).for_each(|denoised, &x| *denoised = peaks(x.into(), at) as f32);
        Ok(())
    };
    let mut walk = Walk { training: &training, options: &options, noise: &mut torch(1), on_step: &mut |_| Ok(()) };
    let (end, tally) = trajectory.walk(&mut exact, x, &mut walk).unwrap();
    let reference = REFERENCE.get_or_init(|| fine(&start));
    let squares: f64 = end.iter().zip(reference).map(|(&end, exact)| (f64::from(end) - exact).powi(2)).sum();
    ((squares / start.len() as f64).sqrt(), evaluations, tally)
}

/// A mixture of narrow Gaussians, as pictures are: all happens within a short interval of sigmas.
fn peaks(x: f64, at: Level) -> f64 {
    estimate(&MIXTURE.map(|(weight, mean, deviation)| (weight, mean, deviation / 10.0)), x, at)
}

static REFERENCE: OnceLock<Vec<f64>> = OnceLock::new();

/// The ODE from sigma 80 to 0.002 in double precision, and the estimate there.
fn fine(start: &[f64]) -> Vec<f64> {
    let slope = |x: f64, sigma: f64| x - peaks(x, Level { timestep: 0.0, alpha: 1.0, sigma });
    let steps = 20_000;
    let h = (0.002f64 / 80.0).ln() / f64::from(steps);
    let walk = |&x: &f64| {
        let end = (0..steps).fold(x, |x, i| {
            let at = 80f64.ln() + f64::from(i) * h;
            let k1 = slope(x, at.exp());
            let k2 = slope(x + h / 2.0 * k1, (at + h / 2.0).exp());
            let k3 = slope(x + h / 2.0 * k2, (at + h / 2.0).exp());
            let k4 = slope(x + h * k3, (at + h).exp());
            x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        });
        peaks(end, Level { timestep: 0.0, alpha: 1.0, sigma: 0.002 })
    };
    start.iter().map(walk).collect()
}

#[test]
fn adaptive_samplers_meet_their_tolerance_with_fewer_evaluations_than_fixed_steps() {
    for (name, rtol, fixed) in [("rk_adaptive", 0.05, "rk3"), ("dpm_adaptive", 0.01, "dpm_3s")] {
        let (error, evaluations, tally) = work_of(name, "karras", 1, &[("rtol", rtol), ("atol", rtol * 0.156)]);
        assert!(error < rtol, "{name}: error {error}");
        assert!(tally.accepted > 3, "{name}: {tally:?}");
        // Steps of one length in log sigma, as few as reach the same error.
        let counts = (3..200).step_by(3);
        let reached = counts.map(|steps| work_of(fixed, "exponential", steps, &[])).find(|(fixed, ..)| *fixed <= error);
        let (_, needed, _) = reached.unwrap();
        println!("{name}: {evaluations} evaluations for an error of {error:.1e}; {fixed} {needed}; {tally:?}");
        assert!(evaluations < needed, "{name}: {evaluations} evaluations, {fixed} {needed}");
    }
}

#[test]
fn a_smaller_tolerance_is_a_smaller_error() {
    for name in ["rk_adaptive", "dpm_adaptive"] {
        let error = |rtol| work_of(name, "karras", 1, &[("rtol", rtol), ("atol", rtol * 0.156)]).0;
        assert!(error(0.001) < error(0.05) && error(0.05) < error(1.0), "{name}");
    }
}

#[test]
fn an_adaptive_sampler_gives_up_when_its_evaluations_are_spent() {
    let training = training("sd", Prediction::Epsilon);
    let method = find_sampler("dpm_adaptive").unwrap();
    let given = BTreeMap::from([("max_evaluations".to_owned(), 12.0.into())]);
    let options = Options::resolve(&[(method.name, method.options)], &given).unwrap();
    let schedule = scheduled(&training, "karras", method.grid, 1).unwrap();
    let error = walk(&Relay::parse("dpm_adaptive").unwrap(), &training, &schedule, &options, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("max_evaluations"), "{error}");
}

/// Index, and own sigma before and after, of each step.
type Told = Vec<(usize, f64, f64)>;

/// A trajectory of SD, ending clean, with the samplers and restarts of a request, and the steps that were told.
fn trajectory(relay: &str, schedule: &str, steps: usize, restarts: &[Restart]) -> Result<(Latent, Told)> {
    let training = training("sd_one", Prediction::Epsilon);
    let relay = Relay::parse(relay)?;
    let schedule = scheduled(&training, schedule, relay.first().grid, steps)?;
    let trajectory = Trajectory::new(&relay, &schedule, restarts, &training)?;
    let methods: Vec<_> = relay.methods().map(|method| (method.name, method.options)).collect();
    let options = Options::resolve(&methods, &BTreeMap::new())?;
    let mut noise = torch(4);
    let mut x = Latent::zeros((1, 1, 96, 96));
    noise(&mut x, Level::CLEAN, Level::CLEAN)?;
    x *= trajectory.initial_scale as f32;
    let mut told = Vec::new();
    let mut on_step = |step: &mut Step| {
        told.push((step.index, training.own_sigma(step.from), training.own_sigma(step.to)));
        Ok(())
    };
    let mut walk = Walk { training: &training, options: &options, noise: &mut noise, on_step: &mut on_step };
    let (end, _) = trajectory.walk(&mut gaussian, x, &mut walk)?;
    assert_eq!(Some(told.len()), trajectory.steps);
    Ok((end, told))
}

#[test]
fn samplers_take_turns() {
    // One sampler in two legs is the sampler, as long as it remembers nothing.
    for (split, whole) in [
        ("euler until step 3, then euler", "euler"),
        ("euler until sigma 2, then euler", "euler"),
        ("heun until sigma 1.5, then heun", "heun"),
        ("ddim until step 4, then ddim", "ddim"),
        // Whole timesteps first, sigmas after: the latent changes its scale on the way.
        ("ddim until step 4, then euler", "ddim"),
    ] {
        let schedule = if whole == "ddim" { "trailing" } else { "karras" };
        let (turns, told) = trajectory(split, schedule, 8, &[]).unwrap();
        let (alone, _) = trajectory(whole, schedule, 8, &[]).unwrap();
        let worst = (&turns - &alone).iter().fold(0f32, |worst, d| worst.max(d.abs()));
        assert!(worst < 2e-5, "{split}: {worst}");
        assert!(told.iter().map(|(index, ..)| *index).eq(0..8), "{told:?}");
    }
    let (turns, _) = trajectory("euler_ancestral until sigma 2, then dpmpp_2m", "karras", 30, &[]).unwrap();
    let (mean, deviation) = (f64::from(turns.mean().unwrap()), f64::from(turns.std(0.0)));
    assert!((mean - MEAN).abs() < 0.03 && (deviation - DEVIATION).abs() < 0.03, "mean {mean}, deviation {deviation}");
}

#[test]
fn restarts_walk_their_interval_again_and_keep_the_distribution() {
    let restart = Restart { low: 0.3, high: 3.0, steps: 10, times: 3 };
    let (end, told) = trajectory("heun", "karras", 20, &[restart]).unwrap();
    let rises: Vec<_> = told.windows(2).filter(|pair| pair[1].1 > pair[0].2 + 1e-9).collect();
    assert_eq!(rises.len(), 3, "{told:?}");
    for rise in rises {
        assert!(rise[0].2 <= 0.3 && (rise[1].1 - 3.0).abs() < 1e-9, "{rise:?}");
    }
    assert_eq!(told.len(), 50);
    let (mean, deviation) = (f64::from(end.mean().unwrap()), f64::from(end.std(0.0)));
    assert!((mean - MEAN).abs() < 0.02 && (deviation - DEVIATION).abs() < 0.02, "mean {mean}, deviation {deviation}");
}

#[test]
fn what_cannot_be_walked_is_told() {
    let restart = |low, high, steps, times| Restart { low, high, steps, times };
    let table: [(&str, Vec<Restart>, &str); 13] = [
        ("dpm", vec![], "unknown sampler \"dpm\"; known: ddim, "),
        ("euler until sigma 2", vec![], "expected a name, or several as in"),
        ("euler, dpmpp_2m", vec![], "expected a name, or several as in"),
        ("euler until sigma 0, then heun", vec![], "expected a name, or several as in"),
        ("euler until step 8, then heun", vec![], "euler until step 8, of 8"),
        ("euler until step 0, then heun", vec![], "euler would have no step to do"),
        ("euler until step 3, then heun until sigma 9, then lms", vec![], "heun would have no step to do"),
        ("euler until step 3, then dpm_adaptive", vec![], "dpm_adaptive walks the whole way or not at all"),
        ("euler", vec![restart(2.0, 1.0, 3, 1)], "expected 0 < low < high"),
        ("euler", vec![restart(0.1, 99.0, 3, 1)], "expected 0 < low < high"),
        ("euler", vec![restart(0.1, 1.0, 0, 1)], "at least one step"),
        ("euler", vec![restart(0.1, 1.0, 500, 500)], "at most 1000"),
        ("euler", vec![restart(0.001, 1.0, 3, 1)], "steps from"),
    ];
    for (relay, restarts, expected) in table {
        let error = trajectory(relay, "karras", 8, &restarts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{relay}");
        assert!(error.to_string().contains(expected), "{relay}: {error}");
    }
}

#[test]
fn a_relay_is_written_as_it_is_read() {
    for text in ["dpmpp_2m", "euler_ancestral until sigma 2, then dpmpp_2m", "ddim until step 3, then lcm"] {
        assert_eq!(Relay::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn an_error_of_the_observer_stops_every_sampler() {
    let training = training("sd", Prediction::Epsilon);
    for method in SAMPLERS.iter().filter(|method| method.steps != Steps::One) {
        let schedule = scheduled(&training, "karras", method.grid, 8).unwrap();
        let options = defaults(method);
        let mut seen = 0;
        let mut run = Run {
            levels: &schedule.levels,
            training: &training,
            options: &options,
            noise: &mut torch(1),
            on_step: &mut |step| {
                seen = step.index + 1;
                if step.index == 2 { Err(safelight::Error::new(ErrorKind::Numeric, "stop")) } else { Ok(()) }
            },
            part: Part { before: 0, of: 8 },
            tally: Tally::default(),
        };
        let outcome = (method.sample)(&mut gaussian, Latent::ones(SHAPE), &mut run);
        assert_eq!(outcome.unwrap_err().to_string(), "stop", "{}", method.name);
        assert_eq!(seen, 3, "{}", method.name);
    }
}

#[test]
fn going_backwards_and_forwards_again_comes_closer_with_more_steps() {
    let training = training("sd", Prediction::Epsilon);
    let method = find_sampler("ddim").unwrap();
    let (options, x0) = (
        defaults(method),
        Latent::from_shape_vec(SHAPE, vec![-1.35, 0.62, 1.44, -0.87, 0.11, 1.73, -1.02, 0.48]).unwrap(),
    );
    let error = |steps| {
        let schedule = scheduled(&training, "leading", method.grid, steps).unwrap();
        let mut run = Run {
            levels: &schedule.levels,
            training: &training,
            options: &options,
            noise: &mut |_, _, _| panic!("no noise"),
            on_step: &mut |_| Ok(()),
            part: Part { before: 0, of: steps },
            tally: Tally::default(),
        };
        let mut exact = exact(&training);
        let noise = ddim_inverse(&mut exact, x0.clone(), &mut run).unwrap();
        let again = (method.sample)(&mut exact, noise, &mut run).unwrap();
        (&again - &x0).iter().fold(0f32, |worst, d| worst.max(d.abs()))
    };
    assert!(error(200) < 0.1 && error(200) < 0.6 * error(50), "{} {}", error(50), error(200));
}

// ── docs/samplers.md ────────────────────────────────────────────────────────────────────────────────────────────────

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<_> = head.iter().map(|name| (*name).to_owned()).collect();
    let line: Vec<_> = head.iter().map(|_| "---".to_owned()).collect();
    [row(&head), row(&line)].into_iter().chain(rows.map(|cells| row(&cells))).collect()
}

fn taken(options: &[(Opt, f64)]) -> String {
    let named = options.iter().map(|(opt, default)| format!("{} {default}", opt.row().name));
    named.collect::<Vec<_>>().join(", ")
}

fn samplers_table() -> String {
    table(
        &[
            "name",
            "what it is",
            "source",
            "order",
            "evaluations for 1, 4, 10 steps",
            "grid",
            "noise",
            "options and defaults",
            "suits",
        ],
        SAMPLERS.iter().map(|method| {
            let evaluations = match method.steps {
                Steps::Any => [1, 4, 10].map(|n| (method.evaluations)(n).to_string()).join(", "),
                Steps::One => "1".into(),
                Steps::Adaptive => "as the tolerance needs".into(),
            };
            let grid = match method.grid {
                Grid::Timesteps | Grid::TimestepsToClean => "timesteps",
                Grid::Sigmas => "sigmas",
                Grid::LogSnr => "log-SNR",
            };
            vec![
                format!("`{}`", method.name),
                method.about.into(),
                method.source.into(),
                method.order.map_or("–".into(), |order| order.to_string()),
                evaluations,
                grid.into(),
                if method.stochastic { "yes" } else { "no" }.into(),
                taken(method.options),
                method.suits.into(),
            ]
        }),
    )
}

fn proofs_table() -> String {
    let mut references = BTreeMap::<_, BTreeMap<String, usize>>::new();
    for case in golden().cases {
        let short = case.reference.trim_start_matches("k_diffusion.").replace("formula", "the paper's formulae");
        *references.entry(case.sampler).or_default().entry(short).or_default() += case.predictions.len();
    }
    let slopes: BTreeMap<_, _> =
        deterministic().into_iter().map(|(_, method, options, _)| (method.name, slope(method, &options))).collect();
    table(
        &["name", "vectors, by reference", "slope in theory", "measured"],
        SAMPLERS.iter().map(|method| {
            let vectors = references.get(method.name).map(|counts| {
                counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
            });
            vec![
                format!("`{}`", method.name),
                vectors.unwrap_or("its tolerance, or its estimate".into()),
                method.order.filter(|_| method.steps == Steps::Any).map_or("–".into(), |order| order.to_string()),
                slopes.get(method.name).cloned().unwrap_or("–".into()),
            ]
        }),
    )
}

fn orders_table() -> String {
    let forms =
        deterministic().into_iter().filter(|(_, method, ..)| method.options.iter().any(|(opt, _)| *opt == Opt::Order));
    table(
        &["form", "slope in theory", "measured"],
        forms.map(|(name, method, options, order)| vec![name, order.to_string(), slope(method, &options)]),
    )
}

fn slope(method: &Method, options: &Options) -> String {
    format!("{:.1}", measured_order(method, options))
}

fn named_rows(rows: impl Iterator<Item = (String, String, String)>) -> String {
    table(
        &["name", "what it is", "options and defaults"],
        rows.map(|(name, about, options)| vec![format!("`{name}`"), about, options]),
    )
}

/// The text with each generated part written anew.
fn with_parts(text: &str, parts: &[(&str, String)]) -> String {
    parts.iter().fold(text.to_owned(), |text, (name, part)| {
        let begin = format!("<!-- {name} -->\n");
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no part {name}"));
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        format!("{before}{begin}{part}<!-- end -->{after}")
    })
}

#[test]
fn docs_are_current() {
    let option = |row: &OptionRow| {
        let (low, high) = row.range;
        let kind = match row.kind {
            OptionKind::Whole => "a whole number",
            OptionKind::Real => "a number",
            OptionKind::Curve => "a number, or several over the steps",
        };
        vec![format!("`{}`", row.name), row.about.into(), format!("{kind}, {low} to {high}")]
    };
    let guidance = GUIDANCES.iter().map(|rule| (rule.name.into(), rule.about.into(), taken(rule.options)));
    let parts = [
        ("samplers", samplers_table()),
        ("proofs", proofs_table()),
        ("orders", orders_table()),
        ("schedules", named_rows(SCHEDULES.iter().map(|it| (it.name.into(), it.about.into(), taken(it.options))))),
        ("guidance", named_rows(guidance)),
        ("options", table(&["name", "what it is", "values"], OPTIONS.iter().map(option))),
        (
            "generators",
            table(&["name", "what it is"], GENERATORS.iter().map(|it| vec![format!("`{}`", it.name), it.about.into()])),
        ),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samplers.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let current = with_parts(&text, &parts);
    if std::env::var_os("SAFELIGHT_WRITE_DOCS").is_some() {
        std::fs::write(&path, current).unwrap();
        return;
    }
    let stale = text.lines().zip(current.lines()).find(|(a, b)| a != b);
    assert!(
        stale.is_none() && text.len() == current.len(),
        "docs/samplers.md is out of date, write it with SAFELIGHT_WRITE_DOCS=1: {stale:?}"
    );
}
