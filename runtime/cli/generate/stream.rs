//! `safelight generate --prompts -`: the pictures of each prompt as soon as its line is there, so that a program that
//! writes lines and reads paths has a server.

use indicatif::ProgressBar;
use safelight::{Error, ErrorKind, Forecast, Pipeline, Report, Request};
use serde_json::json;

use super::{Arguments, Made, as_json, observe, summary};
use crate::destination::{Destination, Place};
use crate::prompts::Lines;
use crate::{exit_code_of, print, tell};

/// Makes and writes the pictures of every line of standard input, until that ends. What is wrong with one prompt is told
/// in its place, and the next one is made; the first such error is returned in the end.
pub(super) fn make(
    arguments: &Arguments,
    pipeline: &mut Pipeline,
    usual: &Request,
    destination: &Destination,
    forecast: Option<&Forecast>,
) -> anyhow::Result<()> {
    // Without a folder for latents it writes nothing that could fail.
    pipeline.on_event(|event| drop(observe(event, &ProgressBar::hidden(), None)));
    let lines = Lines::read()?;
    let (mut number, mut refused, mut last) = (0, Vec::new(), None);
    while let Some(line) = lines.next(&usual.cancel)? {
        number += 1;
        let request = line.map(|prompt| Request { prompt, ..usual.clone() });
        match request.and_then(|request| make_one((arguments, number), pipeline, &request, destination)) {
            Ok((report, made)) => {
                if arguments.json {
                    print(&as_json(&report, &made, forecast).to_string())?;
                }
                last = Some((report, made));
            }
            Err(error) if is_of_the_prompt(error.kind()) => {
                tell_refused(arguments, number, &error)?;
                refused.push(error.context(format_args!("prompt {number}")));
            }
            Err(error) => return Err(error.context(format_args!("prompt {number}")).into()),
        }
    }
    if let Some((report, made)) = last.filter(|_| !arguments.quiet && !arguments.json) {
        tell(&summary(&report, &made));
    }
    match (number, refused.len()) {
        (0, _) => Err(Error::new(ErrorKind::Usage, "--prompts -: holds no prompt; write one a line").into()),
        (_, 0) => Ok(()),
        (_, some) => Err(refused.remove(0).context(format_args!("{some} of {number} prompts made no picture")).into()),
    }
}

fn make_one(
    (arguments, number): (&Arguments, usize),
    pipeline: &mut Pipeline,
    request: &Request,
    destination: &Destination,
) -> safelight::Result<(Report, Vec<Made>)> {
    let mut made = Vec::new();
    let report = pipeline.generate_each(request, |picture| {
        let frame = (!request.walk.is_empty()).then_some(made.len() + 1);
        let path = destination.write(&picture, request.count, Place { number: Some(number), frame }, None)?;
        if let Some(path) = path.as_ref().filter(|_| !arguments.json) {
            print(&path.display().to_string())?;
        }
        made.push((path, picture.provenance));
        Ok(())
    })?;
    Ok((report, made))
}

/// Whether the next prompt may fare better.
fn is_of_the_prompt(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Usage | ErrorKind::Limit | ErrorKind::Numeric)
}

/// Tells at once, because whoever wrote the line waits: where reports are read, among them.
fn tell_refused(arguments: &Arguments, number: usize, error: &Error) -> safelight::Result<()> {
    if arguments.json {
        let told = json!({ "prompt": number, "error": error.to_string(), "exit_code": exit_code_of(error.kind()) });
        return print(&told.to_string());
    }
    tell(&format!("error: prompt {number}: {error}"));
    Ok(())
}
