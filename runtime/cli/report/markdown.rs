//! A report as a table for a README: what was measured on what, a row a workload, and what is wrong with it.

use safelight::bench::Report;
use safelight::bench::report::Case;

use super::headline::{HEAD, faults, named, notes, row};
use super::html::device;
use super::number::counted;

/// Characters of a text of a report: a table is no place for more.
const MOST_CHARACTERS: usize = 200;

/// The caption and the table. Numbers that may not be told are "–".
pub(crate) fn markdown(report: &Report) -> String {
    let head = HEAD.iter().chain(&["valid"]).map(|head| (*head).to_owned());
    let mut lines = vec![caption(report), String::new(), line(head)];
    // Words to the left, numbers to the right.
    lines.push(format!("|---|{}---|", "---:|".repeat(HEAD.len() - 1)));
    let cells = |case: &Case| {
        let valid = if case.validity.valid { "yes" } else { "**no**" };
        line(row(case).iter().map(|cell| literal(cell)).chain([valid.into()]))
    };
    lines.extend(report.cases.iter().map(cells));
    lines.push(String::new());
    lines.extend(faults(report).into_iter().map(|fault| told(report, fault)));
    lines.push(notes(report).iter().map(|note| literal(note)).collect::<Vec<_>>().join(" "));
    let mut text = lines.join("\n").trim_end().to_owned();
    text.push('\n');
    text
}

/// What was measured on what, in one sentence, and whether it holds.
fn caption(report: &Report) -> String {
    let Report { model, machine, library, target, tool, created, cases, .. } = report;
    let date = created.get(..10).unwrap_or(created);
    let counts = cases.iter().filter_map(|case| Some(case.summary.as_ref()?.image.n));
    let images = counts.fold(0, usize::saturating_add);
    let held = cases.iter().filter(|case| case.validity.valid).count();
    let unfinished = if report.finished { "" } else { "; **interrupted**" };
    let valid = match cases.len() {
        0 => "nothing measured".into(),
        all if held == all => format!("{}, valid", counted(all, "case")),
        all => format!("**{held} of {} valid**", counted(all, "case")),
    };
    let [title, device, version, target] =
        [&model.title, &device(machine), &library.version, &target.name].map(|text| literal(text));
    let (build, tool, date) =
        (if tool.release { "" } else { " (no release build)" }, literal(&tool.safelight), literal(date));
    format!(
        "{title}, on {device} (target {target}), ONNX Runtime {version}, safelight {tool}{build}, {date}: {}, {valid}{unfinished}.",
        counted(images, "image")
    )
}

/// Why some cases' numbers cannot be relied on, as a paragraph.
fn told(report: &Report, (reason, cases): (&str, Vec<usize>)) -> String {
    let names: Vec<_> = cases.iter().map(|index| literal(&named(&report.cases[*index].workload))).collect();
    let which = if cases.len() == report.cases.len() { String::new() } else { format!(" ({})", names.join("; ")) };
    format!("Not valid{which}: {}.\n", literal(reason))
}

pub(super) fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// Text of a report that Markdown takes as it is: on one line, without any mark-up of its own.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for c in crate::chart::cut(text, MOST_CHARACTERS).chars() {
        match c {
            '<' => literal.push_str("&lt;"),
            '&' => literal.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' => literal.extend(['\\', c]),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => literal.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => literal.push(' '),
            c => literal.push(c),
        }
    }
    // A bare address would become a link.
    literal.replace("://", ":\u{200b}//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        #[rustfmt::skip]
        let cases = [
            ("Emoji 128×128 (int8)", "Emoji 128×128 (int8)"), ("a|b\nc", "a\\|b c"), ("<img src=x>", "&lt;img src=x>"),
            ("[x](y) ![z]", "\\[x\\](y) \\!\\[z\\]"), ("http://x", "http:\u{200b}//x"), ("a_b*c`", "a\\_b\\*c\\`"),
        ];
        for (text, written) in cases {
            assert_eq!(literal(text), written);
        }
    }
}
