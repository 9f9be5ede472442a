//! Execution providers that come as plug-ins: a library of their own, loaded by its absolute path.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::newer::Device;
use super::{Library, is_cut_short};
use crate::provider::{Provider, ProviderName};

impl Library {
    /// Loads a provider's plug-in, once a process, and chooses the device that it is to run on.
    ///
    /// A plug-in whose device is absent loads without complaint and offers none; that is an error here, which tells why
    /// the provider cannot be used.
    pub(crate) fn plugin_device(&self, provider: &Provider, path: &Path) -> Result<Device, String> {
        self.load_plugin(provider.name, path)?;
        let devices = self.newer().devices(self.environment()).map_err(|e| e.to_string())?;
        let name = provider.name.onnxruntime_name();
        let offered: Vec<_> = devices.into_iter().filter(|device| device.provider == name).collect();
        let kinds = offered.iter().map(|device| device.kind).collect::<Vec<_>>().join(", ");
        let wanted = |device: &Device| provider.device.is_none_or(|wanted| wanted.name() == device.kind);
        match (offered.into_iter().find(wanted), provider.device) {
            (Some(device), _) => Ok(device),
            (None, Some(wanted)) if !kinds.is_empty() => {
                Err(format!("{} offers {kinds} here, and no {}", path.display(), wanted.name()))
            }
            (None, _) => Err(format!(
                "{} was loaded, and offers no device here: what it runs on, or its driver, is missing",
                path.display()
            )),
        }
    }

    fn load_plugin(&self, provider: ProviderName, path: &Path) -> Result<(), String> {
        if !self.newer().has_plugins() {
            let first = Self::FIRST_WITH_PLUGINS;
            return Err(format!("plug-ins need ONNX Runtime 1.{first} or newer, and this is {}", self.version()));
        }
        let mut loaded = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded.get(&provider) {
            Some(known) if known == path => return Ok(()),
            Some(known) => {
                let told = format!("{} is loaded already, and a process takes one plug-in a provider", known.display());
                return Err(format!("{}: {told}", path.display()));
            }
            None => (),
        }
        let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        if is_cut_short(path).map_err(|e| told(&e))? {
            return Err(told(&"is cut short: its end is missing; fetch or copy it again"));
        }
        self.newer().register(self.environment(), provider.as_str(), path).map_err(|e| told(&e))?;
        loaded.insert(provider, path.to_path_buf());
        Ok(())
    }
}

/// Plug-ins that are loaded, by the provider that each was loaded for.
pub(super) type Loaded = std::collections::BTreeMap<ProviderName, PathBuf>;
