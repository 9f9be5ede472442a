//! The binary `safelight`.
fn main() {}
