//! Execution providers as targets name them. No other file than the table names TensorRT, CUDA, CoreML …

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use ort::ep::ExecutionProviderDispatch;
use serde::{Deserialize, Serialize};

use crate::error::{did_you_mean, unknown};
use crate::graph::replay::Place;
use crate::{Error, Result};

mod keeps;
mod option;
mod table;

pub(crate) use keeps::Keeps;
pub(crate) use option::Kind;
pub use option::Scalar;
use table::{PROVIDERS, Row};

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
    pub options: Options,
    /// Where its plug-in is, an absolute path, for a provider that is not compiled into ONNX Runtime (1.22 or newer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    /// Which of a plug-in's devices it runs on; the first that it offers unless this is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceKind>,
}

/// What a plug-in's provider may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A neural processor.
    Npu,
}

impl DeviceKind {
    /// Its name in target files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Npu => "npu",
        }
    }
}

/// Options of one provider, by their ONNX Runtime names.
pub type Options = BTreeMap<String, Scalar>;

impl Provider {
    /// A provider as it is, without options.
    pub(crate) fn plain(name: ProviderName, need: Need) -> Self {
        Self { name, need, options: Options::new(), library: None, device: None }
    }

    /// The options as ONNX Runtime reads them.
    pub(crate) fn texts(&self) -> Vec<(&str, String)> {
        let known = self.name.row().options;
        let write = |(key, value): (&'_ String, &Scalar)| {
            let kind = known.iter().find(|(option, _)| option == key).map(|(_, kind)| kind);
            // What is not of the table was refused with the target.
            kind.and_then(|kind| kind.write(value).ok()).unwrap_or_else(|| value.to_option())
        };
        self.options.iter().map(|(key, value)| (key.as_str(), write((key, value)))).collect()
    }

    /// Where its tensors are, if it is to record runs and replay them.
    pub(crate) fn replayed_at(&self) -> Option<Place> {
        let device = table::replayed_on(self.name.0).filter(|_| self.is_set(table::REPLAYS))?;
        Some(Place { device, index: self.number("device_id").unwrap_or(0) })
    }

    fn is_set(&self, option: &str) -> bool {
        matches!(self.options.get(option), Some(Scalar::Bool(true) | Scalar::Integer(1)))
    }

    fn number<T: TryFrom<i64>>(&self, option: &str) -> Option<T> {
        match self.options.get(option) {
            Some(Scalar::Integer(number)) => T::try_from(*number).ok(),
            _ => None,
        }
    }

    fn text(&self, option: &str) -> Option<String> {
        self.options.get(option).map(Scalar::to_option)
    }
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

/// The name of a provider in [the table](provider_names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

/// A provider ready for registration: a failure is an error, never a silent fall back to the CPU.
pub(crate) fn dispatch(settings: &Provider) -> ExecutionProviderDispatch {
    (settings.name.row().build)(settings).error_on_failure()
}

/// Checks what a target says of a provider.
pub(crate) fn check(settings: &Provider) -> Result<()> {
    let name = settings.name;
    match &settings.library {
        None if settings.device.is_some() => {
            Err(Error::usage(format!("{name}: device is for a plug-in, and there is no library")))
        }
        Some(_) if name == ProviderName::CPU => {
            Err(Error::usage("cpu: is in every ONNX Runtime, and no plug-in; leave library out"))
        }
        Some(path) if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) => {
            let told = "expected an absolute path, so that no other file can be loaded in its place";
            Err(Error::usage(format!("{name}: library is \"{}\", {told}", path.display())))
        }
        _ => check_options(settings),
    }
}

/// Checks a target's options for a provider against the table.
pub(crate) fn check_options(settings: &Provider) -> Result<()> {
    settings.options.iter().try_for_each(|(key, value)| check_option(settings.name, key, value))
}

/// Options of providers whose recorded runs were never seen to work here.
const UNTRIED: &[&str] = &["nv_cuda_graph_enable", "trt_cuda_graph_enable"];

/// Checks one option for a provider.
fn check_option(provider: ProviderName, key: &str, value: &Scalar) -> Result<()> {
    let known = provider.row().options.iter();
    let Some((_, kind)) = known.clone().find(|(option, _)| *option == key) else {
        let meant = did_you_mean(key, known.clone().map(|(option, _)| *option));
        let names: Vec<_> = known.map(|(option, _)| *option).collect();
        let known = if names.is_empty() { "none".into() } else { names.join(", ") };
        return Err(Error::usage(format!("{provider} has no option \"{key}\"; known: {known}{meant}")));
    };
    let is_on = matches!(value, Scalar::Bool(true) | Scalar::Integer(1));
    if is_on && (UNTRIED.contains(&key) || (key == table::REPLAYS && table::replayed_on(provider.0).is_none())) {
        return Err(Error::usage(format!(
            "{provider} option \"{key}\" cannot be used yet: only cuda's recorded runs were tried, by its option {}; leave \
             it out",
            table::REPLAYS
        )));
    }
    kind.write(value).map(drop).map_err(|told| Error::usage(format!("{provider} option \"{key}\" {told}")))
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

/// For editors: the options of each provider, by its name; each has a definition, which others refer to.
#[cfg(test)]
pub(crate) fn options_by_provider(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    for row in PROVIDERS {
        let options: BTreeMap<_, _> = row.options.iter().map(|(option, kind)| (*option, kind.schema())).collect();
        let options = serde_json::json!({ "type": "object", "properties": options, "additionalProperties": false });
        generator.definitions_mut().insert(format!("{}_options", row.name), options);
    }
    let rows: BTreeMap<_, _> = PROVIDERS.iter().map(|row| (row.name, options_of(row))).collect();
    schemars::json_schema!({ "type": "object", "properties": rows, "additionalProperties": false })
}

#[cfg(test)]
fn options_of(row: &Row) -> serde_json::Value {
    serde_json::json!({ "$ref": format!("#/$defs/{}_options", row.name) })
}

/// For editors: which options each provider takes, and of which values.
#[cfg(test)]
fn with_options_of_each(schema: &mut schemars::Schema) {
    let rule = |row: &Row| {
        serde_json::json!({
            "if": { "properties": { "name": { "const": row.name } } },
            "then": { "properties": { "options": options_of(row) } },
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
            let settings = Provider::plain(provider, Need::Optional);
            assert_eq!(dispatch(&settings).name(), provider.onnxruntime_name());
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
        }
    }

    #[test]
    fn a_mistyped_option_or_value_is_refused_with_the_nearest() {
        let fault = |provider: &str, option: &str, value: Scalar| {
            let name = ProviderName::try_from(provider.to_owned()).unwrap();
            let options = [(option.to_owned(), value)].into();
            check(&Provider { options, ..Provider::plain(name, Need::Required) }).unwrap_err().to_string()
        };
        let text = |text: &str| Scalar::Text(text.into());
        for (told, expected) in [
            (fault("tensorrt", "trt_fp61_enable", Scalar::Bool(true)), "did you mean \"trt_fp16_enable\""),
            (fault("cpu", "threads", Scalar::Integer(1)), "cpu has no option \"threads\"; known: none"),
            (fault("cuda", "cudnn_conv_algo_search", text("HEURISTC")), "did you mean \"HEURISTIC\""),
            (fault("coreml", "MLComputeUnits", text("all")), "did you mean \"ALL\""),
            (fault("nvrtx", "enable_cuda_graph", Scalar::Bool(true)), "leave it out"),
            (fault("tensorrt", "trt_cuda_graph_enable", Scalar::Integer(1)), "leave it out"),
            (fault("openvino", "device_type", text("CPU\0")), "option \"device_type\" holds a NUL byte"),
        ] {
            assert!(told.contains(expected), "{told}");
        }
    }
}
