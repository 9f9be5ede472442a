//! The arguments that say how noise becomes a latent, which several subcommands take.

use safelight::options::OPTIONS;
use safelight::request::parse_option;
use safelight::sampler::SAMPLERS;
use safelight::schedule::SCHEDULES;
use safelight::trajectory::Restart;
use safelight::{Curve, Sampling};

#[derive(clap::Args)]
pub(crate) struct SamplingArguments {
    /// Number of steps [default: the model's]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<usize>,
    #[arg(long, value_name = "NAME", help = sampler_help(), long_help = sampler_long_help())]
    sampler: Option<String>,
    #[arg(long, value_name = "NAME", help = schedule_help(), long_help = schedule_long_help())]
    schedule: Option<String>,
    /// Timesteps to visit instead of a schedule, such as 999,749,499,249
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    timesteps: Vec<f64>,
    /// Sigmas to visit instead of a schedule, such as 14.6,3.9,1.4,0.4
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    sigmas: Vec<f64>,
    /// Walk an interval of sigmas again, such as 2..0.1:4x2: noise lifts the latent from 0.1 to 2, 4 steps take it down,
    /// 2 times
    #[arg(long, value_name = "HIGH..LOW:STEPSxTIMES")]
    restart: Vec<Restart>,
    /// How much of a picture to begin with noise takes, more than 0 and up to 1: the first steps are left out
    /// [default: 0.8, with a mask 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Share of fresh noise a step, 0 to 1, or several spread over the steps; the same as --option eta=…
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    eta: Option<Curve>,
    #[arg(short = 'O', long = "option", value_name = "NAME=VALUE", value_parser = parse_option, help = option_help(),
          long_help = option_long_help())]
    options: Vec<(String, Curve)>,
}

impl SamplingArguments {
    pub(crate) fn sampling(&self) -> Sampling {
        let eta = self.eta.clone().map(|eta| ("eta".to_owned(), eta));
        Sampling {
            sampler: self.sampler.clone(),
            schedule: self.schedule.clone(),
            steps: self.steps,
            timesteps: self.timesteps.clone(),
            sigmas: self.sigmas.clone(),
            restarts: self.restart.clone(),
            strength: self.strength,
            options: self.options.iter().cloned().chain(eta).collect(),
            ..Sampling::default()
        }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// One line a name, for `--help`; `-h` has the names alone.
fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    rows.map(|(name, about)| format!("\n  {name:<20}{about}")).collect()
}

fn sampler_help() -> String {
    format!("Sampler [default: the model's]: {}", names(SAMPLERS.iter().map(|method| method.name)))
}

fn sampler_long_help() -> String {
    format!(
        "Sampler, or several in turn, as in \"euler_ancestral until sigma 2, then dpmpp_2m\" or \"ddim until step 3, then \
         dpmpp_2m\" [default: the model's]{}",
        table(SAMPLERS.iter().map(|method| (method.name, method.about)))
    )
}

fn schedule_help() -> String {
    format!(
        "Which levels are visited [default: the sampler's or the model's]: {}",
        names(SCHEDULES.iter().map(|timetable| timetable.name))
    )
}

fn schedule_long_help() -> String {
    format!(
        "Which levels are visited [default: the sampler's or the model's]{}",
        table(SCHEDULES.iter().map(|timetable| (timetable.name, timetable.about)))
    )
}

fn option_help() -> String {
    format!("Tunes sampler, schedule or guidance: {}", names(OPTIONS.iter().map(|row| row.name)))
}

fn option_long_help() -> String {
    format!(
        "Tunes sampler, schedule or guidance; one that none of them takes is an error{}",
        table(OPTIONS.iter().map(|row| (row.name, row.about)))
    )
}
