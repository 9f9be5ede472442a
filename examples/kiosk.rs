//! A kiosk with fixed prompts: warmed once in the workshop, shipped without its text encoder.
//!
//! ```sh
//! cargo run --example kiosk            # writes kiosk/model, kiosk/prompts and kiosk/*.png
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safelight::{Error, ErrorKind, Format, Model, Pipeline, PromptCache, Request, Result, Target, save};

/// What the buttons say.
const BUTTONS: [&str; 3] = ["a red apple", "a blue house", "a green car"];

fn request(prompt: &str, seed: u64) -> Request {
    Request { prompt: prompt.into(), seed, ..Request::default() }
}

/// In the workshop, with the whole model: what the text encoder makes of each prompt is kept in a folder.
fn warm(target: &Target, model: &Path, prompts: &Path) -> Result<()> {
    let cache = PromptCache::open(prompts)?;
    let mut pipeline = Pipeline::open_with_prompts(target, &Model::open(model)?, &request(BUTTONS[0], 0), cache)?;
    for prompt in BUTTONS {
        let timings = pipeline.generate(&request(prompt, 0))?.timings;
        println!("{prompt}: {} read by the text encoder, {} known", timings.text_misses, timings.text_hits);
    }
    Ok(())
}

/// What travels to the kiosk: the model's folder without the graphs of its text encoder.
fn pack(model: &Path, slim: &Path) -> io::Result<u64> {
    fs::create_dir_all(slim)?;
    let mut bytes = 0;
    for entry in fs::read_dir(model)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            bytes += pack(&path, &slim.join(name))?;
        } else if !name.to_string_lossy().starts_with("text_encoder") {
            bytes += fs::copy(&path, slim.join(name))?;
        }
    }
    Ok(bytes)
}

/// At the kiosk, for years: one pipeline, and a picture for each press of a button.
fn serve(target: &Target, slim: &Path, out: &Path) -> Result<()> {
    let cache = PromptCache::open(&out.join("prompts"))?;
    let model = Model::open_with_prompts(slim, &cache)?;
    let mut pipeline = Pipeline::open_with_prompts(target, &model, &request(BUTTONS[0], 0), cache)?;
    for (seed, prompt) in (1..).zip(BUTTONS) {
        let output = pipeline.generate(&request(prompt, seed))?;
        for picture in &output.pictures {
            save(&out.join(format!("{}.png", prompt.replace(' ', "-"))), &picture.encode(Format::Png)?)?;
        }
        println!("{prompt}: {:.0} ms", output.timings.total_ms);
    }
    // Nothing falls back in silence: a prompt that was not warmed is an error, and the pipeline goes on after it.
    match pipeline.generate(&request("a purple elephant", 1)) {
        Err(error) => println!("not a button: {error}"),
        Ok(_) => return Err(Error::new(ErrorKind::Internal, "there is no text encoder, and yet it was read")),
    }
    pipeline.generate(&request(BUTTONS[0], 1)).map(drop)
}

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("kiosk".into()));
    // An optional provider that one machine has and the other lacks would count as another encoder: the targets must be
    // the same in the workshop and at the kiosk.
    let target = Target::open(Path::new("targets/generic-cpu.yaml"))?;
    let (model, slim) = (Path::new("models/emoji"), out.join("model"));
    warm(&target, model, &out.join("prompts"))?;
    let bytes = pack(model, &slim).map_err(|e| Error::new(ErrorKind::Io, format!("{}: {e}", slim.display())))?;
    println!("{}: {} kB", slim.display(), bytes / 1000);
    serve(&target, &slim, &out)
}
