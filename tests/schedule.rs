//! `schedule`: the levels of a request as a table, as JSON and as a drawing, where no library could be opened.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use common::{Outcome, Place, copy_folder, repository, tiny};
use safelight::options::Options;
use safelight::sampler::find_sampler;
use safelight::schedule::{Schedule, find_schedule};
use safelight::{Model, Plan, Request, Sampling, Target};
use serde_json::Value;

mod common;

fn schedule(place: &Place, model: &Path, arguments: &[&str]) -> Outcome {
    let mut command = place.without_library(["schedule", "--model"]);
    command.arg(model).args(arguments);
    Outcome::of(command)
}

fn emoji() -> std::path::PathBuf {
    repository().join("models/emoji")
}

fn text(outcome: &Outcome) -> String {
    outcome.expect("schedule", 0, "");
    String::from_utf8(outcome.stdout.clone()).unwrap()
}

fn json(model: &Path, arguments: &[&str]) -> Value {
    let outcome = schedule(&Place::new(), model, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text(&outcome)).unwrap()
}

fn svg(model: &Path, arguments: &[&str]) -> String {
    let place = Place::new();
    let outcome = schedule(&place, model, &[arguments, &["--plot", "levels.svg"]].concat());
    assert_eq!(text(&outcome), "levels.svg\n");
    assert_eq!(place.left(), ["work/levels.svg"]);
    std::fs::read_to_string(place.work().join("levels.svg")).unwrap()
}

/// The levels of every run, those between two runs twice.
fn levels(about: &Value) -> Vec<&Value> {
    about["runs"].as_array().unwrap().iter().flat_map(|run| run["levels"].as_array().unwrap()).collect()
}

#[track_caller]
fn assert_close(found: &Value, expected: f64) {
    match found.as_f64() {
        Some(found) => assert!((found - expected).abs() <= 1e-14 * expected.abs(), "{found} instead of {expected}"),
        None => assert!(found.is_null() && expected.is_infinite(), "{found} instead of {expected}"),
    }
}

const RELAY: &[&str] = &[
    "--sampler",
    "euler_ancestral until sigma 2, then dpmpp_2m",
    "--schedule",
    "karras",
    "--steps",
    "20",
    "--restart",
    "3..0.3:4x2",
];

#[test]
fn json_has_the_levels_of_the_library() {
    for (folder, sampler, timetable, steps) in [
        (tiny("tiny-sd"), "dpmpp_2m", "karras", 20),
        (tiny("tiny-sd"), "euler", "linspace", 7),
        (tiny("tiny-sd"), "ddim", "leading", 50),
        (emoji(), "lcm", "lcm", 4),
        (emoji(), "euler", "trailing", 1),
    ] {
        let count = steps.to_string();
        let about = json(&folder, &["--sampler", sampler, "--schedule", timetable, "--steps", &count]);
        let (training, method) = (Model::open(&folder).unwrap().training, find_sampler(sampler).unwrap());
        let timetable = find_schedule(timetable).unwrap();
        let options = Options::resolve(&[("", timetable.options)], &[].into()).unwrap();
        let schedule = Schedule::new(&training, timetable, method.grid, steps, &options).unwrap();
        let found = levels(&about);
        assert_eq!(found.len(), steps + 1, "{sampler}");
        for (found, level) in found.into_iter().zip(&schedule.levels) {
            assert_close(&found["timestep"], level.timestep);
            assert_close(&found["alpha"], level.alpha);
            assert_close(&found["sigma"], level.sigma);
            assert_close(&found["own_sigma"], training.own_sigma(*level));
            assert_close(&found["snr_db"], 10.0 * (2.0 * level.half_log_snr()) / std::f64::consts::LN_10);
        }
        assert_eq!((&about["steps"], &about["schedule"]), (&steps.into(), &timetable.name.into()));
        assert_close(&about["initial_scale"], schedule.initial_scale);
    }
}

#[test]
fn json_is_what_a_picture_would_be_planned_with() {
    let about = json(&tiny("tiny-sd"), &[RELAY, &["--eta", "0.5", "--option", "rho=5", "--guidance", "3"]].concat());
    let model = Model::open(&tiny("tiny-sd")).unwrap();
    let target = Target::open(&repository().join("targets/x86-64.yaml")).unwrap();
    let restart = safelight::trajectory::Restart { high: 3.0, low: 0.3, steps: 4, times: 2 };
    let number = |name: &str, value: f64| (name.to_owned(), safelight::Curve::constant(value));
    let sampling = Sampling {
        sampler: Some(RELAY[1].into()),
        schedule: Some("karras".into()),
        steps: Some(20),
        restarts: vec![restart],
        options: [number("eta", 0.5), number("rho", 5.0)].into(),
        ..Sampling::default()
    };
    let guidance = Some(safelight::Curve::constant(3.0));
    let plan = Plan::new(&Request { sampling, guidance, ..Request::default() }, &model, &target).unwrap();
    assert_eq!(about["sampler"], plan.relay.to_string());
    assert_eq!(about["options"], serde_json::to_value(plan.options.named()).unwrap());
    assert_eq!(about["steps"], 28);
    assert_eq!(about["evaluations"], plan.trajectory.evaluations().unwrap());
    let runs = about["runs"].as_array().unwrap();
    assert_eq!(runs.len(), plan.trajectory.runs().count());
    for (found, (method, levels, rises)) in runs.iter().zip(plan.trajectory.runs()) {
        assert_eq!((&found["sampler"], &found["rises"]), (&method.name.into(), &rises.into()));
        let found: Vec<_> = found["levels"].as_array().unwrap().iter().map(|level| &level["sigma"]).collect();
        assert_eq!(found.len(), levels.len());
        found.into_iter().zip(levels).for_each(|(found, level)| assert_close(found, level.sigma));
    }
}

#[test]
fn guidance_doubles_the_evaluations() {
    let heun = ["--sampler", "heun", "--steps", "10"];
    for (more, alone, guided, telling) in [
        (&["--guidance", "1"][..], 19, 19, "19 evaluations, no guidance"),
        (&["--guidance", "5"], 19, 38, "19 evaluations, up to 38 with guidance 5 (cfg)"),
        (&["--guidance", "1,5"], 19, 38, "up to 38 with guidance 1,5 (cfg)"),
        (&["--guidance", "4", "--guidance-method", "apg"], 19, 38, "up to 38 with guidance 4 (apg)"),
    ] {
        let arguments = [&heun, more].concat();
        let about = json(&tiny("tiny-sd"), &arguments);
        assert_eq!((&about["evaluations"], &about["guided_evaluations"]), (&alone.into(), &guided.into()), "{more:?}");
        let told = text(&schedule(&Place::new(), &tiny("tiny-sd"), &arguments));
        assert!(told.contains(telling), "{told}");
    }
}

#[test]
fn the_table_has_every_level_once() {
    let told = text(&schedule(&Place::new(), &tiny("tiny-sd"), RELAY));
    let lines: Vec<_> = told.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{}, 28 steps (karras), 28 evaluations, up to 56 with ", RELAY[1])),
        "{told}"
    );
    assert!(lines[0].ends_with(", initial scale 14.6146") && lines[1].contains("eta=1, "), "{told}");
    let header: Vec<_> = lines[3].split_whitespace().collect();
    assert_eq!(header, ["step", "timestep", "own", "sigma", "alpha", "sigma", "SNR", "dB", "sampler"]);

    let about = json(&tiny("tiny-sd"), RELAY);
    let (notes, rows): (Vec<&str>, Vec<&str>) =
        lines[4..].iter().copied().partition(|line| line.contains("noise lifts"));
    assert_eq!(notes, ["      noise lifts the latent from own sigma 0.27304 to 3"; 2]);
    // Where noise lifts it, a latent has two levels after the same step.
    assert_eq!(rows.len(), 28 + 1 + 2, "{told}");
    let sigmas: Vec<f64> = rows.iter().map(|row| row.split_whitespace().nth(2).unwrap().parse().unwrap()).collect();
    for level in levels(&about) {
        let expected = level["own_sigma"].as_f64().unwrap();
        assert!(sigmas.iter().any(|sigma| (sigma - expected).abs() <= 1e-5 * expected), "{expected} in: {told}");
    }
    let named: Vec<_> = rows.iter().filter_map(|row| row.split_whitespace().nth(6)).collect();
    assert_eq!(named, ["euler_ancestral", "dpmpp_2m"]);
}

#[test]
fn pure_noise_and_a_clean_latent_are_infinitely_far() {
    let about = json(&emoji(), &["--steps", "1"]);
    let [noise, clean] = levels(&about)[..] else { panic!("{about}") };
    assert!(noise["own_sigma"].is_null() && noise["snr_db"].is_null() && noise["alpha"] == 0.0, "{noise}");
    assert!(clean["own_sigma"] == 0.0 && clean["snr_db"].is_null() && clean["alpha"] == 1.0, "{clean}");
    let told = text(&schedule(&Place::new(), &emoji(), &["--steps", "1"]));
    let rows: Vec<Vec<_>> = told
        .lines()
        .skip_while(|line| !line.starts_with("step"))
        .skip(1)
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows, [["0", "999", "inf", "0", "1", "-inf"], ["1", "0", "0", "1", "0", "inf"]]);
    let drawn = svg(&emoji(), &["--steps", "1"]);
    assert!(drawn.contains(">∞</text>") && drawn.contains(">−∞</text>") && drawn.contains(">0</text>"), "{drawn}");
}

#[test]
fn an_adaptive_sampler_has_two_ends() {
    let arguments = ["--sampler", "rk_adaptive"];
    let about = json(&tiny("tiny-sd"), &arguments);
    for count in ["steps", "evaluations", "guided_evaluations"] {
        assert!(about[count].is_null(), "{about}");
    }
    assert_eq!(levels(&about).len(), 2);
    let told = text(&schedule(&Place::new(), &tiny("tiny-sd"), &arguments));
    assert!(told.starts_with("rk_adaptive, steps chosen by its tolerance (adaptive), guidance "), "{told}");
    let rows: Vec<_> = told.lines().skip_while(|line| !line.starts_with("step")).skip(1).collect();
    assert!(rows[0].starts_with("   0 ") && rows[2].starts_with(" end ") && rows.len() == 3, "{told}");
    assert_eq!(rows[1].trim(), "the tolerance chooses the steps between");
    assert!(svg(&tiny("tiny-sd"), &arguments).contains("steps: chosen by the tolerance"));
}

/// The names of a document's elements in the order in which they begin; each ends, and within the one it began in.
fn elements(document: &str) -> Vec<&str> {
    let (mut begun, mut open) = (Vec::new(), Vec::new());
    for (index, piece) in document.split('<').enumerate() {
        let Some((tag, data)) = piece.split_once('>') else {
            assert!(index == 0 && piece.is_empty(), "outside of elements: {piece:?}");
            continue;
        };
        assert!(!data.contains('>') && tag.matches('"').count().is_multiple_of(2), "{piece:?}");
        let entities = piece.split('&').skip(1);
        entities
            .for_each(|rest| assert!(["lt;", "gt;", "amp;", "quot;"].iter().any(|it| rest.starts_with(it)), "{rest}"));
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
            assert!(!open.is_empty() || data.trim().is_empty(), "after the end: {data:?}");
            continue;
        }
        begun.push(name);
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} never end");
    begun
}

#[test]
fn drawings_are_whole_and_have_a_dot_a_level() {
    let sd = tiny("tiny-sd");
    #[rustfmt::skip]
    let cases: &[(&Path, &[&str], usize)] = &[
        (&sd, &["--sampler", "dpmpp_2m", "--schedule", "karras", "--steps", "20"], 21),
        (&sd, RELAY, 31),
        (&sd, &["--sampler", "euler", "--schedule", "trailing", "--steps", "1"], 2),
        (&sd, &["--sampler", "ddim", "--schedule", "trailing", "--steps", "1000"], 1001),
        (&sd, &["--sampler", "dpm_adaptive"], 2),
        (&sd, &["--sampler", "euler", "--sigmas", "0.5"], 2),
        (&sd, &["--sampler", "ddim until step 1, then euler until step 2, then lms", "--steps", "3"], 4),
        (&emoji(), &["--steps", "4"], 5),
        (&emoji(), &["--steps", "1"], 2),
    ];
    for (model, arguments, levels) in cases {
        let drawn = svg(model, arguments);
        assert_eq!(elements(&drawn)[..2], ["svg", "rect"]);
        assert_eq!(drawn.matches("class=\"level\"").count(), *levels, "{arguments:?}");
        for beyond in ["NaN", "\"inf", ",inf", "-inf,", "href", "<script", "url("] {
            assert!(!drawn.contains(beyond), "{beyond} in: {drawn}");
        }
    }
}

#[test]
fn each_sampler_has_its_colour_and_its_name() {
    let drawn = svg(&tiny("tiny-sd"), RELAY);
    for told in [">euler_ancestral</text>", ">dpmpp_2m</text>", ">noise lifts the latent</text>"] {
        assert_eq!(drawn.matches(told).count(), 1, "{told}");
    }
    let dots = drawn.lines().filter(|line| line.contains("class=\"level\""));
    let mut colours: Vec<_> = dots.map(|dot| dot.split("fill=").nth(1).unwrap().split(' ').next().unwrap()).collect();
    colours.dedup();
    assert_eq!(colours.len(), 2, "{colours:?}");
}

/// Windows has no such names of folders.
#[cfg(unix)]
#[test]
fn names_cannot_leave_their_element() {
    let place = Place::new();
    let model = place.inputs().join("a<b>&\"c\"\u{1}");
    copy_folder(&tiny("tiny-sd"), &model);
    let drawn = svg(&model, &["--steps", "2"]);
    elements(&drawn);
    assert!(drawn.contains("model a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}: 2 steps"), "{drawn}");
}

#[test]
fn a_drawing_replaces_another_and_goes_with_json() {
    let place = Place::new();
    std::fs::write(place.work().join("levels.svg"), "old").unwrap();
    let outcome = schedule(&place, &emoji(), &["--plot", "levels.svg", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&text(&outcome)).unwrap()["model"], "emoji");
    assert_eq!(place.left(), ["work/levels.svg"]);
    elements(&std::fs::read_to_string(place.work().join("levels.svg")).unwrap());
}

#[test]
fn a_drawing_that_cannot_be_written_leaves_nothing() {
    let place = Place::new();
    let outcome = schedule(&place, &emoji(), &["--plot", "nowhere/levels.svg"]);
    outcome.expect("missing folder", 7, "nowhere/levels.svg: cannot be written: its folder does not exist");
    assert!(outcome.stdout.is_empty());
    let inputs = place.inputs().display().to_string();
    schedule(&place, &emoji(), &["--plot", &inputs]).expect("a folder", 7, &format!("{inputs}: cannot be written"));
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn what_generate_refuses_is_refused_in_the_same_words() {
    let place = Place::new();
    let model = tiny("tiny-sd").display().to_string();
    let cases: &[&[&str]] = &[
        &["--steps", "0"],
        &["--steps", "1001"],
        &["--steps", "-1"],
        &["--size", "65x64"],
        &["--size", "64"],
        &["--guidance", "2000"],
        &["--guidance", "seven"],
        &["--guidance-method", "magic"],
        &["--guidance-method", "apg", "--guidance", "1"],
        &["--guidance-method", "cfg_zero", "--guidance", "5"],
        &["--option", "order=3", "--sampler", "euler"],
        &["--option", "magic=1"],
        &["--sampler", "magic"],
        &["--sampler", "one_step", "--steps", "4"],
        &["--sampler", "rk_adaptive", "--steps", "4"],
        &["--schedule", "magic"],
        &["--timesteps", "500,600"],
        &["--timesteps", "900", "--sigmas", "9"],
        &["--sigmas", "99,1"],
        &["--restart", "0.1..2:4x2"],
        &["--model", "nonesuch"],
    ];
    for arguments in cases {
        let model: &[&str] = if arguments.contains(&"--model") { &[] } else { &["--model", &model] };
        let told = |command: &[&str]| Outcome::of(place.without_library(command.iter().chain(model).chain(*arguments)));
        let (expected, found) = (told(&["generate", "x"]), told(&["schedule"]));
        // The other command tells the target that it has chosen, too.
        let is_fault = |line: &&str| line.starts_with("error: ");
        let fault = |outcome: &Outcome| outcome.stderr.lines().find(is_fault).unwrap_or_default().to_owned();
        assert!(found.code != 0 && fault(&found).starts_with("error: "), "{arguments:?}: {}", found.stderr);
        assert_eq!((found.code, fault(&found)), (expected.code, fault(&expected)), "{arguments:?}");
    }
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn what_the_model_was_not_made_for_is_a_warning() {
    let outcome = schedule(&Place::new(), &emoji(), &["--steps", "30"]);
    outcome.expect("steps", 0, "warning: model \"emoji\" is made for 1 to 8 steps");
}

#[test]
fn sampling_options_reach_the_levels() {
    let sigmas = |arguments: &[&str]| -> Vec<f64> {
        let about = json(&tiny("tiny-sd"), &[&["--sampler", "euler"], arguments].concat());
        levels(&about).iter().map(|level| level["own_sigma"].as_f64().unwrap()).collect()
    };
    assert_eq!(sigmas(&["--sigmas", "9,3,1"]), [9.0, 3.0, 1.0, 0.0]);
    let rho = |rho: &str| sigmas(&["--schedule", "karras", "--steps", "5", "--option", rho])[2];
    assert!(rho("rho=3") > rho("rho=7"));
    let about = json(&tiny("tiny-sd"), &["--sampler", "ddim", "--timesteps", "900,500,100"]);
    let timesteps: Vec<_> = levels(&about).iter().map(|level| level["timestep"].as_f64().unwrap()).collect();
    assert_eq!(timesteps[..3], [900.0, 500.0, 100.0]);
    assert_eq!(about["schedule"], "timesteps");
}
