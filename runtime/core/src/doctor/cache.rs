//! Checks of the target's cache of what providers make of graphs.

use std::path::Path;

use super::storage::writable;
use super::{Severity, Subject, Told, mib, ok, or_ok, told};
use crate::cache::key::{Key, LIBRARY, MACHINE, Surroundings};
use crate::cache::{Build, Caching, default_folder, holdings};

/// Free bytes below which a disk is nearly full: an engine of a small denoiser takes hundreds of megabytes.
const LITTLE_BYTES: u64 = 1 << 30;

/// Whether the cache can be written and has room, and whether all that it holds can be used here.
pub(super) fn cache(subject: &Subject<'_>) -> Vec<Told> {
    let Some(caching) = subject.target.ok().and_then(|target| target.cache.clone()) else {
        return vec![ok("the target keeps nothing")];
    };
    let Some(folder) = caching.folder.clone().or_else(|| default_folder(subject.variable)) else {
        let evidence = "the target has a cache, and neither SAFELIGHT_CACHE nor HOME says where";
        return vec![told(Severity::Warning, evidence, "give a folder with --cache, or as cache: { folder: … }")];
    };
    let mut found = Vec::new();
    if caching.build == Build::WhenMissing {
        found.push(writable(subject, "the cache", &folder));
        found.extend(disk(subject, &folder));
    }
    found.extend(content(subject, &caching, &folder));
    or_ok(found, format!("the cache, {}, is only read", folder.display()))
}

fn disk(subject: &Subject<'_>, folder: &Path) -> Option<Told> {
    let nearest = folder.ancestors().map(|at| subject.at(at)).find(|at| at.exists())?;
    let free = (subject.free_bytes)(&nearest).filter(|free| *free < LITTLE_BYTES)?;
    let evidence = format!("the disk of {} has {} left", folder.display(), mib(free));
    Some(told(Severity::Warning, evidence, "make room, or choose a folder on another disk with --cache"))
}

/// What the entries are worth, and how much they take.
fn content(subject: &Subject<'_>, caching: &Caching, folder: &Path) -> Vec<Told> {
    let holdings = holdings(&subject.at(folder));
    let around = Surroundings::read(subject.root);
    let version = subject.library.found.as_ref().map(|found| found.version.as_str());
    let mut found = Vec::new();
    for holding in &holdings {
        let what = |what: &str| format!("{}, {}, {what}", holding.folder.display(), mib(holding.bytes));
        let advice = "safelight warm builds it again; until then it only takes room, and may be deleted";
        found.extend(match &holding.key {
            None => Some(told(Severity::Note, what("was not finished, or its cache.json is damaged"), advice)),
            Some(key) => changes(key, version, &around)
                .map(|changes| told(Severity::Note, what(&format!("cannot be used any more: {changes}")), advice)),
        });
    }
    let (bytes, most) = (holdings.iter().map(|holding| holding.bytes).sum(), caching.max_bytes);
    let evidence = format!("{} entries take {} of {}", holdings.len(), mib(bytes), mib(most));
    found.push(match bytes > most {
        true => {
            told(Severity::Warning, evidence, "raise max_bytes of the target's cache, or it is built again and again")
        }
        false => ok(evidence),
    });
    found
}

/// What of library and machine is no longer as when an entry was built.
fn changes(key: &Key, version: Option<&str>, around: &Surroundings) -> Option<String> {
    let library = version.map(|version| (LIBRARY, version));
    let facts = library.into_iter().chain(MACHINE.iter().map(|name| (*name, around.fact(name))));
    let changed = facts.filter_map(|(name, now)| {
        let was = key.get(name).filter(|was| *was != now)?;
        Some(format!("{name}: was {was}, is {now}"))
    });
    let changed: Vec<_> = changed.collect();
    (!changed.is_empty()).then(|| changed.join("; "))
}
