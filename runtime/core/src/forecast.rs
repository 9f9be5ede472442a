//! What a request is expected to take of the memory, told before anything is opened.
//!
//! The rule comes from measurements with the CPU provider of ONNX Runtime 1.31: a process with the library open, and of
//! each graph its weights times what they grow to (`growth`), plus the tensors that go in and come out. What a graph
//! computes in between is not known before it runs: where pictures are large and graphs small, a peak is a lower bound.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::denoiser::{Traits, runs_together};
use crate::model::{GraphFile, Model};
use crate::onnx::{FLOAT, FLOAT16, Outline, Size, Weight};
use crate::pipeline::check_graph_sizes;
use crate::request::{Plan, Request};
use crate::residency::Residency;
use crate::stage::{Precision, Stage};
use crate::target::{GraphOptimization, Target};
use crate::{Machine, Result, bounded};

/// What a request is expected to take of the memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// When graphs are in memory.
    pub residency: Residency,
    /// The process with ONNX Runtime open, without any graph.
    pub library_bytes: u64,
    /// Each stage, in the order of the data.
    pub stages: Vec<StageForecast>,
    /// The process while all resident graphs are opened side by side; absent where they are staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opening_bytes: Option<u64>,
    /// The most that is expected at once.
    pub peak_bytes: u64,
    /// What does not fit, and what to do about it.
    pub warnings: Vec<String>,
}

/// What one stage is expected to take of the memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageForecast {
    /// Which one.
    pub stage: Stage,
    /// Its graph.
    pub graph: PathBuf,
    /// Number format of its weights.
    pub precision: Precision,
    /// Execution providers, in the order in which they are tried.
    pub providers: Vec<String>,
    /// The graph's file and the files of its weights, as they are on disk.
    pub file_bytes: u64,
    /// The graph while it is opened.
    pub opening_bytes: u64,
    /// The open graph.
    pub opened_bytes: u64,
    /// Tensors that go in and come out; nothing of what is computed in between.
    pub tensor_bytes: u64,
    /// The whole process while this stage works, or its graph is opened for it.
    pub peak_bytes: u64,
    /// When the graph is opened.
    pub opened: &'static str,
    /// When its memory is given back.
    pub closed: &'static str,
}

/// A process with the CPU build of ONNX Runtime 1.31 warm: 32 MiB are pages of the library and of the program.
const LIBRARY_BYTES: u64 = 42 << 20;

/// How many times a weight's bytes are in memory while its graph is opened, and once it is open. Measured with chains of
/// 16 convolutions or matrix products whose weights lie outside of the graph's file: 2.1 and 2.1 for FP32 convolutions,
/// 6.2 and 4.1 for FP16 ones, 2.6 and 2.4 for FP16 matrices, 1.1 and 1.0 for everything else.
///
/// The CPU provider computes FP16 as FP32; where the optimisation level is `all`, it keeps a convolution's weights twice,
/// as they were and in the order that suits the processor.
fn growth(weight: Weight, level: Option<GraphOptimization>) -> (u64, u64) {
    let reorders = weight.of_convolution && matches!(level, None | Some(GraphOptimization::All));
    match (weight.element_type, reorders) {
        (FLOAT, true) => (2, 2),
        (FLOAT16, true) => (6, 4),
        (FLOAT16, false) => (3, 2),
        _ => (1, 1),
    }
}

impl Forecast {
    /// What a request is expected to take. Of the graphs only outlines are read; ONNX Runtime is not needed.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for a graph that is missing or damaged,
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for one that is larger than the target allows.
    pub fn new(request: &Request, plan: &Plan, model: &Model, target: &Target) -> Result<Self> {
        check_graph_sizes(target, model)?;
        let parts = Stage::TEXT_TO_IMAGE.map(|stage| Part::read(stage, model, target));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let of = |residency| Self::of(&parts, tensor_bytes(&parts, (request, residency), plan, model), residency);
        let forecast = of(target.residency);
        let smallest = rooms(target).into_iter().min_by_key(|(_, bytes)| *bytes);
        let shortage = smallest.filter(|(_, bytes)| *bytes < forecast.peak_bytes).map(|(room, bytes)| {
            let advice = advice(&forecast, of(Residency::Staged).peak_bytes, model);
            format!("{room} has {} MiB, and {} or more are expected: {advice}", mib(bytes), mib(forecast.peak_bytes))
        });
        Ok(Self { warnings: shortage.into_iter().collect(), ..forecast })
    }

    fn of(parts: &[Part], tensors: [u64; 3], residency: Residency) -> Self {
        let all_opened = sum(parts.iter().map(|part| part.grown().1));
        let stage = |(part, tensor_bytes): (&Part, u64)| {
            let (opening_bytes, opened_bytes) = part.grown();
            let (peak_bytes, opened, closed) = match residency {
                Residency::Resident => {
                    (all_opened.saturating_add(tensor_bytes), "with the pipeline", "with the pipeline")
                }
                Residency::Staged => {
                    let own = opening_bytes.max(opened_bytes.saturating_add(tensor_bytes));
                    (sum([own]), "for its stage", "after its stage")
                }
            };
            StageForecast {
                stage: part.stage,
                graph: part.file.path.clone(),
                precision: part.precision,
                providers: part.providers.clone(),
                file_bytes: part.file.total_bytes(),
                opening_bytes,
                opened_bytes,
                tensor_bytes,
                peak_bytes,
                opened,
                closed,
            }
        };
        let stages: Vec<_> = parts.iter().zip(tensors).map(stage).collect();
        let opening_bytes = match residency {
            Residency::Resident => Some(sum(parts.iter().map(|part| part.grown().0))),
            Residency::Staged => None,
        };
        let peak_bytes = stages.iter().map(|stage| stage.peak_bytes).chain(opening_bytes).max().unwrap_or(0);
        Self { residency, library_bytes: LIBRARY_BYTES, stages, opening_bytes, peak_bytes, warnings: Vec::new() }
    }
}

/// The process with graphs of so many bytes. A damaged file may claim any size, which is only ever shown.
fn sum(graphs: impl IntoIterator<Item = u64>) -> u64 {
    graphs.into_iter().fold(LIBRARY_BYTES, u64::saturating_add)
}

/// A stage's graph as its file tells of it.
struct Part {
    stage: Stage,
    file: GraphFile,
    precision: Precision,
    providers: Vec<String>,
    level: Option<GraphOptimization>,
    outline: Outline,
}

impl Part {
    fn read(stage: Stage, model: &Model, target: &Target) -> Result<Self> {
        let settings = target.stage(stage);
        let (precision, file) = model.graph(stage, &settings.precision)?;
        let providers = settings.providers.iter().map(|provider| provider.name.to_string()).collect();
        let level = settings.session.graph_optimization;
        Ok(Self { stage, file: file.clone(), precision, providers, level, outline: file.outline()? })
    }

    /// Bytes of the graph while it is opened, and once it is open. What its own file holds is parsed into a copy, which
    /// the allocator keeps.
    fn grown(&self) -> (u64, u64) {
        let weights = self.outline.weights.iter().map(|(weight, bytes)| (growth(*weight, self.level), bytes));
        weights.fold((self.file.bytes, self.file.bytes), |(opening, opened), ((while_opened, open), &bytes)| {
            let grown = |sum: u64, times: u64| sum.saturating_add(times.saturating_mul(bytes));
            (grown(opening, while_opened), grown(opened, open))
        })
    }

    /// Elements of an input's last axis; 0 where any size will do.
    fn width(&self, input: &str) -> u64 {
        let input = self.outline.inputs.iter().find(|tensor| tensor.name == input);
        match input.and_then(|tensor| tensor.sizes.last()) {
            Some(Size::Fixed(width)) => *width,
            _ => 0,
        }
    }
}

/// Bytes of the tensors that go into the text encoder, the denoiser and the decoder, and come out.
fn tensor_bytes(parts: &[Part], (request, residency): (&Request, Residency), plan: &Plan, model: &Model) -> [u64; 3] {
    const FLOAT_BYTES: u64 = 4;
    let [_, denoiser, _] = parts else { return [0; 3] };
    let tokens = model.tokenizer.window.length as u64;
    let width = denoiser.width(model.tensor(Stage::Denoiser, "encoder_hidden_states"));
    let hidden = FLOAT_BYTES.saturating_mul(tokens).saturating_mul(width);
    let (channels, rows, columns) = plan.latent;
    let latent = FLOAT_BYTES * (channels * rows * columns) as u64;
    let batch = plan.batch as u64;
    let Traits { embeds_guidance, fixed_batch } = Traits::of(&denoiser.outline, model);
    let together = fixed_batch.map_or(runs_together(plan), |fixed| fixed as u64 == 2 * batch);
    let rows = if plan.is_guided() && !embeds_guidance && together { 2 * batch } else { batch };
    let waiting = match residency {
        Residency::Resident => 0,
        // The decoder is opened when every picture is denoised.
        Residency::Staged => latent.saturating_mul(request.count as u64),
    };
    // The graph's planes of numbers, our copy of them, and the picture's bytes.
    let picture = 3 * (plan.width * plan.height) as u64 * (FLOAT_BYTES + FLOAT_BYTES + 1);
    [2 * hidden, rows * (2 * latent + hidden) + waiting, latent + picture + waiting]
}

/// How much memory there is, by what has it.
fn rooms(target: &Target) -> Vec<(String, u64)> {
    let board =
        target.board.memory_gib.map(|gib| (format!("the board of target {}", target.name), u64::from(gib) << 30));
    let machine = Machine::read(Path::new("/")).memory_bytes.map(|bytes| ("this machine".to_owned(), bytes));
    // A container may have less than its machine; without a limit it says "max".
    let granted = bounded::read(Path::new("/sys/fs/cgroup/memory.max"), 64).ok();
    let container = granted.and_then(|text| Some(("this container".to_owned(), text.trim().parse().ok()?)));
    [board, machine, container].into_iter().flatten().collect()
}

/// What would take less memory.
fn advice(forecast: &Forecast, staged_bytes: u64, model: &Model) -> String {
    let mut advice = Vec::new();
    if staged_bytes < forecast.peak_bytes {
        advice.push(format!("residency: staged in the target ({} MiB or more)", mib(staged_bytes)));
    }
    let larger = |stage: &StageForecast| {
        stage.precision != Precision::Int8 && model.graph(stage.stage, &[Precision::Int8]).is_ok()
    };
    if forecast.stages.iter().any(larger) {
        advice.push("a smaller precision (--precision int8)".into());
    }
    advice.push("a smaller model, such as one with a tiny decoder".into());
    format!("try {}", advice.join(", or "))
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part whose graph has its weights in a file of their own.
    fn part(element_type: u64, of_convolution: bool, level: Option<GraphOptimization>) -> Part {
        let outline =
            Outline { weights: [(Weight { element_type, of_convolution }, 100)].into(), ..Outline::default() };
        let file = GraphFile { path: "graph.onnx".into(), bytes: 7, sha256: None, data: Vec::new() };
        let (precision, providers) = (Precision::Fp32, vec!["cpu".into()]);
        Part { stage: Stage::Denoiser, file, precision, providers, level, outline }
    }

    #[test]
    fn weights_grow_by_what_the_cpu_computes_them_in() {
        let (all, extended) = (Some(GraphOptimization::All), Some(GraphOptimization::Extended));
        let int8 = 3;
        for (element_type, of_convolution, level, grown) in [
            (FLOAT, true, None, (207, 207)),
            (FLOAT, true, all, (207, 207)),
            (FLOAT, true, extended, (107, 107)),
            (FLOAT, false, all, (107, 107)),
            (FLOAT16, true, all, (607, 407)),
            (FLOAT16, false, all, (307, 207)),
            (int8, true, all, (107, 107)),
        ] {
            assert_eq!(part(element_type, of_convolution, level).grown(), grown, "{element_type} {level:?}");
        }
    }

    #[test]
    fn staged_graphs_are_never_counted_together() {
        let parts = [part(FLOAT, true, None), part(FLOAT16, true, None), part(FLOAT, false, None)];
        let staged = Forecast::of(&parts, [10, 20, 30], Residency::Staged);
        let peaks = |forecast: &Forecast| forecast.stages.iter().map(|stage| stage.peak_bytes).collect::<Vec<_>>();
        assert_eq!(peaks(&staged), [217, 607, 137].map(|bytes| LIBRARY_BYTES + bytes));
        assert_eq!((staged.peak_bytes, staged.opening_bytes), (LIBRARY_BYTES + 607, None));
        let resident = Forecast::of(&parts, [10, 20, 30], Residency::Resident);
        assert_eq!(peaks(&resident), [731, 741, 751].map(|bytes| LIBRARY_BYTES + bytes));
        assert_eq!((resident.peak_bytes, resident.opening_bytes), (LIBRARY_BYTES + 921, Some(LIBRARY_BYTES + 921)));
    }

    #[test]
    fn sizes_that_a_damaged_file_claims_do_not_overflow() {
        let mut part = part(FLOAT16, true, None);
        part.outline.weights.values_mut().for_each(|bytes| *bytes = u64::MAX);
        assert_eq!(part.grown(), (u64::MAX, u64::MAX));
        let forecast = Forecast::of(&[part], [u64::MAX; 3], Residency::Resident);
        assert_eq!(forecast.peak_bytes, u64::MAX);
    }
}
