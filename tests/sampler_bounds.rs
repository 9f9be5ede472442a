//! Whatever is combined with whatever, a walk ends in finite numbers or is refused with what to do.
#![allow(clippy::unwrap_used)]

use ndarray::Zip;
use safelight::noise::TorchCpu;
use safelight::options::Options;
use safelight::sampler::{Latent, Method, SAMPLERS, Steps};
use safelight::schedule::{Grid, SCHEDULES, Schedule, Timetable};
use safelight::training::{
    Betas, DiffusionSpec, EdmSpec, EdmTimestep, FlowSpec, Level, Prediction, Training, TrainingSpec,
};
use safelight::trajectory::{Relay, Restart, Trajectory, Walk};
use safelight::{Curve, ErrorKind, Result};

const GRIDS: [Grid; 4] = [Grid::Timesteps, Grid::TimestepsToClean, Grid::Sigmas, Grid::LogSnr];

fn diffusion(timesteps: usize) -> DiffusionSpec {
    DiffusionSpec {
        timesteps,
        beta_start: 0.00085,
        beta_end: 0.012,
        betas: Betas::ScaledLinear,
        zero_terminal_snr: false,
        prediction: Prediction::V,
        steps_offset: usize::from(timesteps > 1),
        set_alpha_to_one: false,
        original_steps: timesteps.min(50),
        timestep_scaling: 10.0,
    }
}

fn flow(timesteps: usize, shift: f64) -> FlowSpec {
    FlowSpec { timesteps, shift, dynamic_shift: None, prediction: Prediction::Flow }
}

fn edm(sigma_min: f64, sigma_max: f64) -> EdmSpec {
    EdmSpec {
        sigma_min,
        sigma_max,
        sigma_data: 0.5,
        timestep: EdmTimestep::LogSigma,
        timestep_scale: 1.0,
        prediction: Prediction::Edm,
    }
}

/// Usual processes, and the shortest, widest and narrowest that are accepted.
fn processes() -> Vec<(String, Training)> {
    let zero = |timesteps| DiffusionSpec { zero_terminal_snr: true, ..diffusion(timesteps) };
    let cosine = DiffusionSpec { betas: Betas::SquaredcosCapV2, set_alpha_to_one: true, ..diffusion(1000) };
    let mut specs: Vec<TrainingSpec> = vec![zero(1000).into(), cosine.into()];
    specs.extend([1, 2, 7, 1000].map(|timesteps| diffusion(timesteps).into()));
    specs.extend([2, 7].map(|timesteps| zero(timesteps).into()));
    specs.extend([1, 2, 7, 1000].map(|timesteps| flow(timesteps, 3.0).into()));
    specs.extend([1e-3, 1e3].map(|shift| flow(1000, shift).into()));
    specs.extend([(0.002, 80.0), (1e-6, 999_999.0), (1.0, 1.000_001)].map(|(low, high)| edm(low, high).into()));
    specs.into_iter().map(|spec| (format!("{spec:?}"), Training::new(spec).unwrap())).collect()
}

/// The exact estimate of data with mean 0.7 and deviation 0.4.
fn gaussian(x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
    let gain = at.alpha * 0.16 / (at.alpha.powi(2) * 0.16 + at.sigma.powi(2));
    Zip::from(denoised).and(x).for_each(|denoised, &x| {
        *denoised = (0.7 + gain * (f64::from(x) - at.alpha * 0.7)) as f32;
    });
    Ok(())
}

fn scheduled(
    training: &Training,
    timetable: &Timetable,
    grid: Grid,
    steps: usize,
    given: &[(&str, f64)],
) -> Result<Schedule> {
    let given = given.iter().map(|&(name, value)| (name.to_owned(), Curve::constant(value))).collect();
    let options = Options::resolve(&[(timetable.name, timetable.options)], &given)?;
    Schedule::new(training, timetable, grid, steps, &options)
}

fn walk(relay: &str, training: &Training, schedule: &Schedule, restarts: &[Restart]) -> Result<Latent> {
    tuned(relay, training, schedule, restarts, &[])
}

fn tuned(
    relay: &str,
    training: &Training,
    schedule: &Schedule,
    restarts: &[Restart],
    given: &[(&str, f64)],
) -> Result<Latent> {
    let relay = Relay::parse(relay)?;
    let methods: Vec<_> = relay.methods().map(|method| (method.name, method.options)).collect();
    let given = given.iter().map(|&(name, value)| (name.to_owned(), Curve::constant(value))).collect();
    let options = Options::resolve(&methods, &given)?;
    let trajectory = Trajectory::new(&relay, schedule, restarts, training)?;
    let _ = trajectory.evaluations();
    let mut source = TorchCpu::new(1);
    let mut noise = |latent: &mut Latent, _, _| {
        source.fill(latent.as_slice_mut().unwrap());
        Ok(())
    };
    let mut x = Latent::zeros((1, 1, 2, 2));
    noise(&mut x, Level::CLEAN, Level::CLEAN)?;
    x *= trajectory.initial_scale as f32;
    let mut walk = Walk { training, options: &options, noise: &mut noise, on_step: &mut |_| Ok(()) };
    Ok(trajectory.walk(&mut gaussian, x, &mut walk)?.0)
}

/// What is wrong with an outcome, if anything.
fn fault(outcome: Result<Latent>) -> Option<String> {
    match outcome {
        Ok(latent) if latent.iter().all(|value| value.is_finite()) => None,
        Ok(latent) => Some(format!("{latent}")),
        Err(error) if [ErrorKind::Usage, ErrorKind::Limit].contains(&error.kind()) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Whether a walk of this length is one of the few that are tried: long ones cost time, and the levels of all of them
/// are checked without a walk.
fn is_tried(method: &Method, place: usize, steps: usize) -> bool {
    match method.steps {
        Steps::Any if steps <= 3 => true,
        Steps::Any => place.is_multiple_of(if steps == 50 { 5 } else { 41 }),
        Steps::One | Steps::Adaptive => steps == 1 && place.is_multiple_of(3),
    }
}

#[test]
fn every_walk_ends_in_finite_numbers_or_is_refused() {
    let mut faults = Vec::new();
    let mut place = 0;
    for (told, training) in processes() {
        for (method, timetable) in SAMPLERS.iter().flat_map(|method| SCHEDULES.iter().map(move |it| (method, it))) {
            for steps in [1, 2, 3, 50, 999, 1000] {
                place += 1;
                if !is_tried(method, place, steps) {
                    continue;
                }
                let schedule = scheduled(&training, timetable, method.grid, steps, &[]);
                let outcome = schedule.and_then(|schedule| walk(method.name, &training, &schedule, &[]));
                let name = (method.name, timetable.name);
                faults.extend(fault(outcome).map(|fault| format!("{name:?} n={steps} {told}: {fault}")));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn options_at_the_ends_of_their_ranges_are_finite_or_refused() {
    let mut faults = Vec::new();
    for (told, training) in processes() {
        for (method, &(opt, _)) in
            SAMPLERS.iter().flat_map(|method| method.options.iter().map(move |opt| (method, opt)))
        {
            let row = opt.row();
            for (timetable, steps) in SCHEDULES.iter().step_by(3).flat_map(|it| [1, 2, 6].map(|steps| (it, steps))) {
                if method.steps != Steps::Any && steps > 1 {
                    continue;
                }
                let Ok(schedule) = scheduled(&training, timetable, method.grid, steps, &[]) else { continue };
                for value in [row.range.0, row.range.1] {
                    let outcome = tuned(method.name, &training, &schedule, &[], &[(row.name, value)]);
                    let name = (method.name, timetable.name, row.name, value);
                    faults.extend(fault(outcome).map(|fault| format!("{name:?} n={steps} {told}: {fault}")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The ends of the ranges of a schedule's options and their defaults, each with each.
fn settings(timetable: &Timetable) -> Vec<Vec<(&'static str, f64)>> {
    timetable.options.iter().fold(vec![vec![]], |settings, (opt, default)| {
        let (low, high) = opt.row().range;
        let with = |value| settings.iter().map(move |rest| [&rest[..], &[(opt.row().name, value)]].concat());
        [low, *default, high].into_iter().flat_map(with).collect()
    })
}

#[test]
fn every_schedule_falls_at_every_step_or_is_refused() {
    let mut faults = Vec::new();
    for ((told, training), timetable) in every_process_and_schedule() {
        for (grid, steps) in GRIDS.into_iter().flat_map(|grid| [1, 2, 3, 6, 7, 50, 999, 1000].map(|n| (grid, n))) {
            let name = format!("{} {grid:?} n={steps} {told}", timetable.name);
            faults.extend(unwalkable(&training, scheduled(&training, timetable, grid, steps, &[]), &name));
        }
        for (given, steps) in settings(timetable).iter().flat_map(|given| [1, 2, 7, 300].map(|n| (given, n))) {
            let name = format!("{} n={steps} {given:?} {told}", timetable.name);
            faults.extend(unwalkable(&training, scheduled(&training, timetable, Grid::Sigmas, steps, given), &name));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn every_process_and_schedule() -> impl Iterator<Item = ((String, Training), &'static Timetable)> {
    processes().into_iter().flat_map(|process| SCHEDULES.iter().map(move |timetable| (process.clone(), timetable)))
}

/// What is wrong with a schedule, if anything: a level that is not below the one before it, or no number at all. Where
/// it ends is the model's business: DDIM of some models ends where its last step began.
fn unwalkable(training: &Training, schedule: Result<Schedule>, name: &str) -> Option<String> {
    let levels = match schedule {
        Ok(schedule) => schedule.levels,
        Err(error) => return (error.kind() != ErrorKind::Usage).then(|| format!("{name}: {error}")),
    };
    let sigmas: Vec<_> = levels[..levels.len() - 1].iter().map(|&level| training.own_sigma(level)).collect();
    let odd = sigmas.iter().any(|sigma| sigma.is_nan() || *sigma <= 0.0);
    let rises = sigmas.windows(2).any(|pair| pair[0] <= pair[1]);
    (odd || rises).then(|| format!("{name}: {sigmas:?}"))
}

#[test]
fn levels_that_are_one_to_the_grid_are_refused() {
    let (sd, flow) = (Training::new(diffusion(1000)).unwrap(), Training::new(flow(1000, 1.0)).unwrap());
    for grid in [Grid::Timesteps, Grid::LogSnr] {
        let error = Schedule::of_timesteps(&sd, &[999.0, 10.4, 9.6], grid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("step 3 begins at sigma"), "{error}");
    }
    Schedule::of_timesteps(&sd, &[999.0, 10.4, 9.6], Grid::Sigmas).unwrap();
    assert_eq!(
        Schedule::of_given_sigmas(&flow, &[1.005, 1.0, 0.5], Grid::Sigmas).unwrap_err().kind(),
        ErrorKind::Usage
    );
    assert_eq!(Schedule::of_given_sigmas(&flow, &[1.005], Grid::Sigmas).unwrap().levels[0].timestep, 1000.0);
    assert_eq!(Schedule::of_given_sigmas(&sd, &[14.0, 1e-300], Grid::Sigmas).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn samplers_that_take_over_at_the_end_of_a_restart_or_of_the_model_are_finite() {
    let training = Training::new(DiffusionSpec { steps_offset: 0, ..diffusion(1000) }).unwrap();
    for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
        // The model's least level is the last of DDIM's, and nothing of another sampler's.
        let relay = format!("ddim until step 3, then {}", method.name);
        let schedule = |name: &str, grid| {
            let timetable = SCHEDULES.iter().find(|timetable| timetable.name == name).unwrap();
            scheduled(&training, timetable, grid, 8, &[]).unwrap()
        };
        let found = walk(&relay, &training, &schedule("leading", Grid::Timesteps), &[]).unwrap();
        assert!(found.iter().all(|value| value.is_finite()), "{relay}: {found}");
        // The restart ends at the very level where the next sampler begins.
        let relay = format!("{0} until step 4, then {0}", method.name);
        let schedule = schedule("karras", method.grid);
        let low = training.own_sigma(schedule.levels[4]) * (1.0 + 1e-8);
        let restart = Restart { low, high: 2.0 * low, steps: 2, times: 2 };
        let found = walk(&relay, &training, &schedule, &[restart]).unwrap();
        assert!(found.iter().all(|value| value.is_finite()), "{relay}: {found}");
        let narrow = Restart { high: low * (1.0 + 1e-8), steps: 500, ..restart };
        assert_eq!(walk(&relay, &training, &schedule, &[narrow]).unwrap_err().kind(), ErrorKind::Usage, "{relay}");
    }
    let nowhere = Schedule { levels: vec![], initial_scale: 1.0 };
    assert_eq!(walk("euler", &training, &nowhere, &[]).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn samplers_in_turn_have_their_own_defaults() {
    let training = Training::new(diffusion(1000)).unwrap();
    let timetable = SCHEDULES.iter().find(|timetable| timetable.name == "trailing").unwrap();
    let schedule = scheduled(&training, timetable, Grid::Timesteps, 8, &[]).unwrap();
    let draws = |relay: &str, given: &[(&str, f64)]| {
        let relay = Relay::parse(relay).unwrap();
        let methods: Vec<_> = relay.methods().map(|method| (method.name, method.options)).collect();
        let given = given.iter().map(|&(name, value)| (name.to_owned(), Curve::constant(value))).collect();
        let options = Options::resolve(&methods, &given).unwrap();
        let mut draws = 0;
        let mut noise = |_: &mut Latent, _, _| {
            draws += 1;
            Ok(())
        };
        let trajectory = Trajectory::new(&relay, &schedule, &[], &training).unwrap();
        let mut walk = Walk { training: &training, options: &options, noise: &mut noise, on_step: &mut |_| Ok(()) };
        trajectory.walk(&mut gaussian, Latent::ones((1, 1, 2, 2)), &mut walk).unwrap();
        draws
    };
    // The last step, to the clean latent, has no noise.
    assert_eq!(draws("ddim until step 3, then euler_ancestral", &[]), 4);
    assert_eq!(draws("ddpm until step 3, then ddim", &[]), 3);
    assert_eq!(draws("ddpm until step 3, then euler_ancestral", &[("eta", 0.0)]), 0);
    assert_eq!(draws("ddpm until step 3, then euler_ancestral", &[("eta", 0.5)]), 7);
}

#[test]
fn intervals_without_anything_in_them_are_refused() {
    for (sampler, low, high) in [("euler", "churn_min", "churn_max"), ("sa", "tau_min", "tau_max")] {
        let method = SAMPLERS.iter().find(|method| method.name == sampler).unwrap();
        let given = [(low.to_owned(), 0.5.into()), (high.to_owned(), 0.25.into())].into();
        let error = Options::resolve(&[(sampler, method.options)], &given).unwrap_err();
        assert_eq!(error.to_string(), format!("option \"{low}\" is 0.5, expected at most {high}, 0.25"));
    }
}
