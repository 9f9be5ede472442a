//! The one table of execution providers. No other file names TensorRT, CUDA, CoreML …

use std::collections::BTreeMap;
use std::fmt;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _, ExecutionProviderDispatch};
use serde::{Deserialize, Serialize};

use crate::error::{did_you_mean, unknown};
use crate::{Error, Result};

/// One execution provider, and whether the target can do without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(transform = with_options_of_each))]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Which one.
    pub name: ProviderName,
    /// Whether its absence is an error or a line in the report.
    pub need: Need,
    /// Its own options, by their ONNX Runtime names.
    #[serde(default)]
    pub options: BTreeMap<String, Scalar>,
}

/// Whether a target can do without a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Its absence is an error.
    Required,
    /// Its absence is a warning, and the next provider takes over.
    Optional,
}

/// A value in a table of options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`; ONNX Runtime is told 1 or 0.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// As ONNX Runtime reads it.
    pub fn to_option(&self) -> String {
        match self {
            Self::Bool(value) => u8::from(*value).to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

/// One row of the table: what users type, what ONNX Runtime calls it, which options it takes.
struct Row {
    name: &'static str,
    onnxruntime_name: &'static str,
    options: &'static [&'static str],
    keeps: Keeps,
    build: fn(&Provider) -> ExecutionProviderDispatch,
}

/// What a provider can keep of its work, so that the next process is spared it; see [`cache`](crate::cache).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing of its own. Of the CPU provider alone, ONNX Runtime keeps the graph that it optimised.
    Nothing,
    /// Files in a folder, once these options say so.
    Folder(&'static [(&'static str, Setting)]),
    /// A graph of contexts, which ONNX Runtime saves, once the session's `ep.context_…` keys say so.
    Context,
}

/// The value of an option that makes a provider keep its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// True.
    On,
    /// The folder.
    Folder,
    /// JSON of properties by device, with the folder under this name: OpenVINO's own, for builds of its provider that
    /// pass over the option.
    Property(&'static str),
}

/// Builds a provider that takes any option by its ONNX Runtime name.
macro_rules! with_options {
    ($provider:ident) => {
        |settings| {
            let provider = settings.options.iter().fold(ep::$provider::default(), |provider, (key, value)| {
                provider.with_arbitrary_config(key, value.to_option())
            });
            provider.build()
        }
    };
}

/// Every provider that a target can name. Option names: ONNX Runtime's documentation of each provider, and the
/// strings in its shipped libraries.
#[rustfmt::skip]
const PROVIDERS: &[Row] = &[
    Row {
        name: "tensorrt",
        onnxruntime_name: ep::TensorRT::NAME,
        options: &[
            "device_id", "trt_auxiliary_streams", "trt_bf16_enable", "trt_build_heuristics_enable",
            "trt_builder_optimization_level", "trt_context_memory_sharing_enable", "trt_cuda_graph_enable",
            "trt_detailed_build_log", "trt_dla_core", "trt_dla_enable", "trt_dump_ep_context_model",
            "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_engine_hw_compatible",
            "trt_ep_context_embed_mode", "trt_ep_context_file_path", "trt_force_sequential_engine_build",
            "trt_force_timing_cache", "trt_fp16_enable", "trt_int8_calibration_table_name", "trt_int8_enable",
            "trt_int8_use_native_calibration_table", "trt_layer_norm_fp32_fallback", "trt_max_partition_iterations",
            "trt_max_workspace_size", "trt_min_subgraph_size", "trt_op_types_to_exclude", "trt_profile_max_shapes",
            "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_sparsity_enable", "trt_tactic_sources",
            "trt_timing_cache_enable", "trt_timing_cache_path",
        ],
        keeps: Keeps::Folder(&[
            ("trt_engine_cache_enable", Setting::On), ("trt_engine_cache_path", Setting::Folder),
            ("trt_timing_cache_enable", Setting::On), ("trt_timing_cache_path", Setting::Folder),
        ]),
        build: with_options!(TensorRT),
    },
    Row {
        name: "cuda",
        onnxruntime_name: ep::CUDA::NAME,
        options: &[
            "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "device_id",
            "do_copy_in_default_stream", "enable_cuda_graph", "fuse_conv_bias", "gpu_mem_limit", "prefer_nhwc",
            "sdpa_kernel", "use_tf32",
        ],
        keeps: Keeps::Nothing,
        build: with_options!(CUDA),
    },
    Row {
        name: "coreml",
        onnxruntime_name: ep::CoreML::NAME,
        options: &[
            "AllowLowPrecisionAccumulationOnGPU", "EnableOnSubgraphs", "MLComputeUnits", "ModelCacheDirectory",
            "ModelFormat", "ProfileComputePlan", "RequireStaticInputShapes", "SpecializationStrategy",
        ],
        keeps: Keeps::Folder(&[("ModelCacheDirectory", Setting::Folder)]),
        build: with_options!(CoreML),
    },
    Row {
        name: "xnnpack",
        onnxruntime_name: ep::XNNPACK::NAME,
        options: &["intra_op_num_threads"],
        keeps: Keeps::Nothing,
        build: with_options!(XNNPACK),
    },
    Row {
        name: "openvino",
        onnxruntime_name: ep::OpenVINO::NAME,
        options: &[
            "cache_dir", "device_type", "disable_dynamic_shapes", "enable_opencl_throttling", "enable_qdq_optimizer",
            "load_config", "model_priority", "num_of_threads", "num_streams", "precision",
        ],
        // The plug-in passes over cache_dir in silence, the provider in the library takes both.
        keeps: Keeps::Folder(&[("cache_dir", Setting::Folder), ("load_config", Setting::Property("CACHE_DIR"))]),
        build: with_options!(OpenVINO),
    },
    Row {
        name: "qnn",
        onnxruntime_name: ep::QNN::NAME,
        options: &[
            "backend_path", "backend_type", "device_id", "enable_htp_fp16_precision",
            "htp_graph_finalization_optimization_mode", "htp_performance_mode", "offload_graph_io_quantization",
            "qnn_context_priority", "soc_model", "vtcm_mb",
        ],
        keeps: Keeps::Context,
        build: with_options!(QNN),
    },
    Row {
        name: "directml",
        onnxruntime_name: ep::DirectML::NAME,
        options: &[],
        keeps: Keeps::Nothing,
        build: |_| ep::DirectML::default().build(),
    },
    Row {
        name: "cpu",
        onnxruntime_name: ep::CPU::NAME,
        options: &[],
        keeps: Keeps::Nothing,
        build: |_| ep::CPU::default().with_arena_allocator(true).build(),
    },
];

/// The name of a provider in [the table](provider_names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct ProviderName(&'static str);

impl ProviderName {
    /// The CPU provider, which every library has.
    pub const CPU: Self = Self("cpu");

    /// As users type it.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// As ONNX Runtime calls it, such as `CPUExecutionProvider`.
    pub fn onnxruntime_name(self) -> &'static str {
        self.row().onnxruntime_name
    }

    /// What it can keep of its work.
    pub(crate) fn keeps(self) -> Keeps {
        self.row().keeps
    }

    fn row(self) -> &'static Row {
        PROVIDERS.iter().find(|row| row.name == self.0).expect("only names of the table are ever built")
    }
}

impl TryFrom<String> for ProviderName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = PROVIDERS.iter().find(|row| row.name == name).map(|row| Self(row.name));
        found.ok_or_else(|| unknown("provider", &name, provider_names()))
    }
}

impl<'de> Deserialize<'de> for ProviderName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The names that a target file can use.
pub fn provider_names() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|row| row.name)
}

/// Turns ONNX Runtime's own name into the table's, where the table has it.
pub(crate) fn short_name(onnxruntime_name: &str) -> &str {
    PROVIDERS.iter().find(|row| row.onnxruntime_name == onnxruntime_name).map_or(onnxruntime_name, |row| row.name)
}

impl Provider {
    /// The same provider, told to keep its work in `folder`, if it can.
    pub(crate) fn keeping(mut self, folder: &str) -> Self {
        let Keeps::Folder(options) = self.name.keeps() else { return self };
        for (option, setting) in options {
            let value = match setting {
                Setting::On => Scalar::Bool(true),
                Setting::Folder => Scalar::Text(folder.to_owned()),
                Setting::Property(name) => match self.with_property(option, name, folder) {
                    Some(properties) => Scalar::Text(properties),
                    None => continue,
                },
            };
            self.options.insert((*option).to_owned(), value);
        }
        self
    }

    /// The target's JSON of properties with one more, for the target's device; nothing where it is no such JSON, which is
    /// the provider's to tell.
    fn with_property(&self, option: &str, name: &str, value: &str) -> Option<String> {
        let text = self.options.get(option).map_or_else(|| "{}".into(), Scalar::to_option);
        let device = self.options.get("device_type").map_or_else(|| "CPU".into(), Scalar::to_option);
        let mut properties: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).ok()?;
        let of_device = properties.entry(device).or_insert_with(|| serde_json::json!({})).as_object_mut()?;
        of_device.insert(name.to_owned(), value.into());
        serde_json::to_string(&properties).ok()
    }

    /// Refuses options that a target's cache sets itself.
    pub(crate) fn check_keeping(&self) -> Result<()> {
        let Keeps::Folder(own) = self.name.keeps() else { return Ok(()) };
        let is_set = |(option, setting): &&(&str, Setting)| match (self.options.get(*option), setting) {
            (Some(value), Setting::Property(name)) => value.to_option().contains(name),
            (value, _) => value.is_some(),
        };
        match own.iter().find(is_set) {
            Some((option, _)) => Err(Error::usage(format!(
                "providers: {} option \"{option}\" is what the target's cache sets itself; take one of the two away",
                self.name
            ))),
            None => Ok(()),
        }
    }
}

/// A provider ready for registration: a failure is an error, never a silent fall back to the CPU.
pub(crate) fn dispatch(settings: &Provider) -> ExecutionProviderDispatch {
    (settings.name.row().build)(settings).error_on_failure()
}

/// Options that take one of a few words: a mistyped one is told here, before the provider's own library is opened.
/// Words: ONNX Runtime's documentation of each provider.
#[rustfmt::skip]
const WORDS: &[(&str, &[&str])] = &[
    ("MLComputeUnits", &["ALL", "CPUAndGPU", "CPUAndNeuralEngine", "CPUOnly"]),
    ("ModelFormat", &["MLProgram", "NeuralNetwork"]),
    ("SpecializationStrategy", &["Default", "FastPrediction"]),
    ("arena_extend_strategy", &["kNextPowerOfTwo", "kSameAsRequested"]),
    ("backend_type", &["cpu", "gpu", "htp", "ir", "saver"]),
    ("cudnn_conv_algo_search", &["DEFAULT", "EXHAUSTIVE", "HEURISTIC"]),
    ("htp_performance_mode", &[
        "balanced", "burst", "default", "extreme_power_saver", "high_performance", "high_power_saver",
        "low_balanced", "low_power_saver", "power_saver", "sustained_high_performance",
    ]),
    ("qnn_context_priority", &["high", "low", "normal", "normal_high"]),
];

/// Checks a target's options for a provider against the table.
pub(crate) fn check_options(settings: &Provider) -> Result<()> {
    let known = settings.name.row().options;
    for (key, value) in &settings.options {
        if !known.contains(&key.as_str()) {
            let meant = did_you_mean(key, known.iter().copied());
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let told = format!("{} has no option \"{key}\"; known: {known}{meant}", settings.name);
            return Err(Error::usage(format!("providers: {told}")));
        }
        check_value(key, value).map_err(|e| e.context(format!("providers: {} option \"{key}\"", settings.name)))?;
    }
    Ok(())
}

fn check_value(key: &str, value: &Scalar) -> Result<()> {
    let value = value.to_option();
    if value.contains('\0') {
        return Err(Error::usage("holds a NUL byte"));
    }
    match WORDS.iter().find(|(option, _)| *option == key) {
        Some((_, words)) if !words.contains(&value.as_str()) => {
            Err(Error::usage(unknown("value", &value, words.iter())))
        }
        _ => Ok(()),
    }
}

/// For editors: the names of the table.
#[cfg(test)]
impl schemars::JsonSchema for ProviderName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProviderName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": provider_names().collect::<Vec<_>>() })
    }
}

/// For editors: which options each provider takes, and which words these.
#[cfg(test)]
fn with_options_of_each(schema: &mut schemars::Schema) {
    let value = |option: &str| match WORDS.iter().find(|(name, _)| *name == option) {
        Some((_, words)) => serde_json::json!({ "enum": words }),
        None => true.into(),
    };
    let rule = |row: &Row| {
        let options: BTreeMap<_, _> = row.options.iter().map(|option| (*option, value(option))).collect();
        serde_json::json!({
            "if": { "properties": { "name": { "const": row.name } } },
            "then": { "properties": { "options": { "properties": options, "additionalProperties": false } } },
        })
    };
    schema.insert("allOf".into(), PROVIDERS.iter().map(rule).collect::<Vec<_>>().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_built_and_is_named_once() {
        let names: Vec<_> = provider_names().collect();
        for name in &names {
            let provider = ProviderName::try_from((*name).to_owned()).unwrap();
            let settings = Provider { name: provider, need: Need::Optional, options: Default::default() };
            assert_eq!(dispatch(&settings).name(), provider.onnxruntime_name());
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
        }
    }

    #[test]
    fn a_mistyped_option_or_value_is_refused_with_the_nearest() {
        let fault = |provider: &str, option: &str, value: Scalar| {
            let name = ProviderName::try_from(provider.to_owned()).unwrap();
            let options = [(option.to_owned(), value)].into();
            check_options(&Provider { name, need: Need::Required, options }).unwrap_err().to_string()
        };
        let text = |text: &str| Scalar::Text(text.into());
        for (told, expected) in [
            (fault("tensorrt", "trt_fp61_enable", Scalar::Bool(true)), "did you mean \"trt_fp16_enable\""),
            (fault("cpu", "threads", Scalar::Integer(1)), "cpu has no option \"threads\"; known: none"),
            (fault("cuda", "cudnn_conv_algo_search", text("HEURISTC")), "did you mean \"HEURISTIC\""),
            (fault("coreml", "MLComputeUnits", text("all")), "did you mean \"ALL\""),
            (fault("openvino", "device_type", text("CPU\0")), "option \"device_type\": holds a NUL byte"),
        ] {
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn providers_are_told_to_keep_their_work_by_options_that_they_have() {
        for name in provider_names() {
            let name = ProviderName::try_from(name.to_owned()).unwrap();
            let plain = Provider { name, need: Need::Required, options: BTreeMap::new() };
            plain.check_keeping().unwrap();
            let keeping = plain.clone().keeping("/cache");
            check_options(&keeping).unwrap();
            let keeps_a_folder = matches!(name.keeps(), Keeps::Folder(_));
            assert_eq!(keeping.options.values().any(|value| value.to_option() == "/cache"), keeps_a_folder, "{name}");
            assert_eq!(keeping.options.len() > plain.options.len(), keeps_a_folder, "{name}");
            if keeps_a_folder {
                let fault = keeping.check_keeping().unwrap_err().to_string();
                assert!(fault.contains("take one of the two away"), "{fault}");
            } else {
                assert_eq!(keeping, plain);
            }
        }
    }

    #[test]
    fn a_property_of_the_device_is_put_beside_the_targets_own() {
        let config = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), Scalar::Text((*value).into())));
            let name = ProviderName::try_from("openvino".to_owned()).unwrap();
            let plain = Provider { name, need: Need::Required, options: options.collect() };
            plain.keeping("/cache").options["load_config"].to_option()
        };
        assert_eq!(config(&[]), r#"{"CPU":{"CACHE_DIR":"/cache"}}"#);
        let own = r#"{"GPU":{"PERFORMANCE_HINT":"LATENCY"}}"#;
        let both = r#"{"GPU":{"CACHE_DIR":"/cache","PERFORMANCE_HINT":"LATENCY"}}"#;
        assert_eq!(config(&[("device_type", "GPU"), ("load_config", own)]), both);
        assert_eq!(config(&[("load_config", "what?")]), "what?");
    }

    #[test]
    fn every_option_that_takes_words_is_one_of_a_provider() {
        for (option, _) in WORDS {
            assert!(PROVIDERS.iter().any(|row| row.options.contains(option)), "{option}");
        }
    }
}
