//! Providers as plug-ins, by what can go wrong with one: the real ones are checked by hand (`tests/reference`).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Outcome, Place, compiled};

/// A plug-in that finds nothing to run on: it loads, and makes no provider.
const WITHOUT_DEVICE: &str = "
#include <stddef.h>
void *CreateEpFactories(const char *name, const void *api, const void *logger, void **factories, size_t most,
                        size_t *count) {
    *count = 0;
    return NULL;
}
void *ReleaseEpFactory(void *factory) { return NULL; }
";

/// Makes a picture with a plug-in that a target requires, or would like.
fn generate(place: &Place, need: &str, library: &Path, more: &str) -> Outcome {
    let library = library.display();
    let target = format!(
        "schema: safelight-target/1\nname: board\ntitle: T\nprecision: [int8]\nproviders:\n\
         - {{ name: webgpu, need: {need}, library: \"{library}\"{more} }}\n- {{ name: cpu, need: required }}\n"
    );
    let target = place.input("board.yaml", target);
    let target = target.to_str().unwrap();
    Outcome::of(place.command(["generate", "a red apple", "--steps", "1", "--target", target, "--out", "a.png"]))
}

#[test]
fn a_plug_in_without_its_device_is_an_error_or_a_warning() {
    let place = Place::new();
    let plugin = place.inputs().join("libplug.so");
    compiled(&plugin, WITHOUT_DEVICE, &[]);
    let told = "libplug.so was loaded, and offers no device here";
    let required = generate(&place, "required", &plugin, "");
    required.expect("required", 4, told);
    required.expect("required", 4, "the target requires provider webgpu");
    assert!(place.left().iter().all(|file| !file.ends_with(".png")));

    let optional = generate(&place, "optional", &plugin, "");
    optional.expect("optional", 0, told);
    assert!(optional.stderr.contains("warning: provider webgpu is not used"), "{}", optional.stderr);
    assert!(optional.stderr.contains("denoiser int8 on cpu"), "{}", optional.stderr);
    assert!(place.work().join("a.png").exists());
}

#[test]
fn what_is_no_plug_in_is_told() {
    let place = Place::new();
    let text = place.input("libtext.so", "not a library");
    let empty = place.inputs().join("libempty.so");
    compiled(&empty, "int nothing;", &[]);
    let cut = place.inputs().join("libcut.so");
    let whole = fs::read(&empty).unwrap();
    fs::write(&cut, &whole[..whole.len() / 8]).unwrap();
    for (library, told) in [
        (text, "libtext.so"),
        (empty, "CreateEpFactories"),
        (cut, "is cut short"),
        (place.inputs().join("libabsent.so"), "No such file"),
    ] {
        generate(&place, "required", &library, "").expect(&library.display().to_string(), 4, told);
    }
}

#[test]
fn a_target_says_where_its_plug_in_is_without_doubt() {
    let place = Place::new();
    for (library, more, told) in [
        ("libplug.so", "", "expected an absolute path"),
        ("/opt/libplug.so", ", device: tpu", "unknown variant `tpu`"),
        ("/opt/libplug.so", ", options: { preferedLayout: NCHW }", "did you mean \"preferredLayout\""),
    ] {
        generate(&place, "required", Path::new(library), more).expect(told, 2, told);
    }
    let target = "schema: safelight-target/1\nname: board\ntitle: T\nprecision: [int8]\nproviders:\n";
    for (provider, told) in [
        ("{ name: webgpu, need: required, device: gpu }", "device is for a plug-in, and there is no library"),
        ("{ name: cpu, need: required, library: /opt/libplug.so }", "leave library out"),
    ] {
        let target = place.input("board.yaml", format!("{target}- {provider}\n"));
        let outcome = Outcome::of(place.without_library(["generate", "x", "--target", target.to_str().unwrap()]));
        outcome.expect(provider, 2, told);
    }
}
