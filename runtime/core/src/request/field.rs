//! The fields of a request by name and as text, as the command line has them.

use std::fmt;
use std::str::FromStr;

use super::{GuidanceRuns, KeptPixels, NoiseLayout, Request, SamplerNoise};
use crate::curve::Curve;
use crate::error::{clipped, unknown};
use crate::prompt::Syntax;
use crate::{Error, Result};

/// A field of a request that text can set.
pub struct Field {
    /// Its name: that of the command's option.
    pub name: &'static str,
    /// What its value looks like.
    pub value: &'static str,
    /// What it says.
    pub about: &'static str,
    set: fn(&mut Request, &str) -> Result<()>,
}

/// Every field but pictures, which are no text.
pub const FIELDS: &[Field] = &[
    field("prompt", "TEXT", "what the picture shows", |request, text| put(&mut request.prompt, text)),
    field("negative", "TEXT", "what it must not show; needs guidance", |request, text| {
        some(&mut request.negative, text)
    }),
    field("weighted", BOOLEAN, "whether prompts have weights, (words:1.3)", |request, text| {
        choose(&mut request.syntax, text, Syntax::Weighted, Syntax::Plain)
    }),
    field(
        "long-prompts",
        "cut|chunks",
        "what becomes of prompts that are longer than the model reads at once",
        |request, text| put(&mut request.long_prompts, text),
    ),
    field(
        "condition",
        "NAME=NUMBER",
        "a number for one of the model's conditions; each name has its own",
        |request, text| {
            let (name, number) = parse_condition(text)?;
            request.conditions.insert(name, number);
            Ok(())
        },
    ),
    field("steps", "N", "number of steps", |request, text| some(&mut request.sampling.steps, text)),
    field("sampler", "NAME", "sampler, or several in turn", |request, text| some(&mut request.sampling.sampler, text)),
    field("schedule", "NAME", "which levels are visited", |request, text| some(&mut request.sampling.schedule, text)),
    field("timesteps", "LIST", "timesteps to visit instead of a schedule", |request, text| {
        list(&mut request.sampling.timesteps, text)
    }),
    field("sigmas", "LIST", "sigmas to visit instead of a schedule", |request, text| {
        list(&mut request.sampling.sigmas, text)
    }),
    field(
        "restart",
        "HIGH..LOW:STEPSxTIMES",
        "intervals of sigmas to walk again, joined by commas",
        |request, text| list(&mut request.sampling.restarts, text),
    ),
    field("strength", "SHARE", "how much of a picture to begin with noise takes", |request, text| {
        some(&mut request.sampling.strength, text)
    }),
    field("eta", "SHARE", "share of fresh noise a step, or several spread over the steps", |request, text| {
        let eta = parse(text)?;
        request.sampling.options.insert("eta".into(), eta);
        Ok(())
    }),
    field("option", "NAME=VALUE", "tunes sampler, schedule or guidance; each name has its own", |request, text| {
        let (name, value) = parse_option(text)?;
        request.sampling.options.insert(name, value);
        Ok(())
    }),
    field(
        "guidance",
        "SCALE",
        "guidance scale, or several spread over the steps; 1 or less is off",
        |request, text| some(&mut request.guidance, text),
    ),
    field("guidance-method", "NAME", "how guidance combines its two predictions", |request, text| {
        some(&mut request.guidance_method, text)
    }),
    field(
        "sequential-guidance",
        BOOLEAN,
        "whether the two are asked for in turn, which needs less memory",
        |request, text| choose(&mut request.guidance_runs, text, GuidanceRuns::InTurn, GuidanceRuns::Together),
    ),
    field("seed", "SEED", "seed of the first picture; the next has the next seed", |request, text| {
        put(&mut request.seed, text)
    }),
    field("walk", "SEEDS", "seeds to walk to, from one's picture to the next's", |request, text| {
        list(&mut request.walk, text)
    }),
    field("noise-seed", "SEED", "seed of the sampler's own noise", |request, text| some(&mut request.noise_seed, text)),
    field("generator", "NAME", "where noise comes from", |request, text| some(&mut request.generator, text)),
    field("brownian", BOOLEAN, "whether the sampler's own noise is one Brownian motion", |request, text| {
        choose(&mut request.sampler_noise, text, SamplerNoise::Brownian, SamplerNoise::Independent)
    }),
    field("count", "N", "how many pictures", |request, text| put(&mut request.count, text)),
    field("batch", "N", "how many of them go through the graphs together", |request, text| {
        put(&mut request.batch, text)
    }),
    field("shared-noise", BOOLEAN, "whether the noise of all pictures comes from one generator", |request, text| {
        choose(&mut request.noise, text, NoiseLayout::Shared, NoiseLayout::PerImage)
    }),
    field("size", "WIDTHxHEIGHT", "size in pixels", |request, text| {
        request.size = Some(parse_size(text)?);
        Ok(())
    }),
    field(
        "keep-pixels",
        BOOLEAN,
        "whether the pixels that a mask keeps are put into the result as they were",
        |request, text| choose(&mut request.kept, text, KeptPixels::Pasted, KeptPixels::Decoded),
    ),
    field("tile", "PIXELS|off|auto", "tiles that the autoencoder works in", |request, text| {
        some(&mut request.tile, text)
    }),
    field(
        "preview-every",
        "N",
        "steps from one preview to the next; each is a run of the decoder; 0 is none",
        |request, text| put(&mut request.preview_every, text),
    ),
];

const BOOLEAN: &str = "true|false";

const fn field(
    name: &'static str,
    value: &'static str,
    about: &'static str,
    set: fn(&mut Request, &str) -> Result<()>,
) -> Field {
    Field { name, value, about, set }
}

impl Request {
    /// Sets a field of [`FIELDS`] to what a text says, in the place of what it was. Whether model and target go along
    /// with it is found out by [`Plan::new`](super::Plan::new).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a name that is no field's, and for a text that is no value of it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let known = || FIELDS.iter().map(|field| field.name);
        let found = FIELDS.iter().find(|field| field.name == name);
        let field = found.ok_or_else(|| Error::usage(unknown("field of a request", name, known())))?;
        (field.set)(self, text).map_err(|e| e.context(format_args!("{name} \"{}\"", clipped(text))))
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.value)
    }
}

/// Values that text can be, with what to say where it is not.
trait Value: FromStr {
    /// The parser's own words, where they tell what is.
    fn told(error: Self::Err) -> Error;
}

macro_rules! value {
    ($($of:ty: $expected:literal),* $(,)?) => {
        $(impl Value for $of {
            fn told(_: Self::Err) -> Error {
                Error::usage(concat!("expected ", $expected))
            }
        })*
    };
}

value! {
    String: "text",
    usize: "a whole number",
    u64: "a whole number from 0 to 18446744073709551615",
    f64: "a number",
    bool: "true or false",
}

/// Those whose own parsers tell what they expect.
macro_rules! own_words {
    ($($of:ty),*) => {
        $(impl Value for $of {
            fn told(error: Self::Err) -> Error {
                error
            }
        })*
    };
}

own_words!(Curve, crate::tiling::Tiling, crate::prompt::LongPrompts, crate::trajectory::Restart);

fn parse<T: Value>(text: &str) -> Result<T> {
    text.parse().map_err(T::told)
}

fn put<T: Value>(field: &mut T, text: &str) -> Result<()> {
    *field = parse(text)?;
    Ok(())
}

fn some<T: Value>(field: &mut Option<T>, text: &str) -> Result<()> {
    *field = Some(parse(text)?);
    Ok(())
}

fn list<T: Value>(field: &mut Vec<T>, text: &str) -> Result<()> {
    *field = text.split(',').map(|entry| parse(entry.trim())).collect::<Result<_>>()?;
    Ok(())
}

fn choose<T>(field: &mut T, text: &str, yes: T, no: T) -> Result<()> {
    *field = if parse(text)? { yes } else { no };
    Ok(())
}

/// `WIDTHxHEIGHT` in pixels.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) with what was expected.
pub fn parse_size(text: &str) -> Result<(usize, usize)> {
    let sides = text.split_once(['x', '×']);
    let parsed = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    parsed.ok_or_else(|| Error::usage("expected WIDTHxHEIGHT in pixels, such as 512x512"))
}

/// `NAME=NUMBER`, for one of a model's conditions.
///
/// # Errors
/// As [`parse_size`].
pub fn parse_condition(text: &str) -> Result<(String, f64)> {
    let parts = text.split_once('=');
    let parsed = parts.and_then(|(name, number)| Some((name.trim().to_owned(), number.trim().parse().ok()?)));
    parsed.ok_or_else(|| Error::usage("expected NAME=NUMBER, such as class=7"))
}

/// `NAME=VALUE`, for one of [`OPTIONS`](crate::options::OPTIONS).
///
/// # Errors
/// As [`parse_size`].
pub fn parse_option(text: &str) -> Result<(String, Curve)> {
    let parts = text.split_once('=').ok_or_else(|| Error::usage("expected NAME=VALUE, such as order=3"))?;
    Ok((parts.0.trim().to_owned(), parts.1.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// A value of each field, and one that is none; text may be anything.
    const EXAMPLES: &[(&str, &str, Option<&str>)] = &[
        ("prompt", "a red apple", None),
        ("negative", "", None),
        ("weighted", "true", Some("yes")),
        ("long-prompts", "chunks", Some("fold")),
        ("condition", "class=7", Some("class")),
        ("steps", "4", Some("-4")),
        ("sampler", "euler", None),
        ("schedule", "karras", None),
        ("timesteps", "999, 499", Some("999,,499")),
        ("sigmas", "14.6,0.4", Some("")),
        ("restart", "2..0.1:4x2,1..0.5:1x1", Some("2..0.1")),
        ("strength", "0.5", Some("half")),
        ("eta", "0.5,1", Some("all")),
        ("option", "order=3", Some("order")),
        ("guidance", "7.5,5", Some("7.5;5")),
        ("guidance-method", "apg", None),
        ("sequential-guidance", "true", Some("1")),
        ("seed", "18446744073709551615", Some("18446744073709551616")),
        ("walk", "9,12", Some("9..12")),
        ("noise-seed", "3", Some("x")),
        ("generator", "numpy", None),
        ("brownian", "true", Some("TRUE")),
        ("count", "4", Some("4.0")),
        ("batch", "2", Some("two")),
        ("shared-noise", "true", Some("")),
        ("size", "64x32", Some("64")),
        ("keep-pixels", "true", Some("keep")),
        ("tile", "512", Some("large")),
        ("preview-every", "2", Some("always")),
    ];

    #[test]
    fn every_field_changes_the_request_and_refuses_what_is_no_value() {
        let names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(names, EXAMPLES.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        let usual = format!("{:?}", Request::default());
        for &(name, value, wrong) in EXAMPLES {
            let mut request = Request::default();
            request.set(name, value).unwrap();
            assert_ne!(format!("{request:?}"), usual, "{name}");
            let Some(wrong) = wrong else { continue };
            let error = request.set(name, wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().starts_with(&format!("{name} \"{wrong}\": ")), "{error}");
        }
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_one_and_no_message_repeats_a_book() {
        let mut request = Request::default();
        let error = request.set("step", "4").unwrap_err().to_string();
        assert!(error.contains("known: prompt, negative") && error.ends_with("did you mean \"steps\""), "{error}");
        let book = "x".repeat(1_000_000);
        for (name, value) in [("steps", book.as_str()), (&book, "4")] {
            assert!(request.set(name, value).unwrap_err().to_string().len() < 1000, "{name:.10}");
        }
    }
}
