//! Opening: a target and a model → a pipeline.

use std::path::Path;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use super::Pipeline;
use crate::cache::{Store, Watch};
use crate::decoder::Decoder;
use crate::denoiser::{Denoiser, Traits};
use crate::encoder::Encoder;
use crate::forecast::{Forecast, rooms};
use crate::graph::Source;
use crate::library::Library;
use crate::memory::{OpeningMemory, Reading as MemoryReading};
use crate::model::Model;
use crate::original::Task;
use crate::probe::Prober;
use crate::prompt_cache::PromptCache;
use crate::request::{Plan, Request};
use crate::residency::{AnySlot as _, Slot};
use crate::stage::Stage;
use crate::target::Target;
use crate::text::{TextEncoder, TextStage};
use crate::tiling::USUAL_CELLS;
use crate::{Error, Result};

impl Pipeline {
    /// Opens a model's graphs with a target's settings, for pictures of the model's own size, one at a time. Where the
    /// target stages them, they are verified now and opened with each request.
    ///
    /// The library is the one that [`Library::open`] found; call that first to choose another.
    ///
    /// # Errors
    /// [`ErrorKind::Library`](crate::ErrorKind::Library) for the library and providers,
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for a graph that is damaged or not what its stage needs,
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for one that is larger than the target allows.
    pub fn open(target: &Target, model: &Model) -> Result<Self> {
        let extras = Extras { is_any: true, ..Extras::default() };
        Self::open_with(target, model, &Request::usual(model), extras)
    }

    /// The same for requests like `usual`: its size, batch and guidance. Every other request works, too, but opens
    /// graphs again whose free axes were fixed to those.
    ///
    /// # Errors
    /// As [`Pipeline::open`], and as [`Plan::new`] for the request.
    pub fn open_for(target: &Target, model: &Model, usual: &Request) -> Result<Self> {
        Self::open_with(target, model, usual, Extras::default())
    }

    /// The same, with hidden states of prompts kept on disk: the text encoder is opened when a prompt is not there, and
    /// may be missing where all are and the model comes from [`Model::open_with_prompts`].
    ///
    /// # Errors
    /// As [`Pipeline::open_for`]; a cache that is damaged or cannot be written to is a warning.
    pub fn open_with_prompts(target: &Target, model: &Model, usual: &Request, prompts: PromptCache) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { prompts: Some(prompts), ..Extras::default() })
    }

    /// The same, where `watch` is told what becomes of each graph in the target's cache while it is opened: building an
    /// entry may take minutes. Where the target stages graphs, it is told in each generation.
    ///
    /// # Errors
    /// As [`Pipeline::open_with_prompts`]; [`ErrorKind::Library`](crate::ErrorKind::Library) where the cache lacks an entry and must not build it.
    pub fn open_watched(
        target: &Target,
        model: &Model,
        usual: &Request,
        prompts: Option<PromptCache>,
        watch: Watch,
    ) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { prompts, watch: Some(watch), ..Extras::default() })
    }

    /// The same; the library writes down in a folder which node of each graph ran where.
    pub(crate) fn open_profiled(target: &Target, model: &Model, usual: &Request, profiles: &Path) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { profiles: Some(profiles), ..Extras::default() })
    }

    fn open_with(target: &Target, model: &Model, usual: &Request, extras: Extras) -> Result<Self> {
        let (start, before) = (Instant::now(), MemoryReading::now());
        let mut plan = Plan::new(usual, model, target)?;
        check_graph_sizes(target, model)?;
        choose_tiles(usual, &mut plan, model, target)?;
        let Extras { profiles, prompts, watch, is_any } = extras;
        let prober = Prober::of(target, &usual.cancel, watch.clone());
        let keeping = Keeping { store: Store::of(target, model, watch), prober };
        let find = |stage: Stage| {
            let dispensable = Stage::TEXT_ENCODERS.contains(&stage) && prompts.is_some();
            let find = if dispensable { Source::find_or_promised } else { Source::find };
            Ok(keeping.source(find(stage, model, target)?).profiled(profiles))
        };
        let Found { library, text, denoiser, decoder } = Found::of(model, &find)?;
        let entries = prompts.map(|prompts| prompts.of(&text, &denoiser, model)).transpose()?;
        let entries = entries.into_iter().flatten().map(Some).chain(std::iter::repeat_with(|| None));
        let traits = Traits::of(&denoiser.outline, model);
        if !is_any {
            Task::of(usual, traits.shown_channels > 0)?;
        }
        let residency = target.residency;
        let reader = |(text, entries): (Source, _)| {
            (text.stage(), Slot::new(library, text, TextEncoder::open, residency), entries)
        };
        let text: Vec<_> = text.into_iter().zip(entries).map(reader).collect();
        let mut denoiser = Slot::new(library, denoiser, Denoiser::open, residency);
        let mut decoder = decoder.map(|decoder| Slot::new(library, decoder, Decoder::open, residency));
        let settled = std::thread::scope(|scope| {
            let text = beside(scope, || TextStage::settled(text, model, &plan));
            let decoder = beside(scope, || decoder.as_mut().map_or(Ok(()), |decoder| decoder.settle(model, &plan)));
            let denoiser = denoiser.settle(model, &plan);
            (join(text), denoiser, join(decoder))
        });
        let text = settled.0?;
        settled.1.and(settled.2)?;
        let encoder = plan.stages(model).contains(&Stage::Encoder).then(|| {
            let source = keeping.encoder(model, target)?.profiled(profiles);
            let mut encoder = Slot::new(library, source, Encoder::open, residency);
            encoder.settle(model, &plan).map(|()| encoder)
        });
        Ok(Self {
            encoder: encoder.transpose()?,
            keeping,
            measures_memory: false,
            model: model.clone(),
            target: target.clone(),
            library,
            text,
            traits,
            denoiser,
            decoder,
            observer: Box::new(|_| ()),
            recording: None,
            checkpoint: None,
            open_time: start.elapsed(),
            open_memory: before.zip(MemoryReading::now()).map(|(before, after)| OpeningMemory::new(before, after)),
        })
    }

    /// The encoder, which is looked for when the first request begins with a picture.
    pub(super) fn new_encoder(&self) -> Result<Slot<Encoder>> {
        let source = self.keeping.encoder(&self.model, &self.target)?;
        let mut slot = Slot::new(self.library, source, Encoder::open, self.target.residency);
        self.recording.iter().for_each(|recording| slot.record_in(recording));
        if self.measures_memory {
            slot.measure_memory();
        }
        Ok(slot)
    }
}

/// The library, and a model's graphs, verified.
struct Found {
    library: &'static Library,
    text: Vec<Source>,
    denoiser: Source,
    decoder: Option<Source>,
}

impl Found {
    /// Loading the library and hashing the graphs take about as long, so they go side by side.
    fn of(model: &Model, find: &dyn Fn(Stage) -> Result<Source>) -> Result<Self> {
        std::thread::scope(|scope| {
            let library = beside(scope, || Library::open(None));
            let text = model.tokenizers.keys().map(|&stage| find(stage)).collect::<Result<Vec<_>>>();
            let decoder = model.stages.contains_key(&Stage::Decoder).then(|| find(Stage::Decoder)).transpose();
            let (denoiser, library) = (find(Stage::Denoiser), join(library));
            Ok(Self { text: text?, denoiser: denoiser?, decoder: decoder?, library: library? })
        })
    }
}

pub(super) fn choose_tiles(request: &Request, plan: &mut Plan, model: &Model, target: &Target) -> Result<()> {
    let (_, height, width) = plan.latent;
    // Reading what memory there is takes as long as some pictures' own code.
    if height.max(width) <= USUAL_CELLS {
        return Ok(());
    }
    Forecast::choose_tiles(request, plan, model, target, &rooms(target, Path::new("/")))
}

/// What graphs are opened with, whenever that is.
pub(super) struct Keeping {
    pub(super) store: Option<Arc<Store>>,
    pub(super) prober: Option<Arc<Prober>>,
}

impl Keeping {
    pub(super) fn source(&self, source: Source) -> Source {
        source.kept_in(self.store.clone()).probed_by(self.prober.clone())
    }

    /// The encoder's graph, which only requests that begin with a picture need.
    pub(super) fn encoder(&self, model: &Model, target: &Target) -> Result<Source> {
        check_graph_size(Stage::Encoder, target, model)?;
        Ok(self.source(Source::find(Stage::Encoder, model, target)?))
    }
}

/// What a pipeline is opened with besides target, model and usual request.
#[derive(Default)]
pub(super) struct Extras<'a> {
    /// Where the library is to write down which node ran where.
    pub(super) profiles: Option<&'a Path>,
    pub(super) prompts: Option<PromptCache>,
    pub(super) watch: Option<Watch>,
    /// Whether nothing is known of the requests that will come.
    pub(super) is_any: bool,
}

/// Refuses graphs that are larger than the target allows.
pub(crate) fn check_graph_sizes(target: &Target, model: &Model) -> Result<()> {
    model.stages_to_picture().into_iter().try_for_each(|stage| check_graph_size(stage, target, model))
}

fn check_graph_size(stage: Stage, target: &Target, model: &Model) -> Result<()> {
    let (_, file) = model.graph(stage, &target.stage(stage).precision)?;
    let (bytes, most) = (file.total_bytes(), target.limits.max_graph_bytes);
    if bytes > most {
        return Err(Error::limit(format!(
            "{}: is {bytes} bytes with its weights, but the target allows {most}",
            file.path.display()
        )));
    }
    Ok(())
}

type Beside<'scope, T> = Result<ScopedJoinHandle<'scope, Result<T>>>;

/// Works on another thread; the error is that there is none.
fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Beside<'scope, T> {
    std::thread::Builder::new().spawn_scoped(scope, work).map_err(Error::no_thread)
}

fn join<T>(thread: Beside<T>) -> Result<T> {
    thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
