//! How noise becomes a latent: what a request says of it, resolved to levels and the samplers that walk them.

use std::collections::BTreeMap;

use crate::curve::Curve;
use crate::guidance::{Kind, LIMITS, Rule};
use crate::model::{Defaults, Model};
use crate::noise::Noise;
use crate::options::{Opt, Options};
use crate::sampler::{Denoise, Latent, Method, Step, Steps};
use crate::schedule::{Schedule, find_schedule};
use crate::training::{Level, Training, TrainingSpec};
use crate::trajectory::{Relay, Restart, Trajectory, Walk};
use crate::{Error, Result};

/// How noise becomes a latent. Fields that are `None` or empty take the model's default.
#[derive(Debug, Clone, Default)]
pub struct Sampling {
    /// A name from [`SAMPLERS`](crate::sampler::SAMPLERS) or of `own_samplers`, or several in turn; see [`Relay`].
    pub sampler: Option<String>,
    /// Samplers that the application brings, each with a name that is none of the built-in ones.
    pub own_samplers: Vec<&'static Method>,
    /// A name from [`SCHEDULES`](crate::schedule::SCHEDULES).
    pub schedule: Option<String>,
    /// Number of steps, from 1.
    pub steps: Option<usize>,
    /// Timesteps to visit, instead of a schedule.
    pub timesteps: Vec<f64>,
    /// Sigmas to visit, instead of a schedule.
    pub sigmas: Vec<f64>,
    /// Intervals to walk again.
    pub restarts: Vec<Restart>,
    /// How much of a picture to begin with noise takes, more than 0 and up to 1: the first steps are left out; see
    /// [`Schedule::for_strength`].
    pub strength: Option<f64>,
    /// Names and values from [`OPTIONS`](crate::options::OPTIONS).
    pub options: BTreeMap<String, Curve>,
}

/// The levels of a request and the samplers that walk them: all of a plan that needs no picture.
///
/// It is also all that a denoiser without a model needs. This one is exact, for data of which every number is 0.5:
///
/// ```
/// use safelight::model::Defaults;
/// use safelight::noise::{Noise, TORCH_CPU};
/// use safelight::sampler::Latent;
/// use safelight::training::{FlowSpec, Level, Prediction, Training};
/// use safelight::{Route, Sampling};
///
/// let training = Training::new(FlowSpec { timesteps: 1000, shift: 1.0, dynamic_shift: None, prediction: Prediction::Flow })?;
/// let defaults = Defaults {
///     sampler: "euler".into(), schedule: "simple".into(), steps: 4, guidance: 1.0, options: Default::default(),
/// };
/// let route = Route::over(training, &Sampling::default(), &defaults, None)?;
///
/// let mut denoiser = |_: &Latent, _: Level, denoised: &mut Latent| Ok(denoised.fill(0.5));
/// let mut noise = Noise::per_image(&TORCH_CPU, [7, 8]);
/// let clean = route.walk(&mut denoiser, (2, 4, 8, 8), &mut noise, &mut |_| Ok(()))?;
/// assert!(clean.iter().all(|value| (value - 0.5).abs() < 1e-6));
/// # Ok::<(), safelight::Error>(())
/// ```
#[non_exhaustive]
pub struct Route {
    /// The samplers.
    pub relay: Relay,
    /// The schedule's name; `timesteps` or `sigmas` where those are given, `adaptive` where a tolerance decides.
    pub schedule: String,
    /// The levels that the samplers walk.
    pub trajectory: Trajectory,
    /// The training process at this size.
    pub training: Training,
    /// What samplers, schedule and guidance are tuned with.
    pub options: Options,
}

impl Route {
    /// Resolves how noise becomes a latent of `height` × `width` cells, with guidance if any.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for what cannot be, or would have no effect.
    pub fn new(
        sampling: &Sampling,
        model: &Model,
        (height, width): (usize, usize),
        guided: Option<(&Rule, &Curve)>,
    ) -> Result<Self> {
        Self::over(model.training.at_size(height, width), sampling, &model.defaults, guided)
    }

    /// The same over a training process alone, for a denoiser that is no model's graph; what `sampling` does not say is
    /// in `defaults`.
    ///
    /// # Errors
    /// As [`Route::new`].
    pub fn over(
        training: Training,
        sampling: &Sampling,
        defaults: &Defaults,
        guided: Option<(&Rule, &Curve)>,
    ) -> Result<Self> {
        let sampler = sampling.sampler.as_deref().unwrap_or(&defaults.sampler);
        let relay = Relay::parse_among(sampler, &sampling.own_samplers)?;
        let name = schedule_name(sampling, &relay, defaults)?;
        let adaptive = relay.first().steps == Steps::Adaptive;
        let timetable = match sampling.given() {
            None if !adaptive => Some(find_schedule(&name)?),
            _ => None,
        };
        let mut methods: Vec<(&str, &[(Opt, f64)])> =
            relay.methods().map(|method| (method.name, method.options)).collect();
        methods.extend(timetable.map(|timetable| (timetable.name, timetable.options)));
        methods.extend(guided.map(|(rule, _)| (rule.name, rule.options)));
        methods.push(("every sampler", LIMITS));
        let options = Options::resolve(&methods, &given_options(sampling, defaults, &methods))?;
        check_orders(&relay, &options)?;
        let (grid, strength) = (relay.first().grid, strength(sampling, &relay)?);
        let schedule = match (sampling.given(), timetable) {
            (Some(Given::Timesteps(timesteps)), _) => {
                Schedule::of_timesteps(&training, timesteps, grid)?.cut(strength)?
            }
            (Some(Given::Sigmas(sigmas)), _) => Schedule::of_given_sigmas(&training, sigmas, grid)?.cut(strength)?,
            (None, timetable) => {
                // An adaptive sampler needs the noisy end alone, which is where one step of this one begins.
                let timetable = timetable.map_or_else(|| find_schedule("karras"), Ok)?;
                let steps = steps(sampling, &relay, defaults)?;
                Schedule::for_strength(&training, timetable, grid, (steps, strength), &options)?
            }
        };
        let trajectory = Trajectory::new(&relay, &schedule, &sampling.restarts, &training)?;
        if let Some((rule, scale)) = guided {
            check_guidance(rule, scale, &relay, &trajectory, &training)?;
        }
        check_limits_of_estimates(&options)?;
        Ok(Self { relay, schedule: name, trajectory, training, options })
    }

    /// Walks it with any denoiser: noise of `shape`, `[batch, channels, height, width]`, → clean latents. The samplers'
    /// own noise continues the initial one, as a [`Request`](crate::Request) has it unless it says otherwise. `on_step`
    /// may end the walk with an error of its own.
    ///
    /// # Errors
    /// As [`Trajectory::walk`].
    pub fn walk(
        &self,
        denoiser: &mut dyn Denoise,
        shape: (usize, usize, usize, usize),
        noise: &mut Noise,
        on_step: &mut dyn FnMut(&mut Step) -> Result<()>,
    ) -> Result<Latent> {
        let mut latent = Latent::zeros(shape);
        noise.fill(&mut latent)?;
        latent *= self.trajectory.initial_scale as f32;
        let mut with = Walk {
            training: &self.training,
            options: &self.options,
            noise: &mut |latent, _, _| noise.fill(latent),
            on_step,
        };
        self.trajectory.walk(denoiser, latent, &mut with).map(|(latents, _)| latents)
    }
}

/// The model's own options, as far as anything takes them, and the request's. Those of its sampler hold for that alone;
/// limits of estimates are the model's whatever the sampler.
fn given_options(
    sampling: &Sampling,
    defaults: &Defaults,
    methods: &[(&str, &[(Opt, f64)])],
) -> BTreeMap<String, Curve> {
    let taken = |name: &str| methods.iter().any(|(_, options)| options.iter().any(|(opt, _)| opt.row().name == name));
    let is_own = sampling.sampler.as_ref().is_none_or(|sampler| *sampler == defaults.sampler);
    let is_limit = |name: &str| LIMITS.iter().any(|(opt, _)| opt.row().name == name);
    let own = defaults.options.iter().filter(|(name, _)| (is_own || is_limit(name)) && taken(name));
    own.chain(&sampling.options).map(|(name, curve)| (name.clone(), curve.clone())).collect()
}

/// What reports call the levels of an adaptive sampler.
const ADAPTIVE: &str = "adaptive";

/// Beyond this sigma a latent is pure noise to whoever looks at it.
const PURE_NOISE: f64 = 1000.0;
/// So many steps leave it with any method.
const MANY_STEPS: usize = 50;

impl Route {
    /// What the caller should know of the way that the latent is going.
    pub fn warnings(&self) -> Vec<String> {
        let method = self.relay.first();
        let first = self.trajectory.levels().next().unwrap_or(Level::CLEAN);
        let few = self.trajectory.steps.is_some_and(|steps| (2..MANY_STEPS).contains(&steps));
        if method.from_pure_noise || !few || self.training.own_sigma(first) < PURE_NOISE {
            return Vec::new();
        }
        vec![format!(
            "sampler {} needs 20 to {MANY_STEPS} steps to leave the pure noise where this model begins; dpmpp_2m and \
             euler need one",
            method.name
        )]
    }
}

impl Route {
    /// Whether any sampler or restart draws noise of its own.
    pub(crate) fn draws_noise(&self, restarts: &[Restart]) -> bool {
        const AMOUNTS: [Opt; 4] = [Opt::Eta, Opt::Churn, Opt::Gamma, Opt::Tau];
        let draws = |method: &Method| {
            let options = self.options.of(method.options);
            let mut amounts = method.options.iter().map(|(opt, _)| *opt).filter(|opt| AMOUNTS.contains(opt)).peekable();
            if amounts.peek().is_some() { amounts.any(|opt| options.is_on(opt)) } else { method.stochastic }
        };
        !restarts.is_empty() || self.relay.methods().any(draws)
    }
}

enum Given<'a> {
    Timesteps(&'a [f64]),
    Sigmas(&'a [f64]),
}

impl Sampling {
    /// The model's own way, in `steps` steps.
    pub fn in_steps(steps: usize) -> Self {
        Self { steps: Some(steps), ..Self::default() }
    }

    fn given(&self) -> Option<Given<'_>> {
        match (&self.timesteps[..], &self.sigmas[..]) {
            ([], []) => None,
            ([], sigmas) => Some(Given::Sigmas(sigmas)),
            (timesteps, _) => Some(Given::Timesteps(timesteps)),
        }
    }
}

/// The name of the schedule, and no second way of saying the same.
fn schedule_name(sampling: &Sampling, relay: &Relay, defaults: &Defaults) -> Result<String> {
    if relay.first().steps == Steps::Adaptive {
        return match sampling.given().is_some() || sampling.schedule.is_some() {
            false => Ok(ADAPTIVE.into()),
            true => Err(Error::usage(format!(
                "sampler {} chooses its own levels; leave schedule, timesteps and sigmas out",
                relay.first().name
            ))),
        };
    }
    let (what, count) = match sampling.given() {
        None => {
            let own = sampling.schedule.as_deref().or(relay.first().schedule);
            return Ok(own.unwrap_or(&defaults.schedule).to_owned());
        }
        Some(_) if !sampling.timesteps.is_empty() && !sampling.sigmas.is_empty() => {
            return Err(Error::usage("timesteps and sigmas cannot both be given"));
        }
        Some(Given::Timesteps(timesteps)) => ("timesteps", timesteps.len()),
        Some(Given::Sigmas(sigmas)) => ("sigmas", sigmas.strip_suffix(&[0.0]).unwrap_or(sigmas).len()),
    };
    if let Some(schedule) = &sampling.schedule {
        return Err(Error::usage(format!("{what} and schedule \"{schedule}\" cannot both be given")));
    }
    if let Some(steps) = sampling.steps.filter(|&steps| steps != count) {
        return Err(Error::usage(format!("{count} {what} are given, but {steps} steps; leave the steps out")));
    }
    Ok(what.to_owned())
}

/// How much of a picture to begin with noise takes: all of it where there is none.
fn strength(sampling: &Sampling, relay: &Relay) -> Result<f64> {
    match sampling.strength {
        Some(_) if relay.first().steps == Steps::Adaptive => Err(Error::usage(format!(
            "sampler {relay} chooses its own levels, so that no strength can tell where a picture begins; take another"
        ))),
        strength => Ok(strength.unwrap_or(1.0)),
    }
}

fn steps(sampling: &Sampling, relay: &Relay, defaults: &Defaults) -> Result<usize> {
    let method = relay.first();
    match (method.steps, sampling.steps) {
        (Steps::Any, steps) => Ok(steps.unwrap_or(defaults.steps)),
        (Steps::One, None | Some(1)) | (Steps::Adaptive, None) => Ok(1),
        (Steps::One, Some(steps)) => {
            Err(Error::usage(format!("sampler {} takes 1 step, you asked for {steps}", method.name)))
        }
        (Steps::Adaptive, Some(_)) => Err(Error::usage(format!(
            "sampler {} takes as many steps as its tolerance needs; use options rtol and atol instead of steps",
            method.name
        ))),
    }
}

fn check_guidance(
    rule: &Rule,
    scale: &Curve,
    relay: &Relay,
    trajectory: &Trajectory,
    training: &Training,
) -> Result<()> {
    if scale.values().len() > 1 && trajectory.steps.is_none() {
        return Err(Error::usage(format!(
            "guidance {scale} is spread over the steps, but sampler {relay} does not know how many there will be"
        )));
    }
    if rule.kind == Kind::ZeroStar && !matches!(training.spec(), TrainingSpec::Flow(_)) {
        return Err(Error::usage("guidance method cfg_zero is for flow-matching models, which this one is not"));
    }
    if rule.kind != Kind::PlusPlus {
        return Ok(());
    }
    if let Some(method) = relay.methods().find(|method| !method.cfg_pp) {
        let able = crate::sampler::SAMPLERS.iter().filter(|method| method.cfg_pp).map(|method| method.name);
        return Err(Error::usage(format!(
            "guidance method cfg_pp does not work with sampler {}; it does with {}",
            method.name,
            able.collect::<Vec<_>>().join(", ")
        )));
    }
    match scale.values().iter().find(|&&scale| scale > 1.0) {
        Some(scale) => Err(Error::usage(format!("guidance is {scale}, but method cfg_pp takes 0 to 1; 0.6 is usual"))),
        None => Ok(()),
    }
}

fn check_orders(relay: &Relay, options: &Options) -> Result<()> {
    for method in relay.methods().filter(|method| method.options.iter().any(|(opt, _)| *opt == Opt::Order)) {
        let order = options.of(method.options).whole(Opt::Order);
        if !method.orders.contains(&order) {
            let (low, high) = (method.orders.start(), method.orders.end());
            return Err(Error::usage(format!(
                "option \"order\" is {order}, but sampler {} has {low} to {high}",
                method.name
            )));
        }
    }
    Ok(())
}

fn check_limits_of_estimates(options: &Options) -> Result<()> {
    let (clip, threshold) = (options.get(Opt::Clip), options.get(Opt::Threshold));
    if clip > 0.0 && threshold > 0.0 {
        return Err(Error::usage("options clip and threshold cannot both be given"));
    }
    if threshold == 0.0 && options.get(Opt::ThresholdMax) != 1.0 {
        return Err(Error::usage("option \"threshold_max\" would have no effect without threshold"));
    }
    Ok(())
}
