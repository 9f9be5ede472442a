//! Raw samples as CSV (RFC 4180), one observation a row, as pandas and R load them.
//!
//! The two passes are two files. An image of the headline pass is one number. Of the second pass it is many, as many
//! more as it has steps: there a row is one part of one image, so that cases of other steps have the same columns.

use std::fmt::Write as _;

use safelight::bench::Report;
use safelight::bench::report::{Case, Detailed, Scenario, Workload};

const CASE: &str = "case,scenario,precision,steps,width,height,batch,sampler,valid";

/// A row an image of the headline pass; of a cold case a row a fresh process, which begins at no time of a pass.
pub(crate) fn csv(report: &Report) -> String {
    let mut text = format!("{CASE},index,start_s,ms\r\n");
    for (case, columns) in columns(report) {
        let cold = case.cold.iter().filter(|_| case.workload.scenario == Scenario::Cold);
        let cold = cold.map(|start| (String::new(), start.total_ms));
        let images = case.images.start_s.iter().zip(&case.images.ms).map(|(start_s, ms)| (start_s.to_string(), *ms));
        for (index, (start_s, ms)) in images.chain(cold).enumerate() {
            let _ = write!(text, "{columns},{index},{start_s},{ms}\r\n");
        }
    }
    text
}

/// A row a part of an image of the second pass: its stages, each of its steps, and all of it.
pub(crate) fn csv_detailed(report: &Report) -> String {
    let mut text = format!("{CASE},index,part,step,ms\r\n");
    for (case, columns) in columns(report) {
        for (index, image) in case.detailed.iter().enumerate() {
            for (part, step, ms) in parts(image) {
                let step = step.map(|step: usize| step.to_string()).unwrap_or_default();
                let _ = write!(text, "{columns},{index},{part},{step},{ms}\r\n");
            }
        }
    }
    text
}

/// Steps are counted from 1, and only steps have one.
fn parts(image: &Detailed) -> impl Iterator<Item = (&'static str, Option<usize>, f64)> {
    let Detailed { total_ms, reopen_ms, text_encoder_ms, denoiser_ms, steps_ms, decoder_ms, own_ms } = image;
    let stages = [
        ("total", total_ms),
        ("reopen", reopen_ms),
        ("text_encoder", text_encoder_ms),
        ("denoiser", denoiser_ms),
        ("decoder", decoder_ms),
        ("own", own_ms),
    ];
    let steps = steps_ms.iter().enumerate().map(|(index, ms)| ("step", Some(index + 1), *ms));
    stages.into_iter().map(|(part, ms)| (part, None, *ms)).chain(steps)
}

/// Each case, and what all of its rows begin with.
fn columns(report: &Report) -> impl Iterator<Item = (&Case, String)> {
    report.cases.iter().enumerate().map(|(index, case)| {
        let Workload { precision, steps, width, height, batch, sampler, .. } = &case.workload;
        let (scenario, sampler, valid) = (case.workload.scenario.name(), field(sampler), case.validity.valid);
        (case, format!("{},{scenario},{precision},{steps},{width},{height},{batch},{sampler},{valid}", index + 1))
    })
}

/// A field as RFC 4180 writes it. A spreadsheet would run what begins like a formula, so that it is led by a quote.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    match text.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_would_end_too_early() {
        #[rustfmt::skip]
        let cases = [
            ("lcm", "lcm"), ("", ""), ("a, then b", "\"a, then b\""), ("say \"x\"", "\"say \"\"x\"\"\""),
            ("a\nb", "\"a\nb\""), ("=1+1", "'=1+1"), ("@x,y", "\"'@x,y\""),
        ];
        for (text, written) in cases {
            assert_eq!(field(text), written, "{text:?}");
        }
    }
}
