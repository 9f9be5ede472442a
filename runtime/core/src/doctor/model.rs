//! Checks of a model, and of what it asks of the target and the machine.

use super::{Depth, Severity, Subject, Told, mib, ok, or_ok, platform, told};
use crate::model::GraphFile;
use crate::{Model, Precision, Stage, Target};

/// Lengths of the model's files, or their hashes, against what was promised.
pub(super) fn files(subject: &Subject<'_>) -> Vec<Told> {
    let model = match subject.model {
        None => return vec![told(Severity::Note, "no model was looked at", "name one with --model")],
        Some(Err(error)) => {
            let told = told(Severity::Problem, error.to_string(), "fetch the model again, or correct its manifest");
            return vec![Told { kind: Some(error.kind()), ..told }];
        }
        Some(Ok(model)) => model,
    };
    let damaged: Vec<_> = parts(model).filter_map(damage).collect();
    if !damaged.is_empty() {
        return damaged;
    }
    if subject.depth == Depth::Hashes
        && let Err(error) = model.verify()
    {
        let told = told(Severity::Problem, error.to_string(), "fetch the model again");
        return vec![Told { kind: Some(error.kind()), ..told }];
    }
    let (count, promised) = (parts(model).count(), parts(model).filter(|part| part.2).count());
    let looked = match subject.depth {
        Depth::Lengths => "lengths are right; --deep compares hashes",
        Depth::Hashes => "hashes are right where they are promised",
    };
    let evidence = format!("model {}: {looked}: {promised} of {count} files have one", model.name);
    match promised == count {
        true => vec![ok(evidence)],
        false => {
            let advice = "write a model.yaml with hashes, so that damage is seen before it draws pictures";
            vec![told(Severity::Note, evidence, advice)]
        }
    }
}

/// Files of graphs, their weights and goldens, each with its length and whether its hash is promised.
fn parts(model: &Model) -> impl Iterator<Item = (&std::path::Path, u64, bool)> {
    let graphs = model.stages.values().flat_map(|stage| stage.graphs.values());
    let of_graph = |graph: &'_ GraphFile| (graph.bytes, graph.sha256.is_some());
    let graphs = graphs.flat_map(move |graph| {
        let (bytes, promised) = of_graph(graph);
        let data = graph.data.iter().map(|file| (file.path.as_path(), file.bytes, file.sha256.is_some()));
        [(graph.path.as_path(), bytes, promised)].into_iter().chain(data)
    });
    let goldens = model.goldens.iter().map(|golden| &golden.numbers);
    graphs.chain(goldens.map(|file| (file.path.as_path(), file.bytes, file.sha256.is_some())))
}

fn damage((path, bytes, _): (&std::path::Path, u64, bool)) -> Option<Told> {
    let found = match path.metadata() {
        Ok(meta) if meta.len() == bytes => return None,
        Ok(meta) => format!("has {} bytes, expected {bytes}", meta.len()),
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(told(Severity::Problem, format!("{} {found}", path.display()), "fetch the model again"))
}

/// The precision that each stage will run in, which is not always the target's first choice.
pub(super) fn precision(subject: &Subject<'_>) -> Vec<Told> {
    let Some((target, model)) = subject.pair() else { return vec![ok("not compared: model or target is missing")] };
    let mut used = Vec::new();
    let mut findings = Vec::new();
    for stage in model.stages_to_picture() {
        let wanted = target.stage(stage).precision;
        let first = wanted.first().map_or("", |precision| precision.name());
        match model.graph(stage, &wanted) {
            Err(error) => {
                let advice = "export the model in one of the target's precisions, or choose others with --precision";
                findings.push(told(Severity::Problem, error.to_string(), advice));
            }
            Ok((precision, _)) if precision.name() != first => {
                let evidence = format!("{stage} runs in {}: the model has no {first}", precision.name());
                findings.push(told(Severity::Note, evidence, format!("export it in {first}, which suits the target")));
            }
            Ok((precision, _)) => used.push(format!("{stage} {}", precision.name())),
        }
    }
    or_ok(findings, used.join(", "))
}

/// Bytes of the graphs that will run against the target's limit and the memory that there is.
pub(super) fn memory(subject: &Subject<'_>) -> Vec<Told> {
    let Some((target, model)) = subject.pair() else { return vec![ok("not compared: model or target is missing")] };
    let graphs: Vec<_> = graphs(target, model);
    let limit = target.limits.max_graph_bytes;
    let too_big = graphs.iter().filter(|(_, _, graph)| graph.total_bytes() > limit);
    let mut findings: Vec<_> = too_big
        .map(|(stage, precision, graph)| {
            let evidence = format!(
                "{stage} {} has {} bytes, more than the {limit} of the target's limits",
                precision.name(),
                graph.total_bytes()
            );
            told(Severity::Problem, evidence, "take a smaller precision, or raise max_graph_bytes in the target")
        })
        .collect();
    let need: u64 = graphs.iter().map(|(_, _, graph)| graph.total_bytes()).sum();
    // A container may have less than its machine.
    let granted = subject.text("/sys/fs/cgroup/memory.max").and_then(|text| text.parse::<u64>().ok());
    let total = subject.machine().memory_bytes.into_iter().chain(granted).min();
    let available = platform::memory(subject, "MemAvailable");
    let graphs = format!("the graphs alone are {}", mib(need));
    match (total, available) {
        (Some(total), _) if need > total => {
            let evidence = format!("{graphs}, and there are {} here", mib(total));
            findings.push(told(Severity::Problem, evidence, "take a smaller precision, or a smaller model"));
        }
        (_, Some(available)) if need > available => {
            let evidence = format!("{graphs}, and {} are available", mib(available));
            findings.push(told(Severity::Warning, evidence, "end other programs, or take a smaller precision"));
        }
        _ => {}
    }
    let there = available.map_or("nothing tells how much is available".into(), |at| format!("{} available", mib(at)));
    or_ok(findings, format!("{graphs}; {there}"))
}

/// The graphs that a request would open.
fn graphs<'a>(target: &Target, model: &'a Model) -> Vec<(Stage, Precision, &'a GraphFile)> {
    let graph = |stage| model.graph(stage, &target.stage(stage).precision).ok().map(|(at, graph)| (stage, at, graph));
    model.stages_to_picture().filter_map(graph).collect()
}
