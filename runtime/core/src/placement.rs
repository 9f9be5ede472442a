//! Which execution provider ran which nodes of each graph, and for how much of the time.
//!
//! A provider that takes a graph need not take all of it: what it refuses runs on the CPU, and nothing says so. Here the
//! library's own profile of real runs is read: one event a node and run, with the provider that ran it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::model::Model;
use crate::pipeline::Pipeline;
use crate::provider::{Need, Provider, ProviderName};
use crate::request::Request;
use crate::residency::Residency;
use crate::stage::Stage;
use crate::target::Target;
use crate::unfinished::Unfinished;
use crate::{Error, Result, provider};

/// A profile is some hundred bytes a node and run; ONNX Runtime itself stops at a million events.
const MAX_PROFILE_BYTES: u64 = 1 << 30;

/// Where the nodes of one stage's graph ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placement {
    /// The stage.
    pub stage: Stage,
    /// What the target wants it to run on first.
    pub wanted: ProviderName,
    /// Largest share of its time, 0 to 1, that may be spent elsewhere: the target's `allow_fallback`, where what is wanted
    /// is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// Every provider that ran a node, the busiest first.
    pub providers: Vec<Share>,
    /// Operators that ran elsewhere than wanted, the slowest first; empty where nothing did.
    pub fallen_back: Vec<FallenBack>,
}

/// What one provider ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// As ONNX Runtime calls it, such as `CPUExecutionProvider`.
    pub provider: String,
    /// Nodes of the graph as it was optimised: a provider may make one of many.
    pub nodes: usize,
    /// Nodes of the graph as it is written that the provider was given, where the library tells (1.24 or newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned: Option<usize>,
    /// Share of the graph's time, 0 to 1.
    pub time: f64,
}

/// Nodes of one kind that did not run where they were wanted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FallenBack {
    /// The operator.
    pub operator: String,
    /// Where it ran.
    pub provider: String,
    /// How many of its nodes, and the name of one.
    pub nodes: usize,
    /// One of them.
    pub example: String,
    /// Share of the graph's time, 0 to 1.
    pub time: f64,
}

impl Placement {
    /// Share of the graph's time that was spent elsewhere than wanted.
    pub fn fallen_back_time(&self) -> f64 {
        self.fallen_back.iter().map(|fallen| fallen.time).sum()
    }
}

/// Makes the pictures of a request twice, the first time to warm up, and tells where the nodes of each graph ran.
///
/// # Errors
/// As [`Pipeline::open_for`] and [`Pipeline::generate`]; [`ErrorKind::Io`](crate::ErrorKind::Io) where the profile cannot
/// be written or read.
pub fn place(target: &Target, model: &Model, request: &Request) -> Result<Vec<Placement>> {
    let made = Unfinished::make(tempfile::tempdir, TempDir::path);
    let (_unfinished, folder) = made.map_err(|e| {
        let what = format!("no folder for profiles can be made: {e}; point TMPDIR to one that can be written");
        Error::io(what).because(e)
    })?;
    // A profile is one session's: it would end with every stage of a staged target, and where nodes run is the same.
    let target = &target.clone().with_residency(Residency::Resident);
    let mut pipeline = Pipeline::open_profiled(target, model, request, folder.path())?;
    for _ in 0..2 {
        pipeline.generate(request)?;
    }
    let profiles = pipeline.end_profiles()?;
    let graphs = pipeline.graphs();
    let placed = |(stage, path): &(Stage, PathBuf)| {
        let mut placement = read(*stage, path, target)?;
        for share in &mut placement.providers {
            share.assigned = graphs[stage].nodes.get(provider::short_name(&share.provider)).copied();
        }
        Ok(placement)
    };
    profiles.iter().map(placed).collect()
}

/// Fails where more of any graph's time than is [allowed](Placement::allowed) was spent elsewhere than wanted.
///
/// # Errors
/// [`ErrorKind::Library`](crate::ErrorKind::Library), naming the nodes and what may be the reason.
pub fn require(placements: &[Placement]) -> Result<()> {
    let mut bounded = placements.iter().filter_map(|placement| Some((placement, placement.allowed?)));
    let Some((placement, allowed)) = bounded.find(|(placement, allowed)| placement.fallen_back_time() > *allowed)
    else {
        return Ok(());
    };
    let named = placement.fallen_back.iter().take(3).map(|fallen| {
        format!("{} {} such as \"{}\" on {}", fallen.nodes, fallen.operator, fallen.example, fallen.provider)
    });
    Err(Error::library(format!(
        "{}: {:.1} % of its time is not on {}, {:.1} % is allowed: {}; the provider may lack these operators, their types \
         or free axes: try another precision, fixed shapes, or allow it",
        placement.stage,
        100.0 * placement.fallen_back_time(),
        placement.wanted,
        100.0 * allowed,
        named.collect::<Vec<_>>().join(", ")
    )))
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Default, Deserialize)]
struct Arguments {
    provider: Option<String>,
    op_name: Option<String>,
}

/// What the profile says of the nodes of one provider and operator.
#[derive(Default)]
struct Tally {
    names: BTreeSet<String>,
    time: f64,
}

fn read(stage: Stage, path: &Path, target: &Target) -> Result<Placement> {
    let told = |what: String| Error::io(format!("{}: {what}", path.display()));
    let bytes = std::fs::metadata(path).map_err(|e| told(e.to_string()).because(e))?.len();
    if bytes > MAX_PROFILE_BYTES {
        return Err(Error::limit(format!("{}: is {bytes} bytes; ask for fewer steps", path.display())));
    }
    let text = std::fs::read(path).map_err(|e| told(e.to_string()).because(e))?;
    let events: Vec<Event> = serde_json::from_slice(&text).map_err(|e| match e.is_eof() {
        true => told("is cut short; make room where TMPDIR is, or point it elsewhere".into()),
        false => told(e.to_string()).because(e),
    })?;
    let settings = target.stage(stage);
    let Provider { name, need, .. } = settings.providers[0];
    let allowed = settings.allow_fallback.filter(|_| need == Need::Required);
    Ok(Placement { allowed, ..tally(stage, name, &events) })
}

fn tally(stage: Stage, wanted: ProviderName, events: &[Event]) -> Placement {
    let mut tallies = BTreeMap::<(&str, &str), Tally>::new();
    for Event { cat, name, dur, args } in events {
        let (Some(provider), Some(operator)) = (&args.provider, &args.op_name) else { continue };
        // Older libraries tell of the fences around a kernel, too.
        let Some(node) = name.strip_suffix("_kernel_time").filter(|_| cat == "Node") else { continue };
        let tally = tallies.entry((provider, operator)).or_default();
        tally.names.insert(node.to_owned());
        tally.time += dur;
    }
    let whole: f64 = tallies.values().map(|tally| tally.time).sum();
    let share = |time: f64| if whole > 0.0 { time / whole } else { 0.0 };
    let mut providers = BTreeMap::<&str, Share>::new();
    let mut fallen_back = Vec::new();
    for ((provider, operator), tally) in &tallies {
        let nodes = tally.names.len();
        let empty = || Share { provider: (*provider).to_owned(), nodes: 0, assigned: None, time: 0.0 };
        let total = providers.entry(provider).or_insert_with(empty);
        total.nodes += nodes;
        total.time += share(tally.time);
        if *provider != wanted.onnxruntime_name() {
            fallen_back.push(FallenBack {
                operator: (*operator).to_owned(),
                provider: (*provider).to_owned(),
                nodes,
                example: tally.names.first().cloned().unwrap_or_default(),
                time: share(tally.time),
            });
        }
    }
    let mut providers: Vec<_> = providers.into_values().collect();
    providers.sort_by(|a, b| b.time.total_cmp(&a.time));
    fallen_back.sort_by(|a, b| b.time.total_cmp(&a.time));
    Placement { stage, wanted, allowed: None, providers, fallen_back }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"[
        {"cat": "Session", "name": "model_loading", "dur": 900, "args": {}},
        {"cat": "Node", "name": "/a/Conv_kernel_time", "dur": 60, "args": {"op_name": "Conv", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "name": "/a/Conv_kernel_time", "dur": 20, "args": {"op_name": "Conv", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "name": "/a/Conv_fence_after", "dur": 20, "args": {"op_name": "Conv", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "name": "/b/Gather_kernel_time", "dur": 15, "args": {"op_name": "Gather", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "name": "/c/Gather_kernel_time", "dur": 5, "args": {"op_name": "Gather", "provider": "CPUExecutionProvider"}}
    ]"#;

    fn placement(wanted: ProviderName) -> Placement {
        tally(Stage::Denoiser, wanted, &serde_json::from_str::<Vec<Event>>(PROFILE).unwrap())
    }

    #[test]
    fn nodes_are_counted_once_and_their_time_each_time() {
        let Placement { providers, .. } = placement(ProviderName::CPU);
        let told: Vec<_> = providers.iter().map(|share| (share.provider.as_str(), share.nodes, share.time)).collect();
        assert_eq!(told, [("CUDAExecutionProvider", 1, 0.8), ("CPUExecutionProvider", 2, 0.2)]);
    }

    #[test]
    fn what_did_not_run_where_it_was_wanted_is_told() {
        let fallen = placement(ProviderName::CPU);
        assert_eq!(fallen.fallen_back.len(), 1);
        assert!((fallen.fallen_back_time() - 0.8).abs() < 1e-12);
        let within = |allowed| require(&[Placement { allowed, ..fallen.clone() }]);
        within(None).unwrap();
        within(Some(0.8)).unwrap();
        let error = within(Some(0.5)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Library);
        assert!(error.to_string().contains("80.0 % of its time is not on"), "{error}");
        assert!(error.to_string().contains("1 Conv such as \"/a/Conv\" on CUDAExecutionProvider"), "{error}");
    }
}
