//! A diffusers pipeline as Optimum exports it: `model_index.json` and one folder a component. What the older script of
//! diffusers itself wrote is read as well; it has no configurations beside its graphs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::files::{DataFile, GraphFile, graph_bytes, inside, is_half};
use super::{Defaults, EmptyPrompt, LatentGeometry, Model, PictureSize, Range, StageFiles, TokenizerFiles, Vocabulary};
use crate::curve::Curve;
use crate::onnx::Size;
use crate::stage::{Precision, Stage};
use crate::tokenizer::Window;
use crate::training::{Betas, DiffusionSpec, Prediction};
use crate::{Error, Result, bounded};

pub(crate) const FILE: &str = "model_index.json";

/// Largest JSON file that is read; the vocabulary of SD is 1 MB.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// Where each stage lives.
const COMPONENTS: &[(Stage, &str)] = &[
    (Stage::TextEncoder, "text_encoder"),
    (Stage::TextEncoder2, "text_encoder_2"),
    (Stage::Denoiser, "unet"),
    (Stage::Decoder, "vae_decoder"),
    (Stage::Encoder, "vae_encoder"),
];

/// The pipelines that are known, by the end of their class's name: exporters put a word of their own before it.
const PIPELINES: &[(&str, Family)] = &[
    ("StableDiffusionPipeline", Family::StableDiffusion),
    ("StableDiffusionImg2ImgPipeline", Family::StableDiffusion),
    ("StableDiffusionInpaintPipeline", Family::StableDiffusion),
    ("StableDiffusionXLPipeline", Family::Xl),
    ("StableDiffusionXLImg2ImgPipeline", Family::Xl),
    ("StableDiffusionXLInpaintPipeline", Family::Xl),
    ("LatentConsistencyModelPipeline", Family::Consistency),
    ("LatentConsistencyModelImg2ImgPipeline", Family::Consistency),
];

/// What a pipeline's class says that is in none of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Stable Diffusion 1.x and 2.x.
    StableDiffusion,
    /// Two text encoders, whose last layer but one counts.
    Xl,
    /// A guidance scale that is an input.
    Consistency,
}

/// File names of each precision, by the convention of published ONNX packs. What the exporter calls plainly
/// `model.onnx` is half precision where its inputs or outputs are.
const GRAPHS: &[(Precision, &str)] = &[
    (Precision::Fp32, "model.onnx"),
    (Precision::Fp16, "model_fp16.onnx"),
    (Precision::Int8, "model_int8.onnx"),
    (Precision::Int8, "model_quantized.onnx"),
];

/// Names that exporters give to weights outside the graph.
const DATA_SUFFIXES: &[&str] = &["_data", ".data"];

/// Name that the legacy exporter gives to weights outside the graph.
const LEGACY_DATA: &str = "weights.pb";

#[derive(Deserialize)]
struct Scheduler {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "thousand")]
    num_train_timesteps: usize,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<Betas>,
    trained_betas: Option<Value>,
    prediction_type: Option<Prediction>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    steps_offset: Option<usize>,
    set_alpha_to_one: Option<bool>,
    timestep_spacing: Option<String>,
    original_inference_steps: Option<usize>,
    timestep_scaling: Option<f64>,
    #[serde(default)]
    clip_sample: bool,
    clip_sample_range: Option<f64>,
    #[serde(default)]
    thresholding: bool,
    dynamic_thresholding_ratio: Option<f64>,
    sample_max_value: Option<f64>,
    skip_prk_steps: Option<bool>,
    algorithm_type: Option<String>,
    solver_order: Option<usize>,
    solver_type: Option<String>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    use_lu_lambdas: Option<bool>,
    predictor_order: Option<usize>,
    corrector_order: Option<usize>,
    final_sigmas_type: Option<String>,
    lower_order_final: Option<bool>,
    euler_at_final: Option<bool>,
    predict_x0: Option<bool>,
    disable_corrector: Option<Vec<usize>>,
}

/// `model_index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    force_zeros_for_empty_prompt: Option<bool>,
    #[serde(default)]
    requires_aesthetics_score: bool,
}

#[derive(Deserialize, Default)]
struct Unet {
    in_channels: Option<usize>,
    out_channels: Option<usize>,
    sample_size: Option<usize>,
}

#[derive(Deserialize)]
struct TextEncoder {
    num_hidden_layers: usize,
}

#[derive(Deserialize)]
struct Vae {
    scaling_factor: Option<f64>,
    shift_factor: Option<f64>,
    block_out_channels: Vec<usize>,
}

fn thousand() -> usize {
    1000
}

pub(super) fn open(root: &Path) -> Result<Model> {
    let index: Index = json(root, FILE)?;
    let family = family(&index)?;
    let scheduler: Scheduler = json(root, "scheduler/scheduler_config.json")?;
    let mut stages = BTreeMap::new();
    for (stage, folder) in COMPONENTS {
        let graphs = graphs(root, folder)?;
        if !graphs.is_empty() {
            stages.insert(*stage, StageFiles { graphs, tensors: tensors(root, *stage, folder, family)? });
        }
    }
    let unet: Unet =
        if root.join("unet/config.json").exists() { json(root, "unet/config.json")? } else { Unet::default() };
    let latent = latent_geometry(root, &unet, stages.get(&Stage::Denoiser))?;
    let side = unet.sample_size.unwrap_or(64).saturating_mul(latent.downscale);
    let (defaults, mut warnings) = defaults(family, &scheduler);
    if root.join("safety_checker").exists() {
        warnings
            .push("the pipeline has a safety checker, which safelight does not run: pictures are not screened".into());
    }
    let has = |stage: &Stage| stages.contains_key(stage);
    let empty = match family {
        Family::Xl if index.force_zeros_for_empty_prompt.unwrap_or(true) => EmptyPrompt::Zeros,
        _ => EmptyPrompt::Encoded,
    };
    let tokenizers = Stage::TEXT_ENCODERS.into_iter().zip(["tokenizer", "tokenizer_2"]);
    // What has a vocabulary without an encoder, or the reverse, is told when the model is checked.
    let tokenizers = tokenizers.filter(|(stage, folder)| has(stage) || root.join(folder).exists());
    let tokenizers = tokenizers.map(|(stage, folder)| Ok((stage, tokenizer(root, folder)?)));
    let tokenizers = tokenizers.collect::<Result<_>>()?;
    let name = root.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    Ok(Model {
        title: format!("{}, exported by Optimum", index.class_name),
        name,
        licence: None,
        root: root.to_path_buf(),
        stages,
        latent,
        picture: PictureSize { width: side, height: side, multiple: Some(latent.downscale) },
        training: super::training(training_spec(family, &scheduler)?, Path::new("scheduler/scheduler_config.json"))?,
        tokenizers,
        empty_prompt: empty,
        conditions: BTreeMap::new(),
        defaults,
        range: Range::default(),
        goldens: Vec::new(),
        warnings,
    })
}

fn family(index: &Index) -> Result<Family> {
    let Index { class_name, requires_aesthetics_score, .. } = index;
    if *requires_aesthetics_score {
        return Err(Error::model(format!(
            "{FILE}: requires_aesthetics_score is set: a refiner, which is not supported; use the base model alone"
        )));
    }
    let found = PIPELINES.iter().find(|(known, _)| class_name.ends_with(known));
    found.map(|(_, family)| *family).ok_or_else(|| {
        let known: Vec<_> = PIPELINES.iter().map(|(known, _)| *known).collect();
        Error::model(format!("{FILE}: _class_name is \"{class_name}\", supported: {}", known.join(", ")))
    })
}

/// Names of tensors that are not what they are elsewhere: the last hidden state but one has its number in its name.
fn tensors(root: &Path, stage: Stage, folder: &str, family: Family) -> Result<BTreeMap<String, String>> {
    if family != Family::Xl || !Stage::TEXT_ENCODERS.contains(&stage) {
        return Ok(BTreeMap::new());
    }
    let TextEncoder { num_hidden_layers } = json(root, &format!("{folder}/config.json"))?;
    let name = format!("hidden_states.{}", num_hidden_layers.saturating_sub(1));
    Ok(BTreeMap::from([("last_hidden_state".to_owned(), name)]))
}

/// Channels that the denoiser's graph gives, where its configuration is missing.
fn channels_of(denoiser: Option<&StageFiles>) -> Result<Option<usize>> {
    let Some(graph) = denoiser.and_then(|files| files.graphs.values().next()) else { return Ok(None) };
    let outline = graph.outline()?;
    let tensors = outline.outputs.iter().chain(&outline.inputs);
    let sizes = tensors.filter(|tensor| ["out_sample", "sample"].contains(&tensor.name.as_str()));
    let fixed = |size: &Size| if let Size::Fixed(size) = size { usize::try_from(*size).ok() } else { None };
    let mut channels = sizes.filter_map(|tensor| fixed(tensor.sizes.get(1)?));
    Ok(channels.next())
}

fn latent_geometry(root: &Path, unet: &Unet, denoiser: Option<&StageFiles>) -> Result<LatentGeometry> {
    const CONFIG: &str = "vae_decoder/config.json";
    if !root.join(CONFIG).exists() {
        return Err(Error::model(format!(
            "{CONFIG}: is missing (old exports have none); write one with what the original VAE's says, for SD 1.x and 2.x \
             {{\"scaling_factor\": 0.18215, \"block_out_channels\": [128, 256, 512, 512]}}: a wrong factor gives \
             washed-out pictures, so none is assumed"
        )));
    }
    let vae: Vae = json(root, CONFIG)?;
    let channels = match unet.out_channels.or(unet.in_channels) {
        None => channels_of(denoiser)?,
        known => known,
    };
    let channels = channels.ok_or_else(|| {
        Error::model(
            "unet: neither its config.json nor its graph tells how many channels a latent has; write in_channels into \
             unet/config.json",
        )
    })?;
    let scale = vae.scaling_factor.ok_or_else(|| {
        Error::model(
            "vae_decoder/config.json: has no scaling_factor (old exports lack it); add the one of the original VAE, \
             such as 0.18215 for SD 1.x and 2.x: a wrong one gives washed-out pictures, so none is assumed",
        )
    })?;
    let downscale = 1_usize.checked_shl(vae.block_out_channels.len().saturating_sub(1) as u32).unwrap_or(0);
    Ok(LatentGeometry { channels, downscale, scale, shift: vae.shift_factor.unwrap_or(0.0) })
}

fn training_spec(family: Family, scheduler: &Scheduler) -> Result<DiffusionSpec> {
    for (process, key) in [("FlowMatch", "flow"), ("EDM", "edm"), ("CMStochasticIterative", "edm")] {
        if scheduler.class_name.starts_with(process) {
            return Err(Error::model(format!(
                "scheduler/scheduler_config.json: {} has no betas, which is all that is read from there; describe the \
                 model by a model.yaml with {key}",
                scheduler.class_name
            )));
        }
    }
    if scheduler.trained_betas.as_ref().is_some_and(|betas| !betas.is_null()) {
        return Err(Error::model("scheduler/scheduler_config.json: trained_betas is not supported; expected null"));
    }
    Ok(DiffusionSpec {
        timesteps: scheduler.num_train_timesteps,
        beta_start: scheduler.beta_start.unwrap_or(0.0001),
        beta_end: scheduler.beta_end.unwrap_or(0.02),
        betas: scheduler.beta_schedule.unwrap_or(Betas::Linear),
        zero_terminal_snr: scheduler.rescale_betas_zero_snr,
        prediction: scheduler.prediction_type.unwrap_or(Prediction::Epsilon),
        // diffusers' own pipeline of Stable Diffusion makes 1 of an older file's 0.
        steps_offset: scheduler.steps_offset.unwrap_or(0).max(usize::from(family == Family::StableDiffusion)),
        set_alpha_to_one: scheduler.set_alpha_to_one.unwrap_or(scheduler.class_name != "PNDMScheduler"),
        original_steps: scheduler.original_inference_steps.unwrap_or(50),
        timestep_scaling: scheduler.timestep_scaling.unwrap_or(10.0),
    })
}

/// The scheduler's class and settings say how the pipeline was published to be sampled.
fn defaults(family: Family, scheduler: &Scheduler) -> (Defaults, Vec<String>) {
    let mut warnings = Vec::new();
    let (sampler, spacing) = sampler(scheduler).unwrap_or_else(|| {
        let other = &scheduler.class_name;
        warnings.push(format!("the pipeline's own {other} is not known; ddim is the default instead"));
        ("ddim".into(), "leading")
    });
    let consistency = sampler == "lcm" || sampler == "tcd" || family == Family::Consistency;
    let spacing = scheduler.timestep_spacing.as_deref().unwrap_or(spacing);
    let sigmas = [
        (scheduler.use_karras_sigmas, "karras"),
        (scheduler.use_exponential_sigmas, "exponential"),
        (scheduler.use_beta_sigmas, "beta"),
        (scheduler.use_lu_lambdas, "lu"),
    ];
    let schedule = sigmas.iter().find(|(used, _)| *used == Some(true)).map_or(spacing, |(_, name)| name);
    // Schedules of distilled models are their samplers' own.
    let schedule = if consistency { "lcm" } else { schedule };
    // The defaults of the diffusers pipelines, but for the 50 steps of SD: 25 are what the field uses; and a consistency
    // model that does not take its scale as an input has it inside.
    let (steps, guidance) = match (consistency, family) {
        (true, Family::Consistency) => (4, 8.5),
        (true, _) => (4, 1.0),
        (false, Family::Xl) => (25, 5.0),
        (false, _) => (25, 7.5),
    };
    let options = options(family, scheduler, &sampler);
    warnings.extend(not_followed(scheduler, &sampler));
    (Defaults { sampler, schedule: schedule.into(), steps, guidance, options }, warnings)
}

fn options(family: Family, scheduler: &Scheduler, sampler: &str) -> BTreeMap<String, Curve> {
    let mut options = BTreeMap::new();
    let mut set = |name: &str, value: Option<f64>| options.extend(value.map(|value| (name.to_owned(), value.into())));
    let number = |order: Option<usize>| order.map(|order| order as f64);
    if scheduler.thresholding {
        set("threshold", scheduler.dynamic_thresholding_ratio.or(Some(0.995)));
        set("threshold_max", scheduler.sample_max_value.or(Some(1.0)));
    } else if scheduler.clip_sample && family != Family::StableDiffusion {
        // diffusers' own pipeline of Stable Diffusion never clips, whatever the file says.
        set("clip", scheduler.clip_sample_range.or(Some(1.0)));
    }
    match sampler {
        "deis" | "unipc" | "unipc_bh1" => set("order", number(scheduler.solver_order)),
        "sa" => {
            set("predictor", number(scheduler.predictor_order));
            set("corrector", number(scheduler.corrector_order));
        }
        _ => (),
    }
    options
}

/// Settings of the scheduler that change its numbers and are not followed.
fn not_followed(scheduler: &Scheduler, sampler: &str) -> Vec<String> {
    let heun = scheduler.solver_type.as_deref() == Some("heun") && !sampler.contains("heun");
    let settings = [
        ("solver_type heun", heun && scheduler.class_name.starts_with("DPMSolver")),
        ("final_sigmas_type sigma_min", scheduler.final_sigmas_type.as_deref() == Some("sigma_min")),
        ("lower_order_final false", scheduler.lower_order_final == Some(false)),
        ("euler_at_final", scheduler.euler_at_final == Some(true)),
        ("predict_x0 false", scheduler.predict_x0 == Some(false)),
        ("disable_corrector", scheduler.disable_corrector.as_ref().is_some_and(|steps| !steps.is_empty())),
    ];
    let told = settings.into_iter().filter(|(_, set)| *set);
    told.map(|(name, _)| format!("the pipeline's scheduler has {name}, which sampler {sampler} does not follow"))
        .collect()
}

/// The sampler that a scheduler's class and settings mean, and the class's usual spacing.
fn sampler(scheduler: &Scheduler) -> Option<(String, &'static str)> {
    let named = |name: &str, spacing| Some((name.to_owned(), spacing));
    let order = scheduler.solver_order.unwrap_or(2);
    let algorithm = scheduler.algorithm_type.as_deref().unwrap_or("dpmsolver++");
    match scheduler.class_name.as_str() {
        "DDIMScheduler" => named("ddim", "leading"),
        "DDPMScheduler" => named("ddpm", "leading"),
        "PNDMScheduler" if scheduler.skip_prk_steps == Some(true) => named("plms", "leading"),
        "PNDMScheduler" => named("pndm", "leading"),
        "EulerDiscreteScheduler" => named("euler", "linspace"),
        "EulerAncestralDiscreteScheduler" => named("euler_ancestral", "linspace"),
        "HeunDiscreteScheduler" => named("heun", "linspace"),
        "KDPM2DiscreteScheduler" => named("dpm2", "linspace"),
        "KDPM2AncestralDiscreteScheduler" => named("dpm2_ancestral", "linspace"),
        "LMSDiscreteScheduler" => named("lms", "linspace"),
        "DPMSolverSDEScheduler" => named("dpmpp_sde", "linspace"),
        "DEISMultistepScheduler" => named("deis", "linspace"),
        "UniPCMultistepScheduler" if scheduler.solver_type.as_deref() == Some("bh1") => named("unipc_bh1", "linspace"),
        "UniPCMultistepScheduler" => named("unipc", "linspace"),
        "SASolverScheduler" => named("sa", "linspace"),
        "LCMScheduler" => named("lcm", "lcm"),
        "TCDScheduler" => named("tcd", "lcm"),
        "DPMSolverMultistepScheduler" | "DPMSolverSinglestepScheduler" => {
            let many = if scheduler.class_name.contains("Singlestep") { "s" } else { "m" };
            let step = if order == 1 { "1".into() } else { format!("{order}{many}") };
            let heun = scheduler.solver_type.as_deref() == Some("heun") && step == "2m";
            let heun = if heun { "_heun" } else { "" };
            let name = match algorithm {
                "dpmsolver++" => format!("dpmpp_{step}{heun}"),
                "dpmsolver" => format!("dpm_{step}"),
                "sde-dpmsolver++" => format!("dpmpp_{step}_sde{heun}"),
                "sde-dpmsolver" => format!("dpm_{step}_sde"),
                _ => return None,
            };
            crate::sampler::find_sampler(&name).is_ok().then_some((name, "linspace"))
        }
        _ => None,
    }
}

fn graphs(root: &Path, folder: &str) -> Result<BTreeMap<Precision, GraphFile>> {
    let mut graphs = BTreeMap::new();
    for (precision, file) in GRAPHS {
        let name = format!("{folder}/{file}");
        if !root.join(&name).exists() {
            continue;
        }
        let path = inside(root, &name)?;
        let bytes = graph_bytes(&path)?;
        let beside = DATA_SUFFIXES.iter().map(|suffix| format!("{name}{suffix}"));
        let data = beside.chain([format!("{folder}/{LEGACY_DATA}")]).filter(|name| root.join(name).exists());
        let data = data.map(|name| data_file(root, &name)).collect::<Result<_>>()?;
        let half = *precision == Precision::Fp32 && is_half(&path)?;
        let precision = if half { Precision::Fp16 } else { *precision };
        graphs.insert(precision, GraphFile { path, bytes, sha256: None, data });
    }
    Ok(graphs)
}

fn data_file(root: &Path, name: &str) -> Result<DataFile> {
    let path = inside(root, name)?;
    let bytes = graph_bytes(&path)?;
    Ok(DataFile { path, bytes, sha256: None })
}

fn tokenizer(root: &Path, folder: &str) -> Result<TokenizerFiles> {
    let file = |name: &str| format!("{folder}/{name}");
    let pair = (inside(root, &file("vocab.json"))?, inside(root, &file("merges.txt"))?);
    let vocabulary: HashMap<String, u32> = json(root, &file("vocab.json"))?;
    let special: BTreeMap<String, Value> = json(root, &file("special_tokens_map.json"))?;
    let config: BTreeMap<String, Value> = json(root, &file("tokenizer_config.json"))?;
    let id = |role: &str| {
        let entry = special.get(role).or_else(|| config.get(role));
        let text = entry.and_then(|entry| entry.as_str().or_else(|| entry.get("content")?.as_str()));
        let text = text.ok_or_else(|| Error::model(format!("{folder}/special_tokens_map.json: has no {role}")))?;
        let found = vocabulary.get(text).copied();
        found.ok_or_else(|| Error::model(format!("{folder}/vocab.json: has no entry for the {role} {text:?}")))
    };
    // transformers writes 10³⁰ where it knows no length; CLIP's window is 77.
    let length = config.get("model_max_length").and_then(Value::as_u64).filter(|&length| length <= 4096).unwrap_or(77);
    let window =
        Window { length: length as usize, start: id("bos_token")?, end: id("eos_token")?, pad: id("pad_token")? };
    Ok(TokenizerFiles { vocabulary: Vocabulary::VocabAndMerges(pair.0, pair.1), window })
}

fn json<T: DeserializeOwned>(root: &Path, name: &str) -> Result<T> {
    let path: PathBuf = inside(root, name)?;
    let fault = |what: String| Error::model(format!("{}: {what}", path.display()));
    let text = bounded::read(&path, MAX_JSON_BYTES).map_err(|e| fault(e.to_string()).because(e))?;
    serde_json::from_str(&text).map_err(|e| fault(e.to_string()).because(e))
}
