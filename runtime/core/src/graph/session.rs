//! Opening a session with a target's settings and those of its providers that can be used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ort::AsPointer as _;
use ort::ortsys;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::assignment::{check_fallback, count_nodes};
use super::cached::{self, Aid};
use crate::cache::{Kept, Shelf};
use crate::library::{Library, RECORD_ASSIGNMENT};
use crate::model::Verified;
use crate::provider::{self, Need, Provider, ProviderName};
use crate::stage::Stage;
use crate::target::{GraphOptimization, StageSettings};
use crate::{Error, ErrorKind, Result};

/// What became of a target's providers.
pub(super) struct Providers {
    /// Those that the session was given, in order.
    pub(super) used: Vec<ProviderName>,
    /// How many nodes of the graph each was given, where the library tells.
    pub(super) nodes: BTreeMap<String, usize>,
    /// Why others were left out, what fell back, and what is wrong with the cache.
    pub(super) warnings: Vec<String>,
    /// The entry of the cache that the session uses.
    pub(super) kept: Option<Kept>,
}

/// Why a session could not be opened.
pub(super) enum Failure {
    /// The provider of this index cannot be used.
    Provider(usize, String),
    /// The library refused the graph with these providers, and does not say whether one of them is the cause.
    Opening(ort::ErrorCode, Error),
    /// Neither a provider nor the graph is at fault, such as where the cache must have it and cannot be used.
    Other(Error),
}

impl Failure {
    /// Whether the library was given a file or folder of a cache, and it may be that which it refuses.
    pub(super) fn may_be_of_an_entry(&self) -> bool {
        matches!(self, Self::Opening(..))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(_, reason) => f.write_str(reason),
            Self::Opening(_, error) | Self::Other(error) => error.fmt(f),
        }
    }
}

/// Opens a session with every provider that can be used: one that is required and cannot be is an error, an
/// optional one is left out, and told.
pub(super) fn open_session(
    library: &Library,
    graph: &Verified,
    settings: &StageSettings,
    fixed: &[(String, usize)],
    (profile, shelf): (Option<&Path>, Option<&Shelf>),
) -> Result<(Session, Providers)> {
    let mut providers = settings.providers.clone();
    let mut warnings = Vec::new();
    while !providers.is_empty() {
        let try_open = |aid: &Aid| {
            let session = try_session(library, graph, (settings, profile, aid), &providers, fixed);
            // Opened by its name, it may be another than the one that was verified; what was made of that is not kept.
            graph.check_unchanged().map_err(Failure::Other)?;
            let session = session?;
            let nodes = library.assigned(&session).map_err(Failure::Other)?;
            Ok((session, nodes))
        };
        let (index, reason) =
            match missing(library, &providers).map_or_else(|| cached::open(shelf, &providers, &try_open), Err) {
                Ok(cached::Opened { session, nodes: assigned, kept, warnings: of_cache }) => {
                    let nodes = assigned.as_ref().map(count_nodes).unwrap_or_default();
                    warnings.extend(of_cache);
                    warnings.extend(check_fallback(&providers[0], settings.allow_fallback, assigned.as_ref())?);
                    let used = providers.iter().map(|provider| provider.name).collect();
                    return Ok((session, Providers { used, nodes, warnings, kept }));
                }
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Provider(index, reason)) => (index, reason),
                // The first optional provider is left out on suspicion, unless the graph itself is at fault.
                Err(Failure::Opening(code, error)) => match suspect(code, &providers) {
                    Some(index) => (index, error.to_string()),
                    None => return Err(error),
                },
            };
        let lost = providers.remove(index);
        if lost.need == Need::Required {
            return Err(Error::library(format!(
                "the target requires provider {}: {reason}; or choose another target",
                lost.name
            )));
        }
        warnings.push(format!("provider {} is not used: {reason}", lost.name));
    }
    Err(Error::library(format!("none of the target's providers can be used: {}", warnings.join("; "))))
}

fn suspect(code: ort::ErrorCode, providers: &[Provider]) -> Option<usize> {
    use ort::ErrorCode::{InvalidGraph, InvalidProtobuf, NoModel, NoSuchFile};
    let of_graph = matches!(code, InvalidGraph | InvalidProtobuf | NoModel | NoSuchFile);
    let optional = |provider: &Provider| provider.need == Need::Optional && provider.name != ProviderName::CPU;
    providers.iter().position(optional).filter(|_| !of_graph)
}

/// The first provider that is no plug-in, and that the library was built without.
fn missing(library: &Library, providers: &[Provider]) -> Option<Failure> {
    let is_missing = |provider: &Provider| {
        provider.library.is_none() && !library.providers().any(|name| name == provider.name.as_str())
    };
    let index = providers.iter().position(is_missing)?;
    let reason = format!(
        "{} was built without it; install an ONNX Runtime that has it and point ORT_DYLIB_PATH to it",
        library.path().display()
    );
    Some(Failure::Provider(index, reason))
}

fn try_session(
    library: &Library,
    graph: &Verified,
    (settings, profile, aid): (&StageSettings, Option<&Path>, &Aid),
    providers: &[Provider],
    fixed: &[(String, usize)],
) -> Result<Session, Failure> {
    let refused =
        |what: &'static str| move |e: ort::Error<SessionBuilder>| Failure::Opening(e.code(), internal(what, &e));
    let mut builder = Session::builder(library.environment())
        .map_err(|e| Failure::Opening(e.code(), internal("session options", &e)))?;
    for (index, provider) in providers.iter().enumerate() {
        let provider = aid.provider(provider);
        builder = register(library, builder, &provider).map_err(|reason| Failure::Provider(index, reason))?;
    }
    // After the providers: registering the CPU provider sets the arena, too.
    let mut builder = configure(builder, settings, providers)
        .and_then(|builder| aid.configure(builder))
        .map_err(|e| Failure::Opening(e.code(), internal("session options", &e)))?;
    if library.newer().has_assignment() {
        builder = builder.with_config_entry(RECORD_ASSIGNMENT, "1").map_err(refused("a session key"))?;
    }
    if let Some(prefix) = profile {
        builder = builder.with_profiling(prefix).map_err(refused("profiling"))?;
    }
    for (axis, size) in fixed {
        builder = builder.with_dimension_override(axis, *size as i64).map_err(refused("a dimension override"))?;
    }
    builder.commit_from_file(aid.graph(&graph.file.path)).map_err(|e| Failure::Opening(e.code(), open_failed(&e)))
}

/// Gives a session to be opened one more provider, or says why it cannot be used.
fn register(library: &Library, builder: SessionBuilder, provider: &Provider) -> Result<SessionBuilder, String> {
    let advice = "check its options in the target, and that its device and driver are there";
    if let Some(path) = &provider.library {
        let device = library.plugin_device(provider, path)?;
        let mut builder = builder;
        let appended = library.newer().append(library.environment(), &mut builder, &device, &provider.texts());
        return appended.map(|()| builder).map_err(|e| format!("{e}; {advice}"));
    }
    let registered = builder.with_execution_providers([provider::dispatch(provider)]);
    registered.map_err(|e| format!("{}; {advice}", plain_words(e.message())))
}

/// What ONNX Runtime says, without its source files, function names and numbers.
fn plain_words(message: &str) -> String {
    const CODE: &str = "[ONNXRuntimeError] : ";
    let message = match message.rsplit_once(CODE) {
        Some((_, coded)) => coded.splitn(3, " : ").last().unwrap_or(coded),
        None => message,
    };
    let mut words: Vec<_> = message.split_whitespace().collect();
    let is_place = |word: &&str| {
        let (file, line) = word.split_once(':').unwrap_or_default();
        [".h", ".cc", ".cu"].iter().any(|end| file.ends_with(end)) && line.parse::<u32>().is_ok()
    };
    while let Some(at) = words.iter().position(is_place) {
        words.drain(at..words.len().min(at + 2));
    }
    words.join(" ").trim_end_matches('.').to_owned()
}

fn configure(builder: SessionBuilder, settings: &StageSettings, providers: &[Provider]) -> ort::Result<SessionBuilder> {
    let session = &settings.session;
    let mut builder = builder;
    if let Some(threads) = session.intra_threads {
        builder = builder.with_intra_threads(threads.into())?;
    }
    if let Some(threads) = session.inter_threads {
        builder = builder.with_inter_threads(threads.into())?.with_parallel_execution(threads > 1)?;
    }
    if let Some(spinning) = session.spinning {
        builder = builder.with_intra_op_spinning(spinning)?.with_inter_op_spinning(spinning)?;
    }
    if let Some(level) = session.graph_optimization {
        builder = builder.with_optimization_level(match level {
            GraphOptimization::Disabled => GraphOptimizationLevel::Disable,
            GraphOptimization::Basic => GraphOptimizationLevel::Level1,
            GraphOptimization::Extended => GraphOptimizationLevel::Level2,
            GraphOptimization::All => GraphOptimizationLevel::All,
        })?;
    }
    if let Some(memory_pattern) = session.memory_pattern {
        builder = builder.with_memory_pattern(memory_pattern)?;
    }
    if !providers.iter().any(|provider| provider.name == ProviderName::CPU) {
        // Without this the library would run on its CPU provider whatever the others refuse.
        builder = builder.with_disable_cpu_fallback()?;
    }
    if session.arena == Some(false) {
        // SAFETY: the pointer is the builder's own, alive for the call.
        ortsys![unsafe DisableCpuMemArena(builder.ptr_mut())?];
    }
    for (key, value) in &session.keys {
        builder = builder.with_config_entry(key, value.to_option())?;
    }
    Ok(builder)
}

fn open_failed(error: &ort::Error) -> Error {
    let message = without_places(error.message());
    if is_of_memory(&message) {
        let advice = "take a smaller precision or model, or a graph of a smaller size; or raise the provider's limit, if \
                      the target sets one";
        return Error::limit(format!("memory ran out while it was opened: {message}; {advice}"));
    }
    if is_of_device(&message) {
        return Error::library(format!("its device cannot be used: {message}; {DEVICE_ADVICE}"));
    }
    if message.contains("pthread_create failed") {
        return Error::no_thread(message);
    }
    let hint = match error.code() {
        ort::ErrorCode::InvalidProtobuf => "; the file is not an ONNX graph, or is damaged",
        ort::ErrorCode::NotImplemented => "; this library has no kernel for one of its nodes",
        _ if message.contains("graph capture feature") => {
            return Error::library(format!("cannot be opened: {message}; leave enable_cuda_graph out for this stage"));
        }
        _ if message.contains("IR version") => "; export it with an older onnx, or take a newer ONNX Runtime",
        _ => "; export it again, or try another ONNX Runtime",
    };
    Error::model(format!("cannot be opened: {message}{hint}"))
}

pub(super) fn run_failed(stage: Stage, error: &ort::Error) -> Error {
    let message = without_places(error.message());
    if is_of_memory(&message) {
        let advice = "ask for a smaller picture or batch, or raise the provider's limit, if the target sets one";
        return Error::limit(format!("{stage}: memory ran out: {message}; {advice}"));
    }
    if is_of_device(&message) {
        return Error::library(format!("{stage}: its device failed: {message}; {DEVICE_ADVICE}"));
    }
    let advice = "it was exported wrongly or for another size: export it again";
    Error::model(format!("{stage}: the graph failed while it ran: {message}; {advice}"))
}

/// What to do where a device, its driver or its libraries are the reason.
const DEVICE_ADVICE: &str = "see what safelight doctor says of the target, and look at the provider's options in it";

/// What ONNX Runtime says of a graph, without the graph's path, its own source files, lines and functions' signatures,
/// types of templates, the computer's name and cuDNN's description of a node.
fn without_places(message: &str) -> String {
    let mut message = message.trim().trim_end_matches('.').to_owned();
    if let Some((path, said)) = message.split_once(" failed:")
        && path.starts_with("Load model from ")
    {
        message = said.to_owned();
    }
    while let Some(at) = message.find("/onnxruntime_src/") {
        let end = end_of_signature(&message[at..]).map_or(at + "/onnxruntime_src/".len(), |end| at + end);
        message.replace_range(at..end, "");
    }
    while let Some(at) = message.find("[with ") {
        let end = message[at..].find(']').map_or(message.len(), |end| at + end + 1);
        message.replace_range(at..end, "");
    }
    for aside in [" ; GPU=", "; with the cudnn frontend json:"] {
        message.truncate(message.find(aside).unwrap_or(message.len()));
    }
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a function's list of parameters ends, in bytes.
fn end_of_signature(text: &str) -> Option<usize> {
    let mut open = 0;
    text.char_indices().find_map(|(at, c)| {
        open += match c {
            '(' => 1,
            ')' => -1,
            _ => return None,
        };
        (open <= 0).then_some(at + 1)
    })
}

/// What a provider says that may not take more, whatever its device has.
pub(crate) const PAST_ITS_LIMIT: &str = "is smaller than requested bytes";

/// Whether the library says that there was no memory left.
fn is_of_memory(message: &str) -> bool {
    const TOLD: &[&str] = &["allocate memory", "bad_alloc", "bad allocation", PAST_ITS_LIMIT, "out of memory"];
    TOLD.iter().any(|told| message.contains(told))
}

/// Whether the library says that a device, its driver or its vendor's libraries failed.
fn is_of_device(message: &str) -> bool {
    const TOLD: &[&str] =
        &["CUDA failure", "CUBLAS failure", "CUDNN failure", "CUDNN_FE failure", "cuDNN is unavailable"];
    TOLD.iter().any(|told| message.contains(told))
}

pub(super) fn internal(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("ONNX Runtime refused {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_told_without_where_it_arose() {
        let message = "/src/provider_bridge.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library a.so with \
                       error: libcublasLt.so.13: cannot open\n";
        let expected = "Failed to load library a.so with error: libcublasLt.so.13: cannot open";
        assert_eq!(plain_words(message), expected);
        assert_eq!(plain_words(" CUDA is not enabled \n"), "CUDA is not enabled");
        // As ONNX Runtime 1.31.1 said it on a computer with one H200.
        let message = "provider_options_utils.h:187 Parse Failed to parse provider option \"device_id\": \
                       cuda_execution_provider_info.cc:71 operator() Invalid device ID: 7, must be between 0 (inclusive) \
                       and 1 (exclusive).";
        let expected = "Failed to parse provider option \"device_id\": Invalid device ID: 7, must be between 0 (inclusive) \
                        and 1 (exclusive)";
        assert_eq!(plain_words(message), expected);
    }

    /// What ONNX Runtime 1.31.1 said on a computer with one H200: of a GPU that was hidden, of a limit of 8 MiB, without
    /// cuDNN, and of an option that cuDNN 9.14 has no plan for.
    #[test]
    fn what_a_gpu_lacks_is_not_the_graphs_fault() {
        let types =
            "[with ERRTYPE = cudaError; bool THRW = true; std::conditional_t<THRW, void, common::Status> = void]";
        let hidden = format!(
            "{types} {types} CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; file=;"
        );
        let limit =
            "Exception during initialization: Available memory of 333568 is smaller than requested bytes of 524288";
        let lost = "Non-zero status code returned while running Conv node. Name:'/into/Conv' Status Message: \
                    [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : cuDNN is unavailable or disabled for CUDA Execution Provider: \
                    dlopen failed for libcudnn.so: libcudnn.so: cannot open shared object file: No such file or directory";
        let no_plan = "Failed to initialize CUDNN Frontend: CUDNN_FE failure 8: HEURISTIC_QUERY_FAILED ; GPU=0 ; hostname=vm \
                       ; file=; with the cudnn frontend json: {\"context\":{}}";
        for (message, kind, expected) in [
            (
                hidden.as_str(),
                ErrorKind::Library,
                "cannot be used: CUDA failure 100: no CUDA-capable device is detected; see what",
            ),
            (limit, ErrorKind::Limit, "memory ran out while it was opened: Exception"),
            (lost, ErrorKind::Library, "No such file or directory; see what safelight doctor says"),
            (no_plan, ErrorKind::Library, "CUDNN_FE failure 8: HEURISTIC_QUERY_FAILED; see what"),
        ] {
            let error = ort::Error::new(message);
            for told in [open_failed(&error), run_failed(Stage::Denoiser, &error)] {
                assert_eq!(told.kind(), kind, "{told}");
                assert!(!told.to_string().contains("hostname"), "{told}");
            }
            assert!(open_failed(&error).to_string().contains(expected), "{}", open_failed(&error));
        }
    }

    #[test]
    fn a_fault_of_a_graph_is_told_without_signatures() {
        for (message, expected) in [
            (
                "Load model from /a/b.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:256 \
                 onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void (int)>&) Unsupported model IR \
                 version: 99, max supported IR version: 13\n",
                "Unsupported model IR version: 99, max supported IR version: 13",
            ),
            ("Tile output\n\n would require more.", "Tile output would require more"),
            ("odd /onnxruntime_src/ (", "odd ("),
            ("", ""),
        ] {
            assert_eq!(without_places(message), expected);
        }
    }
}
