//! The numbers that samplers, schedules and guidance can be tuned with: one table of their names.

use std::collections::{BTreeMap, BTreeSet};

use crate::curve::Curve;
use crate::error::unknown;
use crate::{Error, Result};

/// An option of a sampler, a schedule or a guidance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Opt {
    /// Share of fresh noise.
    Eta,
    /// Strength of fresh noise.
    NoiseScale,
    /// Noise added before each step.
    Churn,
    /// Least sigma with churn.
    ChurnMin,
    /// Largest sigma with churn.
    ChurnMax,
    /// Order of the method.
    Order,
    /// TCD's stochasticity.
    Gamma,
    /// Stochasticity of SA-Solver.
    Tau,
    /// Where it begins.
    TauMin,
    /// Where it ends.
    TauMax,
    /// Order of a predictor.
    Predictor,
    /// Order of a corrector.
    Corrector,
    /// Relative tolerance.
    Rtol,
    /// Absolute tolerance.
    Atol,
    /// Most evaluations of an adaptive sampler.
    MaxEvaluations,
    /// Bend of a schedule.
    Rho,
    /// First shape of the Beta distribution.
    Alpha,
    /// Second shape of the Beta distribution.
    Beta,
    /// How much of the contrast that guidance raises is taken back.
    Rescale,
    /// Least sigma with guidance.
    GuidanceMin,
    /// Largest sigma with guidance.
    GuidanceMax,
    /// Share of the part that is parallel to the estimate.
    Parallel,
    /// Longest difference that is followed.
    Norm,
    /// Weight of the difference before.
    Momentum,
    /// First steps that are not predicted at all.
    ZeroSteps,
    /// Limit of the estimate.
    Clip,
    /// Quantile that limits the estimate.
    Threshold,
    /// Most that the quantile may be.
    ThresholdMax,
}

/// What there is to know of an option.
pub struct OptionRow {
    /// The option.
    pub opt: Opt,
    /// The name that users type.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// Least and largest value.
    pub range: (f64, f64),
    /// Which values within the range are allowed.
    pub kind: OptionKind,
    /// What a method that does not take it works with.
    pub neutral: f64,
}

/// Which values an option can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// A whole number.
    Whole,
    /// A number.
    Real,
    /// A number, or several spread over the steps.
    Curve,
}

macro_rules! row {
    ($opt:ident, $name:literal, $about:literal, $low:literal ..= $high:literal, $kind:ident, $neutral:literal) => {
        OptionRow {
            opt: Opt::$opt,
            name: $name,
            about: $about,
            range: ($low, $high),
            kind: OptionKind::$kind,
            neutral: $neutral,
        }
    };
}

/// Every option that a request or a manifest can set.
pub const OPTIONS: &[OptionRow] = &[
    row!(Eta, "eta", "share of fresh noise a step, 0 deterministic", 0.0..=1.0, Curve, 0.0),
    row!(NoiseScale, "noise_scale", "strength of fresh noise (s_noise)", 0.0..=2.0, Real, 1.0),
    row!(Churn, "churn", "noise added before each step (s_churn), over all steps", 0.0..=1000.0, Real, 0.0),
    row!(ChurnMin, "churn_min", "least sigma with churn (s_tmin)", 0.0..=1e6, Real, 0.0),
    row!(ChurnMax, "churn_max", "largest sigma with churn (s_tmax)", 0.0..=1e6, Real, 1e6),
    row!(Order, "order", "order of the method", 1.0..=4.0, Whole, 1.0),
    row!(Gamma, "gamma", "share of the way back that is fresh noise", 0.0..=1.0, Real, 0.0),
    row!(Tau, "tau", "stochasticity in the middle of the trajectory", 0.0..=2.0, Real, 0.0),
    row!(TauMin, "tau_min", "least share of the training timesteps with tau", 0.0..=1.0, Real, 0.0),
    row!(TauMax, "tau_max", "largest share of the training timesteps with tau", 0.0..=1.0, Real, 1.0),
    row!(Predictor, "predictor", "order of the predictor", 1.0..=4.0, Whole, 1.0),
    row!(Corrector, "corrector", "order of the corrector, 0 none", 0.0..=4.0, Whole, 0.0),
    row!(Rtol, "rtol", "relative tolerance of a step", 1e-6..=1.0, Real, 0.0),
    row!(Atol, "atol", "absolute tolerance of a step, in units of the latent", 1e-6..=1.0, Real, 0.0),
    row!(MaxEvaluations, "max_evaluations", "most evaluations before it gives up", 2.0..=100000.0, Whole, 0.0),
    row!(Rho, "rho", "bend of the schedule", 0.1..=100.0, Real, 1.0),
    row!(Alpha, "alpha", "first shape of the Beta distribution, of the clean end", 0.05..=20.0, Real, 1.0),
    row!(Beta, "beta", "second shape of the Beta distribution, of the noisy end", 0.05..=20.0, Real, 1.0),
    row!(Rescale, "rescale", "how much of the contrast that guidance raises is taken back", 0.0..=1.0, Real, 0.0),
    row!(GuidanceMin, "guidance_min", "least sigma with guidance; below, half the evaluations", 0.0..=1e6, Real, 0.0),
    row!(GuidanceMax, "guidance_max", "largest sigma with guidance; above, half the evaluations", 0.0..=1e6, Real, 1e6),
    row!(Parallel, "parallel", "share of the guidance that only saturates (APG's eta)", 0.0..=1.0, Real, 1.0),
    row!(Norm, "norm", "longest difference that APG follows, 0 any", 0.0..=1e6, Real, 0.0),
    row!(
        Momentum,
        "momentum",
        "weight of the difference before, negative to push away from it",
        -0.99..=0.99,
        Real,
        0.0
    ),
    row!(ZeroSteps, "zero_steps", "first steps that are taken without any prediction", 0.0..=1000.0, Whole, 0.0),
    row!(Clip, "clip", "limit of the estimate of the clean latent (clip_sample), 0 none", 0.0..=1e6, Real, 0.0),
    row!(
        Threshold,
        "threshold",
        "quantile that limits the estimate (dynamic thresholding), 0 none",
        0.0..=1.0,
        Real,
        0.0
    ),
    row!(ThresholdMax, "threshold_max", "most that this quantile may be", 1.0..=1e6, Real, 1.0),
];

impl Opt {
    /// Its row in [`OPTIONS`].
    pub fn row(self) -> &'static OptionRow {
        OPTIONS.iter().find(|row| row.opt == self).expect("every option has its row")
    }
}

/// Options that are the two ends of an interval.
const INTERVALS: [(Opt, Opt); 3] =
    [(Opt::ChurnMin, Opt::ChurnMax), (Opt::TauMin, Opt::TauMax), (Opt::GuidanceMin, Opt::GuidanceMax)];

/// Values of options, checked against the methods that take them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    curves: BTreeMap<Opt, Curve>,
    /// Those that are not a method's default.
    given: BTreeSet<Opt>,
}

impl Options {
    /// Defaults of the given methods, the first that takes an option before the others, overridden by what a request
    /// sets.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for an option that none of the methods takes, naming those that
    /// they take, for a value out of its range, and for intervals without anything in them.
    pub fn resolve(methods: &[(&str, &[(Opt, f64)])], given: &BTreeMap<String, Curve>) -> Result<Self> {
        let mut options = Self::default();
        for (_, defaults) in methods {
            for &(opt, default) in *defaults {
                options.curves.entry(opt).or_insert(Curve::constant(default));
            }
        }
        for (name, curve) in given {
            let taken = options.curves.keys().find(|opt| opt.row().name == name);
            let Some(&opt) = taken else { return Err(not_taken(name, methods)) };
            check_option(opt.row(), curve)?;
            options.curves.insert(opt, curve.clone());
            options.given.insert(opt);
        }
        for (low, high) in INTERVALS {
            let (least, most) = (options.get(low), options.get(high));
            if least > most {
                let (low, high) = (low.row().name, high.row().name);
                return Err(Error::usage(format!("option \"{low}\" is {least}, expected at most {high}, {most}")));
            }
        }
        Ok(options)
    }

    /// The same for one of the methods: what is not set is that method's default and not another's.
    pub(crate) fn of(&self, defaults: &[(Opt, f64)]) -> Self {
        let mut options = self.clone();
        for (opt, default) in defaults.iter().filter(|(opt, _)| !self.given.contains(opt)) {
            options.curves.insert(*opt, Curve::constant(*default));
        }
        options
    }

    /// The value at a share 0 to 1 of the trajectory; what changes nothing where no method takes the option.
    pub fn at(&self, opt: Opt, share: f64) -> f64 {
        self.curves.get(&opt).map_or_else(|| opt.row().neutral, |curve| curve.at(share))
    }

    /// The value of an option that is the same all the way.
    pub fn get(&self, opt: Opt) -> f64 {
        self.at(opt, 0.0)
    }

    /// Whether an option is more than 0 anywhere.
    pub(crate) fn is_on(&self, opt: Opt) -> bool {
        self.curves.get(&opt).is_some_and(|curve| curve.values().iter().any(|&value| value > 0.0))
    }

    /// The value of a whole number.
    pub fn whole(&self, opt: Opt) -> usize {
        self.get(opt) as usize
    }

    /// Names and values of those that change anything, for reports.
    pub fn named(&self) -> BTreeMap<&'static str, Curve> {
        let named = self.curves.iter().map(|(opt, curve)| (opt.row(), curve));
        let effective = named.filter(|(row, curve)| curve.values() != [row.neutral]);
        effective.map(|(row, curve)| (row.name, curve.clone())).collect()
    }
}

fn not_taken(name: &str, methods: &[(&str, &[(Opt, f64)])]) -> Error {
    if OPTIONS.iter().all(|row| row.name != name) {
        return Error::usage(unknown("option", name, OPTIONS.iter().map(|row| row.name)));
    }
    let takes = methods.iter().map(|(method, defaults)| {
        let names: Vec<_> = defaults.iter().map(|(opt, _)| opt.row().name).collect();
        format!("{method} takes {}", if names.is_empty() { "none".into() } else { names.join(", ") })
    });
    Error::usage(format!("option \"{name}\" would have no effect: {}", takes.collect::<Vec<_>>().join("; ")))
}

/// Refuses values that the option cannot have.
pub(crate) fn check_option(row: &OptionRow, curve: &Curve) -> Result<()> {
    let (low, high) = row.range;
    let fault = |what: String| Err(Error::usage(format!("option \"{}\" is {what}", row.name)));
    if row.kind != OptionKind::Curve && curve.values().len() != 1 {
        return fault(format!("{curve}, expected one number"));
    }
    for &value in curve.values() {
        if !(low..=high).contains(&value) {
            return fault(format!("{value}, expected {low} to {high}"));
        }
        if row.kind == OptionKind::Whole && value.fract() != 0.0 {
            return fault(format!("{value}, expected a whole number"));
        }
    }
    Ok(())
}
