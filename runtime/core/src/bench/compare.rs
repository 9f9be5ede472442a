//! Two reports → what differs between them, in speed, energy, memory and pictures, and whether it can be said.
//!
//! Reports that were made at different times can be compared ([`compare`]), but what a device does slowly lies between
//! them. Measuring both in turn ([`interleave`]) is safe from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::report::{Case, Detailed, Report, Workload};
use super::{Executor, Look};
use crate::stats::{LEAST_FOR_INTERVAL, Ratio, Verdict, median, ratio_apart, ratio_in_turn};
use crate::{Error, Result};

/// What two reports say of each other; B over A.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The least difference that matters, as a share.
    pub threshold: f64,
    /// Workloads that both measured, in A's order.
    pub cases: Vec<Pair>,
    /// Workloads of A that B has not measured.
    pub only_a: Vec<Workload>,
    /// Workloads of B that A has not measured.
    pub only_b: Vec<Workload>,
    /// What else differs: machine, its state, library, target, model, protocol.
    pub differences: Vec<Difference>,
    /// Why the comparison may not hold: invalid cases, unfinished reports, other words and seeds.
    pub warnings: Vec<String>,
}

/// A field that is not the same. Absent is what one of them does not have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Where it is in the report, such as `library.version`.
    pub field: String,
    /// A's value.
    pub a: Option<Value>,
    /// B's value.
    pub b: Option<Value>,
}

/// A workload that both measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// What A was asked for.
    pub a: Workload,
    /// What B was asked for: the same, unless each report has one case only.
    pub b: Workload,
    /// Whole images.
    pub image: Compared,
    /// Whole images again, measured in turn; absent where they were not.
    pub in_turn: Option<InTurn>,
    /// By the name of a stage: from the second pass.
    pub stages: BTreeMap<String, Compared>,
    /// Each step: from the second pass.
    pub steps: Vec<Compared>,
    /// Energy of an image in J, of A and B.
    pub joules_per_image: [Option<f64>; 2],
    /// The most that was resident, in bytes.
    pub peak_bytes: [Option<u64>; 2],
    /// Least PSNR in dB of pictures beside their reference; infinite ones, of the same pixels, are absent.
    pub least_psnr_db: [Option<f64>; 2],
    /// Whether the pictures are the same.
    pub outputs: Outputs,
    /// What of the graphs differs: hashes, precisions, providers, nodes.
    pub differences: Vec<Difference>,
}

/// Times of A and B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// Samples of each.
    pub n: [usize; 2],
    /// Medians in ms.
    pub median_ms: [f64; 2],
    /// B over A; absent of too few samples for an interval.
    pub ratio: Option<Ratio>,
    /// What can be said.
    pub verdict: Verdict,
}

/// Whether the same requests gave the same pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// Every request that both made did.
    Identical,
    /// At least one did not.
    Different,
    /// No request was made by both.
    Unknown,
}

/// Compares two reports of the same or of different devices. `threshold` is the least difference that matters: 0.02 is
/// 2 %. Cases are matched by their workloads; where none matches and each report has one case only, these two are.
pub fn compare(a: &Report, b: &Report, threshold: f64) -> Comparison {
    let mut matched: Vec<_> = a.cases.iter().filter_map(|case| Some((case, find(&b.cases, &case.workload)?))).collect();
    if let ([], [only_a], [only_b]) = (&matched[..], &a.cases[..], &b.cases[..]) {
        matched.push((only_a, only_b));
    }
    let without = |cases: &[Case], matched: &[&Workload]| {
        let rest = cases.iter().filter(|case| !matched.contains(&&case.workload));
        rest.map(|case| case.workload.clone()).collect()
    };
    let (of_a, of_b): (Vec<_>, Vec<_>) = matched.iter().map(|(a, b)| (&a.workload, &b.workload)).unzip();
    let mut warnings = warnings("A", a, &of_a);
    warnings.extend(self::warnings("B", b, &of_b));
    if a.protocol.requests_sha256 != b.protocol.requests_sha256 {
        warnings.push("A and B made other words and seeds: their pictures cannot be compared".into());
    }
    Comparison {
        threshold,
        only_a: without(&a.cases, &of_a),
        only_b: without(&b.cases, &of_b),
        cases: matched.iter().map(|(a, b)| pair(a, b, threshold)).collect(),
        differences: differences(a, b),
        warnings,
    }
}

fn find<'a>(cases: &'a [Case], workload: &Workload) -> Option<&'a Case> {
    cases.iter().find(|case| case.workload == *workload)
}

fn warnings(name: &str, report: &Report, compared: &[&Workload]) -> Vec<String> {
    let mut warnings = Vec::new();
    if !report.finished {
        warnings.push(format!("{name} was interrupted before all cases were measured"));
    }
    for case in report.cases.iter().filter(|case| compared.contains(&&case.workload) && !case.validity.valid) {
        let reasons = case.validity.reasons.iter().chain(&case.error).cloned().collect::<Vec<_>>().join("; ");
        let reasons = if reasons.is_empty() { "it does not say why".into() } else { reasons };
        warnings.push(format!("{name}: {}: invalid: {reasons}", case.workload));
    }
    warnings
}

fn pair(a: &Case, b: &Case, threshold: f64) -> Pair {
    let compared = |of: &dyn Fn(&Case) -> Vec<f64>| Compared::of(&of(a), &of(b), threshold);
    let mut stages = BTreeMap::new();
    for (name, part) in super::summary::PARTS {
        let of = |case: &Case| case.detailed.iter().map(part).collect::<Vec<_>>();
        // What takes no time in either is no part of them.
        if of(a).iter().chain(&of(b)).any(|ms| *ms > 0.0) {
            stages.extend(compared(&of).map(|compared| (String::from(*name), compared)));
        }
    }
    let steps_of = |case: &Case| case.detailed.iter().map(|image| image.steps_ms.len()).max().unwrap_or(0);
    let step = |index: usize| {
        let of = |image: &Detailed| image.steps_ms.get(index).copied();
        compared(&|case: &Case| case.detailed.iter().filter_map(of).collect())
    };
    Pair {
        a: a.workload.clone(),
        b: b.workload.clone(),
        image: compared(&|case| case.times_ms()).unwrap_or(Compared::NOTHING),
        in_turn: None,
        stages,
        steps: (0..steps_of(a).min(steps_of(b))).filter_map(step).collect(),
        joules_per_image: [a.joules_per_image(), b.joules_per_image()],
        peak_bytes: [a, b].map(|case| Some(case.memory.as_ref()?.peak_bytes)),
        least_psnr_db: [a, b].map(|case| case.quality.as_ref()?.least_psnr_db().filter(|psnr_db| psnr_db.is_finite())),
        outputs: outputs(a, b),
        differences: graphs(a, b),
    }
}

impl Compared {
    /// Of cases that made no image.
    const NOTHING: Self = Self { n: [0, 0], median_ms: [0.0, 0.0], ratio: None, verdict: Verdict::Undecided };

    /// Nothing where one has no samples at all.
    fn of(a: &[f64], b: &[f64], threshold: f64) -> Option<Self> {
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let ratio = ratio_apart(a, b);
        let verdict = ratio.map_or(Verdict::Undecided, |ratio| ratio.verdict(threshold));
        Some(Self { n: [a.len(), b.len()], median_ms: [median(a), median(b)], ratio, verdict })
    }
}

fn outputs(a: &Case, b: &Case) -> Outputs {
    let (a, b) = (hashes(a), hashes(b));
    let both: Vec<_> = a.iter().filter_map(|(request, of_a)| Some((of_a, b.get(request)?))).collect();
    match both.iter().all(|(a, b)| a == b) {
        _ if both.is_empty() => Outputs::Unknown,
        true => Outputs::Identical,
        false => Outputs::Different,
    }
}

/// By the request's index: every hash that came out.
fn hashes(case: &Case) -> BTreeMap<usize, BTreeSet<&str>> {
    let mut requests: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for output in &case.images.outputs {
        requests.entry(output.request).or_default().insert(output.sha256.as_str());
    }
    requests
}

fn graphs(a: &Case, b: &Case) -> Vec<Difference> {
    let mut found = Vec::new();
    differ("graphs", &as_value(&a.graphs), &as_value(&b.graphs), &mut found);
    found
}

/// What of two reports differs beside what they measured.
fn differences(a: &Report, b: &Report) -> Vec<Difference> {
    let parts = |report: &Report| {
        let state = &report.state;
        [
            ("machine", as_value(&report.machine)),
            ("state.kernel", as_value(&state.kernel)),
            ("state.driver", as_value(&state.driver)),
            ("state.hypervisor", as_value(&state.hypervisor)),
            ("state.power_mode", as_value(&state.power_mode)),
            ("state.governor", as_value(&state.governor)),
            ("state.on_battery", as_value(&state.on_battery)),
            ("notes", as_value(&report.notes)),
            ("library", as_value(&report.library)),
            ("tool.safelight", as_value(&report.tool.safelight)),
            ("tool.release", as_value(&report.tool.release)),
            ("target", as_value(&report.target)),
            ("model", as_value(&report.model)),
            ("protocol", as_value(&report.protocol)),
        ]
    };
    let mut found = Vec::new();
    for ((field, a), (_, b)) in parts(a).iter().zip(&parts(b)) {
        differ(field, a, b, &mut found);
    }
    found
}

/// A report's own types have only names as keys and finite numbers.
fn as_value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// Adds each field that is not the same; a list is one field.
fn differ(field: &str, a: &Value, b: &Value, found: &mut Vec<Difference>) {
    let (Value::Object(in_a), Value::Object(in_b)) = (a, b) else {
        if a != b {
            let some = |value: &Value| (!value.is_null()).then(|| value.clone());
            found.push(Difference { field: field.into(), a: some(a), b: some(b) });
        }
        return;
    };
    let keys: BTreeSet<_> = in_a.keys().chain(in_b.keys()).collect();
    for key in keys {
        let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
        differ(&format!("{field}.{key}"), &of(in_a), &of(in_b), found);
    }
}

/// How two executors are measured in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turns {
    /// Requests that are made in turn.
    pub requests: usize,
    /// Images of each before those that count.
    pub warm_up_images: usize,
    /// The least difference that matters, as a share.
    pub threshold: f64,
    /// Least pairs.
    pub least_pairs: usize,
    /// Most pairs.
    pub most_pairs: usize,
    /// Seconds after which no further turn is begun.
    pub most_seconds: f64,
}

impl Turns {
    /// As many as it takes to see a difference of `threshold`, for at most half an hour.
    pub fn usual(threshold: f64) -> Self {
        Self {
            requests: super::requests::COUNT,
            warm_up_images: 5,
            threshold,
            least_pairs: 32,
            most_pairs: 2_000,
            most_seconds: 1_800.0,
        }
    }
}

/// What was measured in turn. Milliseconds; `a_ms[i]` and `b_ms[i]` are of the same request, A first where i is even.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct InTurn {
    /// A's images.
    pub a_ms: Vec<f64>,
    /// B's.
    pub b_ms: Vec<f64>,
    /// Medians of both.
    pub median_ms: [f64; 2],
    /// B over A; absent of too few pairs for an interval.
    pub ratio: Option<Ratio>,
    /// What can be said.
    pub verdict: Option<Verdict>,
    /// Pairs whose pixels were the same.
    pub identical: usize,
}

/// Measures two executors in turn, A B B A, until the interval of their ratio is narrow enough to say something, or it
/// is long enough. Both make the same request in each pair. Before each turn `between` is called, which may wait until
/// the device is cool again, tell how far it is, or end it with an error.
///
/// # Errors
/// What either cannot make, saying which, and what `between` ends it with.
pub fn interleave(
    a: &mut dyn Executor,
    b: &mut dyn Executor,
    turns: &Turns,
    between: &mut dyn FnMut(&InTurn) -> Result<()>,
) -> Result<InTurn> {
    let mut told = InTurn::default();
    let of_a = |e: Error| e.context("A");
    let of_b = |e: Error| e.context("B");
    for request in 0..turns.warm_up_images {
        between(&told)?;
        a.make(request % turns.requests, Look::Image).map_err(of_a)?;
        b.make(request % turns.requests, Look::Image).map_err(of_b)?;
    }
    let start = a.seconds();
    // The interval takes time to compute: it is looked at after every quarter more.
    let mut next_look = turns.least_pairs;
    while told.a_ms.len() < turns.most_pairs && (told.a_ms.is_empty() || a.seconds() - start < turns.most_seconds) {
        between(&told)?;
        let [first, second] = [0, 1].map(|pair| (told.a_ms.len() + pair) % turns.requests);
        let a_first = a.make(first, Look::Image).map_err(of_a)?;
        let b_first = b.make(first, Look::Image).map_err(of_b)?;
        let b_second = b.make(second, Look::Image).map_err(of_b)?;
        let a_second = a.make(second, Look::Image).map_err(of_a)?;
        for (a, b) in [(a_first, b_first), (a_second, b_second)] {
            told.identical += usize::from(a.sha256 == b.sha256);
            told.a_ms.push(a.ms);
            told.b_ms.push(b.ms);
        }
        if told.a_ms.len() >= next_look {
            next_look = told.a_ms.len() + told.a_ms.len() / 4;
            told.look(turns.threshold);
            if told.ratio.is_some_and(|ratio| ratio.is_settled(turns.threshold)) {
                return Ok(told);
            }
        }
    }
    told.look(turns.threshold);
    Ok(told)
}

impl InTurn {
    fn look(&mut self, threshold: f64) {
        if !self.a_ms.is_empty() {
            self.median_ms = [median(&self.a_ms), median(&self.b_ms)];
        }
        self.ratio = ratio_in_turn(&self.a_ms, &self.b_ms);
        self.verdict = Some(self.ratio.map_or(Verdict::Undecided, |ratio| ratio.verdict(threshold)));
    }
}

/// What a gate says of a comparison that must not be slower than A by more than a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The whole interval lies below the bound.
    Within,
    /// The median is beyond the bound, and the interval excludes that B is no slower at all.
    Beyond,
    /// Too little was measured to say either.
    Undecided,
}

impl Gate {
    /// Judges B over A. It does not fail from noise alone: its interval must exclude 1; and does not let pass what was
    /// measured too little: its interval must lie below the bound. Between these two it is undecided.
    pub fn of(ratio: Option<Ratio>, most_slower: f64) -> Self {
        let bound = 1.0 + most_slower;
        match ratio {
            Some(Ratio { median, low, .. }) if median > bound && low > 1.0 => Self::Beyond,
            Some(Ratio { high, .. }) if high < bound => Self::Within,
            _ => Self::Undecided,
        }
    }
}

impl Pair {
    /// The best that is known of the ratio, and what can be said: measured in turn, where that was done.
    pub fn best(&self) -> (Option<Ratio>, Verdict) {
        match &self.in_turn {
            Some(in_turn) => (in_turn.ratio, in_turn.verdict.unwrap_or(Verdict::Undecided)),
            None => (self.image.ratio, self.image.verdict),
        }
    }

    /// Why nothing can be said where it is undecided.
    pub fn why_undecided(&self) -> &'static str {
        match self.image.n.iter().min() {
            Some(0) => "one of them made no image",
            Some(few) if *few < LEAST_FOR_INTERVAL => "too few images for an interval",
            _ => "the interval is too wide to say; measure longer, or both in turn with --vs",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use rand_mt::Mt;

    use super::super::Made;
    use super::*;
    use crate::ErrorKind;

    /// What two executors share: a clock without a clock, and the order in which they were asked.
    #[derive(Default)]
    struct World {
        seconds: Cell<f64>,
        asked: RefCell<String>,
        requests: RefCell<Vec<usize>>,
    }

    /// Makes images of so many ms, with a spread of so many.
    struct Mock {
        name: char,
        ms: f64,
        spread_ms: f64,
        random: Mt,
        world: Rc<World>,
        fails: bool,
    }

    impl Executor for Mock {
        fn make(&mut self, request: usize, look: Look) -> Result<Made> {
            assert_eq!(look, Look::Image);
            if self.fails {
                return Err(Error::new(ErrorKind::Library, "out of memory"));
            }
            let ms = self.ms + self.spread_ms * f64::from(self.random.next_u32()) / f64::from(u32::MAX);
            let world = &self.world;
            world.seconds.set(world.seconds.get() + ms / 1e3);
            world.asked.borrow_mut().push(self.name);
            world.requests.borrow_mut().push(request);
            Ok(Made { begun_s: 0.0, ms, sha256: request.to_string(), detailed: None })
        }

        fn seconds(&self) -> f64 {
            self.world.seconds.get()
        }
    }

    fn mocks(b_ms: f64, spread_ms: f64) -> (Mock, Mock, Rc<World>) {
        let world = Rc::new(World::default());
        let mock =
            |name, ms, seed| Mock { name, ms, spread_ms, random: Mt::new(seed), world: world.clone(), fails: false };
        (mock('a', 100.0, 1), mock('b', b_ms, 2), world)
    }

    const TURNS: Turns =
        Turns { requests: 3, warm_up_images: 2, threshold: 0.02, least_pairs: 12, most_pairs: 400, most_seconds: 1e6 };

    #[test]
    fn both_make_the_same_requests_in_turn() {
        let (mut a, mut b, world) = mocks(100.0, 0.0);
        let mut calls = 0;
        let mut between = |_: &InTurn| {
            calls += 1;
            Ok(())
        };
        let told = interleave(&mut a, &mut b, &TURNS, &mut between).unwrap();
        assert_eq!(*world.asked.borrow(), format!("abab{}", "abba".repeat(6)));
        assert_eq!(world.requests.borrow()[..12], [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 0, 0]);
        assert_eq!((told.a_ms.len(), told.b_ms.len(), told.identical, calls), (12, 12, 12, 2 + 6));
        assert_eq!(told.verdict, Some(Verdict::NoDifference));
    }

    #[test]
    fn measuring_ends_when_something_can_be_said_or_time_is_over() {
        use Verdict::*;
        for (b_ms, spread_ms, most_seconds, verdict, pairs) in [
            (100.0, 1.0, 1e6, NoDifference, 12..=12),
            (110.0, 1.0, 1e6, Slower, 12..=12),
            (90.0, 1.0, 1e6, Faster, 12..=12),
            // More noise takes more pairs.
            (105.0, 15.0, 1e6, Slower, 40..=398),
            (101.9, 60.0, 1e6, Undecided, 400..=400),
            (100.0, 60.0, 5.0, Undecided, 18..=22),
            (100.0, 0.0, 0.0, Undecided, 2..=2),
        ] {
            let (mut a, mut b, _) = mocks(b_ms, spread_ms);
            let turns = Turns { most_seconds, ..TURNS };
            let told = interleave(&mut a, &mut b, &turns, &mut |_| Ok(())).unwrap();
            assert_eq!(told.verdict, Some(verdict), "{b_ms} {spread_ms}: {:?}", told.ratio);
            assert!(pairs.contains(&told.a_ms.len()), "{b_ms} {spread_ms}: {} pairs", told.a_ms.len());
        }
    }

    #[test]
    fn measuring_ends_with_whoever_fails_and_when_it_is_cancelled() {
        let (mut a, mut b, _) = mocks(100.0, 1.0);
        b.fails = true;
        let told = interleave(&mut a, &mut b, &TURNS, &mut |_| Ok(())).unwrap_err();
        assert_eq!((told.kind(), told.to_string()), (ErrorKind::Library, "B: out of memory".into()));
        let (mut a, mut b, world) = mocks(100.0, 1.0);
        let mut cancel = |told: &InTurn| match told.a_ms.len() {
            4 => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            _ => Ok(()),
        };
        let told = interleave(&mut a, &mut b, &TURNS, &mut cancel).unwrap_err();
        assert_eq!((told.kind(), world.asked.borrow().len()), (ErrorKind::Cancelled, 4 + 8));
    }

    #[test]
    fn a_gate_neither_fails_from_noise_nor_passes_from_too_little() {
        for (median, low, high, expected) in [
            (1.08, 1.03, 1.13, Gate::Beyond),
            (1.02, 1.01, 1.04, Gate::Within),
            (0.9, 0.7, 1.04, Gate::Within),
            // Noise: it may be as fast.
            (1.08, 0.99, 1.17, Gate::Undecided),
            // Too little: it may be much slower.
            (1.0, 0.9, 1.1, Gate::Undecided),
            (1.04, 1.02, 1.06, Gate::Undecided),
        ] {
            assert_eq!(Gate::of(Some(Ratio { median, low, high }), 0.05), expected, "{median} [{low}, {high}]");
        }
        assert_eq!(Gate::of(None, 0.05), Gate::Undecided);
    }

    #[test]
    fn what_differs_is_told_field_by_field() {
        let a = serde_json::json!({ "same": 1, "gone": "x", "deep": { "list": [1, 2], "none": null } });
        let b = serde_json::json!({ "same": 1, "deep": { "list": [1], "none": 0.5 }, "new": true });
        let mut found = Vec::new();
        differ("r", &a, &b, &mut found);
        let told: Vec<_> = found.iter().map(|d| (d.field.as_str(), d.a.is_some(), d.b.is_some())).collect();
        let expected = [
            ("r.deep.list", true, true),
            ("r.deep.none", false, true),
            ("r.gone", true, false),
            ("r.new", false, true),
        ];
        assert_eq!(told, expected);
    }
}
