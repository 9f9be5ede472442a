//! What a caller asks for, checked against model and target before anything is opened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::curve::Curve;
use crate::guidance::{Kind, LIMITS, Rule, find_guidance};
use crate::model::Model;
use crate::noise::{Generator, TORCH_CPU, find_generator};
use crate::options::{Opt, Options};
use crate::sampler::{Method, Steps};
use crate::schedule::{Schedule, find_schedule};
use crate::stage::Stage;
use crate::target::Target;
use crate::training::{Level, Training, TrainingSpec};
use crate::trajectory::{Relay, Restart, Trajectory};
use crate::{Error, Result};

/// What to make. Fields that are `None` or empty take the model's default.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the picture shows; may be empty.
    pub prompt: String,
    /// What it must not show; needs guidance.
    pub negative: Option<String>,
    /// How the noise becomes a latent.
    pub sampling: Sampling,
    /// Guidance scale, or several spread over the steps; 1 or less is off.
    pub guidance: Option<Curve>,
    /// A name from [`GUIDANCES`](crate::guidance::GUIDANCES).
    pub guidance_method: Option<String>,
    /// How the two predictions of guidance are asked for.
    pub guidance_runs: GuidanceRuns,
    /// Seed of the first picture; the next has the next seed.
    pub seed: u64,
    /// Seed of the sampler's own noise, where that is not to continue the initial noise.
    pub noise_seed: Option<u64>,
    /// A name from [`GENERATORS`](crate::noise::GENERATORS).
    pub generator: Option<String>,
    /// How the sampler's own noise hangs together.
    pub sampler_noise: SamplerNoise,
    /// How many pictures.
    pub count: usize,
    /// How many of them go through the graphs together; the pictures are the same, memory is not.
    pub batch: usize,
    /// Where the noise of a batch comes from.
    pub noise: NoiseLayout,
    /// Width and height in pixels.
    pub size: Option<(usize, usize)>,
    /// Stops the generation from another thread.
    pub cancel: Cancel,
}

/// How noise becomes a latent. Fields that are `None` or empty take the model's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// A name from [`SAMPLERS`](crate::sampler::SAMPLERS), or several in turn; see [`Relay`].
    pub sampler: Option<String>,
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
    /// Names and values from [`OPTIONS`](crate::options::OPTIONS).
    pub options: BTreeMap<String, Curve>,
}

/// Where the noise of several pictures comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseLayout {
    /// A generator for each picture: picture n is what `seed + n` alone would give.
    #[default]
    PerImage,
    /// One generator for all of them, drawn in one call, as diffusers does with a single generator. All pictures
    /// then form one batch.
    Shared,
}

/// How the noise of a sampler's steps hangs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerNoise {
    /// Each draw is a new one, as in diffusers.
    #[default]
    Independent,
    /// All draws are increments of one Brownian motion, as k-diffusion has it: more steps refine the same picture.
    Brownian,
}

/// How the two predictions of guidance are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuidanceRuns {
    /// In one run of the graph where it takes both.
    #[default]
    Together,
    /// In two runs, which needs less memory.
    InTurn,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: None,
            sampling: Sampling::default(),
            guidance: None,
            guidance_method: None,
            guidance_runs: GuidanceRuns::default(),
            seed: 0,
            noise_seed: None,
            generator: None,
            sampler_noise: SamplerNoise::default(),
            count: 1,
            batch: 1,
            noise: NoiseLayout::default(),
            size: None,
            cancel: Cancel::new(),
        }
    }
}

/// A request with every default filled in and every bound checked.
pub struct Plan {
    /// The samplers.
    pub relay: Relay,
    /// The schedule's name; `timesteps` or `sigmas` where the request gives those, `adaptive` where a tolerance decides.
    pub schedule: String,
    /// The levels that the samplers walk.
    pub trajectory: Trajectory,
    /// The training process at this size.
    pub training: Training,
    /// What the samplers, the schedule and the guidance are tuned with.
    pub options: Options,
    /// Guidance scale; 1 or less is off.
    pub guidance: Curve,
    /// The way of guidance.
    pub rule: &'static Rule,
    /// How the two predictions of guidance are asked for.
    pub guidance_runs: GuidanceRuns,
    /// The generator of noise.
    pub generator: &'static Generator,
    /// Pictures that go through the graphs together.
    pub batch: usize,
    /// The same, where it is so for every batch: the last may be smaller.
    pub every_batch: Option<usize>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Shape of one latent: channels, height, width.
    pub latent: (usize, usize, usize),
    /// What the caller should know, such as steps that the model was not made for.
    pub warnings: Vec<String>,
}

/// Guidance beyond this is a mistake, not a wish.
const MAX_GUIDANCE: f64 = 1000.0;

impl Plan {
    /// Resolves a request. Nothing is opened.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for what cannot be,
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for what the target does not allow,
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where the model has none of the target's precisions.
    pub fn new(request: &Request, model: &Model, target: &Target) -> Result<Self> {
        let guidance = request.guidance.clone().unwrap_or(Curve::constant(model.defaults.guidance));
        let rule = find_guidance(request.guidance_method.as_deref().unwrap_or("cfg"))?;
        let (width, height) = request.size.unwrap_or((model.picture.width, model.picture.height));
        check_numbers(request, &guidance)?;
        check_size(width, height, model)?;
        check_limits(request, (width, height), target)?;
        for stage in Stage::TEXT_TO_IMAGE {
            model.graph(stage, &target.stage(stage).precision)?;
        }
        let latent = (model.latent.channels, height / model.latent.downscale, width / model.latent.downscale);
        let on = guidance.values().iter().any(|&scale| rule.is_on(scale));
        let guided = on.then_some((rule, &guidance));
        let route = Route::new(&request.sampling, model, (latent.1, latent.2), guided)?;
        let steps = route.trajectory.steps;
        within("steps", steps.unwrap_or(1) as u64, target.limits.max_steps as u64)?;
        if request.guidance_method.is_some() && !on {
            return Err(Error::usage(format!(
                "guidance method {} would have no effect: guidance {guidance} is off",
                rule.name
            )));
        }
        let batch = match request.noise {
            NoiseLayout::PerImage => request.batch.min(request.count),
            NoiseLayout::Shared => request.count,
        };
        within("batch", batch as u64, target.limits.max_batch as u64)?;
        Ok(Self {
            generator: request.generator.as_deref().map_or(Ok(&TORCH_CPU), find_generator)?,
            batch,
            every_batch: request.count.is_multiple_of(batch).then_some(batch),
            width,
            height,
            latent,
            warnings: [
                warnings(request, model, &guidance, (steps, on)),
                route.warnings(),
                noise_warnings(request, &route),
            ]
            .concat(),
            relay: route.relay,
            schedule: route.schedule,
            trajectory: route.trajectory,
            training: route.training,
            options: route.options,
            guidance,
            rule,
            guidance_runs: request.guidance_runs,
        })
    }

    /// Whether the negative prompt is asked about at all.
    pub fn is_guided(&self) -> bool {
        self.guidance.values().iter().any(|&scale| self.rule.is_on(scale))
    }

    /// Steps, where no tolerance decides.
    pub fn steps(&self) -> Option<usize> {
        self.trajectory.steps
    }
}

/// The levels of a request and the samplers that walk them: all of a plan that needs no picture.
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
        let relay = Relay::parse(sampling.sampler.as_deref().unwrap_or(&model.defaults.sampler))?;
        let training = model.training.at_size(height, width);
        let name = schedule_name(sampling, &relay, model)?;
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
        let options = Options::resolve(&methods, &given_options(sampling, model, &methods))?;
        check_orders(&relay, &options)?;
        let grid = relay.first().grid;
        let schedule = match (sampling.given(), timetable) {
            (Some(Given::Timesteps(timesteps)), _) => Schedule::of_timesteps(&training, timesteps, grid)?,
            (Some(Given::Sigmas(sigmas)), _) => Schedule::of_given_sigmas(&training, sigmas, grid)?,
            (None, timetable) => {
                // An adaptive sampler needs the noisy end alone, which is where one step of this one begins.
                let timetable = timetable.map_or_else(|| find_schedule("karras"), Ok)?;
                Schedule::new(&training, timetable, grid, steps(sampling, &relay, model)?, &options)?
            }
        };
        let trajectory = Trajectory::new(&relay, &schedule, &sampling.restarts, &training)?;
        if let Some((rule, scale)) = guided {
            check_guidance(rule, scale, &relay, &trajectory, &training)?;
        }
        check_limits_of_estimates(&options)?;
        Ok(Self { relay, schedule: name, trajectory, training, options })
    }
}

/// The model's own options, as far as its own sampler is used and anything takes them, and the request's.
fn given_options(sampling: &Sampling, model: &Model, methods: &[(&str, &[(Opt, f64)])]) -> BTreeMap<String, Curve> {
    let taken = |name: &str| methods.iter().any(|(_, options)| options.iter().any(|(opt, _)| opt.row().name == name));
    let own = model.defaults.options.iter().filter(|(name, _)| sampling.sampler.is_none() && taken(name));
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
    fn draws_noise(&self, restarts: &[Restart]) -> bool {
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
fn schedule_name(sampling: &Sampling, relay: &Relay, model: &Model) -> Result<String> {
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
            return Ok(own.unwrap_or(&model.defaults.schedule).to_owned());
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

fn steps(sampling: &Sampling, relay: &Relay, model: &Model) -> Result<usize> {
    let method = relay.first();
    match (method.steps, sampling.steps) {
        (Steps::Any, steps) => Ok(steps.unwrap_or(model.defaults.steps)),
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

fn check_numbers(request: &Request, guidance: &Curve) -> Result<()> {
    if let Some(scale) = guidance.values().iter().find(|scale| !(0.0..=MAX_GUIDANCE).contains(*scale)) {
        return Err(Error::usage(format!("guidance is {scale}, expected 0 to {MAX_GUIDANCE} (1 or less is off)")));
    }
    for (name, value) in [("count", request.count), ("batch", request.batch)] {
        if value == 0 {
            return Err(Error::usage(format!("{name} is 0, expected at least 1")));
        }
    }
    if request.noise_seed == Some(request.seed) && request.sampler_noise == SamplerNoise::Independent {
        return Err(Error::usage(format!(
            "noise seed {0} is the seed, too: the sampler would draw the initial noise again; give it another one",
            request.seed
        )));
    }
    if request.sampler_noise == SamplerNoise::Brownian && !request.sampling.restarts.is_empty() {
        return Err(Error::usage(
            "restarts walk an interval again, and Brownian noise would be the same each time; leave one of them out",
        ));
    }
    for seed in [Some(request.seed), request.noise_seed].into_iter().flatten() {
        if seed.checked_add(request.count as u64 - 1).is_none() {
            return Err(Error::usage(format!("seed {seed} leaves no room for {} pictures", request.count)));
        }
    }
    Ok(())
}

fn check_size(width: usize, height: usize, model: &Model) -> Result<()> {
    let native = model.picture;
    let Some(multiple) = native.multiple else {
        if (width, height) == (native.width, native.height) {
            return Ok(());
        }
        return Err(Error::usage(format!(
            "size is {width}×{height}, but model \"{}\" makes only {}×{}",
            model.name, native.width, native.height
        )));
    };
    if width == 0 || height == 0 || !width.is_multiple_of(multiple) || !height.is_multiple_of(multiple) {
        return Err(Error::usage(format!(
            "size is {width}×{height}, expected multiples of {multiple} such as {}×{}",
            native.width, native.height
        )));
    }
    Ok(())
}

fn check_limits(request: &Request, (width, height): (usize, usize), target: &Target) -> Result<()> {
    let limits = target.limits;
    let pixels = (width as u64).saturating_mul(height as u64);
    within("pixels", pixels, limits.max_pixels)?;
    within("steps", request.sampling.steps.unwrap_or(1) as u64, limits.max_steps as u64)?;
    within("count", request.count as u64, limits.max_count as u64)?;
    for prompt in [Some(&request.prompt), request.negative.as_ref()].into_iter().flatten() {
        within("prompt bytes", prompt.len() as u64, limits.max_prompt_bytes as u64)?;
    }
    Ok(())
}

fn within(what: &str, asked: u64, most: u64) -> Result<()> {
    if asked > most {
        return Err(Error::limit(format!(
            "{what}: {asked} asked for, but the target allows {most} (limits in its file)"
        )));
    }
    Ok(())
}

fn warnings(request: &Request, model: &Model, guidance: &Curve, (steps, on): (Option<usize>, bool)) -> Vec<String> {
    let mut warnings = model.warnings.clone();
    let why = model.range.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    if let (Some((fewest, most)), Some(steps)) = (model.range.steps, steps)
        && !(fewest..=most).contains(&steps)
    {
        warnings
            .push(format!("model \"{}\" is made for {fewest} to {most} steps{why}, you asked for {steps}", model.name));
    }
    if let Some((low, high)) = model.range.guidance
        && !guidance.values().iter().all(|scale| (low..=high).contains(scale))
    {
        warnings.push(format!(
            "model \"{}\" is made for guidance {low} to {high}{why}, you asked for {guidance}",
            model.name
        ));
    }
    if request.negative.as_ref().is_some_and(|negative| !negative.is_empty()) && !on {
        warnings.push(format!("the negative prompt has no effect: guidance {guidance} is off; try --guidance 2"));
    }
    warnings
}

/// What is said of a sampler's own noise where there is none.
fn noise_warnings(request: &Request, route: &Route) -> Vec<String> {
    let brownian = request.sampler_noise == SamplerNoise::Brownian;
    let said = [(request.noise_seed.is_some(), "the noise seed"), (brownian, "Brownian noise")];
    if route.draws_noise(&request.sampling.restarts) {
        return Vec::new();
    }
    let said = said.into_iter().filter(|(is_said, _)| *is_said);
    said.map(|(_, what)| format!("{what} has no effect: sampler {} draws no noise of its own", route.relay)).collect()
}
