//! `include/safelight.h` is what the functions are.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// The first lines of the header.
const HEAD: &str = include_str!("c/head.h");

/// The header that the sources make.
fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let [major, minor, patch] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    config.header = Some(HEAD.to_owned());
    config.after_includes = Some(format!(
        "\n// The version of this header; safelight_version() tells that of the library.\n\
         #define SAFELIGHT_VERSION \"{}\"\n#define SAFELIGHT_VERSION_MAJOR {major}\n#define SAFELIGHT_VERSION_MINOR {minor}\n\
         #define SAFELIGHT_VERSION_PATCH {patch}\n",
        env!("CARGO_PKG_VERSION")
    ));
    let sources = ["error", "version", "options", "request", "cancel", "watch", "pipeline", "output"];
    let builder = sources.iter().fold(cbindgen::Builder::new().with_config(config), |builder, name| {
        builder.with_src(root.join(format!("src/{name}.rs")))
    });
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    without_rust(&String::from_utf8(header).unwrap())
}

/// C has no sections of documentation: `# Safety` repeats what types and texts say already.
fn without_rust(header: &str) -> String {
    let mut kept = String::new();
    let mut skips = false;
    for line in header.lines() {
        let comment = line.trim_start();
        skips = comment.starts_with("// # Safety") || skips && comment.starts_with("//");
        if !skips {
            kept += line.trim_end();
            kept.push('\n');
        }
    }
    // The empty line before such a section ends a comment that goes on no more.
    kept.replace("//\nstruct", "struct").replace("//\nvoid", "void").replace('`', "")
}

#[test]
fn the_header_is_what_the_functions_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/safelight.h");
    let generated = generated();
    if std::env::var_os("SAFELIGHT_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "include/safelight.h is not what the sources make: SAFELIGHT_UPDATE=1 cargo test -p safelight-capi --test header"
    );
}
