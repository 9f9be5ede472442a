//! Opening a session with a target's settings and those of its providers that can be used.

use ort::AsPointer as _;
use ort::ortsys;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::library::Library;
use crate::model::GraphFile;
use crate::provider::{self, ProviderName};
use crate::stage::Stage;
use crate::target::{GraphOptimization, Need, Provider, StageSettings};
use crate::{Error, ErrorKind, Result};

/// Opens a session with every provider that can be used.
///
/// An optional provider that fails is left out, and told.
pub(super) fn open_session(
    library: &Library,
    file: &GraphFile,
    settings: &StageSettings,
    fixed: &[(String, usize)],
) -> Result<(Session, Vec<ProviderName>, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut providers = settings.providers.clone();
    providers.retain(|provider| {
        let reason = (!library.providers().any(|name| name == provider.name.to_string()))
            .then(|| format!("{} was built without it", library.path().display()));
        keep_or_warn(provider, reason, &mut warnings)
    });
    require(&settings.providers, &providers, &warnings)?;
    loop {
        let error = match try_session(library, file, settings, &providers, fixed) {
            Ok(session) => {
                return Ok((session, providers.iter().map(|provider| provider.name).collect(), warnings));
            }
            Err(error) => error,
        };
        // The library does not say which provider failed: leave out the first optional one, and try again.
        let optional =
            |provider: &Provider| provider.need == Need::Optional && provider.name != ProviderName::CPU;
        let Some(index) = providers.iter().position(optional) else { return Err(error) };
        keep_or_warn(&providers.remove(index), Some(error.to_string()), &mut warnings);
    }
}

fn keep_or_warn(provider: &Provider, reason: Option<String>, warnings: &mut Vec<String>) -> bool {
    if let Some(reason) = &reason {
        warnings.push(format!("provider {} is not used: {reason}", provider.name));
    }
    reason.is_none()
}

fn require(wanted: &[Provider], usable: &[Provider], reasons: &[String]) -> Result<()> {
    let lost = |provider: &&Provider| provider.need == Need::Required && !usable.contains(provider);
    match wanted.iter().find(lost) {
        Some(provider) => Err(Error::library(format!(
            "the target requires provider {}; {}; install an ONNX Runtime that has it and point \
             ORT_DYLIB_PATH to it, or choose another target",
            provider.name,
            reasons.join("; ")
        ))),
        None if usable.is_empty() => {
            Err(Error::library(format!("none of the target's providers can be used: {}", reasons.join("; "))))
        }
        None => Ok(()),
    }
}

fn try_session(
    library: &Library,
    file: &GraphFile,
    settings: &StageSettings,
    providers: &[Provider],
    fixed: &[(String, usize)],
) -> Result<Session> {
    let builder = Session::builder(library.environment()).map_err(|e| internal("session options", &e))?;
    let register = |builder: SessionBuilder, provider: &Provider| {
        builder
            .with_execution_providers([provider::dispatch(provider)])
            .map_err(|e| Error::library(format!("provider {} cannot be used: {e}", provider.name)))
    };
    let builder = providers.iter().try_fold(builder, register)?;
    // After the providers: registering the CPU provider sets the arena, too.
    let mut builder = configure(builder, settings, providers).map_err(|e| internal("session options", &e))?;
    for (axis, size) in fixed {
        let fixing = builder.with_dimension_override(axis, *size as i64);
        builder = fixing.map_err(|e| internal("a dimension override", &e))?;
    }
    builder.commit_from_file(&file.path).map_err(|e| open_failed(&e))
}

fn configure(
    builder: SessionBuilder,
    settings: &StageSettings,
    providers: &[Provider],
) -> ort::Result<SessionBuilder> {
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
    let message = error.message().trim_end();
    let hint = match error.code() {
        ort::ErrorCode::InvalidProtobuf => "; the file is not an ONNX graph, or is damaged",
        ort::ErrorCode::NotImplemented => "; this library has no kernel for one of its nodes",
        _ => "",
    };
    Error::model(format!("cannot be opened: {message}{hint}"))
}

pub(super) fn run_failed(stage: Stage, error: &ort::Error) -> Error {
    let message = error.message().trim_end();
    if message.contains("allocate memory") || message.contains("bad_alloc") {
        return Error::limit(format!(
            "{stage}: memory ran out: {message}; ask for a smaller picture or batch"
        ));
    }
    Error::model(format!("{stage}: the graph failed while it ran: {message}"))
}

pub(super) fn internal(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("ONNX Runtime refused {what}: {error}"))
}
