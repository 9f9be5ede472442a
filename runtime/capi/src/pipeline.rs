//! A model opened on a target.

use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use safelight::model::Golden;
use safelight::verify::{Numbers, Outcome, coarsest, compare};
use safelight::{Error, ErrorKind, Model, Picture, Pipeline, Report, Request, Result, Target, Timings};
use serde_json::{Value, json};

use crate::guard::{fallible, infallible};
use crate::text::{present, read, usage};
use crate::watch::Watcher;
use crate::{SafelightError, SafelightOptions, SafelightOutput, SafelightRequest, SafelightWatch};

/// A model opened on a target. Any thread may use it, one at a time: a second one is told that it is busy. Several
/// pipelines work side by side.
pub struct SafelightPipeline(Arc<Mutex<Opened>>);

struct Opened {
    pipeline: Pipeline,
    target: Target,
}

/// Opens a model's graphs as a target says, for pictures of the model's own size, one at a time; other requests open what
/// they need once more. `target` is the path of a target file, `model` that of a folder with a `model.yaml` or an exported
/// diffusers pipeline. `options` may be NULL. `*pipeline` is NULL after an error.
///
/// The first call of a process opens ONNX Runtime: the option `library`, else the variable `ORT_DYLIB_PATH`, else beside
/// the executable and in its `../lib` and `../lib/safelight`, beside this library and in its `../lib` and `safelight`, in
/// the user's data folder, in the active Python environment, else what the system's loader finds. It sets the variable `ORT_DISABLE_TELEMETRY` to 1 unless it
/// is: set it yourself where other threads may read the environment meanwhile.
///
/// Errors: `SAFELIGHT_USAGE` for target and options, `SAFELIGHT_MODEL` for the folder and its graphs, `SAFELIGHT_LIBRARY`
/// for ONNX Runtime and providers, `SAFELIGHT_LIMIT`, `SAFELIGHT_IO`.
///
/// # Safety
/// `target` and `model` are NUL-terminated or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_pipeline_open(
    target: *const c_char,
    model: *const c_char,
    options: Option<&SafelightOptions>,
    pipeline: Option<&mut *mut SafelightPipeline>,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let pipeline = present(pipeline, "pipeline")?;
        *pipeline = std::ptr::null_mut();
        // SAFETY: as this function demands.
        let (target, model) = unsafe { (Path::new(read(target, "target")?), Path::new(read(model, "model")?)) };
        let usual = SafelightOptions::default();
        let opened = Arc::new(Mutex::new(Opened::open(target, model, options.unwrap_or(&usual))?));
        *pipeline = Box::into_raw(Box::new(SafelightPipeline(opened)));
        Ok(())
    })
}

/// Makes the pictures of a request. `watch` may be NULL. `*output` is the caller's; it is NULL after an error.
///
/// Errors: `SAFELIGHT_USAGE` for a request that cannot be, and for a pipeline that another call uses at this moment;
/// `SAFELIGHT_LIMIT`, `SAFELIGHT_NUMERIC`, `SAFELIGHT_CANCELLED`, `SAFELIGHT_MODEL`, `SAFELIGHT_LIBRARY`. After any of
/// them the pipeline is as good as before. After `SAFELIGHT_INTERNAL` it may refuse to do anything more: free it.
///
/// # Safety
/// `pipeline` is null or open. `watch` is null, or points to as many bytes as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_generate(
    pipeline: *mut SafelightPipeline,
    request: Option<&SafelightRequest>,
    watch: *const SafelightWatch,
    output: Option<&mut *mut SafelightOutput>,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let output = present(output, "output")?;
        *output = std::ptr::null_mut();
        let request = &present(request, "request")?.0;
        // SAFETY: as this function demands.
        let (pipeline, watcher) = unsafe { (handle(pipeline)?, Watcher::new(watch, request.count)?) };
        let mut opened = hold(&pipeline)?;
        let request = Request { cancel: watcher.cancel(), ..request.clone() };
        let mut pictures = Vec::new();
        let take = |picture| {
            pictures.push(picture);
            Ok(())
        };
        let report = opened.watched(watcher, |pipeline| pipeline.generate_each(&request, take))?;
        let told = opened.report(&pictures, &report);
        *output = Box::into_raw(Box::new(SafelightOutput::new(pictures, report.timings, &told)));
        Ok(())
    })
}

/// Makes the requests whose numbers came with the model, and compares initial noise, each step's estimate, the final latent
/// and the picture. `watch` may be NULL. `*output` has no pictures, and the comparisons as its report.
///
/// Errors: as `safelight_generate`; `SAFELIGHT_NUMERIC` where something is beyond its bound, NaN or black: then `*output`
/// has the report nevertheless. `SAFELIGHT_USAGE` for a model without such numbers.
///
/// # Safety
/// As `safelight_generate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_verify(
    pipeline: *mut SafelightPipeline,
    watch: *const SafelightWatch,
    output: Option<&mut *mut SafelightOutput>,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let output = present(output, "output")?;
        *output = std::ptr::null_mut();
        // SAFETY: as this function demands.
        let (pipeline, watcher) = unsafe { (handle(pipeline)?, Watcher::new(watch, 1)?) };
        let mut opened = hold(&pipeline)?;
        let (report, failed) = opened.verify(watcher)?;
        *output = Box::into_raw(Box::new(SafelightOutput::new(Vec::new(), Timings::default(), &report)));
        failed.map_or(Ok(()), Err)
    })
}

/// Gives a pipeline back; nothing happens for NULL. Where another thread, or the caller further up, generates with it at
/// this moment, its memory is given back when that has ended.
///
/// # Safety
/// `pipeline` is null, or open and not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_pipeline_free(pipeline: *mut SafelightPipeline) {
    if !pipeline.is_null() {
        // SAFETY: it came from `Box::into_raw`, and as this function demands.
        infallible(|| drop(unsafe { Box::from_raw(pipeline) }));
    }
}

/// A share of the pipeline, which outlives the caller's.
///
/// # Safety
/// `pipeline` is null or open.
unsafe fn handle(pipeline: *mut SafelightPipeline) -> Result<Arc<Mutex<Opened>>> {
    // SAFETY: as this function demands.
    let pipeline = unsafe { pipeline.as_ref() };
    present(pipeline, "pipeline").map(|pipeline| Arc::clone(&pipeline.0))
}

/// The pipeline for this call alone.
fn hold<T>(pipeline: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    pipeline.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => usage(
            "the pipeline is busy: another call generates with it; wait for that, or open a pipeline for each thread",
        ),
        TryLockError::Poisoned(_) => Error::new(
            ErrorKind::Internal,
            "a mistake of safelight has left the pipeline half-way; free it, and open another one",
        ),
    })
}

impl Opened {
    fn open(target: &Path, model: &Path, options: &SafelightOptions) -> Result<Self> {
        let target = options.target(target)?;
        let prompts = options.open_prompt_cache()?;
        let model = match &prompts {
            Some(prompts) => Model::open_with_prompts(model, prompts)?,
            None => Model::open(model)?,
        };
        options.open_library()?;
        let pipeline = match prompts {
            Some(prompts) => Pipeline::open_with_prompts(&target, &model, &Request::usual(&model), prompts)?,
            None => Pipeline::open(&target, &model)?,
        };
        Ok(Self { pipeline, target })
    }

    /// Does something with the pipeline while a caller is told of it.
    fn watched<T>(&mut self, mut watcher: Watcher, body: impl FnOnce(&mut Pipeline) -> Result<T>) -> Result<T> {
        self.pipeline.on_event(move |event| watcher.hear(event));
        let outcome = body(&mut self.pipeline);
        // What the watcher points to is the caller's again. After a panic the pipeline is not used any more.
        self.pipeline.on_event(|_| ());
        outcome
    }

    fn report(&self, pictures: &[Picture], report: &Report) -> Value {
        let pictures = pictures.iter().map(|picture| json!({ "provenance": picture.provenance }));
        json!({
            "pictures": pictures.collect::<Vec<_>>(),
            "timings": report.timings,
            "warnings": report.warnings,
            "cached": report.cached,
            "probe": { "when": self.target.probe.when, "program": self.target.probe.program },
        })
    }

    /// The comparisons, and the first that failed.
    fn verify(&mut self, watcher: Watcher) -> Result<(Value, Option<Error>)> {
        let model = self.pipeline.model().clone();
        if model.goldens.is_empty() {
            return Err(usage(format!("model \"{}\" has no goldens to compare with", model.name)));
        }
        let cancel = watcher.cancel();
        let compared = |pipeline: &mut Pipeline, golden: &Golden| {
            let (expected, bound) = (Numbers::read(golden, &model)?, golden.bound(coarsest(&pipeline.graphs())));
            let request = Request { cancel: cancel.clone(), ..golden.request() };
            Outcome::of(compare(pipeline, &request, &expected, bound))
        };
        let all = |pipeline: &mut Pipeline| {
            model.goldens.iter().map(|golden| compared(pipeline, golden)).collect::<Result<Vec<_>>>()
        };
        let outcomes = self.watched(watcher, all)?;
        let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
        let told = format!("{failed} of {} comparisons failed; the report tells which", outcomes.len());
        let comparisons = model.goldens.iter().zip(&outcomes).map(|(golden, outcome)| {
            let request = golden.request();
            json!({ "request": { "prompt": request.prompt, "seed": request.seed }, "golden": golden.numbers.path,
                "passed": outcome.passed(), "outcome": outcome })
        });
        let report = json!({
            "safelight": env!("CARGO_PKG_VERSION"),
            "model": model.name,
            "target": self.target.name,
            "graphs": self.pipeline.graphs(),
            "passed": failed == 0,
            "comparisons": comparisons.collect::<Vec<_>>(),
        });
        Ok((report, (failed > 0).then(|| Error::new(ErrorKind::Numeric, told))))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_pipeline_is_for_one_call_at_a_time_and_for_none_after_a_panic() {
        let pipeline = Mutex::new(0);
        let first = hold(&pipeline).unwrap();
        let busy = hold(&pipeline).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Usage);
        assert!(busy.to_string().starts_with("the pipeline is busy"), "{busy}");
        drop(first);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = hold(&pipeline);
            panic!("half-way");
        }));
        assert!(panicked.is_err());
        assert_eq!(hold(&pipeline).unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn a_pipeline_may_go_from_thread_to_thread() {
        fn sends<T: Send + Sync>() {}
        sends::<SafelightPipeline>();
        sends::<SafelightRequest>();
        sends::<SafelightOptions>();
    }
}
