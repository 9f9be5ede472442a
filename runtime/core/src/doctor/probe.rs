//! What is known of the model's graphs from the probe, and whether it can be remembered.

use super::storage::writable;
use super::{Depth, Severity, Subject, Told, ok, told};
use crate::cache::default_folder;
use crate::model::GraphFile;
use crate::probe::{When, record};
use crate::{Stage, hash};

/// Which of the graphs that would run have passed the probe.
pub(super) fn probe(subject: &Subject<'_>) -> Vec<Told> {
    let Ok(target) = subject.target else { return vec![ok("there is no target that could say anything of it")] };
    if target.probe.when == When::Never {
        let evidence = "the target says probe: { when: never }: a graph that crashes ONNX Runtime crashes safelight";
        return vec![told(Severity::Note, evidence, "leave it out, unless every graph is your own")];
    }
    let own = target.cache.as_ref().and_then(|caching| caching.folder.clone());
    let Some(folder) = own.or_else(|| default_folder(subject.variable)) else {
        let evidence = "neither SAFELIGHT_CACHE nor HOME says where to remember which graphs have passed";
        return vec![told(Severity::Warning, evidence, "set one of them: graphs are tried again each time")];
    };
    let place = writable(subject, "the folder of what has passed", &record::folder(&folder));
    if place.severity > Severity::Ok || target.probe.when == When::Always {
        return vec![place];
    }
    let Some(Ok(model)) = subject.model else { return vec![place] };
    let chosen = Stage::TEXT_TO_IMAGE.into_iter().filter_map(|stage| {
        let (_, file) = model.graph(stage, &target.stage(stage).precision).ok()?;
        let told = sha256(file, subject.depth).and_then(|sha256| record::told(&subject.at(&folder), &sha256));
        Some(format!("{stage} {}", told.as_deref().unwrap_or("is tried when it is first opened")))
    });
    vec![ok(chosen.collect::<Vec<_>>().join("; "))]
}

/// The hash of a graph, where it is promised or may be read.
fn sha256(file: &GraphFile, depth: Depth) -> Option<String> {
    match (&file.sha256, depth) {
        (Some(promised), _) => Some(promised.clone()),
        (None, Depth::Hashes) => hash::of_file(&file.path).ok(),
        (None, Depth::Lengths) => None,
    }
}
