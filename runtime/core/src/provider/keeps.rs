//! What providers keep of their work in a folder, and how they are told to.

use super::{DeviceKind, Provider, Scalar};
use crate::{Error, Result};

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
        let plugins = self.device.map_or("cpu", DeviceKind::name).to_uppercase();
        let device = self.text("device_type").unwrap_or(plugins);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Need, ProviderName, check_options, provider_names};

    #[test]
    fn providers_are_told_to_keep_their_work_by_options_that_they_have() {
        for name in provider_names() {
            let name = ProviderName::try_from(name.to_owned()).unwrap();
            let plain = Provider::plain(name, Need::Required);
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
            let plain = Provider { options: options.collect(), ..Provider::plain(name, Need::Required) };
            plain.keeping("/cache").options["load_config"].to_option()
        };
        assert_eq!(config(&[]), r#"{"CPU":{"CACHE_DIR":"/cache"}}"#);
        let own = r#"{"GPU":{"PERFORMANCE_HINT":"LATENCY"}}"#;
        let both = r#"{"GPU":{"CACHE_DIR":"/cache","PERFORMANCE_HINT":"LATENCY"}}"#;
        assert_eq!(config(&[("device_type", "GPU"), ("load_config", own)]), both);
        assert_eq!(config(&[("load_config", "what?")]), "what?");
        let name = ProviderName::try_from("openvino".to_owned()).unwrap();
        let plugin = Provider { device: Some(DeviceKind::Npu), ..Provider::plain(name, Need::Required) };
        assert_eq!(plugin.keeping("/c").options["load_config"].to_option(), r#"{"NPU":{"CACHE_DIR":"/c"}}"#);
    }
}
