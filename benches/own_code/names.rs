//! Names of the benches in own_code.rs, which other programs may follow: `group/function/parameter`, in ASCII. They are
//! never renamed: what is measured differently gets another name.

/// Name, and what is measured. `SAMPLER` is any sampler of as many steps as are asked for, `SCHEDULE` any schedule.
pub(crate) const NAMES: &[(&str, &str)] = &[
    ("outside_graphs/generate/128x128", "a warm picture of four steps, minus the time inside of graphs; emoji"),
    ("outside_graphs/generate/512x512", "the same of a tiny Stable Diffusion pipeline"),
    ("step/SAMPLER/1x4x64x64", "a sampler's own arithmetic of one step"),
    ("step/SAMPLER/1x16x128x128", "the same of a larger latent"),
    ("schedule/training_table/1000", "alphas and sigmas of 1,000 training steps"),
    ("schedule/SCHEDULE/40", "the levels of 40 steps"),
    ("noise/torch_cpu/4x64x64", "initial noise as PyTorch makes it on the CPU"),
    ("noise/brownian/4x64x64", "noise of one step of an SDE sampler"),
    ("prompt/tokens/4_words", "a prompt to token ids"),
    ("prompt/tokens/200_words", "the same of one that is cut off at 77 tokens"),
    ("convert/f32_to_f16/4x64x64", "a latent to an FP16 graph's input"),
    ("convert/f16_to_f32/4x64x64", "an FP16 graph's output to a latent"),
    ("convert/planes_to_rgb8/512x512", "a decoder's output to pixels, with the checks for NaN and black"),
    ("convert/input_resampled/1024x768_to_512x512", "an input picture to an encoder's input"),
    ("convert/tiles_joined/1024x1024_of_512x512", "a picture from overlapping tiles"),
    ("encode/png/256x256", "a picture to a file's bytes, with provenance"),
    ("encode/png/512x512", "the same"),
    ("encode/jpeg/256x256", "the same"),
    ("encode/jpeg/512x512", "the same"),
    ("encode/webp/256x256", "the same"),
    ("encode/webp/512x512", "the same"),
    ("open/manifest/emoji", "a model's manifest, checked, with its tokenizer"),
    ("open/verify_sha256/emoji_unet_int8", "the hash of a graph of 7 MB, from memory"),
    ("statistics/distribution/10000", "what a report tells of 10,000 samples, intervals included"),
];
