//! The binary `safelight`: parses, calls the library, prints.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use safelight::{Error, ErrorKind};

mod chart;
mod checkpoint;
mod bench;
mod bench_worker;
mod collect;
mod compare;
mod destination;
mod device;
mod doctor;
mod folders;
mod generate;
mod inspect;
#[cfg(test)]
mod manual;
mod memory;
mod models;
mod picture_arguments;
mod place;
mod plot;
mod probe_graph;
mod progress;
mod prompts;
mod report;
mod sampling;
mod schedule;
mod sensors;
mod signals;
mod targets;
mod verify;
mod version;
mod warm;

/// Develops latent images on edge devices: few-step latent diffusion through ONNX Runtime.
#[derive(Parser)]
#[command(name = "safelight", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make pictures from words
    Generate(Box<generate::Arguments>),
    /// Show which noise levels a request would visit, without running anything
    Schedule(Box<schedule::Arguments>),
    /// List the models that are here, checked
    Models(models::Arguments),
    /// Explain a graph or a folder of graphs without running anything, and what of it would be refused
    ///
    /// Stage, tensors, operators, weights, what is multiplied in which arithmetic, expected memory. Weights are not
    /// read, ONNX Runtime is not needed. Where something would be refused, the exit code is 3.
    Inspect(inspect::Arguments),
    /// List the targets that are here, checked
    Targets(targets::Arguments),
    /// Compare this device's numbers with the model's goldens, or with the CPU's
    ///
    /// Makes the requests whose numbers came with the model, and compares initial noise, each step's estimate, the
    /// final latent and the picture. Where one is beyond its bound, or NaN or black, the exit code is 6. A target file
    /// that says `verify: { retry: true }` then has one stage after the other tried in its next better precision.
    Verify(verify::Arguments),
    /// Prove which provider runs which nodes of each graph, and for how much of the time
    Place(place::Arguments),
    /// Build what a target's cache keeps, ahead of the first picture
    ///
    /// TensorRT takes minutes to an hour for its engines, OpenVINO tens of seconds. Opens every graph for the sizes that
    /// requests will have, makes one picture, and tells what was built and what was there. Afterwards --cached-only runs.
    Warm(warm::Arguments),
    /// Measure how fast, how heavy and how right a model is on this device
    ///
    /// Fresh processes, warm-up until it is steady, a pass that times whole images and nothing else, a second one that looks
    /// at stages and steps, pictures beside the model's best graphs. Every raw sample is kept, percentiles are told only
    /// where enough images stand behind them, and a run that something disturbed is marked invalid with the reason.
    Bench(Box<bench::Arguments>),
    /// Make images for safelight bench, which starts this itself
    #[command(hide = true)]
    BenchWorker(bench_worker::Arguments),
    /// Find what is wrong with machine, library, target and model, and tell what to do
    ///
    /// Works without a library, and writes nothing. The exit code is that of the first problem; notes and warnings are
    /// exit code 0.
    Doctor(doctor::Arguments),
    /// Show what a benchmark found: a page with charts, CSV, or a table for a README
    Report(report::Arguments),
    /// List the sensors of this device with their values, and why others are absent
    ///
    /// Reads for a second: temperatures, clocks, power, load, whether the device is slowed down. Writes nothing and needs
    /// no library. What bench measures energy with is told at the end.
    Sensors(sensors::Arguments),
    /// Compare two reports, or measure both again in turn: what is faster, heavier, different, and whether it can be said
    ///
    /// A difference is told only where its 95 % interval excludes that there is none; no difference only where the
    /// whole interval lies within the threshold; all else is undecided.
    Compare(compare::Arguments),
    /// Put the reports of many devices into one table
    Collect(collect::Arguments),
    /// Try one graph that safelight names on standard input, in this process: safelight starts it itself
    #[command(hide = true)]
    ProbeGraph(probe_graph::Arguments),
    /// Print the versions of safelight and ONNX Runtime, and the library's execution providers
    Version(version::Arguments),
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 2 usage or target, 3 model, 4 library or provider, 5 limit, 6 NaN, black picture or numbers beyond \
a bound, 7 input or output, 8 cancelled, 70 a mistake of safelight";

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(tell_mistake));
    signals::survive_large_files();
    let Arguments { command } = Arguments::parse();
    // A panic has been told already.
    let outcome = std::panic::catch_unwind(|| run(&command));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tell(&format!("error: {}", message(&error)));
            ExitCode::from(exit_code(&error))
        }
        Err(_) => ExitCode::from(exit_code_of(ErrorKind::Internal)),
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    // Those two are started, listened to and ended by a safelight, which tells how they died.
    match command {
        Command::BenchWorker(arguments) => return bench_worker::run(arguments),
        Command::ProbeGraph(arguments) => return probe_graph::run(arguments),
        _ => signals::end_on_signals()?,
    }
    match command {
        Command::Generate(arguments) => generate::run(arguments),
        Command::Schedule(arguments) => schedule::run(arguments),
        Command::Models(arguments) => models::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Targets(arguments) => targets::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Place(arguments) => place::run(arguments),
        Command::Warm(arguments) => warm::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::BenchWorker(arguments) => bench_worker::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Sensors(arguments) => sensors::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Collect(arguments) => collect::run(arguments),
        Command::ProbeGraph(arguments) => probe_graph::run(arguments),
        Command::Version(arguments) => version::run(arguments),
    }
}

/// Tells a panic as what it is, with where it was; with RUST_BACKTRACE=1 also how it came there.
fn tell_mistake(panic: &std::panic::PanicHookInfo) {
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    let words = panic.payload_as_str().unwrap_or("a panic without words");
    tell(&format!("error: a mistake of safelight{place}: {words}; please report it, with this line and the command"));
    let way = std::backtrace::Backtrace::capture();
    if way.status() == std::backtrace::BacktraceStatus::Captured {
        tell(&way.to_string());
    }
}

/// An error and its causes, each told once: safelight's own messages quote their causes already.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

/// The stable exit code of an error; printed in `--help`.
fn exit_code(error: &anyhow::Error) -> u8 {
    let kind = error.chain().find_map(|cause| Some(cause.downcast_ref::<Error>()?.kind()));
    exit_code_of(kind.unwrap_or(ErrorKind::Internal))
}

fn exit_code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Model => 3,
        ErrorKind::Library => 4,
        ErrorKind::Limit => 5,
        ErrorKind::Numeric => 6,
        ErrorKind::Io => 7,
        ErrorKind::Cancelled => 8,
        _ => 70,
    }
}

/// Prints a line for people, to standard error. A closed terminal is nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result, to standard output.
fn print(text: &str) -> safelight::Result<()> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Writes a result to standard output.
fn print_bytes(bytes: &[u8]) -> safelight::Result<()> {
    match write_out(bytes) {
        // Whoever read us has seen enough, as with `safelight models | head -1`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(unprinted),
    }
}

/// Writes a picture to standard output: whoever reads only a part of it has none.
fn print_picture(bytes: &[u8]) -> safelight::Result<()> {
    write_out(bytes).map_err(unprinted)
}

fn write_out(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

fn unprinted(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("standard output cannot be written: {error}"))
}
