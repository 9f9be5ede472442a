//! Opening a graph and running it once on zeros, for the probe: what comes out is of no interest.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use half::f16;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::TensorElementType as Type;

use super::empty_tensor;
use super::session::{internal, open_session, run_failed};
use crate::library::Library;
use crate::model::{GraphFile, Verified};
use crate::stage::Stage;
use crate::target::StageSettings;
use crate::{Error, Result};

/// A run is stopped, and counts as done, after this long: what crashes at all crashes early, and a large graph would take
/// minutes on a small board.
const RUN: Duration = Duration::from_secs(5);

/// Most elements of an input that are made up.
const MAX_ELEMENTS: usize = 1 << 28;

/// Opens a graph with a stage's settings, without any cache.
pub(crate) fn open(
    library: &Library,
    graph: &Path,
    settings: &StageSettings,
    fixed: &[(String, usize)],
) -> Result<Session> {
    let file = GraphFile { path: graph.to_path_buf(), bytes: 0, sha256: None, data: Vec::new() };
    let graph = Verified::unread(file, String::new());
    open_session(library, &graph, settings, fixed, (None, None)).map(|(session, _)| session)
}

/// Runs a graph on zeros of these sizes, for [`RUN`] at most.
///
/// # Errors
/// [`ErrorKind::Limit`](crate::ErrorKind::Limit) where memory ran out, [`ErrorKind::Model`](crate::ErrorKind::Model) for
/// any other failure: of the graph, or of sizes that do not fit it.
pub(crate) fn run(session: &mut Session, stage: Stage, sizes: &[(String, Vec<usize>)]) -> Result<()> {
    let mut values = Vec::new();
    for input in session.inputs() {
        let shape = sizes.iter().find(|(name, _)| name == input.name()).map(|(_, shape)| shape.as_slice());
        let data_type = input.dtype().tensor_type();
        let (Some(shape), Some(data_type)) = (shape, data_type) else {
            return Err(Error::model(format!("{} is not a tensor of known size", input.name())));
        };
        values.push(zeros(data_type, shape)?);
    }
    let options = Arc::new(RunOptions::new().map_err(|e| internal("run options", &e))?);
    let (done, wait) = mpsc::channel::<()>();
    let clock = Arc::clone(&options);
    let watch = std::thread::Builder::new().spawn(move || {
        let is_over = wait.recv_timeout(RUN) == Err(mpsc::RecvTimeoutError::Timeout);
        is_over && clock.terminate().is_ok()
    });
    let watch = watch.map_err(Error::no_thread)?;
    let ran = session.run_with_options(values.as_slice(), &*options).map(drop).map_err(|e| run_failed(stage, &e));
    drop(done);
    match watch.join() {
        Ok(true) => Ok(()),
        _ => ran,
    }
}

fn zeros(data_type: Type, shape: &[usize]) -> Result<SessionInputValue<'static>> {
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
        return Err(Error::model(format!("an input of {shape:?} is larger than a probe makes up")));
    }
    let mut value = empty_tensor(data_type, shape)?;
    let SessionInputValue::Owned(tensor) = &mut value else {
        return Err(Error::model("an input tensor is not owned"));
    };
    macro_rules! fill {
        ($type:ty, $zero:expr) => {
            tensor.try_extract_tensor_mut::<$type>().map(|(_, elements)| elements.fill($zero))
        };
    }
    match data_type {
        Type::Float32 => fill!(f32, 0.0),
        Type::Float64 => fill!(f64, 0.0),
        Type::Float16 => fill!(f16, f16::ZERO),
        Type::Int64 => fill!(i64, 0),
        Type::Int32 => fill!(i32, 0),
        Type::Int8 => fill!(i8, 0),
        Type::Uint8 => fill!(u8, 0),
        Type::Bool => fill!(bool, false),
        other => return Err(Error::model(format!("no zeros are made of {other}"))),
    }
    .map_err(|e| internal("input tensor", &e))?;
    Ok(value)
}
