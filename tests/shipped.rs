//! Every file in targets/ and models/ is what it should be.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use safelight::model::list_models;
use safelight::target::list_targets;
use safelight::{Model, Plan, Request, Target};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_target_is_valid() {
    let targets = list_targets(&[root().join("targets")]);
    assert!(!targets.is_empty());
    for path in targets {
        Target::open(&path).unwrap();
    }
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
