//! A process that is told to stop, loses its reader, its disk, its descriptors or its model while it works: it ends soon,
//! with its exit code and words, and leaves nothing half-made. docs/service.md tells users the same.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{Outcome, Place, board, compiled, copy_folder, repository, skipped, tiny};
use safelight::{ErrorKind, Model, Pipeline, Request, Sampling, Target};

mod common;

/// What cancels ends within this, on a machine that is busy with other tests; it says two seconds to its users.
const SOON: Duration = Duration::from_secs(6);

fn generate(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(["generate", "a red apple", "--seed", "7", "--model"]);
    command.arg(tiny("tiny-sd")).args(arguments);
    command
}

/// A command that runs on the other side of a script of bash, as `"$@"`.
fn within(command: &Command, script: &str) -> Command {
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).arg(command.get_program()).args(command.get_args());
    bash.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    bash
}

/// A process that ends with its test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command) -> Running {
    Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_there() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: &str, child: &Running) {
    assert!(Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap().success());
}

/// Waits for the end, which comes soon; how it was, and what it told.
fn ended(mut child: Running, case: &str) -> (ExitStatus, String) {
    let (since, mut told) = (Instant::now(), String::new());
    while child.0.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < SOON, "{case}: does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let words = child.0.stderr.take().map(|mut words| words.read_to_string(&mut told));
    assert!(
        words.is_none_or(|read| read.is_ok()) && !told.contains("panicked") && !told.contains("mistake"),
        "{case}: {told}"
    );
    (child.0.wait().unwrap(), told)
}

/// Every process whose working folder is the place's: probe processes, those that are measured.
fn processes_of(place: &Place) -> Vec<String> {
    let work = place.work().canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let ours = processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == work));
    ours.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
}

/// Nothing runs on, nothing is half-made, and every picture is whole.
fn check_left(place: &Place, case: &str) {
    wait_for("the end of all processes", || processes_of(place).is_empty());
    for file in place.left() {
        assert!(!file.contains(".safelight-") && !file.starts_with("temporary/"), "{case}: left {file}");
        if file.ends_with(".png") {
            let picture = place.work().join(file.strip_prefix("work/").unwrap());
            image::open(&picture).unwrap_or_else(|e| panic!("{case}: {file}: {e}"));
        }
    }
}

// ── Signals ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn every_signal_ends_what_works_soon_and_leaves_nothing_half_made() {
    const MANY: &[&str] = &["--steps", "2", "--count", "5000", "--out", "pictures/"];
    const LONG: &[&str] = &["--steps", "990", "--size", "256x256", "--save-latents", "latents", "--out", "-"];
    let begun_many = |place: &Place| fs::read_dir(place.work().join("pictures")).is_ok_and(|files| files.count() > 2);
    let begun_long = |place: &Place| place.work().join("latents/0000-step-002.npy").exists();
    type Begun<'a> = &'a dyn Fn(&Place) -> bool;
    let cases: [(&str, &[&str], Begun, usize); 6] = [
        ("-TERM", MANY, &begun_many, 1),
        ("-INT", MANY, &begun_many, 1),
        ("-HUP", MANY, &begun_many, 1),
        ("-INT", MANY, &begun_many, 2),
        ("-TERM", LONG, &begun_long, 1),
        ("-INT", LONG, &begun_long, 2),
    ];
    for (signal, arguments, begun, times) in cases {
        let (place, case) = (Place::new(), format!("{signal} {times} {arguments:?}"));
        let child = start(generate(&place, arguments));
        wait_for(&case, || begun(&place));
        (0..times).for_each(|_| send(signal, &child));
        let (status, told) = ended(child, &case);
        assert_eq!((status.code(), told.contains("error: cancelled")), (Some(8), true), "{case}: {told}");
        check_left(&place, &case);
    }
}

#[test]
fn commands_that_measure_end_soon_with_their_processes_and_folders() {
    let sd = tiny("tiny-sd").display().to_string();
    let profiles = |place: &Place| place.left().iter().filter(|file| file.starts_with("temporary/")).count() > 2;
    let measured = |place: &Place| processes_of(place).iter().any(|process| process.contains("bench-worker"));
    type Begun<'a> = &'a dyn Fn(&Place) -> bool;
    type Case<'a> = (&'a [&'a str], Begun<'a>, &'a [&'a str], Option<i32>);
    const PLACE: &[&str] = &["place", "--steps", "900"];
    const BENCH: &[&str] = &["bench", "--duration", "60", "--steps", "20", "--wait", "0"];
    let cases: [Case; 5] = [
        (PLACE, &profiles, &["-TERM"], Some(8)),
        (PLACE, &profiles, &["-TERM", "-TERM"], Some(8)),
        (BENCH, &measured, &["-TERM"], Some(8)),
        (BENCH, &measured, &["-TERM", "-INT"], Some(8)),
        (BENCH, &measured, &["-KILL"], None),
    ];
    for (arguments, begun, signals, code) in cases {
        let (place, case) = (Place::new(), format!("{arguments:?} {signals:?}"));
        let child = start(place.command(arguments.iter().copied().chain(["--model", &sd])));
        wait_for(&case, || begun(&place));
        signals.iter().for_each(|signal| send(signal, &child));
        let (status, told) = ended(child, &case);
        assert_eq!((status.code(), told.contains("cancelled")), (code, code.is_some()), "{case}: {told}");
        check_left(&place, &case);
    }
}

#[test]
fn what_cannot_be_broken_off_is_left_after_two_seconds() {
    // A library that never comes to the end of being opened, as a graph may for minutes.
    let place = Place::new();
    let (library, mark) = (place.inputs().join("slow/libonnxruntime.so"), place.work().join("opening"));
    let code = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
                __attribute__((constructor)) static void slow(void) { fclose(fopen(getenv(\"MARK\"), \"w\")); \
                for (;;) pause(); }\n";
    compiled(&library, code, &[]);
    for times in [1, 2] {
        let mut command = generate(&place, &["--out", "x.png"]);
        command.env("ORT_DYLIB_PATH", &library).env("MARK", &mark);
        let child = start(command);
        wait_for("the opening", || mark.exists());
        (0..times).for_each(|_| {
            send("-TERM", &child);
            std::thread::sleep(Duration::from_millis(20));
        });
        let (status, told) = ended(child, "opening");
        assert_eq!((status.code(), told.contains("error: cancelled")), (Some(8), true), "{told}");
        fs::remove_file(&mark).unwrap();
        check_left(&place, "opening");
        assert_eq!(place.left(), [""; 0]);
    }
}

#[test]
fn a_lock_that_another_holds_keeps_nobody_alive() {
    let place = Place::new();
    let cached = ["--steps", "1", "--cache", "cache", "--out", "/dev/null", "--format", "png"];
    Outcome::of(generate(&place, &cached)).expect("building", 0, "building it for the cache");
    let files = fs::read_dir(place.work().join("cache")).unwrap().map(|file| file.unwrap().path());
    let locks: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "lock")).collect();
    let held: Vec<_> = locks.iter().map(|lock| File::options().write(true).open(lock).unwrap()).collect();
    held.iter().for_each(|lock| lock.lock().unwrap());
    let mut child = start(generate(&place, &cached));
    let mut told = BufReader::new(child.0.stderr.take().unwrap());
    let mut lines = String::new();
    while !lines.contains("waiting for another process") {
        assert!(told.read_line(&mut lines).unwrap() > 0, "{lines}");
    }
    send("-TERM", &child);
    let (status, _) = ended(child, "lock");
    told.read_to_string(&mut lines).unwrap();
    assert_eq!((status.code(), lines.contains("error: cancelled")), (Some(8), true), "{lines}");
    assert_eq!(locks.len(), 3);
    check_left(&place, "lock");
}

#[test]
fn what_was_to_be_ignored_stays_ignored() {
    let place = Place::new();
    let many = generate(&place, &["--steps", "2", "--count", "5000", "--out", "pictures/"]);
    let mut child = start(within(&many, "trap '' HUP; exec \"$@\""));
    let made = || fs::read_dir(place.work().join("pictures")).map_or(0, Iterator::count);
    wait_for("a picture", || made() > 1);
    send("-HUP", &child);
    let before = made();
    wait_for("more pictures", || made() > before + 5);
    assert!(child.0.try_wait().unwrap().is_none());
    send("-TERM", &child);
    assert_eq!(ended(child, "after nohup").0.code(), Some(8));
}

#[test]
fn a_bus_error_that_is_sent_is_no_file_that_was_cut_short() {
    use std::os::unix::process::ExitStatusExt as _;
    let place = Place::new();
    let many = generate(&place, &["--steps", "2", "--count", "5000", "--out", "pictures/"]);
    let child = start(within(&many, "ulimit -c 0; exec \"$@\""));
    wait_for("a picture", || fs::read_dir(place.work().join("pictures")).is_ok_and(|files| files.count() > 1));
    send("-BUS", &child);
    let (status, told) = ended(child, "bus error");
    assert_eq!((status.signal(), told.contains("mapped")), (Some(7), false), "{told}");
}

#[test]
fn killed_in_the_middle_of_building_it_is_begun_again() {
    let place = Place::new();
    let warm = || {
        let mut command = place.command(["warm", "--cache", "cache", "--model"]);
        command.arg(tiny("tiny-sd"));
        command
    };
    let entries = || fs::read_dir(place.work().join("cache")).map_or(0, Iterator::count);
    for so_far in 0..3 {
        let mut child = start(warm());
        wait_for("an entry", || entries() > so_far || child.0.try_wait().unwrap().is_some());
        drop(child);
    }
    Outcome::of(warm()).expect("warm", 0, "");
    let mut again = warm();
    again.arg("--cached-only");
    Outcome::of(again).expect("all is there", 0, "");
}

// ── Readers and writers at the other end ────────────────────────────────────────────────────────────────────────────

#[test]
fn a_reader_that_is_gone_ends_a_picture_and_no_list() {
    let cases: [(&[&str], i32); 3] = [(&["--out", "-"], 7), (&["--out", "x/"], 0), (&["--json", "--out", "x/"], 0)];
    for (arguments, code) in cases {
        let place = Place::new();
        let mut child = start(generate(&place, &[&["--steps", "1"], arguments].concat()));
        drop(child.0.stdout.take());
        let (status, told) = ended(child, "a reader that is gone");
        assert_eq!(status.code(), Some(code), "{arguments:?}: {told}");
        assert_eq!(code == 7, told.contains("standard output cannot be written: Broken pipe"), "{told}");
    }
    let place = Place::new();
    for arguments in [&["models"][..], &["targets"], &["sensors"], &["schedule", "--model", "emoji"], &["doctor"]] {
        let mut child = start(place.command(arguments));
        drop(child.0.stdout.take());
        assert_eq!(child.0.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_picture_is_never_taken_for_a_stream_that_was_closed() {
    for closed in [">&-", "2>&-", "<&-", "<&- >&- 2>&-"] {
        let place = Place::new();
        let picture = generate(&place, &["--steps", "1", "--out", "x.png"]);
        Outcome::of(within(&picture, &format!("exec \"$@\" {closed}"))).expect(closed, 0, "");
        check_left(&place, closed);
        assert_eq!(place.left(), ["work/x.png"], "{closed}");
    }
}

#[test]
fn prompts_are_answered_as_they_come() {
    let place = Place::new();
    let mut command = place.command(["generate", "--prompts", "-", "--steps", "1", "--weighted", "--seed", "7"]);
    command.arg("--model").arg(tiny("tiny-sd")).args(["--out", "pictures/", "--quiet"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let (mut paths, mut words) =
        (BufReader::new(child.stdout.take().unwrap()), BufReader::new(child.stderr.take().unwrap()));
    let mut ask = |prompt: &[u8], answers: &mut dyn std::io::BufRead| {
        input.write_all(prompt).unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(ask(b"a red apple\n", &mut paths), "pictures/0001-a-red-apple-7.png\n");
    assert!(place.work().join("pictures/0001-a-red-apple-7.png").exists());
    assert!(ask(b"a (dog\n", &mut words).starts_with("error: prompt 2: weighted prompt, "));
    assert!(ask(b"a \xff\n", &mut words).starts_with("error: prompt 3: --prompts -: a line is not UTF-8 text"));
    assert_eq!(ask(b"\n  \na bird\n", &mut paths), "pictures/0004-a-bird-7.png\n");
    // Where its pictures can go no more, it ends.
    fs::remove_dir_all(place.work().join("pictures")).unwrap();
    let told = ask(b"a cat\n", &mut words);
    assert!(
        told.contains("prompt 5: pictures/0005-a-cat-7.png: cannot be written: its folder does not exist"),
        "{told}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(7));
    check_left(&place, "stream");
}

#[test]
fn what_was_wrong_with_prompts_is_told_again_at_the_end() {
    let place = Place::new();
    let mut command = place.command(["generate", "--prompts", "-", "--steps", "1", "--weighted", "--json", "--quiet"]);
    command.arg("--model").arg(tiny("tiny-sd")).args(["--out", "pictures/"]);
    let outcome = |input: &str| Outcome::of(within(&command, &format!("printf '{input}' | \"$@\"")));
    let outcome_of_three = outcome("a cat\\n(a dog\\na bird");
    outcome_of_three.expect("three", 2, "error: 1 of 3 prompts made no picture: prompt 2: weighted prompt");
    let lines = std::str::from_utf8(&outcome_of_three.stdout).unwrap().lines();
    let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["exit_code"], &lines[1]["prompt"]), (3, &2.into(), &2.into()), "{lines:?}");
    assert!(lines[2]["pictures"][0]["path"].as_str().unwrap().starts_with("pictures/0003-a-bird-"), "{lines:?}");
    outcome("\\n\\n").expect("none", 2, "--prompts -: holds no prompt; write one a line");
}

// ── What a process is denied ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn few_descriptors_and_large_files_are_told_with_the_limit_to_raise() {
    let cases: [(&str, i32, &str); 4] = [
        ("ulimit -n 8", 7, "raise the limit of open files (ulimit -n, LimitNOFILE= of systemd) to 64"),
        ("ulimit -n 64", 0, ""),
        ("ulimit -f 4", 7, "x.png: cannot be written: File too large (os error 27); raise the limit on file sizes"),
        ("ulimit -c 0; ulimit -f 4", 7, "x.png: cannot be written"),
    ];
    for (limit, code, telling) in cases {
        let place = Place::new();
        // What has passed the probe in another test would not be probed here.
        fs::remove_file(place.probed()).unwrap();
        let picture = generate(&place, &["--steps", "1", "--out", "x.png"]);
        let outcome = Outcome::of(within(&picture, &format!("{limit}; exec \"$@\"")));
        outcome.expect(limit, code, telling);
        check_left(&place, limit);
        assert_eq!(place.work().join("x.png").exists(), code == 0, "{limit}");
    }
}

/// Whether this process may make a world of its own, with other disks in it.
fn may_unshare() -> bool {
    let can = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        skipped("needs unshare -m, and to be root: full disks and read-only roots are not tried");
    }
    can
}

#[test]
fn a_full_disk_keeps_what_fits_and_says_what_does_not() {
    if !may_unshare() {
        return;
    }
    let full = |command: &Command, what: &str| {
        let script =
            format!("mkdir d && mount -t tmpfs -o size={what}k none d && \"$@\"; code=$?; ls -A d/*; exit $code");
        let inside = within(command, &script);
        let mut outside = Command::new("unshare");
        outside.arg("-m").arg("bash").args(inside.get_args()).current_dir(inside.get_current_dir().unwrap());
        outside.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Outcome::of(outside)
    };
    let place = Place::new();
    let many = full(&generate(&place, &["--steps", "1", "--count", "10", "--out", "d/p/"]), "60");
    many.expect("pictures", 7, "cannot be written: No space left on device (os error 28); make room");
    let listed = String::from_utf8(many.stdout).unwrap();
    let pictures = listed.lines().filter(|line| line.starts_with("a-red-apple-")).count();
    assert!((2..9).contains(&pictures) && !listed.contains(".safelight-"), "{listed}");

    let place = Place::new();
    let latents = full(&generate(&place, &["--steps", "50", "--save-latents", "d/l", "--out", "x.png"]), "40");
    latents.expect("latents", 7, ".npy: cannot be written: No space left");
    assert!(!place.work().join("x.png").exists());

    let place = Place::new();
    let cached = ["--steps", "1", "--prompt-cache", "d/p", "--cache", "d/c", "--out", "x.png"];
    let told = full(&generate(&place, &cached), "12");
    told.expect("caches", 0, "warning: this prompt is not kept: d/p/");
    assert!(told.stderr.contains("nothing is kept") && place.work().join("x.png").exists(), "{}", told.stderr);

    let place = Place::new();
    let mut warm = place.command(["warm", "--cache", "d/c", "--model"]);
    warm.arg(tiny("tiny-sd"));
    full(&warm, "12").expect("warm", 7, "error: not all is warm: cache ");

    let place = Place::new();
    let mut profiled = place.command(["place", "--model"]);
    profiled.arg(tiny("tiny-sd")).env("TMPDIR", place.work().join("d"));
    full(&profiled, "20").expect("profiles", 7, "is cut short; make room where TMPDIR is");
}

#[test]
fn nothing_is_written_but_what_was_asked_for() {
    if !may_unshare() {
        return;
    }
    let place = Place::new();
    let picture = generate(&place, &["--steps", "1", "--out", "x.png"]);
    // No home, no temporary folder, a read-only root, and nobody knows the user.
    let inside = within(
        &picture,
        "mount -t tmpfs none . && cd . && cd \"$PWD\" && mount -o remount,bind,ro / && \
         unset HOME XDG_CACHE_HOME SAFELIGHT_CACHE && TMPDIR=/nowhere umask 077 && \"$@\" && stat -c %a x.png && ls -A",
    );
    let mut outside = Command::new("unshare");
    outside.arg("-m").arg("bash").args(inside.get_args()).current_dir(inside.get_current_dir().unwrap());
    outside.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = Outcome::of(outside);
    outcome.expect("read-only root", 0, "neither SAFELIGHT_CACHE nor HOME says where to remember");
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "x.png\n600\nx.png\n");
}

#[test]
fn a_folder_that_is_gone_is_told() {
    let place = Place::new();
    let gone = |arguments: &[&str]| {
        let command = generate(&place, &[&["--steps", "1"], arguments].concat());
        Outcome::of(within(&command, "mkdir gone && cd gone && rmdir ../gone && exec \"$@\""))
    };
    gone(&[]).expect("gone", 7, "cannot be written: its folder does not exist");
    let elsewhere = place.work().join("x.png").display().to_string();
    gone(&["--out", &elsewhere]).expect("elsewhere", 0, "seed 7");
    gone(&["--out", &elsewhere, "--cache", "cache"]).expect("cache", 2, "--cache cache: No such file or directory");
    assert_eq!(place.left(), ["work/x.png"]);
}

#[test]
fn few_threads_are_an_error_and_no_panic() {
    let place = Place::new();
    let picture = generate(&place, &["--steps", "1", "--out", "/dev/null", "--format", "png", "--no-probe"]);
    // Limits of processes bind everybody but root.
    let nobody = "setpriv --reuid 54321 --regid 54321 --clear-groups";
    fs::set_permissions(place.work().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let can = within(&picture, &format!("{nobody} \"$1\" --version >/dev/null")).status();
    if !can.is_ok_and(|status| status.success()) {
        skipped("needs to be root, and files that others may read: few threads are not tried");
        return;
    }
    for threads in [1, 2, 3, 4] {
        let command =
            within(&picture, &format!("exec {nobody} bash -c 'ulimit -u {threads}; exec \"$@\"' bash \"$@\""));
        Outcome::of(command).expect(&format!("{threads} threads"), 5, "raise the limit of processes");
    }
}

// ── A model that changes while it is open ───────────────────────────────────────────────────────────────────────────

fn target(more: &str) -> Target {
    let text = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
         precision: [fp32]\n{more}\n"
    );
    Target::parse(&text).unwrap()
}

fn request() -> Request {
    Request { prompt: "a red apple".into(), seed: 7, sampling: Sampling::in_steps(1), ..Request::default() }
}

fn latent(pipeline: &mut Pipeline, request: &Request) -> Vec<f32> {
    pipeline.generate(request).unwrap().pictures.remove(0).latent.into_iter().collect()
}

/// A copy of tiny-sd whose denoiser keeps its weights outside, in a folder that is gone with the first of the two.
fn model() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&tiny("tiny-sd"), &model);
    copy_folder(&tiny("external"), &model.join("unet"));
    (folder, model)
}

fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(&new, file).unwrap();
}

#[test]
fn a_graph_that_is_opened_again_is_the_one_that_was_verified() {
    type Damage = fn(&Path);
    let damages: [(&str, &str, Damage); 5] = [
        ("vae_decoder", "vae_decoder/model.onnx", |file| {
            replace(file, &fs::read(tiny("tiny-lcm/vae_decoder/model.onnx")).unwrap())
        }),
        ("cut short", "text_encoder/model.onnx", |file| fs::write(file, &fs::read(file).unwrap()[..1000]).unwrap()),
        ("half-written", "vae_decoder/model.onnx", |file| {
            let mut bytes = fs::read(file).unwrap();
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
            fs::write(file, bytes).unwrap();
        }),
        ("weights", "unet/model.onnx_data", |file| replace(file, &vec![0; fs::read(file).unwrap().len()])),
        ("gone", "unet/model.onnx", |file| fs::remove_file(file).unwrap()),
    ];
    for (case, file, damage) in damages {
        let (_folder, model) = model();
        let mut pipeline = Pipeline::open(&target("residency: staged"), &Model::open(&model).unwrap()).unwrap();
        let expected = latent(&mut pipeline, &request());
        // The same bytes under the same name are the same graph, whoever copied them.
        let graph = model.join("vae_decoder/model.onnx");
        replace(&graph, &fs::read(&graph).unwrap());
        assert_eq!(latent(&mut pipeline, &request()), expected, "{case}");
        damage(&model.join(file));
        // Words that are known need no text encoder.
        let other = Request { prompt: "a bird".into(), ..request() };
        let error = pipeline.generate(&other).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{case}: {error}");
        let told = error.to_string();
        assert!(
            told.contains(&format!("{file}: changed since the model was opened; open the model again")),
            "{case}: {told}"
        );
    }
}

#[test]
fn another_size_does_not_open_another_graph() {
    let (_folder, model) = model();
    let mut pipeline = Pipeline::open_for(&target(""), &Model::open(&model).unwrap(), &request()).unwrap();
    let expected = latent(&mut pipeline, &request());
    let graph = model.join("unet/model.onnx");
    let whole = fs::read(&graph).unwrap();
    replace(&graph, &fs::read(tiny("tiny-lcm/unet/model.onnx")).unwrap());
    // What is open already is what it was.
    assert_eq!(latent(&mut pipeline, &request()), expected);
    let larger = Request { size: Some((128, 128)), ..request() };
    let error = pipeline.generate(&larger).map(drop).unwrap_err().to_string();
    assert!(error.contains("unet/model.onnx: changed since the model was opened"), "{error}");
    replace(&graph, &whole);
    assert_eq!(latent(&mut pipeline, &larger).len(), 4 * expected.len());
}

#[test]
fn an_entry_of_the_cache_is_never_of_another_graph_and_is_not_written_to() {
    let (folder, model) = model();
    let cache = folder.path().join("cache");
    let cached = target(&format!("cache: {{ folder: {} }}\nresidency: staged", cache.display()));
    let opened = Model::open(&model).unwrap();
    let mut pipeline = Pipeline::open(&cached, &opened).unwrap();
    let graph = model.join("vae_decoder/model.onnx");
    let whole = fs::read(&graph).unwrap();
    // Replaced between being verified and being built from.
    replace(&graph, &fs::read(tiny("tiny-lcm/vae_decoder/model.onnx")).unwrap());
    let error = pipeline.generate(&request()).map(drop).unwrap_err().to_string();
    assert!(error.contains("changed since the model was opened"), "{error}");
    replace(&graph, &whole);
    let expected = latent(&mut Pipeline::open(&target(""), &opened).unwrap(), &request());
    let mut pipeline = Pipeline::open(&cached, &opened).unwrap();
    assert_eq!(latent(&mut pipeline, &request()), expected);

    let resident = target(&format!("cache: {{ folder: {} }}", cache.display()));
    let mut pipeline = Pipeline::open(&resident, &opened).unwrap();
    assert_eq!(latent(&mut pipeline, &request()), expected);
    // A folder that is gone is nobody's loss: what is mapped stays.
    let weights = find(&cache, "graph.weights");
    assert!(!weights.is_empty());
    weights.iter().for_each(|file| fs::File::options().write(true).open(file).unwrap().set_len(1).unwrap());
    let error = pipeline.generate(&request()).map(drop).unwrap_err().to_string();
    assert!(error.contains("graph.weights: was written to while it was open"), "{error}");
    let mut pipeline = Pipeline::open(&resident, &opened).unwrap();
    fs::remove_dir_all(&cache).unwrap();
    assert_eq!(latent(&mut pipeline, &request()), expected);
    assert_eq!(latent(&mut pipeline, &Request { size: Some((128, 128)), ..request() }).len(), 4 * expected.len());
}

fn find(folder: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|entry| entry.join(name)).filter(|file| file.is_file()).collect()
}

#[test]
fn a_model_that_is_replaced_in_place_while_a_process_runs_is_told() {
    let place = Place::new();
    let (_folder, model) = model();
    let mut command =
        place.command(["generate", "a red apple", "--steps", "2", "--count", "5000", "--out", "pictures/"]);
    command.arg("--model").arg(&model).args(["--target", &board(&place, "")]);
    let child = start(command);
    wait_for("a picture", || fs::read_dir(place.work().join("pictures")).is_ok_and(|files| files.count() > 1));
    fs::File::options().write(true).open(model.join("unet/model.onnx_data")).unwrap().set_len(7).unwrap();
    let (status, told) = ended(child, "cut short");
    assert_eq!(status.code(), Some(3), "{told}");
    assert!(told.contains("model.onnx_data: was written to while it was open"), "{told}");
    check_left(&place, "cut short");
    assert!(repository().exists());
}
