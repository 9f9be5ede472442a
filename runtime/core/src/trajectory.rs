//! Which samplers walk which levels: one all the way, several in turn, intervals walked again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::{Opt, Options};
use crate::sampler::{Denoise, Latent, Method, Part, Run, Step, Steps, Tally, check_own, find_among};
use crate::schedule::{Grid, Schedule, check_falling};
use crate::training::{Level, Training};
use crate::{Error, Result};

/// Samplers in the order in which they work, each until the next takes over.
///
/// Written as `dpmpp_2m`, or `euler_ancestral until sigma 2, then dpmpp_2m`, or `ddim until step 3, then lcm`.
#[derive(Debug, Clone)]
pub struct Relay {
    legs: Vec<Leg>,
}

#[derive(Debug, Clone, Copy)]
struct Leg {
    method: &'static Method,
    until: Until,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Until {
    /// The first level whose own sigma is at most this.
    Sigma(f64),
    /// So many steps of the whole trajectory are done.
    Step(usize),
    End,
}

/// More samplers than this in one trajectory are a mistake.
const MOST_LEGS: usize = 8;
/// Restarts that one request may ask for, counting repetitions.
const MOST_RESTARTS: usize = 1000;

impl Relay {
    /// Reads a sampler's name, or several with the place where each gives way.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for unknown names, and for what is not written like the examples
    /// above.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_among(text, &[])
    }

    /// The same, where names may be those of an application's own samplers.
    ///
    /// # Errors
    /// As [`Relay::parse`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) for own samplers that hide a built-in one or
    /// one another, have no name of one word, or defaults out of their options' ranges.
    pub fn parse_among(text: &str, own: &[&'static Method]) -> Result<Self> {
        check_own(own)?;
        let parts: Vec<_> = text.split(',').map(str::trim).collect();
        if parts.len() > MOST_LEGS {
            return Err(Error::usage(format!("{} samplers in turn, expected at most {MOST_LEGS}", parts.len())));
        }
        let legs = parts.iter().enumerate().map(|(i, part)| leg(part, (i, parts.len()), own));
        let legs: Vec<_> = legs.collect::<Result<_>>()?;
        if let Some(leg) = legs.iter().find(|leg| legs.len() > 1 && leg.method.steps != Steps::Any) {
            return Err(Error::usage(format!("sampler {} walks the whole way or not at all", leg.method.name)));
        }
        Ok(Self { legs })
    }

    /// The samplers, in their order.
    pub fn methods(&self) -> impl Iterator<Item = &'static Method> {
        self.legs.iter().map(|leg| leg.method)
    }

    /// Those of them that are the application's own.
    pub fn own_methods(&self) -> impl Iterator<Item = &'static Method> {
        self.methods().filter(|method| !method.is_built_in())
    }

    /// The first sampler: the grid of levels is its.
    pub fn first(&self) -> &'static Method {
        self.legs[0].method
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, leg) in self.legs.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", then " })?;
            f.write_str(leg.method.name)?;
            match leg.until {
                Until::Sigma(sigma) => write!(f, " until sigma {sigma}")?,
                Until::Step(step) => write!(f, " until step {step}")?,
                Until::End => (),
            }
        }
        Ok(())
    }
}

fn leg(text: &str, (index, count): (usize, usize), own: &[&'static Method]) -> Result<Leg> {
    let fault = || {
        Error::usage(format!(
            "sampler \"{text}\": expected a name, or several as in \"euler_ancestral until sigma 2, then dpmpp_2m\" or \
             \"ddim until step 3, then dpmpp_2m\""
        ))
    };
    let words: Vec<_> = text.split_whitespace().collect();
    let words = if index == 0 { &words[..] } else { words.strip_prefix(&["then"]).ok_or_else(fault)? };
    let (until, name) = match *words {
        [name] if index + 1 == count => (Until::End, name),
        [name, "until", "sigma", sigma] if index + 1 < count => {
            let sigma: f64 = sigma.parse().map_err(|_| fault())?;
            (Until::Sigma(Some(sigma).filter(|sigma| *sigma > 0.0 && sigma.is_finite()).ok_or_else(fault)?), name)
        }
        [name, "until", "step", step] if index + 1 < count => (Until::Step(step.parse().map_err(|_| fault())?), name),
        _ => return Err(fault()),
    };
    Ok(Leg { method: find_among(own, name)?, until })
}

/// An interval that is walked again (Xu et al. 2023, "Restart sampling", arXiv:2306.14878, algorithm 1): from the
/// first level whose own sigma is at most `low`, noise lifts the latent to `high`, and the sampler of that place takes
/// it down again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Own sigma where the interval ends.
    pub low: f64,
    /// Own sigma where it begins.
    pub high: f64,
    /// Steps from `high` to `low`, placed as the schedule "karras" places them.
    pub steps: usize,
    /// How often.
    pub times: usize,
}

impl FromStr for Restart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (interval, counts) = text.split_once(':')?;
            let (high, low) = interval.split_once("..")?;
            let (steps, times) = counts.split_once(['x', '×'])?;
            Some(Self {
                high: high.trim().parse().ok()?,
                low: low.trim().parse().ok()?,
                steps: steps.trim().parse().ok()?,
                times: times.trim().parse().ok()?,
            })
        };
        parse().ok_or_else(|| Error::usage("expected HIGH..LOW:STEPSxTIMES, such as 2..0.1:4x2"))
    }
}

/// A whole trajectory: runs of samplers, one after the other.
#[derive(Debug, Clone)]
pub struct Trajectory {
    runs: Vec<Leap>,
    /// What unit Gaussian noise is multiplied with to start.
    pub initial_scale: f64,
    /// Steps of all runs, unless a tolerance decides.
    pub steps: Option<usize>,
}

#[derive(Debug, Clone)]
struct Leap {
    method: &'static Method,
    /// In the scaling of the method's grid.
    levels: Vec<Level>,
    /// Whether noise lifts the latent from where the run before has ended.
    rises: bool,
}

impl Trajectory {
    /// Lays the samplers of `relay` along the levels of `schedule`, which are those of the first one's grid.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a schedule of no step, a sampler that would have nothing to do,
    /// and restarts that lie outside of the schedule.
    pub fn new(relay: &Relay, schedule: &Schedule, restarts: &[Restart], training: &Training) -> Result<Self> {
        if schedule.levels.len() < 2 {
            return Err(Error::usage(format!("schedule of {} levels, expected at least 2", schedule.levels.len())));
        }
        let mut runs = Vec::new();
        let mut start = 0;
        for leg in &relay.legs {
            let end = end_of(leg, schedule, training)?;
            if end <= start {
                return Err(Error::usage(format!(
                    "sampler {} would have no step to do: it begins at step {start} and ends at step {end} of {}",
                    leg.method.name,
                    schedule.levels.len() - 1
                )));
            }
            runs.push(Leap { method: leg.method, levels: schedule.levels[start..=end].to_vec(), rises: false });
            start = end;
        }
        end_as_the_last(&mut runs);
        for restart in restarts {
            insert(&mut runs, restart, training)?;
        }
        for run in &mut runs {
            rescale(run, training);
        }
        let adaptive = relay.first().steps == Steps::Adaptive;
        let steps = runs.iter().map(|run| run.levels.len() - 1).sum();
        Ok(Self { runs, initial_scale: schedule.initial_scale, steps: (!adaptive).then_some(steps) })
    }

    /// The runs: the sampler, its levels, and whether noise is added first.
    pub fn runs(&self) -> impl Iterator<Item = (&'static Method, &[Level], bool)> {
        self.runs.iter().map(|run| (run.method, &run.levels[..], run.rises))
    }

    /// Every level but pure ends, to know the span of sigmas.
    pub fn levels(&self) -> impl Iterator<Item = Level> {
        self.runs.iter().flat_map(|run| run.levels.iter().copied())
    }

    /// The level where it begins, in the scaling of the first sampler.
    pub fn start(&self) -> Level {
        self.runs[0].levels[0]
    }

    /// Evaluations of the denoiser without guidance, unless a tolerance decides.
    pub fn evaluations(&self) -> Option<usize> {
        self.steps?;
        Some(self.runs.iter().map(|run| (run.method.evaluations)(run.levels.len() - 1)).sum())
    }

    /// Walks it all: a latent of `initial_scale` times unit Gaussian noise → the clean latent.
    ///
    /// # Errors
    /// Whatever the denoiser, the noise and the observer return; [`ErrorKind::Limit`](crate::ErrorKind::Limit) where an
    /// adaptive sampler has spent its evaluations.
    pub fn walk(&self, denoiser: &mut dyn Denoise, mut x: Latent, with: &mut Walk) -> Result<(Latent, Tally)> {
        let mut tally = Tally::default();
        let mut before = 0;
        let mut at = self.runs[0].levels[0];
        for leap in &self.runs {
            let start = leap.levels[0];
            if leap.rises {
                rise(&mut x, at, start, with)?;
            } else if before > 0 && start.alpha > 0.0 {
                x *= (start.alpha / at.alpha) as f32;
            }
            let part = Part { before, of: self.steps.unwrap_or(1) };
            let tried;
            (x, tried) = leap.sample(denoiser, x, part, with)?;
            tally.accepted += tried.accepted;
            tally.rejected += tried.rejected;
            before += leap.levels.len() - 1;
            at = leap.levels[leap.levels.len() - 1];
        }
        Ok((x, tally))
    }
}

impl Leap {
    /// One run of its sampler, whoever wrote that: a latent of its first level → one of its last.
    fn sample(&self, denoiser: &mut dyn Denoise, x: Latent, part: Part, with: &mut Walk) -> Result<(Latent, Tally)> {
        let (method, shape, mut told) = (self.method, x.dim(), 0);
        let options = with.options.of(method.options);
        let mut run = Run {
            levels: &self.levels,
            training: with.training,
            options: &options,
            noise: with.noise,
            on_step: &mut |step| {
                told += 1;
                (with.on_step)(step)
            },
            part,
            tally: Tally::default(),
        };
        let x = (method.sample)(denoiser, x, &mut run)?;
        let (tally, steps) = (run.tally, run.steps());
        if x.dim() != shape {
            return Err(Error::usage(format!("sampler {} made a latent of {:?} from {shape:?}", method.name, x.dim())));
        }
        if method.steps != Steps::Adaptive && told != steps {
            return Err(Error::usage(format!(
                "sampler {} has told of {told} steps and had {steps} to do; it is to call done after each",
                method.name
            )));
        }
        Ok((x, tally))
    }
}

/// What a walk needs besides the denoiser and the latent.
pub struct Walk<'a> {
    /// The process that the levels belong to.
    pub training: &'a Training,
    /// The numbers that the samplers are tuned with.
    pub options: &'a Options,
    /// Fills a latent with fresh unit Gaussian noise for the way between two levels.
    pub noise: &'a mut dyn FnMut(&mut Latent, Level, Level) -> Result<()>,
    /// Told after each step, whose latent it may change.
    pub on_step: &'a mut dyn FnMut(&mut Step) -> Result<()>,
}

/// Where the trajectory ends is the last sampler's to say: the first one may be of those that end at the model's least
/// level, where the others could begin no step.
fn end_as_the_last(runs: &mut [Leap]) {
    if let [_, .., Leap { method, levels, .. }] = runs
        && method.grid != Grid::Timesteps
        && let Some(end) = levels.last_mut()
    {
        *end = Level::CLEAN;
    }
}

/// Lifts a latent to a noisier level, of whatever scaling.
fn rise(x: &mut Latent, from: Level, to: Level, with: &mut Walk) -> Result<()> {
    let fade = to.alpha / from.alpha;
    let added = (to.sigma.powi(2) - (fade * from.sigma).powi(2)).max(0.0).sqrt();
    let mut fresh = Latent::zeros(x.raw_dim());
    (with.noise)(&mut fresh, to, from)?;
    *x *= fade as f32;
    x.scaled_add((added * with.options.get(Opt::NoiseScale)) as f32, &fresh);
    Ok(())
}

fn end_of(leg: &Leg, schedule: &Schedule, training: &Training) -> Result<usize> {
    let last = schedule.levels.len() - 1;
    match leg.until {
        Until::End => Ok(last),
        Until::Step(step) if step < last => Ok(step),
        Until::Step(step) => Err(Error::usage(format!("sampler {} until step {step}, of {last}", leg.method.name))),
        Until::Sigma(sigma) => Ok(first_below(&schedule.levels, sigma, training)),
    }
}

fn first_below(levels: &[Level], sigma: f64, training: &Training) -> usize {
    levels.iter().position(|&level| training.own_sigma(level) <= sigma).unwrap_or(levels.len() - 1)
}

/// Cuts the run that passes the interval's end in two, and puts the repetitions between them.
fn insert(runs: &mut Vec<Leap>, restart: &Restart, training: &Training) -> Result<()> {
    let Restart { low, high, steps, times } = *restart;
    let most = training.sigma_range().1;
    if !(low > 0.0 && low < high && high <= most) || steps == 0 || times == 0 {
        return Err(Error::usage(format!(
            "restart from {high} to {low} in {steps} steps, {times} times: expected 0 < low < high ≤ {most}, and at \
             least one step, once"
        )));
    }
    if steps.saturating_mul(times) > MOST_RESTARTS {
        return Err(Error::usage(format!(
            "restart of {steps} steps, {times} times: expected at most {MOST_RESTARTS} altogether"
        )));
    }
    let passes = |run: &Leap| !run.rises && run.levels.iter().skip(1).any(|&level| training.own_sigma(level) <= low);
    let Some(index) = runs.iter().position(passes) else {
        return Err(Error::usage(format!("restart at sigma {low}: no sampler gets there")));
    };
    let run = runs[index].clone();
    let place = first_below(&run.levels[1..], low, training) + 1;
    let bottom = run.levels[place];
    if bottom.sigma == 0.0 {
        return Err(Error::usage(format!(
            "restart at sigma {low}: the schedule steps from {:.4} to 0; take more steps, or a larger low",
            training.own_sigma(run.levels[place - 1])
        )));
    }
    if run.method.steps != Steps::Any {
        return Err(Error::usage(format!("sampler {} cannot be restarted", run.method.name)));
    }
    let end = training.own_sigma(bottom);
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    let at = |i: usize| (root(high) + (root(end) - root(high)) * i as f64 / steps as f64).powi(7);
    let mut levels: Vec<_> = (0..steps).map(|i| training.at_sigma(at(i))).collect();
    levels.push(Level { timestep: bottom.timestep, ..training.at_sigma(end) });
    check_falling(training, &levels, || format!("restart from {high} to {low} in {steps} steps"))?;
    let again = std::iter::repeat_n(Leap { levels, rises: true, ..run.clone() }, times);
    let rest = Leap { levels: run.levels[place..].to_vec(), ..run.clone() };
    // Where the next sampler takes over at this very level, nothing is left to do.
    let rest = Some(rest).filter(|rest| rest.levels.len() > 1);
    let first = Leap { levels: run.levels[..=place].to_vec(), ..run };
    runs.splice(index..=index, std::iter::once(first).chain(again).chain(rest));
    Ok(())
}

/// Puts levels into the scaling that the run's method is defined in.
fn rescale(run: &mut Leap, training: &Training) {
    for level in &mut run.levels {
        if level.sigma == 0.0 {
            continue;
        }
        *level = match run.method.grid {
            Grid::Timesteps | Grid::TimestepsToClean if level.alpha == 0.0 || !training.is_straight(*level) => *level,
            Grid::Timesteps | Grid::TimestepsToClean => training.in_own_scaling(*level),
            Grid::Sigmas | Grid::LogSnr if training.is_straight(*level) => *level,
            Grid::Sigmas | Grid::LogSnr => {
                Level { timestep: level.timestep, ..training.at_sigma(training.own_sigma(*level)) }
            }
        };
    }
}
