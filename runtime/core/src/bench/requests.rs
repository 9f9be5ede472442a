//! The requests that every benchmark makes in turn: the same words and seeds on every device.

use crate::hash;
use crate::model::Model;
use crate::request::Request;
use crate::route::Sampling;

use super::report::Workload;

/// More than a pipeline remembers, so that the text encoder works for every image.
const PROMPTS: [&str; 20] = [
    "a red apple",
    "a blue house",
    "a yellow star",
    "a green car",
    "a slice of pizza",
    "a brown dog",
    "a white cat",
    "a purple flower",
    "a rocket in the sky",
    "a cup of coffee",
    "an orange fish",
    "a pink heart",
    "a tree in autumn",
    "a black umbrella",
    "a sailing boat",
    "a snowman",
    "a bunch of grapes",
    "a wooden chair",
    "a full moon",
    "a birthday cake",
];

/// How many requests there are before the first comes again.
pub const COUNT: usize = PROMPTS.len();

/// Request `index` of a workload: other words and another seed than its neighbours'.
pub fn request(model: &Model, workload: &Workload, index: usize) -> Request {
    let (index, batch) = (index % COUNT, workload.batch);
    let mut request = Request::usual(model);
    if model.reads_prompts() {
        request.prompt = PROMPTS[index].into();
    }
    request.seed = seed(index);
    (request.count, request.batch) = (batch, batch);
    request.size = Some((workload.width, workload.height));
    request.sampling = Sampling { sampler: Some(workload.sampler.clone()), ..Sampling::in_steps(workload.steps) };
    request
}

/// SHA-256 over all words and seeds.
pub fn sha256() -> String {
    let lines = PROMPTS.iter().enumerate().map(|(index, prompt)| format!("{prompt}\t{}\n", seed(index)));
    hash::of(lines.collect::<String>().as_bytes())
}

/// Far enough apart that no batch reaches its neighbour's.
fn seed(index: usize) -> u64 {
    1000 * (index as u64 + 1)
}
