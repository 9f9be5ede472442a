//! When graphs are in memory changes no number, only how much memory there is to have.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;

use safelight::{Cancel, ErrorKind, Event, Model, Pipeline, Request, Residency, Sampling, Target};

fn pipeline(model: &str, extra: &str) -> Pipeline {
    pipeline_for(model, extra, &Request::default())
}

fn pipeline_for(model: &str, extra: &str, usual: &Request) -> Pipeline {
    let target = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
         precision: [int8, fp32, fp16]\n{extra}\n"
    );
    let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
    Pipeline::open_for(&Target::parse(&target).unwrap(), &model, usual).unwrap()
}

fn request(prompt: &str, count: usize) -> Request {
    let sampling = Sampling { sampler: Some("euler_ancestral".into()), ..Sampling::in_steps(2) };
    Request { prompt: prompt.into(), seed: 7, sampling, count, ..Request::default() }
}

/// Latents and pixels of every picture.
fn pictures(pipeline: &mut Pipeline, request: &Request) -> Vec<(Vec<f32>, Vec<u8>)> {
    let pictures = pipeline.generate(request).unwrap().pictures;
    pictures.into_iter().map(|picture| (picture.latent.into_iter().collect(), picture.pixels.into_raw())).collect()
}

/// Resident graphs that were opened for the request, since INT8 graphs compute a little otherwise where sizes are free.
#[test]
fn staged_pictures_are_those_of_resident_graphs() {
    for model in ["tests/models/tiny-sd", "tests/models/tiny-static", "tests/models/tiny-lcm", "models/emoji"] {
        let mut staged = pipeline(model, "residency: staged");
        let several = request("a red apple", 3);
        let guided = Request { guidance: Some(3.0.into()), negative: Some("blue".into()), ..request("a house", 1) };
        let in_batches = Request { batch: 2, ..request("a red apple", 3) };
        for request in [&several, &guided, &in_batches] {
            let mut resident = pipeline_for(model, "residency: resident", request);
            assert!(pictures(&mut staged, request) == pictures(&mut resident, request), "{model}");
        }
    }
}

/// Every graph is opened once a request, for the request's own size, and what each ran is known afterwards.
#[test]
fn staged_graphs_are_opened_with_the_request() {
    let mut staged = pipeline("tests/models/tiny-sd", "residency: staged");
    assert!(staged.graphs().values().all(|opened| opened.providers.is_empty() && opened.sha256.len() == 64));
    for size in [(64, 64), (128, 64), (64, 64)] {
        let output = staged.generate(&Request { size: Some(size), ..request("a red apple", 2) }).unwrap();
        assert!(output.timings.reopen_ms > 0.0 && output.timings.own_ms() > 0.0, "{:?}", output.timings);
        assert!(output.pictures[1].provenance.graphs.values().all(|opened| opened.providers.len() == 1));
    }
    // The prompt is known by now, so that not even the text encoder is opened for the next request.
    assert!(staged.generate(&request("a red apple", 1)).unwrap().timings.text_encoder_ms < 1.0);
}

/// Staged, all pictures are denoised before the first is decoded, and a fault leaves a pipeline that works.
#[test]
fn staged_pictures_are_denoised_before_any_is_decoded() {
    let mut staged = pipeline("tests/models/tiny-sd", "residency: staged");
    let (send, events) = std::sync::mpsc::channel();
    staged.on_event(move |event| {
        let letter = match event {
            Event::Noise { .. } => 'n',
            Event::Decoded { .. } => 'd',
            _ => return,
        };
        let _ = send.send(letter);
    });
    let request = request("a red apple", 3);
    let outcome = staged.generate_each(&request, |_| {
        request.cancel.cancel();
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(events.try_iter().collect::<String>(), "nnnd");
    assert_eq!(staged.generate(&Request { cancel: Cancel::new(), ..request }).unwrap().pictures.len(), 3);
}

#[test]
fn residency_is_checked_like_everything_in_a_target() {
    let parse = |residency: &str| {
        Target::parse(&format!(
            "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
             precision: [int8]\n{residency}\n"
        ))
    };
    assert_eq!(parse("").unwrap().residency, Residency::Resident);
    assert_eq!(parse("residency: staged").unwrap().residency, Residency::Staged);
    let error = parse("residency: stagd").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("`resident` or `staged`"), "{error}");
}

#[cfg(target_os = "linux")]
mod memory {
    use super::*;

    /// Where the child is told what to run.
    const VARIABLE: &str = "SAFELIGHT_TEST_RESIDENCY";

    /// A field of `/proc/self/status`, in KiB.
    fn status(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Not a test of its own: the process whose memory the next one measures.
    #[test]
    fn child() {
        let Some(extra) = std::env::var_os(VARIABLE) else { return };
        let mut pipeline = pipeline("tests/models/tiny-sd", extra.to_str().unwrap());
        let size = Some((2048, 2048));
        let sampling = Sampling::in_steps(1);
        drop(pipeline.generate(&Request { size, sampling, ..request("a red apple", 1) }).unwrap());
        println!("measured {} {}", status("VmHWM"), status("VmRSS"));
    }

    /// Peak while a picture of 2048×2048 is made, and what is kept after it, in MiB.
    fn measure(extra: &str) -> (f64, f64) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "memory::child", "--nocapture", "--test-threads", "1"]).env(VARIABLE, extra);
        let output = child.output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let numbers = told.lines().find_map(|line| line.split_once("measured ")).unwrap_or_else(|| panic!("{told}")).1;
        let mut numbers = numbers.split_whitespace().map(|number| number.parse::<f64>().unwrap() / 1024.0);
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    fn staged_graphs_give_their_memory_back() {
        let (resident, kept) = measure("residency: resident");
        let (staged, left) = measure("residency: staged");
        println!("resident: peak {resident:.0} MiB, kept {kept:.0}; staged: peak {staged:.0}, kept {left:.0}");
        assert!(staged < 0.95 * resident, "peak {staged:.0} MiB staged, {resident:.0} MiB resident");
        assert!(left < 0.5 * kept, "kept {left:.0} MiB staged, {kept:.0} MiB resident");
    }
}
