//! Man pages and completions for packages, from the types that parse. Only tests have this, so that the command that
//! travels to small boards is no bigger for it; `scripts/dist` runs
//! `SAFELIGHT_MANUAL=FOLDER cargo test --workspace --bin safelight manual`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::Arguments;

#[test]
fn every_command_has_a_page_and_every_shell_its_completions() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("SAFELIGHT_MANUAL").map_or(temporary.path().to_path_buf(), PathBuf::from);
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();

    write_pages(&command, &folder);
    let mut pages = names(&folder.join("share/man/man1"));
    pages.sort();
    let mut expected: Vec<_> = shown(&command).map(|it| format!("safelight-{}.1", it.get_name())).collect();
    expected.push("safelight.1".into());
    expected.sort();
    assert_eq!(pages, expected);
    let generate = fs::read_to_string(folder.join("share/man/man1/safelight-generate.1")).unwrap();
    for told in [".SH EXAMPLES", "\\-\\-prompts", "File of prompts, one a line"] {
        assert!(generate.contains(told), "{told} is not in\n{generate}");
    }

    for (shell, place) in COMPLETIONS {
        write_completions(*shell, &command, &folder.join(place));
        let written = fs::read_to_string(folder.join(place)).unwrap();
        for it in shown(&command) {
            assert!(written.contains(it.get_name()), "{place} does not complete {}", it.get_name());
        }
        assert!(!written.contains("bench-worker"), "{place} completes what safelight starts itself");
    }
}

/// Where each shell looks, below a prefix; PowerShell has no such place, and is told with `. FILE` in its profile.
const COMPLETIONS: &[(Shell, &str)] = &[
    (Shell::Bash, "share/bash-completion/completions/safelight"),
    (Shell::Zsh, "share/zsh/site-functions/_safelight"),
    (Shell::Fish, "share/fish/vendor_completions.d/safelight.fish"),
    (Shell::PowerShell, "share/safelight/completions/safelight.ps1"),
];

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|it| !it.is_hide_set())
}

/// Without the commands that safelight starts itself, which completions would offer.
fn write_completions(shell: Shell, command: &Command, file: &Path) {
    let whole = Arguments::command();
    let shown = shown(command).filter_map(|it| whole.find_subcommand(it.get_name()).cloned());
    let mut command = Command::new("safelight").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut completions = Vec::new();
    clap_complete::generate(shell, &mut command, "safelight", &mut completions);
    write(file, &completions);
}

fn write_pages(command: &Command, folder: &Path) {
    for it in shown(command).chain([command]) {
        let name = it.get_display_name().unwrap_or(it.get_name()).to_owned();
        write(&folder.join(format!("share/man/man1/{name}.1")), &page(it));
    }
}

/// A page as `clap_mangen` makes it, but for the examples, whose lines it would run together.
fn page(command: &Command) -> Vec<u8> {
    let plain = command.clone().version(None);
    let man = Man::new(plain).source(concat!("safelight ", env!("CARGO_PKG_VERSION"))).manual("safelight manual");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut page).unwrap();
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    after.split("\n\n").filter(|block| !block.is_empty()).for_each(|block| add_section(&mut roff, block));
    roff.to_writer(&mut page).unwrap();
    page
}

/// `Title:` above its lines, which stay as they are, or `Title: a sentence`.
fn add_section(roff: &mut Roff, block: &str) {
    let (title, text) = block.split_once(':').unwrap_or(("Notes", block));
    roff.control("SH", [title.to_uppercase().as_str()]);
    if text.starts_with('\n') {
        roff.control("nf", []);
        for line in text.trim_matches('\n').lines() {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    } else {
        roff.text([roman(text.trim())]);
    }
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn write(file: &Path, content: &[u8]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}
