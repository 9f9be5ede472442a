//! Runs that a provider records once and replays as a whole: what they read and write stays at one place of its memory.
//!
//! A few-step model is hundreds of short kernels, and starting each takes longer than some of them run. ONNX Runtime
//! records them all in one CUDA graph where it is told to (its documentation of the CUDA provider, "Using CUDA Graphs"),
//! and then neither reads inputs nor makes outputs: that is left to whoever bound them.

use std::sync::Arc;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionInputValue};
use ort::value::DynTensor;

use super::session::internal;
use crate::Result;

/// The run option that tells recordings apart, one a shape; a run with the second is neither recorded nor replayed.
const RECORDING: &str = "gpu_graph_id";
const NOT_RECORDED: &str = "-1";

/// Where a provider's tensors are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) device: AllocationDevice<'static>,
    pub(crate) index: i32,
}

/// What a graph needs for its runs to be replayed.
pub(super) struct Replay {
    place: Place,
    bound: Option<Bound>,
    /// Inputs, by their place among the session's, that were written to since they were last copied.
    stale: Vec<bool>,
    /// How many were recorded.
    recorded: usize,
}

/// Tensors of one shape, on the device.
struct Bound {
    inputs: Vec<DynTensor>,
    /// By their place among the session's: on the device, and the copy that is read.
    outputs: Vec<(usize, DynTensor, DynTensor)>,
    binding: IoBinding,
    options: Arc<RunOptions>,
}

/// An output of a session that was run: its place among the session's, and shape.
pub(super) type Given<'a> = (usize, &'a [usize]);

/// Has a run's options say that it is not to be recorded.
pub(super) fn not_recorded(options: &mut RunOptions) -> ort::Result<()> {
    options.set(RECORDING, NOT_RECORDED)
}

impl Replay {
    pub(super) fn new(place: Place, inputs: usize) -> Self {
        Self { place, bound: None, stale: vec![true; inputs], recorded: 0 }
    }

    /// Remembers that an input was written to.
    pub(super) fn touch(&mut self, input: usize) {
        self.stale[input] = true;
    }

    /// Forgets the tensors of a shape that is no longer asked for.
    pub(super) fn forget(&mut self) {
        self.bound = None;
    }

    /// The options of the next run, by which it can be stopped; nothing where it cannot be replayed yet.
    pub(super) fn options(&self) -> Option<&Arc<RunOptions>> {
        self.bound.as_ref().map(|bound| &bound.options)
    }

    /// Makes tensors on the device for runs of the shape that has just been run.
    pub(super) fn bind(
        &mut self,
        session: &Session,
        values: &[SessionInputValue<'_>],
        given: &[Given<'_>],
    ) -> Result<()> {
        let told = |e: ort::Error| internal("tensors of its device", &e);
        self.recorded += 1;
        self.stale.fill(true);
        self.bound = Some(Bound::new(session, &self.place, values, given, self.recorded).map_err(told)?);
        Ok(())
    }

    /// Copies what has changed to the device, runs or replays the graph, and copies its outputs back.
    pub(super) fn run(
        &mut self,
        session: &mut Session,
        values: &[SessionInputValue<'_>],
    ) -> ort::Result<&[(usize, DynTensor, DynTensor)]> {
        let Self { bound, stale, .. } = self;
        let bound = bound.as_mut().ok_or_else(|| ort::Error::new("no tensors are bound"))?;
        for ((stale, value), input) in stale.iter_mut().zip(values).zip(&mut bound.inputs) {
            if std::mem::take(stale) {
                tensor(value)?.copy_into(input)?;
            }
        }
        session.run_binding_with_options(&bound.binding, &bound.options)?;
        for (_, on_device, read) in &mut bound.outputs {
            on_device.copy_into(read)?;
        }
        Ok(&bound.outputs)
    }
}

impl Bound {
    fn new(
        session: &Session,
        place: &Place,
        values: &[SessionInputValue<'_>],
        given: &[Given<'_>],
        recording: usize,
    ) -> ort::Result<Self> {
        let memory = MemoryInfo::new(place.device.clone(), place.index, AllocatorType::Device, MemoryType::Default)?;
        let (allocator, host) = (Allocator::new(session, memory)?, Allocator::default());
        let mut binding = session.create_binding()?;
        let mut inputs = Vec::new();
        for (outlet, value) in session.inputs().iter().zip(values) {
            let value = tensor(value)?;
            let input = DynTensor::new(&allocator, *value.data_type(), value.shape().to_vec())?;
            binding.bind_input(outlet.name(), &input)?;
            inputs.push(input);
        }
        let mut outputs = Vec::new();
        for (index, shape) in given {
            let outlet = &session.outputs()[*index];
            let data_type = outlet.dtype().tensor_type().ok_or_else(|| ort::Error::new("an output is no tensor"))?;
            let shape: Vec<_> = shape.iter().map(|&size| size as i64).collect();
            let mut on_device = DynTensor::new(&allocator, data_type, shape.clone())?;
            binding.bind_output(outlet.name(), &mut on_device)?;
            outputs.push((*index, on_device, DynTensor::new(&host, data_type, shape)?));
        }
        let mut options = RunOptions::new()?;
        options.set(RECORDING, recording.to_string())?;
        Ok(Self { inputs, outputs, binding, options: Arc::new(options) })
    }
}

fn tensor<'a>(value: &'a SessionInputValue<'_>) -> ort::Result<ort::value::DynTensorRef<'a>> {
    let SessionInputValue::Owned(value) = value else { return Err(ort::Error::new("an input tensor is not owned")) };
    value.view().downcast()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::graph::{Contract, Graph, Source};
    use crate::{Cancel, Library, Model, Stage, Target};

    /// Of the shipped model's latent.
    const CELLS: usize = 24 * 8 * 8;

    /// The decoder of the shipped model on the CPU, which records nothing: what is bound and copied is the same.
    fn decoder(model: &Model) -> Graph {
        let target = "{schema: safelight-target/1, name: t, title: T, precision: [fp16], providers: [{name: cpu, need: required}]}";
        let source = Source::find(Stage::Decoder, model, &Target::parse(target).unwrap()).unwrap();
        Graph::open(Library::open(None).unwrap(), source, &Contract::of_model(Stage::Decoder, model)).unwrap()
    }

    #[test]
    fn bound_tensors_give_what_fresh_ones_do_whatever_is_written_and_whatever_shape() {
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/emoji")).unwrap();
        let (mut plain, mut bound) = (decoder(&model), decoder(&model));
        bound.replay = Some(Replay::new(Place { device: AllocationDevice::CPU, index: 0 }, 1));
        let cancel = Cancel::new();
        for (round, batch) in [1, 1, 1, 2, 2, 1, 1].into_iter().enumerate() {
            let latent: Vec<_> = (0..batch * CELLS).map(|at| (at * (round + 3)) as f32).collect();
            let [expected, found] = [&mut plain, &mut bound].map(|graph| {
                graph.reshape(0, &[batch, 24, 8, 8]).unwrap();
                graph.write(0, 0, &latent.iter().map(|at| at.sin()).collect::<Vec<_>>()).unwrap();
                let (values, shape) = graph.run(&cancel).unwrap();
                (values.to_vec(), shape.to_vec())
            });
            assert!(expected == found, "round {round}");
        }
        assert_eq!(bound.replay.unwrap().recorded, 3);
    }

    #[test]
    fn a_cancelled_run_can_be_followed_by_another() {
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/emoji")).unwrap();
        let mut graph = decoder(&model);
        graph.replay = Some(Replay::new(Place { device: AllocationDevice::CPU, index: 0 }, 1));
        graph.reshape(0, &[1, 24, 8, 8]).unwrap();
        let cancel = Cancel::new();
        graph.run(&cancel).unwrap();
        cancel.cancel();
        assert_eq!(graph.run(&cancel).unwrap_err().kind(), crate::ErrorKind::Cancelled);
        graph.run(&Cancel::new()).unwrap();
    }
}
