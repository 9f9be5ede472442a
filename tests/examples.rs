//! The examples as a stranger runs them, from the repository's folder, and what they make.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use common::repository;
use image::{Rgb, RgbImage};
use safelight::{Model, Pipeline, Request, Sampling, Target};
use tempfile::TempDir;

mod common;

/// What one run of an example left and told.
struct Ran {
    out: TempDir,
    stdout: String,
}

impl Ran {
    fn of(example: &str) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_safelight")).with_file_name("examples").join(example);
        assert!(program.exists(), "{} is not built: run cargo build --examples first", program.display());
        let [out, home] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let mut command = Command::new(program);
        for variable in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env(variable, home.path());
        }
        let output = command.arg(out.path()).current_dir(repository()).output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{example}: {}\n{stdout}\n{stderr}", output.status);
        assert_eq!(stderr, "", "{example}");
        assert_eq!(home.path().read_dir().unwrap().count(), 0, "{example} has left something in the user's folders");
        Self { out, stdout }
    }

    fn picture(&self, name: &str) -> RgbImage {
        image::open(self.out.path().join(name)).unwrap().into_rgb8()
    }

    fn tells(&self, what: &str) {
        assert!(self.stdout.contains(what), "expected \"{what}\" in:\n{}", self.stdout);
    }
}

/// The picture that the shipped model makes of a request with all of its graphs.
fn expected(prompt: &str, seed: u64, steps: usize) -> RgbImage {
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    let model = Model::open(&repository().join("models/emoji")).unwrap();
    let request = Request { prompt: prompt.into(), seed, sampling: Sampling::in_steps(steps), ..Request::default() };
    Pipeline::open(&target, &model).unwrap().generate(&request).unwrap().pictures.remove(0).pixels
}

#[test]
fn kiosk_needs_no_text_encoder_and_makes_the_same_pictures() {
    let ran = Ran::of("kiosk");
    for (seed, prompt) in [(1, "a red apple"), (2, "a blue house"), (3, "a green car")] {
        let found = ran.picture(&format!("{}.png", prompt.replace(' ', "-")));
        assert_eq!(found, expected(prompt, seed, 4), "{prompt}");
    }
    assert!(ran.out.path().join("model/unet.int8.onnx").is_file());
    assert!(!ran.out.path().join("model/text_encoder.int8.onnx").exists());
    ran.tells("not a button: \"a purple elephant\" is not in the prompt cache");
}

#[test]
fn camera_makes_a_picture_of_the_last_frame_whatever_it_had_to_drop() {
    let ran = Ran::of("camera");
    let pictures = std::fs::read_dir(ran.out.path()).unwrap().count();
    assert_eq!(ran.stdout.lines().filter(|line| line.contains("ms late")).count(), pictures);
    let dropped = ran.stdout.lines().map(|line| {
        let (_, told) = line.rsplit_once("late, ").unwrap();
        told.split(' ').next().unwrap().parse::<usize>().unwrap()
    });
    assert_eq!(dropped.sum::<usize>() + pictures, 24, "{}", ran.stdout);
    // The fruit ripens: what the frame shows is what the picture shows.
    let Rgb([red, green, _]) = *ran.picture("frame-0023.png").get_pixel(64, 70);
    assert!(red > 200 && red > green, "{red}, {green}");
}

#[test]
fn gui_progress_cancels_one_and_finishes_the_other() {
    let ran = Ran::of("gui_progress");
    ran.tells("step 1 of 50\ncancelled, and nothing is left of it\n");
    ran.tells("[########] step 8 of 8");
    let made = ran.picture("apple.png");
    assert_eq!(made, expected("a red apple", 7, 8));
    // The last preview is of the sixth step, where the apple is one already.
    let [preview, made] = [ran.picture("preview.png"), made].map(|picture| *picture.get_pixel(64, 75));
    assert!((0..3).all(|channel| preview.0[channel].abs_diff(made.0[channel]) < 60), "{preview:?}, {made:?}");
}

#[test]
fn own_denoiser_draws_what_it_knows() {
    let album = Ran::of("own_denoiser").picture("album.png");
    assert_eq!(album.dimensions(), (8 * 64, 64));
    let (sun, house, tree) = ([255, 230, 51], [217, 89, 77], [38, 166, 51]);
    for (i, expected) in [tree, house, tree, house, tree, house, sun, house].into_iter().enumerate() {
        // The mean of a patch that lies within each of the drawings; 0.05 of blur is 6 of 255.
        let y = if expected == tree { 24 } else { 38 };
        let patch = (0..64).map(|j| album.get_pixel(64 * i as u32 + 28 + j % 8, y - 4 + j / 8).0);
        let mean = [0, 1, 2].map(|channel| patch.clone().map(|pixel| u32::from(pixel[channel])).sum::<u32>() / 64);
        let worst = (0..3).map(|channel| mean[channel].abs_diff(expected[channel])).max().unwrap();
        assert!(worst <= 6, "drawing {i}: found {mean:?}, expected {expected:?}");
    }
}

#[test]
fn own_sampler_is_told_of_and_takes_its_option() {
    let ran = Ran::of("own_sampler");
    ran.tells("relay: steady until step 2, then ddim, own {\"steady\": \"examples/own_sampler.rs\"}");
    ran.tells("known: ddim, own {}");
    let [alone, fresh, relay, known] = ["alone", "fresh", "relay", "known"].map(|name| {
        let picture = ran.picture(&format!("apple-{name}.png"));
        let Rgb([red, green, blue]) = *picture.get_pixel(64, 75);
        assert!(red > 180 && green < 110 && blue < 110, "{name}: {red}, {green}, {blue}");
        picture
    });
    assert!(alone != fresh && alone != relay && alone != known && fresh != relay);
}
