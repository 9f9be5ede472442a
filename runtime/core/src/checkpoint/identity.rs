//! What decides a picture, so that a checkpoint goes on to that picture or to none.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::graph::Opened;
use crate::model::Model;
use crate::request::{Plan, Request};
use crate::stage::Stage;
use crate::target::Target;
use crate::{Error, ErrorKind, Result};

use super::log::HASH_BYTES;

/// Differences that are told; one is enough to know what to do.
const MOST_TOLD: usize = 3;
/// Longest value that is told, in characters.
const MOST_CHARACTERS: usize = 80;

/// A request as it was resolved, by the names that users know.
pub(super) fn of_request(request: &Request, plan: &Plan, model: &Model, target: &Target) -> Value {
    // Named one by one, so that nobody adds one that decides a picture and is not here.
    let Request {
        prompt,
        negative,
        syntax,
        long_prompts,
        guidance_runs,
        seed,
        walk,
        noise_seed,
        sampler_noise,
        count,
        noise,
        image,
        mask,
        kept,
        sampling,
        // The plan has these, resolved.
        conditions: _,
        guidance: _,
        guidance_method: _,
        generator: _,
        batch: _,
        size: _,
        tile: _,
        // These decide no picture.
        preview_every: _,
        cancel: _,
    } = request;
    let conditions = plan.conditions.iter().map(|chosen| (chosen.name.clone(), json!([chosen.value, chosen.unguided])));
    let settings = plan.stages(model).into_iter().map(|stage| (stage.name().to_owned(), json!(target.stage(stage))));
    json!({
        "safelight": env!("CARGO_PKG_VERSION"),
        "model": model.name,
        "target": target.name,
        "target's stages": settings.collect::<Map<_, _>>(),
        "residency": target.residency,
        "prompt": prompt,
        "negative": negative,
        "syntax": syntax,
        "long prompts": long_prompts,
        "conditions": conditions.collect::<Map<_, _>>(),
        "seed": seed,
        "walk": walk,
        "noise": noise,
        "noise seed": noise_seed,
        "generator": plan.generator.name,
        "sampler noise": sampler_noise,
        "sampler": plan.relay.to_string(),
        "own samplers": plan.relay.own_methods().map(|method| (method.name, method.source)).collect::<BTreeMap<_, _>>(),
        "schedule": plan.schedule,
        "timesteps": sampling.timesteps,
        "sigmas": sampling.sigmas,
        "restarts": sampling.restarts,
        "steps": plan.steps(),
        "options": plan.options.named(),
        "guidance": plan.guidance,
        "guidance method": plan.rule.name,
        "guidance runs": guidance_runs,
        "count": count,
        "batch": plan.batch,
        "width": plan.width,
        "height": plan.height,
        "image": image.as_ref().map(|image| &image.sha256),
        "mask": mask.as_ref().map(|mask| &mask.sha256),
        "strength": plan.strength,
        "kept": kept,
        "tile": plan.tiling,
    })
}

/// What runs: each stage's graph, and where the denoiser's runs. The other stages' providers show in what the denoiser
/// is given.
pub(super) fn of_graphs<'a>(
    graphs: impl Iterator<Item = (Stage, &'a Opened)>,
    weights: &[String],
    library: &str,
) -> Value {
    let mut told = Map::new();
    told.insert("onnxruntime".into(), library.into());
    told.insert("denoiser's weights".into(), json!(weights));
    for (stage, opened) in graphs {
        told.insert(format!("{stage} precision"), json!(opened.precision));
        told.insert(format!("{stage} sha256"), json!(opened.sha256));
        if stage == Stage::Denoiser {
            told.insert("denoiser's providers".into(), json!(opened.providers));
        }
    }
    told.into()
}

/// JSON is written in one way: its keys are sorted.
pub(super) fn bytes(identity: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(identity).map_err(|e| Error::new(ErrorKind::Internal, format!("checkpoint: {e}")))
}

pub(super) fn hash(identity: &Value) -> Result<[u8; HASH_BYTES]> {
    Ok(Sha256::digest(bytes(identity)?).into())
}

/// What is another than it was; nothing where all is the same.
pub(super) fn differences(was: &Value, is: &Value) -> Option<String> {
    let mut told = Vec::new();
    compare("", Some(was), Some(is), &mut told);
    let listed = told[..told.len().min(MOST_TOLD)].join(", ");
    match told.len().saturating_sub(MOST_TOLD) {
        _ if told.is_empty() => None,
        0 => Some(listed),
        more => Some(format!("{listed}, and {more} more")),
    }
}

/// Goes down to the single fields that differ: `name: was → is`.
fn compare(name: &str, was: Option<&Value>, is: Option<&Value>, told: &mut Vec<String>) {
    match (was, is) {
        _ if was == is => (),
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let added = is.keys().filter(|name| !was.contains_key(*name));
            for inner in was.keys().chain(added) {
                let name = if name.is_empty() { inner.clone() } else { format!("{name}.{inner}") };
                compare(&name, was.get(inner), is.get(inner), told);
            }
        }
        _ => told.push(format!("{name}: {} → {}", short(was), short(is))),
    }
}

fn short(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".into(), Value::to_string);
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_as_it_was_and_as_it_is() {
        let was = json!({ "steps": 20, "seed": 7, "prompt": "a" });
        for (is, told) in [
            (json!({ "steps": 20, "seed": 7, "prompt": "a" }), None),
            (json!({ "steps": 30, "seed": 7, "prompt": "a" }), Some("steps: 20 → 30")),
            (json!({ "steps": 20, "seed": 7, "prompt": null }), Some("prompt: \"a\" → null")),
            (json!({ "steps": 20, "seed": 7 }), Some("prompt: \"a\" → nothing")),
            (json!({ "steps": { "eta": 1 }, "seed": 7, "prompt": "a" }), Some("steps: 20 → {\"eta\":1}")),
            (json!({ "steps": 20, "seed": 7, "prompt": "a", "eta": 1 }), Some("eta: nothing → 1")),
            (
                json!({ "steps": 1, "seed": 2, "prompt": "b", "eta": 1 }),
                Some("prompt: \"a\" → \"b\", seed: 7 → 2, steps: 20 → 1, and 1 more"),
            ),
        ] {
            assert_eq!(differences(&was, &is).as_deref(), told);
        }
        let inner = |eta| json!({ "options": { "eta": eta, "order": 3 } });
        assert_eq!(differences(&inner(0), &inner(1)).as_deref(), Some("options.eta: 0 → 1"));
        let long = json!({ "prompt": "é".repeat(1000) });
        assert!(differences(&was, &long).unwrap().chars().count() < 250);
    }
}
