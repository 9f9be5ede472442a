//! What the linker is told of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let arguments: &[&str] = match os.as_str() {
        // ONNX Runtime's threads and what it has registered to be run at exit outlive any dlclose.
        "linux" | "android" => &["-Wl,-soname,libsafelight.so.0", "-Wl,-z,nodelete"],
        "macos" => &["-Wl,-install_name,@rpath/libsafelight.0.dylib"],
        _ => &[],
    };
    arguments.iter().for_each(|argument| println!("cargo:rustc-cdylib-link-arg={argument}"));
}
