//! `safelight targets`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use safelight::{Error, ErrorKind, Stage, Target};
use serde_json::{Value, json};

use crate::{folders, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files to check instead of the targets that are here
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let paths = if arguments.files.is_empty() { folders::all_targets() } else { arguments.files.clone() };
    let targets: Vec<_> = paths.iter().map(|path| (path.as_path(), Target::open(path))).collect();
    if arguments.json {
        let list: Vec<_> = targets.iter().map(|(path, target)| as_json(path, target)).collect();
        print(&serde_json::to_string_pretty(&list)?)?;
    } else {
        print(as_text(&targets).trim_end())?;
    }
    let broken = targets.iter().filter(|(_, target)| target.is_err()).count();
    match broken {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Usage, format!("{broken} of {} targets cannot be used", targets.len())).into()),
    }
}

fn as_text(targets: &[(&Path, safelight::Result<Target>)]) -> String {
    let mut text = String::new();
    for (path, target) in targets {
        let _ = match target {
            Ok(target) => {
                let settings = target.stage(Stage::Denoiser);
                let providers: Vec<_> = settings.providers.iter().map(|provider| provider.name.to_string()).collect();
                let precision: Vec<_> = settings.precision.iter().map(|precision| precision.name()).collect();
                writeln!(
                    text,
                    "{}\n  {}\n  {}; {}",
                    target.name,
                    target.title,
                    providers.join(", "),
                    precision.join(", ")
                )
            }
            Err(error) => writeln!(text, "{}\n  broken: {error}", folders::stem(path)),
        };
    }
    if targets.is_empty() { "no target is here: expected YAML files in targets/".into() } else { text }
}

fn as_json(path: &Path, target: &safelight::Result<Target>) -> Value {
    match target {
        Ok(target) => json!({ "path": path, "target": target }),
        Err(error) => json!({ "path": path, "error": error.to_string() }),
    }
}
