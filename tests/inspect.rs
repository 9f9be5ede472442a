//! What `safelight inspect` tells of graphs, and what of a stranger's graph is refused before ONNX Runtime sees it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use common::{Outcome, Place, describe, manifest_model, repository, tiny};
use protobuf::{Graph, bytes, integer, integers, node, number, outside, tensor, varint};

mod common;
#[path = "common/protobuf.rs"]
mod protobuf;

/// The report as JSON, from a process that cannot open ONNX Runtime.
fn inspected(path: &Path, code: i32) -> Value {
    let place = Place::new();
    let outcome = Outcome::of(place.without_library(["inspect", "--json", &path.display().to_string()]));
    outcome.expect(&path.display().to_string(), code, "");
    assert!(place.left().is_empty(), "{:?}", place.left());
    serde_json::from_slice(&outcome.stdout).unwrap()
}

/// The `onnx` package counts the same.
#[test]
fn shipped_graphs_are_what_the_onnx_package_counts() {
    let golden: Value = serde_json::from_slice(include_bytes!("golden/inspect.json")).unwrap();
    let folders = ["models/emoji", "tests/models/tiny-sd"].map(|folder| inspected(&repository().join(folder), 0));
    let told: Vec<&Value> = folders.iter().flat_map(|folder| folder["graphs"].as_array().unwrap()).collect();
    let expected = golden["graphs"].as_array().unwrap();
    assert_eq!(expected.len(), 9);
    for expected in expected {
        let file = expected["file"].as_str().unwrap();
        let graph = told.iter().find(|graph| graph["file"].as_str().unwrap().ends_with(file)).unwrap();
        for field in ["ir_version", "nodes", "parameters", "weight_bytes", "macs", "macs_by_arithmetic"] {
            assert_eq!(graph[field], expected[field], "{file}: {field}");
        }
        assert_eq!(graph["operators"]["ai.onnx"], expected["operators"], "{file}");
        assert_eq!(graph["opsets"]["ai.onnx"], expected["opset"], "{file}");
        for list in ["inputs", "outputs"] {
            let names: Vec<_> = graph[list].as_array().unwrap().iter().map(|tensor| tensor["name"].clone()).collect();
            assert_eq!(Value::from(names), expected[list], "{file}");
        }
        assert_eq!((&graph["unknown_tensors"], &graph["uncounted_products"]), (&0.into(), &0.into()), "{file}");
    }
}

#[test]
fn a_model_is_told_with_its_training_and_memory() {
    let told = inspected(&repository().join("models/emoji"), 0);
    assert_eq!((&told["layout"], &told["model"]["tokens"]), (&"manifest".into(), &16.into()));
    assert_eq!(told["model"]["training"]["diffusion"]["prediction"], "v_prediction");
    let (peak, staged) = (&told["forecast"]["peak_bytes"], &told["forecast"]["staged_peak_bytes"]);
    assert!(peak.as_u64() > staged.as_u64() && staged.as_u64() > Some(34 << 20), "{peak} {staged}");
    let denoiser = told["graphs"].as_array().unwrap().iter().find(|graph| graph["stage"] == "denoiser").unwrap();
    assert_eq!((&denoiser["precision"], &denoiser["batches_guidance"]), (&"int8".into(), &true.into()));
    assert_eq!(denoiser["inputs"][0]["sizes"], serde_json::json!(["batch", "24", "8", "8"]));
    assert_eq!(denoiser["free_axes"], serde_json::json!(["batch"]));
    assert!(denoiser["memory"]["opened_bytes"].as_u64().unwrap() > denoiser["bytes"].as_u64().unwrap());
}

#[test]
fn every_layout_is_known() {
    let layout = |path: &Path| inspected(path, 0)["layout"].clone();
    assert_eq!(layout(&tiny("tiny-sd")), "optimum");
    assert_eq!(layout(&tiny("tiny-sd/unet")), "graphs");
    assert_eq!(layout(&tiny("tiny-sd/unet/model.onnx")), "graph");
}

#[test]
fn a_loose_graph_is_told_by_what_it_looks_like() {
    for (file, stage) in [("text_encoder", "text_encoder"), ("unet", "denoiser"), ("vae_decoder", "decoder")] {
        let told = inspected(&tiny(&format!("tiny-static/{file}/model.onnx")), 0);
        assert_eq!(told["graphs"][0]["stage"], stage, "{file}");
    }
    let denoiser = inspected(&tiny("tiny-static/unet/model.onnx"), 0)["graphs"][0].clone();
    assert_eq!(denoiser["batches_guidance"], false, "it takes one latent");
    let outside = inspected(&tiny("external/model.onnx"), 0)["graphs"][0]["outside"].clone();
    assert_eq!(outside, serde_json::json!([{ "name": "model.onnx_data", "bytes": 7424 }]));
    let (place, graph) = (Place::new(), Graph::default().input("sample", 1, &[1]).node("Cos", &["sample"], &["y"]));
    let told = inspected(&place.input("odd.onnx", graph.output("y").bytes()), 0)["graphs"][0].clone();
    assert_eq!(told["stage"], Value::Null);
    assert!(told["differs"].as_str().unwrap().starts_with("as a "), "{told}");
}

#[test]
fn people_are_told_shares_and_tables() {
    let place = Place::new();
    let outcome =
        Outcome::of(place.without_library(["inspect", "models/emoji"].map(|word| {
            if word == "inspect" { word.to_owned() } else { repository().join(word).display().to_string() }
        })));
    outcome.expect("emoji", 0, "");
    let text = String::from_utf8(outcome.stdout).unwrap();
    for told in [
        "a model with a manifest",
        "unet.int8.onnx: denoiser, int8",
        "both predictions in one run",
        "97.6 % ████",
        "/down_conv/first/Conv ",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let place = Place::new();
    let empty = place.inputs().join("empty");
    fs::create_dir(&empty).unwrap();
    for (path, telling) in [
        (place.inputs().join("nonesuch"), "cannot be read"),
        (empty, "holds neither model.yaml, nor model_index.json, nor graphs"),
    ] {
        Outcome::of(place.without_library(["inspect".into(), path])).expect(telling, 3, telling);
    }
}

/// Files that are no graphs, and folders whose description is wrong, are told with what is wrong.
#[test]
fn what_cannot_be_read_is_refused_and_told() {
    let place = Place::new();
    let broken = place.copy_of("tiny-sd");
    fs::remove_file(broken.join("scheduler/scheduler_config.json")).unwrap();
    let text = place.input("page.onnx", "<!DOCTYPE html>");
    let noise = place.input("noise.onnx", [0xa5; 100]);
    for (path, telling, graphs) in [
        (text, "is a web page", 1),
        (noise, "is not an ONNX graph, or is damaged", 1),
        ("/dev/zero".into(), "is not a regular file", 1),
        (broken, "scheduler_config.json: is missing", 3),
    ] {
        let told = inspected(&path, 3);
        assert!(told.to_string().contains(telling), "{told}");
        assert_eq!(told["graphs"].as_array().unwrap().len(), graphs, "{telling}");
    }
}

// ── Refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A graph of one input, "x", and one output, "y".
fn graph() -> Graph {
    Graph::default().input("x", 1, &[1, 4, 8, 8]).output("y")
}

/// A quantisation by this scale.
fn quantised(scale: f32) -> Graph {
    graph().floats("s", &[1.0, scale]).node("QuantizeLinear", &["x", "s"], &["q"]).node(
        "DequantizeLinear",
        &["q", "s"],
        &["y"],
    )
}

fn chooses_between(branch: Vec<u8>) -> Graph {
    let attribute = |name| [bytes(1, name), bytes(6, &branch), number(20, 5)].concat();
    let attributes = [attribute("then_branch"), attribute("else_branch")];
    graph().field(1, node("", "If", &["x"], &["y"], &attributes))
}

/// As many nodes as are given, one after the other.
fn chain(length: usize) -> Graph {
    let names: Vec<_> = (0..=length).map(|index| if index == 0 { "x".into() } else { format!("t{index}") }).collect();
    let nodes = names.windows(2).map(|pair| bytes(1, node("", "Cos", &[&pair[0]], &[&pair[1]], &[])));
    let mut graph = Graph::default().input("x", 1, &[1]).output(&names[length]);
    graph.graph.extend(nodes.flatten());
    graph
}

/// Graphs that are refused, each with the fault and what is told.
fn refused_graphs() -> Vec<(Graph, &'static str, &'static str)> {
    let inner = |operator: &str| bytes(1, node("", operator, &["x"], &["z"], &[]));
    let constant = |content: Vec<u8>| {
        let attribute = [bytes(1, "value"), content, number(20, 4)].concat();
        graph().node("Cos", &["x"], &["y"]).field(1, node("", "Constant", &[], &["c"], &[attribute]))
    };
    let weights = |sizes: &[u64], entries: &[(&str, &str)]| {
        graph().field(5, outside("w", sizes, entries)).node("Add", &["x", "w"], &["y"])
    };
    #[rustfmt::skip]
    let cases = vec![
        (graph().with("LayerNormalization", &["x", "x", ""], &["y"], integer("axis", -1)), "empty_input", "is a LayerNormalization whose input 2 is empty; remove the empty name"),
        (graph().node("Einsum", &["x", ""], &["y"]), "empty_input", "is an Einsum whose input 1 is empty"),
        (graph().with("Transpose", &["x"], &["y"], integers("perm", &[0, 2, 1])), "permutation", "orders a tensor of 4 axes by [0, 2, 1]"),
        (graph().with("Transpose", &["x"], &["y"], integers("perm", &[0, 1, 1, 9])), "permutation", "by [0, 1, 1, 9]"),
        (graph().with("DepthToSpace", &["x"], &["y"], integer("blocksize", 1 << 32)), "block_size", "has block size 4294967296"),
        (graph().with("SpaceToDepth", &["x"], &["y"], integer("blocksize", 0)), "block_size", "has block size 0"),
        (graph().node("Loop", &["x"], &["y"]), "loop", "is a Loop, which may run for ever"),
        (graph().node("Scan", &["x"], &["y"]), "loop", "is a Scan"),
        (chooses_between(inner("Cos").repeat(17)), "branch", "chooses between graphs, one of 17 nodes"),
        (chooses_between(bytes(1, node("", "Einsum", &["x", ""], &["z"], &[]))), "empty_input", "is an Einsum whose input 1 is empty"),
        (chooses_between(inner("Loop")), "loop", "is a Loop"),
        (graph().node("RandomNormalLike", &["x"], &["y"]), "random", "no seed would repeat its pictures"),
        (graph().field(1, node("com.microsoft", "EPContext", &["x"], &["y"], &[])), "compiled", "safelight warm compiles it here"),
        (graph().field(1, node("my.own", "Cos", &["x"], &["y"], &[])), "domain", "is Cos of domain \"my.own\"; known are ai.onnx"),
        (graph().node("Cosy", &["x"], &["y"]), "operator", "is \"Cosy\", which is no known operator of ai.onnx"),
        (graph().field(1, node("com.microsoft", "QuickGelu", &["x"], &["y"], &[])), "opset", "of which the graph tells no opset"),
        (Graph { opset: Some(999), ..graph() }.node("Cos", &["x"], &["y"]), "opset", "is of opset 999"),
        (graph().node("Cos", &["x"], &["y"]).model(25, bytes(1, "own")), "functions", "it defines 1 operators of its own; inline them"),
        (graph().node("Cos", &["x"], &["y"]).field(15, b""), "storage", "1 sparse initializers"),
        (constant(bytes(22, b"")), "storage", "keeps a tensor in attribute \"value\" sparsely or in another file"),
        (constant(bytes(5, outside("c", &[1], &[("location", "/etc/passwd")]))), "storage", "in another file"),
        (graph().floats("w", &[1.0]).floats("w", &[1.0]).node("Add", &["x", "w"], &["y"]), "repeated", "\"w\" is stored twice"),
        (graph().node("Cos", &["x"], &["y"]).node("Sin", &["x"], &["y"]), "repeated", "\"y\" is made twice"),
        (graph().node("Add", &["x", "ghost"], &["y"]), "missing", "takes \"ghost\", which nothing makes"),
        (graph().node("Cos", &["x"], &["z"]), "missing", "\"y\" is an output that nothing makes"),
        (graph().node("Add", &["x", "b"], &["a"]).node("Cos", &["a"], &["b"]).node("Cos", &["b"], &["y"]), "cycle", "3 nodes wait for each other"),
        (graph().field(5, tensor("w", 1, &[1 << 40, 1 << 40], b"")).node("Cos", &["x"], &["y"]), "size", "is an initializer of size [1099511627776"),
        (graph().field(5, tensor("w", 1, &[u64::MAX], b"")).node("Cos", &["x"], &["y"]), "size", "is an initializer of size"),
        (graph().field(5, tensor("w", 1, &[1; 100], b"")).node("Cos", &["x"], &["y"]), "size", "[1, 1, 1, 1, 1, 1, 1, 1, …]"),
        (graph().input("z", 1, &[1 << 62]).node("Cos", &["x"], &["y"]), "size", "\"z\" is an input of size"),
        (graph().field(5, tensor("w", 1, &[4], &[0; 8])).node("Add", &["x", "w"], &["y"]), "length", "takes 16 bytes, of which 8 are there"),
        (weights(&[4], &[("location", "w.bin"), ("offset", "8")]), "length", "takes 16 bytes, of which 8 are there"),
        (weights(&[4], &[("location", "w.bin"), ("offset", "-8")]), "length", "lies at offset \"-8\" with length \"\", which is nowhere in a file"),
        (weights(&[4], &[("location", "w.bin"), ("offset", "18446744073709551615")]), "length", "which is nowhere in a file"),
        (weights(&[4], &[("location", "w.bin"), ("length", "4611686018427387904")]), "length", "takes 16 bytes, but is said to have 4611686018427387904 in its file"),
        (weights(&[4], &[("location", "../secret")]), "file", "is not a plain path inside"),
        (weights(&[4], &[("location", "/etc/passwd")]), "file", "is not a plain path inside"),
        (weights(&[4], &[("location", "w.bin\0x")]), "file", "is not a plain path inside"),
        (weights(&[4], &[("offset", "0")]), "file", "is not a plain path inside"),
        (weights(&[4], &[("location", "absent.bin")]), "file", "is missing"),
        (quantised(0.0), "scale", "\"s\" is a quantisation scale that is 0;"),
        (quantised(-0.5), "scale", "that is -0.5; quantise it again"),
        (quantised(f32::NAN), "scale", "that is NaN"),
        (quantised(f32::INFINITY), "scale", "that is inf"),
        (chain(70_000), "file", "has more than 65536 nodes"),
    ];
    cases
}

#[test]
fn every_fault_is_found_and_told() {
    let place = Place::new();
    let file = |graph: Graph| {
        place.input("w.bin", [0; 16]);
        place.input("graph.onnx", graph.bytes())
    };
    assert!(inspected(&file(graph().node("Cos", &["x"], &["y"])), 0)["graphs"][0]["refusals"] == serde_json::json!([]));
    for (graph, fault, telling) in refused_graphs() {
        let path = file(graph);
        let told = inspected(&path, 3);
        let refusals = told["graphs"][0]["refusals"].as_array().unwrap();
        assert!(refusals.iter().any(|refusal| refusal["fault"] == fault), "{telling}: {refusals:?}");
        let outcome = Outcome::of(place.without_library(["inspect".into(), path]));
        outcome.expect(telling, 3, "it would be refused, for");
        let text = String::from_utf8(outcome.stdout).unwrap();
        assert!(text.contains(telling), "{telling}: {text}");
    }
}

/// A gigabyte of weights in the graph's own file is skipped, and takes neither time nor memory.
#[test]
fn weights_are_not_read() {
    const WEIGHTS: u64 = 1 << 30;
    let place = Place::new();
    let head = |raw: &mut Vec<u8>| {
        varint(9 << 3 | 2, raw);
        varint(WEIGHTS, raw);
    };
    // Every message around the weights ends where they end; the nodes come in a second part of the graph.
    let mut tensor = [number(1, WEIGHTS / 4), number(2, 1), bytes(8, "w")].concat();
    head(&mut tensor);
    let mut initializer = Vec::new();
    varint(5 << 3 | 2, &mut initializer);
    varint(tensor.len() as u64 + WEIGHTS, &mut initializer);
    let mut file = [number(1, 8), bytes(8, number(2, 17))].concat();
    varint(7 << 3 | 2, &mut file);
    varint((initializer.len() + tensor.len()) as u64 + WEIGHTS, &mut file);
    file.extend([initializer, tensor].concat());
    let path = place.input("large.onnx", &file);
    let rest = bytes(7, Graph::default().input("x", 1, &[1]).output("y").node("Cos", &["x"], &["y"]).graph);
    let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    open.set_len(file.len() as u64 + WEIGHTS).unwrap();
    open.write_all(&rest).unwrap();
    let start = Instant::now();
    let told = inspected(&path, 0)["graphs"][0].clone();
    assert_eq!((&told["parameters"], &told["nodes"]), (&(WEIGHTS / 4).into(), &1.into()));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn graphs_that_only_look_odd_are_not_refused() {
    let place = Place::new();
    place.input("w.bin", [0; 16]);
    let inner = bytes(1, node("", "Squeeze", &["x"], &["z"], &[]));
    let small = graph().field(5, outside("w", &[4], &[("location", "w.bin"), ("offset", "0"), ("length", "16")]));
    for graph in [
        chooses_between(inner),
        quantised(0.5),
        small.node("Add", &["x", "w"], &["y"]),
        graph().node("Clip", &["x", "", ""], &["y"]),
        graph().with("Transpose", &["x"], &["y"], integers("perm", &[0, 2, 3, 1])),
        chain(2000),
    ] {
        inspected(&place.input("graph.onnx", graph.bytes()), 0);
    }
}

/// Opened, the first of these crashes ONNX Runtime 1.31.
#[test]
fn generate_refuses_a_graph_that_crashes_the_library() {
    let crashing = fs::read(tiny("faulty/layernorm_empty_bias.onnx")).unwrap();
    let looping = graph().node("Loop", &["x"], &["y"]).bytes();
    for (graph, telling) in [
        (crashing, "decoder.onnx: \"y\" is a LayerNormalization whose input 2 is empty"),
        (looping, "may run for ever"),
    ] {
        let place = Place::new();
        let model = manifest_model(&place);
        fs::write(model.join("decoder.onnx"), graph).unwrap();
        describe(&model);
        let model = model.display().to_string();
        let request = ["generate", "a red apple", "--seed", "1", "--steps", "1", "--model", &model];
        Outcome::of(place.command(request)).expect(telling, 3, telling);
        // A dry run refuses the same, and opens no library for it.
        Outcome::of(place.without_library(request.iter().chain(&["--dry-run"]))).expect(telling, 3, telling);
        assert_eq!(place.left(), [""; 0]);
    }
}

/// Weights of nobody's graph may be a hard link to any file of the disk.
#[cfg(unix)]
#[test]
fn weights_that_nobody_vouches_for_are_no_links() {
    let place = Place::new();
    let folder: PathBuf = place.copy_of("external");
    let weights = folder.join("model.onnx_data");
    let away = place.inputs().join("away");
    fs::rename(&weights, &away).unwrap();
    let refused = |telling: &str| {
        let told = inspected(&folder.join("model.onnx"), 3).to_string();
        assert!(told.contains(telling), "{telling}: {told}");
    };
    fs::hard_link(&away, &weights).unwrap();
    refused("has other hard links");
    fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink(&away, &weights).unwrap();
    refused("is a link that leaves the model folder");
}
