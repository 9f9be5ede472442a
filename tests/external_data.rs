//! Graphs that keep their weights in files of their own.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use safelight::model::{DataFile, GraphFile};
use safelight::{ErrorKind, Model, Pipeline, Request, Sampling, Target};

mod common;

use common::{copy_folder, repository, tiny};

fn latent(model: &Path) -> Vec<f32> {
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    let mut pipeline = Pipeline::open(&target.with_threads(1), &Model::open(model).unwrap()).unwrap();
    let request = Request { prompt: "a red apple".into(), sampling: Sampling::in_steps(2), ..Request::default() };
    pipeline.generate(&request).unwrap().pictures.remove(0).latent.into_iter().collect()
}

fn graph(folder: &Path) -> GraphFile {
    let path = folder.join("model.onnx");
    GraphFile { bytes: path.metadata().unwrap().len(), path, sha256: None, data: vec![] }
}

fn weights(folder: &Path) -> PathBuf {
    folder.join("model.onnx_data")
}

#[test]
fn weights_outside_the_graph_are_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&tiny("tiny-sd"), &model);
    copy_folder(&tiny("external"), &model.join("unet"));
    assert_eq!(latent(&model), latent(&tiny("tiny-sd")));
    let opened = Model::open(&model).unwrap();
    let unet = &opened.stages[&safelight::Stage::Denoiser].graphs[&safelight::Precision::Fp32];
    let both = unet.path.metadata().unwrap().len() + weights(&model.join("unet")).metadata().unwrap().len();
    assert_eq!(unet.total_bytes(), both);
}

#[test]
fn a_manifest_vouches_for_weights_outside_the_graph() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    copy_folder(&tiny("external"), &folder);
    let whole = graph(&folder).verify().unwrap();
    let promised = sha256(&fs::read(weights(&folder)).unwrap());
    let bytes = weights(&folder).metadata().unwrap().len();
    let data = vec![DataFile { path: weights(&folder), bytes, sha256: Some(promised.clone()) }];
    let listed = GraphFile { sha256: Some(whole.clone()), data, ..graph(&folder) };
    assert_eq!(listed.verify().unwrap(), whole);

    let unlisted = GraphFile { data: vec![], ..listed.clone() }.verify().unwrap_err();
    assert!(unlisted.to_string().contains("does not list under data"), "{unlisted}");

    let mut changed = fs::read(weights(&folder)).unwrap();
    changed[100] ^= 1;
    fs::write(weights(&folder), changed).unwrap();
    let changed = listed.verify().unwrap_err();
    assert!(changed.to_string().contains(&promised), "{changed}");
}

#[cfg(unix)]
#[test]
fn weights_must_lie_beside_the_graph() {
    let folder = tempfile::tempdir().unwrap();
    let beside = folder.path().canonicalize().unwrap().join("beside");
    copy_folder(&tiny("external"), &beside);
    let away = folder.path().join("away");
    fs::rename(weights(&beside), &away).unwrap();
    let told = || {
        let error = graph(&beside).verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        error.to_string()
    };
    assert!(told().contains("is missing"), "{}", told());
    std::os::unix::fs::symlink(&away, weights(&beside)).unwrap();
    assert!(told().contains("is a link that leaves"), "{}", told());
    fs::remove_file(weights(&beside)).unwrap();
    fs::hard_link(&away, weights(&beside)).unwrap();
    assert!(told().contains("has other hard links"), "{}", told());
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ONNX Runtime maps weights: cut short they would end this process by SIGBUS, overwritten they would change the picture
/// without a word. Replaced by renaming, as package managers do, they stay what they were.
#[cfg(unix)]
#[test]
fn weights_that_change_under_an_open_model_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&tiny("tiny-sd"), &model);
    copy_folder(&tiny("external"), &model.join("unet"));
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    let open = || Pipeline::open(&target, &Model::open(&model).unwrap()).unwrap();
    let request = Request { prompt: "a red apple".into(), sampling: Sampling::in_steps(1), ..Request::default() };
    let file = weights(&model.join("unet"));
    let whole = fs::read(&file).unwrap();

    let mut pipeline = open();
    let expected = pipeline.generate(&request).unwrap().pictures.remove(0).latent;
    let other = file.with_extension("new");
    fs::write(&other, vec![0; whole.len()]).unwrap();
    fs::rename(&other, &file).unwrap();
    assert_eq!(pipeline.generate(&request).unwrap().pictures.remove(0).latent, expected);

    let damages: [fn(&Path, usize); 2] = [
        |file, _| fs::File::options().write(true).open(file).unwrap().set_len(100).unwrap(),
        |file, bytes| fs::write(file, vec![0; bytes]).unwrap(),
    ];
    for damage in damages {
        fs::write(&file, &whole).unwrap();
        let mut pipeline = open();
        pipeline.generate(&request).unwrap();
        damage(&file, whole.len());
        let error = pipeline.generate(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains("model.onnx_data: was written to while it was open"), "{error}");
    }
}
