//! `safelight models`.

use std::fmt::Write as _;
use std::path::Path;

use safelight::{Error, ErrorKind, Model};
use serde_json::{Value, json};

use crate::{folders, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also read every graph and golden and compare its hash with the manifest
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let paths = folders::all_models();
    let models: Vec<_> = paths.iter().map(|path| (path.as_path(), open(path, arguments.verify))).collect();
    if arguments.json {
        let list: Vec<_> = models.iter().map(|(path, model)| as_json(path, model)).collect();
        print(&serde_json::to_string_pretty(&list)?)?;
    } else {
        print(as_text(&models).trim_end())?;
    }
    let broken = models.iter().filter(|(_, model)| model.is_err()).count();
    match broken {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Model, format!("{broken} of {} models cannot be used", models.len())).into()),
    }
}

fn open(path: &Path, verify: bool) -> safelight::Result<Model> {
    let model = Model::open(path)?;
    if verify {
        model.verify()?;
    }
    Ok(model)
}

fn as_text(models: &[(&Path, safelight::Result<Model>)]) -> String {
    let mut text = String::new();
    for (path, model) in models {
        let _ = match model {
            Ok(model) => writeln!(text, "{}", describe(model)),
            Err(error) => writeln!(text, "{}\n  broken: {error}", path.display()),
        };
    }
    if models.is_empty() { "no model is here: expected folders with a model.yaml in models/".into() } else { text }
}

fn describe(model: &Model) -> String {
    let defaults = &model.defaults;
    let mut text = format!(
        "{}\n  {}\n  {}×{}, {} {} steps, guidance {}",
        model.name,
        model.title,
        model.picture.width,
        model.picture.height,
        defaults.sampler,
        defaults.steps,
        defaults.guidance
    );
    for (stage, files) in &model.stages {
        let graph = |(precision, file): (&safelight::Precision, &safelight::model::GraphFile)| {
            format!("{precision} {:.1} MB", file.total_bytes() as f64 / 1e6)
        };
        let graphs: Vec<_> = files.graphs.iter().map(graph).collect();
        let _ = write!(text, "\n  {stage}: {}", graphs.join(", "));
    }
    if !model.goldens.is_empty() {
        let _ = write!(text, "\n  goldens: {}", model.goldens.len());
    }
    text
}

fn as_json(path: &Path, model: &safelight::Result<Model>) -> Value {
    match model {
        Err(error) => json!({ "path": path, "error": error.to_string() }),
        Ok(model) => {
            let mut stages = serde_json::Map::new();
            for (stage, files) in &model.stages {
                let graph = |(precision, file): (&safelight::Precision, &safelight::model::GraphFile)| {
                    let about = json!({ "file": file.path, "bytes": file.total_bytes(), "sha256": file.sha256 });
                    (precision.name().to_owned(), about)
                };
                stages.insert(stage.name().into(), Value::Object(files.graphs.iter().map(graph).collect()));
            }
            let golden = |golden: &safelight::model::Golden| {
                json!({ "prompt": golden.prompt, "seed": golden.seed, "steps": golden.steps,
                    "precision": golden.precision, "file": golden.numbers.path, "sha256": golden.numbers.sha256 })
            };
            let goldens: Vec<_> = model.goldens.iter().map(golden).collect();
            json!({
                "path": path, "name": model.name, "title": model.title, "licence": model.licence,
                "picture": model.picture, "latent": model.latent, "training": model.training.spec(),
                "defaults": model.defaults, "range": model.range, "stages": stages, "goldens": goldens,
                "warnings": model.warnings,
            })
        }
    }
}
