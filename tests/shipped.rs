//! Every file in targets/ and models/ is what it should be.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use safelight::model::list_models;
use safelight::target::list_targets;
use safelight::{Model, Plan, Request, Stage, Target};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_target_is_valid_and_says_what_it_rests_on() {
    let targets = list_targets(&[root().join("targets")]);
    assert!(!targets.is_empty());
    for path in targets {
        let target = Target::open(&path).unwrap();
        let name = target.name.as_str();
        assert_eq!(path.file_stem().unwrap(), name);
        assert!(!target.sources.is_empty(), "{name}: sources");

        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=target.schema.json\n"), "{name}: first line");
        assert!(text.contains("\nmeasured:"), "{name}: measured");
        let extends = text.lines().find_map(|line| line.strip_prefix("extends: "));
        assert_eq!(target.extends.first().map(String::as_str), extends, "{name}");
        match &target.measure {
            Some(command) => assert!(command.contains(&format!("--target {name} ")), "{name}: {command}"),
            None => assert!(!target.measured.is_empty(), "{name}: unmeasured, without the command that measures"),
        }
    }
}

#[test]
fn what_is_only_detected_differently_runs_as_it_does_elsewhere() {
    let open = |name: &str| Target::open(&root().join("targets").join(name)).unwrap();
    let (plain, vnni) = (open("x86-64.yaml"), open("x86-64-vnni.yaml"));
    assert_eq!(plain.stage(Stage::Denoiser), vnni.stage(Stage::Denoiser));
}

#[test]
fn every_model_is_whole_and_takes_its_own_defaults() {
    let models = list_models(&[root().join("models")]);
    assert!(!models.is_empty());
    let target = Target::open(&root().join("targets/generic-cpu.yaml")).unwrap();
    for path in models {
        let model = Model::open(&path).unwrap();
        assert_eq!(path.file_name().unwrap(), model.name.as_str());
        model.verify().unwrap();
        let plan = Plan::new(&Request::default(), &model, &target).unwrap();
        assert!(plan.warnings.is_empty(), "{}: {:?}", model.name, plan.warnings);
    }
}
