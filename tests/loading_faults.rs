//! What can be wrong with a model that somebody else has made: 72 faults, by their numbers. Each ends in an error of its
//! exit code that says what is wrong and where, never in a signal or a hang, and leaves nothing behind.
//!
//! 1 to 32 are of files and folders, 33 to 61 of graphs, 62 to 72 of what goes into graphs and requests.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Outcome, Place, board, repository, tiny};
use protobuf::{Graph, integer, outside, tensor};

mod common;
#[path = "common/protobuf.rs"]
mod protobuf;

/// Where a fault is tested.
enum Test {
    /// Here: what is done to a copy of tiny-sd, the exit code, and what is told.
    Here(Damage, i32, &'static str),
    /// In another file of tests, by a function.
    There(&'static str, &'static str),
}
use Test::{Here, There};

type Damage = fn(&Path);

const BAD_INPUT: &str = "tests/bad_input.rs";
const INSPECT: &str = "tests/inspect.rs";
const PICTURE: &str = "runtime/core/src/input_picture.rs";
const UNOPENED: &str = "a_model_that_cannot_be_is_refused_before_the_library_is_opened";
const REQUEST: &str = "a_request_that_cannot_be_is_refused_before_the_library_is_opened";
const GRAPHS: &str = "every_fault_is_found_and_told";

/// Every fault, by its number; some are several.
#[rustfmt::skip]
fn faults() -> Vec<(u32, Test)> {
    vec![
        // ── Files and folders ───────────────────────────────────────────────────────────────────────────────────────
        (1, There(BAD_INPUT, UNOPENED)),
        (2, There(BAD_INPUT, "a_model_that_its_files_belie_is_refused_when_it_is_opened")),
        (3, Here(|model| cut(&unet(model), 2), 3, "unet/model.onnx: is not an ONNX graph, or is damaged")),
        (3, Here(|model| cut(&unet(model), 1000), 3, "unet/model.onnx: is not an ONNX graph, or is damaged")),
        (4, There(BAD_INPUT, UNOPENED)),
        (5, There(BAD_INPUT, UNOPENED)),
        (6, Here(|model| folder_instead(&unet(model)), 3, "unet/model.onnx: is not a regular file")),
        (7, There(BAD_INPUT, UNOPENED)),
        (8, Here(|model| link_instead(&unet(model), "/dev/zero"), 3, "is a link that leaves the model folder (to /dev/zero)")),
        (8, Here(|model| fifo_instead(&unet(model)), 3, "unet/model.onnx: is not a regular file")),
        (8, Here(|model| { keep_outside(model, &[("location", "w.bin")]); fifo_instead(&model.join("unet/w.bin")); }, 3, "w.bin: is not a regular file")),
        (8, Here(|model| { keep_outside(model, &[("location", "w.bin")]); folder_instead(&model.join("unet/w.bin")); }, 3, "w.bin: is not a regular file")),
        (9, There("tests/loading_faults.rs", "graphs_beyond_the_limit_are_refused")),
        (10, There("tests/loading_faults.rs", "files_that_may_not_be_read_are_told")),
        (11, There(BAD_INPUT, "a_model_that_its_files_belie_is_refused_when_it_is_opened")),
        (12, There(BAD_INPUT, UNOPENED)),
        (13, There(BAD_INPUT, UNOPENED)),
        (14, There(BAD_INPUT, UNOPENED)),
        (15, Here(|model| outside_link(model, "unet"), 3, "is a link that leaves the model folder")),
        (16, There("runtime/core/src/model/files.rs", "links_are_refused_where_they_lead_outside")),
        (17, There(INSPECT, "weights_that_nobody_vouches_for_are_no_links")),
        (18, There("tests/external_data.rs", "weights_must_lie_beside_the_graph")),
        (19, Here(|model| keep_outside(model, &[("location", "../model_index.json")]), 3, "\"../model_index.json\" is not a plain path inside")),
        (19, Here(|model| keep_outside(model, &[("location", "sub/../../model_index.json")]), 3, "is not a plain path inside")),
        (20, Here(|model| keep_outside(model, &[("location", "/etc/passwd")]), 3, "\"/etc/passwd\" is not a plain path inside")),
        (21, Here(|model| keep_outside(model, &[("location", "w.bin\0.x")]), 3, "\"w.bin\\0.x\" is not a plain path inside")),
        (22, Here(|model| keep_outside(model, &[("location", "absent.bin")]), 3, "unet/absent.bin: is missing")),
        (22, Here(|model| { keep_outside(model, &[("location", "w.bin")]); fs::write(model.join("unet/w.bin"), [0; 8]).unwrap(); }, 3, "\"w\" takes 16 bytes, of which 8 are there")),
        (22, Here(|model| { keep_outside(model, &[("location", "w.bin")]); fs::write(model.join("unet/w.bin"), "").unwrap(); }, 3, "\"w\" takes 16 bytes, of which 0 are there")),
        (23, Here(|model| keep_outside(model, &[("location", "w.bin"), ("offset", "-8")]), 3, "\"w\" lies at offset \"-8\" with length \"\", which is nowhere in a file")),
        (23, Here(|model| keep_outside(model, &[("location", "w.bin"), ("offset", "9223372036854775807")]), 3, "\"w\" takes 16 bytes, of which 0 are there")),
        (23, Here(|model| keep_outside(model, &[("location", "w.bin"), ("length", "4611686018427387904")]), 3, "\"w\" takes 16 bytes, but is said to have 4611686018427387904 in its file")),
        (23, Here(|model| keep_outside(model, &[("location", "w.bin"), ("offset", "four")]), 3, "\"w\" lies at offset \"four\"")),
        (23, Here(|model| keep_outside(model, &[("location", "w.bin"), ("length", "12")]), 3, "\"w\" takes 16 bytes, but is said to have 12 in its file")),
        (24, Here(|model| keep_outside(model, &[("offset", "0")]), 3, "is not a plain path inside")),
        (25, There(INSPECT, GRAPHS)),
        (26, Here(|model| keep_outside(model, &[("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096")]), 3, "unet/*/_ORT_MEM_ADDR_/*: is missing")),
        (27, There("tests/external_data.rs", "weights_that_change_under_an_open_model_are_noticed")),
        (28, There("tests/external_data.rs", "weights_that_change_under_an_open_model_are_noticed")),
        (29, There("tests/loading_faults.rs", "a_cache_on_a_full_disk_costs_only_time")),
        (30, There("tests/cache.rs", "a_folder_that_cannot_be_made_is_told_and_the_picture_is_made")),
        (31, There("tests/loading_faults.rs", "a_profile_that_cannot_be_written_is_told")),
        (32, Here(|model| fs::write(unet(model), [&[0x18, 0, 0, 0][..], b"ORTM", &[0; 400]].concat()).unwrap(), 3, "unet/model.onnx: is not an ONNX graph, or is damaged")),
        // ── Graphs ──────────────────────────────────────────────────────────────────────────────────────────────────
        (33, Here(|model| write(model, denoiser().node("Cos", &["sample"], &["out_sample"]).ir(99)), 3, "unet/model.onnx: cannot be opened: Unsupported model IR version: 99, max supported IR version: ")),
        (34, There(INSPECT, GRAPHS)),
        (35, There(INSPECT, GRAPHS)),
        (36, There(INSPECT, GRAPHS)),
        (37, There(INSPECT, GRAPHS)),
        (38, There(INSPECT, GRAPHS)),
        (39, There(INSPECT, GRAPHS)),
        (40, Here(|model| write(model, denoiser().initializer("w", 1, &[4, 3, 1, 1], &[0; 48]).node("Conv", &["sample", "w"], &["out_sample"])), 3, "denoiser: the graph failed while it ran: Non-zero status code returned while running Conv node")),
        (41, There(INSPECT, GRAPHS)),
        (42, There(INSPECT, GRAPHS)),
        (42, Here(|model| write(model, Graph::default().input("sample", 1, &[1, 4, u64::MAX, 8]).node("Cos", &["sample"], &["out_sample"]).gives("out_sample", 1, &[1, 4, 8, 8])), 3, "\"sample\" is an input of size")),
        (43, There(INSPECT, GRAPHS)),
        (44, Here(|model| write(model, with_constant(tensor("w", 99, &[4], &[0; 16]))), 3, "cannot be opened: This is an invalid model. Tensor 'w' does not have valid data type; export it again")),
        (44, Here(|model| write(model, Graph::default().input("sample", 99, &[1, 4, 8, 8]).node("Cos", &["sample"], &["out_sample"]).gives("out_sample", 1, &[1, 4, 8, 8])), 3, "cannot be opened: Failed to load model with error: Invalid tensor data type 99; export it again")),
        (45, Here(|model| write(model, filled(1 << 34)), 5, "memory ran out: ")),
        (46, There("tests/probe.rs", "a_graph_that_eats_memory_is_stopped_at_the_limit")),
        (47, Here(|model| write(model, denoiser().initializer("n", 7, &[4], &le(&[1, 1, 1 << 14, 1 << 14])).node("Tile", &["sample", "n"], &["t"]).node("ReduceMax", &["t"], &["m"]).node("Add", &["sample", "m"], &["out_sample"])), 3, "Tile output tensor would require more than 4294967296 bytes")),
        (48, Here(|model| write(model, resized()), 5, "memory ran out: ")),
        (49, There(INSPECT, GRAPHS)),
        (50, There(INSPECT, GRAPHS)),
        (51, There(INSPECT, GRAPHS)),
        (52, There(INSPECT, GRAPHS)),
        (53, There(INSPECT, GRAPHS)),
        (54, There(INSPECT, "generate_refuses_a_graph_that_crashes_the_library")),
        (55, There(INSPECT, GRAPHS)),
        (56, There(INSPECT, GRAPHS)),
        (57, There(INSPECT, GRAPHS)),
        (58, Here(|model| write(model, denoiser().initializer("s", 7, &[2], &le(&[7, 9])).node("Reshape", &["sample", "s"], &["r"]).node("ReduceMax", &["r"], &["m"]).node("Add", &["sample", "m"], &["out_sample"])), 3, "The input tensor cannot be reshaped to the requested shape. Input shape:{1,4,8,8}, requested shape:{7,9}; it was exported wrongly")),
        (59, There(INSPECT, GRAPHS)),
        (60, There(BAD_INPUT, "a_graph_that_gives_no_picture_is_told_with_stage_and_step")),
        (61, There(INSPECT, GRAPHS)),
        // ── What goes into graphs, and requests ─────────────────────────────────────────────────────────────────────
        (62, There(BAD_INPUT, "a_wrong_graph_is_told_with_what_it_has_and_what_was_expected")),
        (63, Here(|model| write(model, signature("smaple", 1, &[1, 4, 8, 8])), 3, "it has no input \"sample\"; it has: smaple")),
        (63, Here(|model| write(model, signature("sample", 7, &[1, 4, 8, 8])), 3, "input \"sample\" has type")),
        (63, Here(|model| write(model, signature("sample", 1, &[1, 4, 8])), 3, "input \"sample\" has shape [1, 4, 8], expected [-1, 4, -1, -1]")),
        (63, Here(|model| write(model, signature("sample", 1, &[1, 5, 8, 8])), 3, "input \"sample\" has shape [1, 5, 8, 8], expected [-1, 4, -1, -1]")),
        (64, There(BAD_INPUT, REQUEST)),
        (64, Here(|model| write(model, signature("sample", 1, &[0, 4, 8, 8])), 3, "\"sample\" is an input of size [0, 4, 8, 8]; export it again")),
        (65, There(BAD_INPUT, REQUEST)),
        (66, There(BAD_INPUT, REQUEST)),
        (67, There(BAD_INPUT, REQUEST)),
        (68, There(BAD_INPUT, REQUEST)),
        (69, There(BAD_INPUT, "any_text_is_a_prompt")),
        (69, There(BAD_INPUT, "an_argument_that_is_not_utf8_is_a_usage_error")),
        (70, There(BAD_INPUT, REQUEST)),
        (71, There(BAD_INPUT, REQUEST)),
        (72, There("tests/image_to_image.rs", "what_cannot_be_is_told")),
        (72, There("tests/image_to_image.rs", "limits_of_the_target_hold")),
        (72, There(PICTURE, "more_pixels_than_allowed_are_refused_before_they_are_decoded")),
        (72, There(PICTURE, "what_is_no_picture_is_told")),
        (72, There(PICTURE, "damaged_files_are_errors_or_pictures")),
        (72, There(PICTURE, "files_are_read_within_limits")),
    ]
}

const LAST: u32 = 72;

#[test]
fn every_fault_has_its_test() {
    let faults = faults();
    let numbers: BTreeSet<_> = faults.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=LAST).collect());
    for (number, test) in faults {
        if let There(file, function) = test {
            let text = fs::read_to_string(repository().join(file)).unwrap();
            assert!(text.contains(&format!("fn {function}()")), "fault {number}: {file} has no test {function}");
        }
    }
}

#[test]
fn each_is_told_and_leaves_nothing() {
    for (number, test) in faults() {
        let Here(damage, code, telling) = test else { continue };
        let place = Place::new();
        let model = place.copy_of("tiny-sd");
        damage(&model);
        // What takes more does it in a process of its own, on machines of any size.
        let board = board(&place, "probe: { max_bytes: 1073741824 }");
        let mut command = picture(&place, &model);
        command.args(["--target", &board]);
        let start = Instant::now();
        Outcome::of(command).expect(&format!("fault {number}"), code, telling);
        assert!(start.elapsed() < Duration::from_secs(30), "fault {number}: {:?}", start.elapsed());
        assert_eq!(place.left(), [""; 0], "fault {number}");
    }
}

fn picture(place: &Place, model: &Path) -> Command {
    let mut command = place.command(["generate", "a red apple", "--seed", "7", "--steps", "1", "--guidance", "1"]);
    command.args(["--sampler", "ddim", "--model"]).arg(model);
    command
}

#[test]
fn graphs_beyond_the_limit_are_refused() {
    let place = Place::new();
    let mut command = picture(&place, &tiny("tiny-sd"));
    command.arg("--target").arg(board(&place, "limits: { max_graph_bytes: 1000 }"));
    let outcome = Outcome::of(command);
    outcome.expect("limit", 5, "bytes with its weights, but the target allows 1000");
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn files_that_may_not_be_read_are_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let model = place.copy_of("tiny-sd");
    fs::set_permissions(unet(&model), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(unet(&model)).is_ok() {
        return; // Whoever runs this may read everything.
    }
    Outcome::of(picture(&place, &model)).expect("permissions", 3, "unet/model.onnx: cannot be read: Permission denied");
}

#[test]
fn a_cache_on_a_full_disk_costs_only_time() {
    let place = Place::new();
    let mut command = Command::new("bash");
    let picture = picture(&place, &tiny("tiny-sd"));
    // Files of more than 4 KiB cannot be written, as on a disk that is nearly full.
    command.arg("-c").arg("trap '' XFSZ; ulimit -f 4; exec \"$@\"").arg("bash").arg(picture.get_program());
    command.args(picture.get_args()).args(["--cache", "cache", "--out", "/dev/null", "--format", "png"]);
    command.current_dir(place.work());
    command.envs(picture.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = Outcome::of(command);
    outcome.expect("full disk", 0, "nothing is kept");
}

#[test]
fn a_profile_that_cannot_be_written_is_told() {
    let place = Place::new();
    let mut command = place.command(["place", "--model"]);
    command.arg(tiny("tiny-sd")).env("TMPDIR", place.inputs().join("no such folder"));
    Outcome::of(command).expect("profile", 7, "no such folder");
}

// ── Damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn unet(model: &Path) -> std::path::PathBuf {
    model.join("unet/model.onnx")
}

/// Leaves one part of so many of a file.
fn cut(file: &Path, parts: usize) {
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..whole.len() / parts]).unwrap();
}

fn folder_instead(file: &Path) {
    let _ = fs::remove_file(file);
    fs::create_dir(file).unwrap();
}

fn link_instead(file: &Path, to: &str) {
    fs::remove_file(file).unwrap();
    symlink(to, file).unwrap();
}

fn fifo_instead(file: &Path) {
    let _ = fs::remove_file(file);
    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
}

fn outside_link(model: &Path, folder: &str) {
    let moved = model.with_file_name("elsewhere");
    fs::rename(model.join(folder), &moved).unwrap();
    symlink(moved, model.join(folder)).unwrap();
}

fn write(model: &Path, graph: Graph) {
    fs::write(unet(model), graph.bytes()).unwrap();
}

fn le(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A denoiser for one latent of 8×8 cells, whose input has another name, type or size, and that does nothing yet.
fn signature(name: &str, element_type: u64, sizes: &[u64]) -> Graph {
    let graph = Graph::default().input(name, element_type, sizes).input("timestep", 7, &[1]);
    let graph = graph.input("encoder_hidden_states", 1, &[1, 77, 32]).gives("out_sample", 1, sizes);
    match name {
        "sample" if element_type == 1 && sizes == [1, 4, 8, 8] => graph,
        _ => graph.with("Cast", &[name], &["out_sample"], integer("to", 1)),
    }
}

fn denoiser() -> Graph {
    signature("sample", 1, &[1, 4, 8, 8])
}

/// A denoiser that adds a number of so many that it has made.
fn filled(count: u64) -> Graph {
    let graph = denoiser().initializer("n", 7, &[1], &le(&[count])).node("ConstantOfShape", &["n"], &["c"]);
    graph.node("ReduceMax", &["c"], &["m"]).node("Add", &["sample", "m"], &["out_sample"])
}

/// A denoiser that makes pictures of a million times a thousand cells on the way.
fn resized() -> Graph {
    let scales: Vec<u8> = [1f32, 1.0, 1e5, 1e5].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let graph = denoiser().initializer("scales", 1, &[4], &scales).node("Resize", &["sample", "", "scales"], &["r"]);
    graph.node("ReduceMax", &["r"], &["m"]).node("Add", &["sample", "m"], &["out_sample"])
}

/// A denoiser that adds a tensor.
fn with_constant(initializer: Vec<u8>) -> Graph {
    denoiser().field(5, initializer).node("Add", &["sample", "w"], &["out_sample"])
}

/// Has the denoiser keep four numbers in a file that is told by these entries; the file w.bin is beside it.
fn keep_outside(model: &Path, entries: &[(&str, &str)]) {
    write(model, with_constant(outside("w", &[4], entries)));
    fs::write(model.join("unet/w.bin"), [0; 16]).unwrap();
}
