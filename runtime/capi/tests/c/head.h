// safelight: few-step latent diffusion through ONNX Runtime, for C and C++. docs/embedding-c.md is the way in.
//
// Ownership: what a function ending in _new, _open, _generate or _verify gives is the caller's, and goes back through the
// function ending in _free; what else is told by pointer belongs to what it was asked of. Every function that can fail
// returns an error that the caller owns, or NULL. Texts are UTF-8 and end with NUL; paths, too.
//
// Threads: each type says what it allows. The library installs no signal handler, writes to no standard stream, changes
// no folder, starts no process unless the option "probe-program" names one, and reaches no network. A process that has
// forked must not use in the child what the parent had opened.
//
// Generated from the sources by cbindgen; do not edit.
