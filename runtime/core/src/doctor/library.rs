//! Checks of ONNX Runtime itself, and of the providers compiled into it.

use std::path::Path;

use super::{Severity, Subject, Told, ok, or_ok, told};
use crate::Library;
use crate::library::{Found, Outcome, Place};
use crate::provider::{Need, Provider};

/// Which library is used, and which files were refused before it.
pub(super) fn library(subject: &Subject<'_>) -> Vec<Told> {
    let search = subject.library;
    let refused = |place: &Place| match &place.outcome {
        Outcome::Refused(reason) => Some(format!("{} ({}) {reason}", place.path.display(), place.why)),
        _ => None,
    };
    let refused: Vec<_> = search.places.iter().filter_map(refused).collect();
    let Some(Found { path, version, .. }) = &search.found else {
        let absent = search.places.iter().filter_map(|place| match &place.outcome {
            Outcome::Absent(reason) => Some(format!("{} ({}) {reason}", place.path.display(), place.why)),
            _ => None,
        });
        let tried: Vec<_> = refused.into_iter().chain(absent).collect();
        let oldest = Library::OLDEST_MINOR;
        let evidence = format!("no ONNX Runtime of 1.{oldest} or newer can be opened: {}", tried.join("; "));
        let advice = "fetch it (./run does, or pip install onnxruntime), or point ORT_DYLIB_PATH to it";
        return vec![told(Severity::Problem, evidence, advice)];
    };
    let advice = "take it away, or fetch it again, if it is the one that you want";
    let refused = refused.into_iter().map(|what| told(Severity::Warning, format!("passed over: {what}"), advice));
    let used = ok(format!("ONNX Runtime {version} at {}", path.display()));
    [used].into_iter().chain(refused).collect()
}

/// Libraries that nobody will open, because another is found first.
pub(super) fn shadowed(subject: &Subject<'_>) -> Vec<Told> {
    let Some(found) = &subject.library.found else { return vec![ok("nothing to shadow: no library was opened")] };
    let own = found.path.canonicalize().ok();
    let places = subject.library.places.iter();
    let shadowed = places
        .filter(|place| place.outcome == Outcome::Shadowed)
        .filter(|place| place.path.canonicalize().ok() != own)
        .map(|place| shadow(subject, found, place));
    or_ok(shadowed.collect(), "no other library is on the search path")
}

fn shadow(subject: &Subject<'_>, found: &Found, place: &Place) -> Told {
    let lacking = subject.providers().into_iter().map(|provider| provider.name.as_str());
    let lacking = lacking.filter(|name| !found.providers.iter().any(|has| has == name));
    let folder = place.path.parent().unwrap_or(Path::new(""));
    let better: Vec<_> = lacking.filter(|name| folder.join(provider_file(name)).exists()).collect();
    let (used, other) = (found.path.display(), place.path.display());
    let evidence = format!("{used} is used, and hides {other} ({})", place.why);
    if better.is_empty() {
        return told(Severity::Note, evidence, format!("to use that one: export ORT_DYLIB_PATH={other}"));
    }
    let evidence = format!("{evidence}, which has what the target asks for: {}", better.join(", "));
    told(Severity::Warning, evidence, format!("export ORT_DYLIB_PATH={other}"))
}

/// The file of a provider's own library, which lies beside ONNX Runtime's.
pub(super) fn provider_file(provider: &str) -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}onnxruntime_providers_{provider}{suffix}")
}

/// A variable that leads nowhere hides every library that could be found without it.
pub(super) fn variable(subject: &Subject<'_>) -> Vec<Told> {
    let name = Place::VARIABLE;
    let Some(path) = subject.folder(name) else {
        return vec![ok(format!("{name} is not set"))];
    };
    let shown = path.display();
    if subject.at(&path).exists() {
        return vec![ok(format!("{name} leads to {shown}"))];
    }
    // A path that was given comes first, and then the variable does no harm.
    let is_used = subject.library.places.iter().any(|place| place.why == name);
    let severity = if is_used { Severity::Problem } else { Severity::Note };
    vec![told(severity, format!("{name} is {shown}, and nothing is there"), format!("correct it, or unset {name}"))]
}

/// Providers that the target asks for against those that the library was built with.
pub(super) fn providers(subject: &Subject<'_>) -> Vec<Told> {
    let Ok(target) = subject.target else { return vec![ok("not compared: there is no target")] };
    let Some(Found { version, providers, .. }) = &subject.library.found else {
        return vec![told(Severity::Note, "not compared: no library was opened", "see the check library")];
    };
    let has = providers.join(", ");
    let told_of = |wanted: &Provider| {
        let (evidence, advice) = why_unusable(subject, wanted, version, providers)?;
        let (severity, so) = match wanted.need {
            Need::Required => (Severity::Problem, "requires"),
            Need::Optional => (Severity::Note, "would like"),
        };
        Some(told(severity, format!("target {} {so} {}, but {evidence}", target.name, wanted.name), advice))
    };
    let missing = subject.providers().iter().filter_map(told_of).collect();
    or_ok(missing, format!("all that target {} asks for; the library has {has}", target.name))
}

/// Why the library cannot have a provider, and what to do; nothing where it can.
fn why_unusable(
    subject: &Subject<'_>,
    wanted: &Provider,
    version: &str,
    providers: &[String],
) -> Option<(String, String)> {
    let name = wanted.name;
    let Some(plugin) = &wanted.library else {
        let evidence = format!("ONNX Runtime {version} was built with: {}", providers.join(", "));
        let advice = format!("use a build of ONNX Runtime that has {name}, or a target that does without");
        return (!providers.iter().any(|has| has == name.as_str())).then_some((evidence, advice));
    };
    if !subject.at(plugin).is_file() {
        let advice = "install the plug-in there, or correct library in the target";
        return Some((format!("its plug-in {} is not there", plugin.display()), advice.into()));
    }
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let evidence = format!("ONNX Runtime {version} takes no plug-ins");
    minor.is_some_and(|minor| minor < Library::FIRST_WITH_PLUGINS).then(|| (evidence, "use 1.22 or newer".into()))
}

/// First minor version of ONNX Runtime whose official builds collect telemetry on Linux and macOS.
const FIRST_WITH_TELEMETRY: u32 = 29;

/// Whether the variable that stops telemetry is set, as it must be before the library is loaded.
pub(super) fn telemetry(subject: &Subject<'_>) -> Vec<Told> {
    let name = "ORT_DISABLE_TELEMETRY";
    let minor = |found: &Found| found.version.split('.').nth(1)?.parse::<u32>().ok();
    let minor = subject.library.found.as_ref().and_then(minor);
    match (subject.variable)(name) {
        Some(value) if value == "1" => vec![ok(format!("{name} is 1"))],
        _ if minor.is_some_and(|minor| minor < FIRST_WITH_TELEMETRY) => {
            vec![ok(format!("official builds have none before 1.{FIRST_WITH_TELEMETRY}"))]
        }
        None if minor.is_none() => vec![ok("no library was opened")],
        value => {
            let found = value.map_or("not set".into(), |value| format!("\"{}\"", value.display()));
            let evidence = format!("{name} is {found}, so that official builds write to the user's cache folder");
            vec![told(Severity::Warning, evidence, format!("export {name}=1"))]
        }
    }
}
