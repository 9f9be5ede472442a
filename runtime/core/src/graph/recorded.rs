//! Writing down what a graph is about to be given.

use half::f16;
use ort::session::SessionInputValue;
use ort::value::TensorElementType as Type;

use super::{Graph, internal};
use crate::Result;
use crate::recording::{Archive, Recording};

impl Graph {
    /// Has every run from now on written down.
    pub(crate) fn record_in(&mut self, recording: Option<Recording>) {
        self.recording = recording;
    }

    /// Writes its inputs down, where they are to be and this run is of the sample.
    pub(super) fn record(&self) -> Result<()> {
        let Some(recording) = &self.recording else { return Ok(()) };
        let Some(path) = recording.next(self.stage)? else { return Ok(()) };
        let mut archive = Archive::new();
        for (port, value) in self.inputs.iter().zip(&self.values) {
            let SessionInputValue::Owned(value) = value else { continue };
            let (name, shape) = (port.name.as_str(), port.shape.as_deref().unwrap_or_default());
            macro_rules! add {
                ($type:ty, $add:ident) => {{
                    let (_, elements) =
                        value.try_extract_tensor::<$type>().map_err(|e| internal("an input tensor", &e))?;
                    archive.$add(name, shape, elements)?
                }};
            }
            match port.data_type {
                Type::Float32 => add!(f32, add),
                Type::Float64 => add!(f64, add),
                Type::Float16 => add!(f16, add_half),
                Type::Int64 => add!(i64, add),
                Type::Int32 => add!(i32, add),
                // The contract lets no other type pass.
                other => return Err(internal("an input's type", &other)),
            }
        }
        archive.write(&path)
    }
}
