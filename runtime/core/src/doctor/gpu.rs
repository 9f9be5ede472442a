//! Whether what runs on NVIDIA's graphics processors finds one, and a driver that is new enough.

use super::loader::provider_needs;
use super::{Severity, Subject, Told, ok, or_ok, told};
use crate::provider::{Need, Provider};
use crate::sensor;

/// Providers that compute with CUDA.
const OF_CUDA: &[&str] = &["cuda", "tensorrt", "nvrtx"];

/// The oldest driver of each major version of CUDA, on Linux (CUDA Toolkit release notes, "CUDA Toolkit and
/// corresponding driver versions").
const OLDEST_DRIVERS: &[(u32, u32)] = &[(11, 450), (12, 525), (13, 580)];

/// The variable that hides graphics processors from CUDA.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A graphics processor for each provider that needs one. A Jetson's is part of its chip and its driver part of its
/// system, which is why it is not looked for there.
pub(super) fn gpu(subject: &Subject<'_>) -> Vec<Told> {
    let of_cuda = |provider: &Provider| OF_CUDA.contains(&provider.name.as_str()) && provider.library.is_none();
    let wanted: Vec<_> = subject.providers().into_iter().filter(of_cuda).collect();
    let machine = subject.machine();
    let (Some(first), None) = (wanted.first(), machine.l4t) else {
        return vec![ok("no provider of the target needs one of NVIDIA's that is not part of the chip")];
    };
    let severity = if wanted.iter().any(|provider| provider.need == Need::Required) {
        Severity::Problem
    } else {
        Severity::Warning
    };
    let name = first.name;
    if machine.gpus.is_empty() {
        let advice = "install the driver, or pass the device on to the container (docker run --gpus all); or choose \
                      another target";
        return vec![told(severity, format!("provider {name} finds no NVIDIA GPU with a driver"), advice)];
    }
    let mut findings = Vec::new();
    let hidden = (subject.variable)(VISIBLE).filter(|value| value.is_empty() || value == "-1");
    if let Some(value) = hidden {
        let evidence = format!("{VISIBLE} is \"{}\", which hides every GPU", value.display());
        findings.push(told(severity, evidence, format!("unset {VISIBLE}")));
    }
    let driver = sensor::driver(subject.files());
    let old = driver.as_deref().and_then(|driver| wanted.iter().find_map(|wanted| too_old(subject, wanted, driver)));
    findings.extend(old.map(|evidence| {
        told(severity, evidence, "install a newer driver, or a build of ONNX Runtime for an older CUDA")
    }));
    let driver = driver.unwrap_or_else(|| "of unknown version".into());
    or_ok(findings, format!("{}, driver {driver}", machine.gpus.join(", ")))
}

/// What to say where the driver is older than the CUDA that a provider was built for.
fn too_old(subject: &Subject<'_>, provider: &Provider, driver: &str) -> Option<String> {
    let needs = provider_needs(subject, provider)?;
    let runtime = needs.libraries.iter().find_map(|name| name.strip_prefix("libcudart.so."))?;
    let cuda = runtime.split('.').next()?.parse::<u32>().ok()?;
    let (_, oldest) = OLDEST_DRIVERS.iter().find(|(major, _)| *major == cuda)?;
    let is_old = driver.split('.').next()?.parse::<u32>().ok()? < *oldest;
    is_old.then(|| {
        format!("provider {} needs CUDA {cuda}: driver {oldest} or newer, and {driver} is here", provider.name)
    })
}
