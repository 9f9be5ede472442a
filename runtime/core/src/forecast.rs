//! What a request is expected to take of the memory, told before anything is opened.
//!
//! The rule comes from measurements with the CPU provider of ONNX Runtime 1.31: a process with the library open, and of
//! each graph its weights times what they grow to (`growth`), the tensors that are alive at once while it runs, as far as
//! their sizes follow from the graph, and those that go in and come out.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::denoiser::{Traits, runs_together};
use crate::model::{GraphFile, Model};
use crate::onnx::{Activations, FLOAT, FLOAT16, Outline, Size, Tensor, Weight};
use crate::pipeline::check_graph_sizes;
use crate::request::{Plan, Request};
use crate::residency::Residency;
use crate::stage::{Precision, Stage};
use crate::target::{GraphOptimization, Target};
use crate::text::count_windows;
use crate::tiling::{Tiling, USUAL_CELLS};
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
    /// The same where graphs are staged.
    pub staged_peak_bytes: u64,
    /// Who has less than that, and what to do about it.
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
    /// The smallest that the model has for this stage.
    pub smallest_precision: Precision,
    /// Execution providers, in the order in which they are tried.
    pub providers: Vec<String>,
    /// The graph's file and the files of its weights, as they are on disk.
    pub file_bytes: u64,
    /// The graph while it is opened.
    pub opening_bytes: u64,
    /// The open graph.
    pub opened_bytes: u64,
    /// Tensors that go in, and our copies of what comes out.
    pub tensor_bytes: u64,
    /// The most of what the graph computes that is alive at once; half as much again where it runs more than once and
    /// memory is planned ahead.
    pub activation_bytes: u64,
    /// Tensors that the graph computes and whose size does not follow from it; they are not counted.
    pub unknown_tensors: usize,
    /// The whole process while this stage works, or its graph is opened for it.
    pub peak_bytes: u64,
    /// When the graph is opened.
    pub opened: &'static str,
    /// When its memory is given back.
    pub closed: &'static str,
}

/// The command as it is released, with the CPU build of ONNX Runtime 1.31 warm: 24 MiB are pages of the library and of the
/// program. A debug build has 8 MiB more.
const LIBRARY_BYTES: u64 = 34 << 20;

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
        let mut parts = Vec::new();
        for stage in plan.stages(model) {
            parts.push(Part::read(stage, model, target)?);
        }
        let denoiser = parts.iter().find(|part| part.stage == Stage::Denoiser);
        let shapes = Shapes::new(&denoiser.expect("every model has one").outline, plan, model)?;
        for part in &mut parts {
            part.activations = part.file.activations(&shapes.inputs(part, model))?;
            part.plans_ahead &= shapes.runs_again(part.stage, request, plan);
        }
        let of = |parts: &[Part], residency| {
            let tensors = parts.iter().map(|part| shapes.tensor_bytes(part.stage, request, plan, residency));
            Self::of(parts, &tensors.collect::<Vec<_>>(), residency)
        };
        let asked = of(&parts, target.residency);
        // Staged, graphs may not plan ahead what resident ones do.
        let staged = target.clone().with_residency(Residency::Staged);
        for part in &mut parts {
            part.plans_ahead &= staged.stage(part.stage).session.memory_pattern != Some(false);
        }
        let staged_peak_bytes = of(&parts, Residency::Staged).peak_bytes;
        Ok(Self { staged_peak_bytes, ..asked })
    }

    /// Has the autoencoder work in tiles, where request and target leave that open, the picture is large, and all of it at
    /// once is expected to take more memory than the smallest of `rooms` has. Tells so in the plan's warnings.
    ///
    /// # Errors
    /// As [`Forecast::new`].
    pub fn choose_tiles(
        request: &Request,
        plan: &mut Plan,
        model: &Model,
        target: &Target,
        rooms: &[Room],
    ) -> Result<()> {
        let Some(Room { what, bytes }) = rooms.iter().min_by_key(|room| room.bytes) else { return Ok(()) };
        let (_, height, width) = plan.latent;
        let is_large = height.max(width) > USUAL_CELLS && model.stages.contains_key(&Stage::Decoder);
        if plan.tiling != Tiling::Auto || plan.tile.is_some() || !is_large {
            return Ok(());
        }
        let whole = Self::new(request, plan, model, target)?.autoencoder_peak_bytes();
        if whole <= *bytes {
            return Ok(());
        }
        plan.tile = Some(USUAL_CELLS);
        if Self::new(request, plan, model, target)?.autoencoder_peak_bytes() >= whole {
            plan.tile = None;
            return Ok(());
        }
        let (whole, room) = (mib(whole), mib(*bytes));
        let side = USUAL_CELLS * model.latent.downscale;
        plan.warnings.push(format!(
            "the autoencoder works in tiles of {side}×{side} pixels that overlap: the whole picture is expected to take \
             {whole} MiB, and {what} has {room}; colours may differ a little between them"
        ));
        Ok(())
    }

    /// The process while the autoencoder works.
    fn autoencoder_peak_bytes(&self) -> u64 {
        let stages = self.stages.iter().filter(|stage| [Stage::Decoder, Stage::Encoder].contains(&stage.stage));
        stages.map(|stage| stage.peak_bytes).max().unwrap_or(0)
    }

    /// The same, with a warning where one of `rooms` is too small.
    pub fn within(mut self, rooms: &[Room]) -> Self {
        let smallest = rooms.iter().min_by_key(|room| room.bytes).filter(|room| room.bytes < self.peak_bytes);
        self.warnings.extend(smallest.map(|Room { what, bytes }| {
            let expected = mib(self.peak_bytes);
            format!("{what} has {} MiB, and {expected} are expected to be taken: {}", mib(*bytes), self.advice())
        }));
        self
    }

    /// What would take less memory.
    fn advice(&self) -> String {
        let mut advice = Vec::new();
        if self.staged_peak_bytes < self.peak_bytes {
            advice.push(format!("residency: staged in the target ({} MiB)", mib(self.staged_peak_bytes)));
        }
        let smaller = self.stages.iter().find(|stage| stage.smallest_precision < stage.precision);
        // With the one that is used as well, for stages that do not come in the smaller one.
        advice.extend(smaller.map(|StageForecast { smallest_precision, precision, .. }| {
            format!("a smaller precision (--precision {smallest_precision},{precision})")
        }));
        advice.push("a smaller picture, or a smaller model such as one with a tiny decoder".into());
        format!("try {}", advice.join(", or "))
    }

    fn of(parts: &[Part], tensors: &[u64], residency: Residency) -> Self {
        let all_opened = sum(parts.iter().map(|part| part.grown().1));
        // What a graph has worked in, it keeps while it is open.
        let mut kept = 0;
        let mut stages = Vec::new();
        for (part, &tensor_bytes) in parts.iter().zip(tensors) {
            let stage = part.forecast(tensor_bytes);
            let works = tensor_bytes.saturating_add(stage.activation_bytes);
            let (peak_bytes, when) = match residency {
                Residency::Resident => {
                    (all_opened.saturating_add(kept).saturating_add(works), ["with the pipeline"; 2])
                }
                Residency::Staged => {
                    let own = stage.opening_bytes.max(stage.opened_bytes.saturating_add(works));
                    (sum([own]), ["for its stage", "after its stage"])
                }
            };
            kept = kept.saturating_add(if part.keeps { works } else { 0 });
            stages.push(StageForecast { peak_bytes, opened: when[0], closed: when[1], ..stage });
        }
        let opening_bytes = match residency {
            Residency::Resident => Some(sum(parts.iter().map(|part| part.grown().0))),
            Residency::Staged => None,
        };
        let peak_bytes = stages.iter().map(|stage| stage.peak_bytes).chain(opening_bytes).max().unwrap_or(0);
        Self {
            residency,
            library_bytes: LIBRARY_BYTES,
            stages,
            opening_bytes,
            peak_bytes,
            staged_peak_bytes: 0,
            warnings: Vec::new(),
        }
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
    smallest: Precision,
    providers: Vec<String>,
    level: Option<GraphOptimization>,
    /// Whether the memory that the graph works in is kept from run to run.
    keeps: bool,
    /// Whether the library takes one more block from the second run on, having seen in the first what is needed. It
    /// measured as 0.3 to 0.6 of what the first run took.
    plans_ahead: bool,
    outline: Outline,
    activations: Activations,
}

impl Part {
    fn read(stage: Stage, model: &Model, target: &Target) -> Result<Self> {
        let settings = target.stage(stage);
        let (precision, file) = model.graph(stage, &settings.precision)?;
        let providers = settings.providers.iter().map(|provider| provider.name.to_string()).collect();
        let session = settings.session;
        Ok(Self {
            stage,
            file: file.clone(),
            precision,
            smallest: model.graph(stage, &Precision::ALL)?.0,
            providers,
            level: session.graph_optimization,
            keeps: session.keeps_working_memory(),
            plans_ahead: session.memory_pattern != Some(false),
            outline: file.outline()?,
            activations: Activations::default(),
        })
    }

    /// What is known of the stage alone.
    fn forecast(&self, tensor_bytes: u64) -> StageForecast {
        let (opening_bytes, opened_bytes) = self.grown();
        let Activations { bytes, unknown } = self.activations;
        StageForecast {
            stage: self.stage,
            graph: self.file.path.clone(),
            precision: self.precision,
            smallest_precision: self.smallest,
            providers: self.providers.clone(),
            file_bytes: self.file.total_bytes(),
            opening_bytes,
            opened_bytes,
            tensor_bytes,
            activation_bytes: bytes.saturating_add(if self.plans_ahead { bytes / 2 } else { 0 }),
            unknown_tensors: unknown,
            peak_bytes: 0,
            opened: "",
            closed: "",
        }
    }

    fn grown(&self) -> (u64, u64) {
        grown(&self.outline, self.file.bytes, self.level)
    }
}

/// Bytes of a graph while it is opened, and once it is open. What its own file holds is parsed into a copy, which the
/// allocator keeps.
pub(crate) fn grown(outline: &Outline, file_bytes: u64, level: Option<GraphOptimization>) -> (u64, u64) {
    let weights = outline.weights.iter().map(|(weight, bytes)| (growth(*weight, level), bytes));
    weights.fold((file_bytes, file_bytes), |(opening, opened), ((while_opened, open), &bytes)| {
        let grown = |sum: u64, times: u64| sum.saturating_add(times.saturating_mul(bytes));
        (grown(opening, while_opened), grown(opened, open))
    })
}

/// Sizes of what goes into the graphs.
struct Shapes {
    /// Latents that go through the denoiser at once: twice the batch where guidance asks for both predictions together.
    rows: u64,
    /// `[channels, height, width]`.
    latent: [u64; 3],
    /// `[tokens, width]` of a prompt; the width is 0 where the denoiser takes any.
    hidden: [u64; 2],
    /// Whether text encoders read more than one window.
    reads_more: bool,
    /// Height and width of the cells that the autoencoder works on at once.
    tile: [u64; 2],
    /// Pixels a cell is wide and high.
    downscale: u64,
}

impl Shapes {
    fn new(denoiser: &Outline, plan: &Plan, model: &Model) -> Result<Self> {
        let traits = Traits::of(denoiser, model);
        let Traits { embeds_guidance, fixed_batch, .. } = traits;
        let together = fixed_batch.map_or(runs_together(plan), |fixed| fixed == 2 * plan.batch);
        let negative = plan.is_guided() && !embeds_guidance;
        let doubled = negative && together;
        let (channels, height, width) = plan.latent;
        let hidden = model.tensor(Stage::Denoiser, "encoder_hidden_states");
        let hidden = denoiser.inputs.iter().find(|input| input.name == hidden).and_then(|input| input.sizes.last());
        let hidden_width = if let Some(Size::Fixed(width)) = hidden { *width } else { 0 };
        let prompts = [&plan.prompt, if negative { &plan.negative } else { &plan.prompt }];
        let window = model.window_tokens();
        let tokens = count_windows(&prompts, model)? * window;
        traits.check_tokens(tokens, plan)?;
        Ok(Self {
            rows: if doubled { 2 * plan.batch } else { plan.batch } as u64,
            latent: [channels, height, width].map(|size| size as u64),
            hidden: [tokens as u64, hidden_width],
            tile: [height, width].map(|size| plan.tile.map_or(size, |tile| tile.min(size)) as u64),
            downscale: model.latent.downscale as u64,
            reads_more: negative || tokens > window,
        })
    }

    /// Whether a request runs a stage's graph more than once.
    fn runs_again(&self, stage: Stage, request: &Request, plan: &Plan) -> bool {
        match stage {
            Stage::TextEncoder | Stage::TextEncoder2 => self.reads_more,
            Stage::Denoiser => plan.steps() != Some(1) || request.count > plan.batch,
            Stage::Decoder | Stage::Encoder => request.count > 1 || self.tile != self.latent[1..],
        }
    }

    /// The inputs of a stage's graph with their sizes.
    fn inputs(&self, part: &Part, model: &Model) -> Vec<(String, Vec<u64>)> {
        let ([channels, height, width], [tokens, hidden_width]) = (self.latent, self.hidden);
        let usual = |name: &str| match part.stage {
            Stage::TextEncoder | Stage::TextEncoder2 => vec![1, model.window_tokens() as u64],
            Stage::Denoiser if name == model.tensor(Stage::Denoiser, "encoder_hidden_states") => {
                vec![self.rows, tokens, hidden_width]
            }
            Stage::Denoiser => vec![self.rows, channels, height, width],
            Stage::Decoder => vec![1, channels, self.tile[0], self.tile[1]],
            Stage::Encoder => vec![1, 3, self.tile[0] * self.downscale, self.tile[1] * self.downscale],
        };
        let size = |(declared, usual): (&Size, u64)| if let Size::Fixed(size) = declared { *size } else { usual };
        let sizes = |input: &Tensor| input.sizes.iter().zip(usual(&input.name)).map(size).collect();
        part.outline.inputs.iter().map(|input| (input.name.clone(), sizes(input))).collect()
    }

    /// Bytes of the tensors that go into a stage's graph, and of our copies of what comes out.
    fn tensor_bytes(&self, stage: Stage, request: &Request, plan: &Plan, residency: Residency) -> u64 {
        const FLOAT_BYTES: u64 = 4;
        let floats = |sizes: &[u64]| sizes.iter().fold(FLOAT_BYTES, |bytes, &size| bytes.saturating_mul(size));
        let (hidden, latent) = (floats(&self.hidden), floats(&self.latent));
        let waiting = match residency {
            Residency::Resident => 0,
            // The decoder is opened when every picture is denoised.
            Residency::Staged => latent.saturating_mul(request.count as u64),
        };
        let denoiser = self.rows.saturating_mul(hidden.saturating_add(2 * latent));
        // Planes of numbers, and the picture's bytes.
        let picture = 3 * (plan.width * plan.height) as u64 * (FLOAT_BYTES + 1);
        match stage {
            Stage::TextEncoder | Stage::TextEncoder2 => hidden,
            Stage::Denoiser => denoiser.saturating_add(waiting),
            Stage::Decoder | Stage::Encoder => latent.saturating_add(waiting).saturating_add(picture),
        }
    }
}

/// Something that has so much memory and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// What has it, as a warning calls it.
    pub what: String,
    /// How much.
    pub bytes: u64,
}

/// How much memory a target's board is sold with, and how much a machine and a container on it have, as told below
/// `root`, which is `/` for this machine.
pub fn rooms(target: &Target, root: &Path) -> Vec<Room> {
    let board =
        target.board.memory_gib.map(|gib| (format!("the board of target {}", target.name), u64::from(gib) << 30));
    let machine = Machine::read(root).memory_bytes.map(|bytes| ("this machine".to_owned(), bytes));
    // Without a limit it says "max".
    let granted = bounded::read(&root.join("sys/fs/cgroup/memory.max"), 64).ok();
    let container = granted.and_then(|text| Some(("this container".to_owned(), text.trim().parse().ok()?)));
    [board, machine, container].into_iter().flatten().map(|(what, bytes)| Room { what, bytes }).collect()
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
        let activations = Activations { bytes: 1000, unknown: 0 };
        let (stage, keeps, plans_ahead) = (Stage::Denoiser, true, false);
        let smallest = Precision::Int8;
        Part { stage, file, precision, smallest, providers, level, keeps, plans_ahead, outline, activations }
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
        let staged = Forecast::of(&parts, &[10, 20, 30], Residency::Staged);
        let peaks = |forecast: &Forecast| forecast.stages.iter().map(|stage| stage.peak_bytes).collect::<Vec<_>>();
        assert_eq!(peaks(&staged), [1217, 1427, 1137].map(|bytes| LIBRARY_BYTES + bytes));
        assert_eq!((staged.peak_bytes, staged.opening_bytes), (LIBRARY_BYTES + 1427, None));
        let resident = Forecast::of(&parts, &[10, 20, 30], Residency::Resident);
        assert_eq!(peaks(&resident), [1731, 2751, 3781].map(|bytes| LIBRARY_BYTES + bytes));
        assert_eq!((resident.peak_bytes, resident.opening_bytes), (LIBRARY_BYTES + 3781, Some(LIBRARY_BYTES + 921)));
    }

    #[test]
    fn sizes_that_a_damaged_file_claims_do_not_overflow() {
        let mut part = part(FLOAT16, true, None);
        part.outline.weights.values_mut().for_each(|bytes| *bytes = u64::MAX);
        assert_eq!(part.grown(), (u64::MAX, u64::MAX));
        let forecast = Forecast::of(&[part], &[u64::MAX; 3], Residency::Resident);
        assert_eq!(forecast.peak_bytes, u64::MAX);
    }

    #[test]
    fn the_smallest_room_is_told_with_what_would_help() {
        let parts = [part(FLOAT, true, None), part(FLOAT16, true, None), part(FLOAT, false, None)];
        let staged = Forecast::of(&parts, &[0; 3], Residency::Staged).peak_bytes;
        let resident = Forecast::of(&parts, &[0; 3], Residency::Resident);
        let forecast = Forecast { staged_peak_bytes: staged, ..resident };
        let room = |what: &str, bytes| Room { what: what.into(), bytes };
        let warned = forecast.clone().within(&[room("a house", 50 << 20), room("a box", 1 << 20)]).warnings;
        let expected = "a box has 1 MiB, and 35 are expected to be taken: try residency: staged in the target (35 MiB), or a \
                        smaller precision (--precision int8,fp32), or a smaller picture, or a smaller model such as one with a \
                        tiny decoder";
        assert_eq!(warned, [expected]);
        assert!(forecast.within(&[room("a house", 50 << 20)]).warnings.is_empty());
    }

    #[test]
    fn tiles_are_chosen_where_the_whole_would_not_fit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/families/sd15");
        let model = Model::open(&folder).unwrap();
        let text = "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [fp32]\n\
                    providers: [{name: cpu, need: required}]\n";
        let target = Target::parse(text).unwrap();
        let tile = |size: usize, tiling: Tiling, mib: u64| {
            let request = Request { size: Some((size, size)), tile: Some(tiling), ..Request::default() };
            let mut plan = Plan::new(&request, &model, &target).unwrap();
            let told = plan.warnings.len();
            let rooms =
                [Room { what: "a house".into(), bytes: 1 << 40 }, Room { what: "a box".into(), bytes: mib << 20 }];
            Forecast::choose_tiles(&request, &mut plan, &model, &target, &rooms).unwrap();
            (plan.tile, plan.warnings[told..].concat())
        };
        let (chosen, warning) = tile(1024, Tiling::Auto, 40);
        assert_eq!(chosen, Some(USUAL_CELLS));
        assert!(
            warning.starts_with("the autoencoder works in tiles of 512×512 pixels that overlap: the whole"),
            "{warning}"
        );
        assert!(warning.contains("MiB, and a box has 40"), "{warning}");
        // It fits; nobody may cut it; it is no larger than a tile; somebody else has chosen.
        assert_eq!(tile(1024, Tiling::Auto, 1 << 20), (None, String::new()));
        assert_eq!(tile(1024, Tiling::Off, 40), (None, String::new()));
        assert_eq!(tile(512, Tiling::Auto, 40), (None, String::new()));
        assert_eq!(tile(1024, Tiling::Pixels(256), 40), (Some(32), String::new()));
    }

    #[test]
    fn rooms_are_read_from_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let text = "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [int8]\nboard: { memory_gib: 8 }\n\
                    providers: [{name: cpu, need: required}]\n";
        let target = Target::parse(text).unwrap();
        let found = || rooms(&target, root.path()).into_iter().map(|room| (room.what, room.bytes)).collect::<Vec<_>>();
        let board = ("the board of target t".to_owned(), 8 << 30);
        assert_eq!(found(), std::slice::from_ref(&board));
        write("proc/meminfo", "MemTotal:       4096 kB\n");
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(found(), [board.clone(), ("this machine".into(), 4 << 20)]);
        write("sys/fs/cgroup/memory.max", "1048576\n");
        assert_eq!(found()[2], ("this container".into(), 1 << 20));
    }
}
