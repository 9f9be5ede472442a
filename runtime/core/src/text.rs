//! Prompt → token ids → hidden states that steer the denoiser.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::graph::{Contract, Geometry, Graph, Source};
use crate::library::Library;
use crate::model::{Model, TokenizerFiles, Vocabulary};
use crate::prompt_cache::Entries;
use crate::request::Plan;
use crate::residency::{AnySlot as _, RunsGraph, Slot};
use crate::stage::Stage;
use crate::tokenizer::{Tokenizer, Tokens};
use crate::{Error, Result};

/// Prompts whose hidden states are kept; a product's prompt and its negative repeat.
const CACHED_PROMPTS: usize = 16;

/// Most characters of a prompt's cut end that a warning quotes.
const QUOTED_CHARACTERS: usize = 80;

/// All that it takes to read prompts; text encoders are opened for those alone that were not seen lately.
pub(crate) struct TextStage {
    /// In the order of their hidden states; none where no words steer the model.
    readers: Vec<Reader>,
    recent: VecDeque<(String, Arc<Hidden>)>,
    read: Reading,
}

/// A text encoder with what it needs to read prompts.
struct Reader {
    stage: Stage,
    encoder: Slot<TextEncoder>,
    tokenizer: Tokenizer,
    entries: Option<Entries>,
}

/// Where hidden states came from.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Prompts found in the prompt cache on disk.
    pub(crate) hits: usize,
    /// Prompts that the text encoder read.
    pub(crate) misses: usize,
    /// What is wrong with the prompt cache.
    pub(crate) warnings: Vec<String>,
}

/// The text encoder's graph, opened.
pub(crate) struct TextEncoder {
    graph: Graph,
    input: usize,
    stage: Stage,
}

/// Hidden states of one prompt, `[tokens, width]`, row by row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hidden {
    pub(crate) values: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    /// One vector for the whole prompt, of encoders that give one.
    pub(crate) pooled: Vec<f32>,
    /// The end of the prompt, where it did not fit into the window; the start of it, where it is long.
    pub(crate) cut: Option<String>,
}

impl TextStage {
    /// Opens the vocabularies, and encoders where they are to be resident and no prompt cache may spare them.
    pub(crate) fn settled(
        encoders: Vec<(Stage, Slot<TextEncoder>, Option<Entries>)>,
        model: &Model,
        plan: &Plan,
    ) -> Result<Self> {
        let mut readers = Vec::new();
        for (stage, mut encoder, entries) in encoders {
            if entries.is_none() {
                encoder.settle(model, plan)?;
            }
            let Some(files) = model.tokenizers.get(&stage) else { continue };
            readers.push(Reader { stage, encoder, tokenizer: open_tokenizer(files)?, entries });
        }
        let noted = readers.iter().filter_map(|reader| reader.entries.as_ref()?.warning.clone());
        let read = Reading { warnings: noted.collect(), ..Reading::default() };
        Ok(Self { readers, recent: VecDeque::new(), read })
    }

    /// Hidden states of prompts, in their order; a prompt that was seen lately costs nothing.
    pub(crate) fn encode(
        &mut self,
        prompts: &[&str],
        model: &Model,
        plan: &Plan,
        cancel: &Cancel,
    ) -> Result<Vec<Arc<Hidden>>> {
        let mut unseen = Vec::new();
        for prompt in prompts {
            let is_recent = self.recent.iter().any(|(recent, _)| recent == prompt);
            if !is_recent && !unseen.contains(prompt) {
                unseen.push(*prompt);
            }
        }
        let mut found = vec![Hidden::default(); unseen.len()];
        for reader in &mut self.readers {
            for (hidden, prompt) in found.iter_mut().zip(&unseen) {
                hidden.join(reader.encode(prompt, &mut self.read, model, plan, cancel)?)?;
            }
            // Staged, one encoder is in memory at a time.
            reader.encoder.end();
        }
        self.recent.extend(unseen.into_iter().map(str::to_owned).zip(found.into_iter().map(Arc::new)));
        let hidden = |prompt: &&str| {
            let seen = self.recent.iter().find(|(recent, _)| recent == prompt);
            seen.map(|(_, hidden)| Arc::clone(hidden)).expect("it was seen before, or a moment ago")
        };
        let hidden = prompts.iter().map(hidden).collect();
        self.recent.drain(..self.recent.len().saturating_sub(CACHED_PROMPTS));
        Ok(hidden)
    }

    /// The encoders, in the order of their hidden states.
    pub(crate) fn encoders(&self) -> impl Iterator<Item = (Stage, &Slot<TextEncoder>)> {
        self.readers.iter().map(|reader| (reader.stage, &reader.encoder))
    }

    /// The same, to change them.
    pub(crate) fn encoders_mut(&mut self) -> impl Iterator<Item = (Stage, &mut Slot<TextEncoder>)> {
        self.readers.iter_mut().map(|reader| (reader.stage, &mut reader.encoder))
    }

    /// What became of the prompts since this was last asked.
    pub(crate) fn take_reading(&mut self) -> Reading {
        std::mem::take(&mut self.read)
    }
}

impl Reader {
    /// Hidden states of a prompt, from the prompt cache or the encoder.
    fn encode(
        &mut self,
        prompt: &str,
        read: &mut Reading,
        model: &Model,
        plan: &Plan,
        cancel: &Cancel,
    ) -> Result<Hidden> {
        let Tokens { ids, cut } = self.tokenizer.encode(prompt);
        let hidden = match self.find_entry(&ids, read) {
            Some(hidden) => hidden,
            None => {
                let hidden = match (self.encoder.begin(model, plan), &self.entries) {
                    (Err(e), Some(entries)) => {
                        let folder = entries.folder().display();
                        let prompt = shorten(prompt.to_owned());
                        return Err(e.context(format_args!("\"{prompt}\" is not in the prompt cache {folder}")));
                    }
                    (encoder, _) => encoder?.run(&ids, cancel)?,
                };
                self.keep_entry(&ids, &hidden, read);
                hidden
            }
        };
        Ok(Hidden { cut: cut.map(shorten), ..hidden })
    }

    fn find_entry(&self, ids: &[u32], read: &mut Reading) -> Option<Hidden> {
        let found = self.entries.as_ref()?.read(ids).unwrap_or_else(|warning| {
            read.warnings.push(warning);
            None
        });
        read.hits += usize::from(found.is_some());
        found
    }

    /// A cache that cannot be written to costs time, not the picture.
    fn keep_entry(&self, ids: &[u32], hidden: &Hidden, read: &mut Reading) {
        read.misses += 1;
        if let Some(Err(e)) = self.entries.as_ref().map(|entries| entries.write(ids, hidden)) {
            read.warnings.push(format!("this prompt is not kept: {e}"));
        }
    }
}

impl Hidden {
    /// Zeros in the shape of another prompt's.
    pub(crate) fn zeros_like(&self) -> Self {
        let zeros = |values: &[f32]| vec![0.0; values.len()];
        Self { values: zeros(&self.values), pooled: zeros(&self.pooled), cut: None, ..*self }
    }

    /// Puts the hidden states of a further encoder beside these, token by token (Podell et al. 2023, arXiv:2307.01952,
    /// 2.1). The last encoder that gives a pooled vector counts.
    fn join(&mut self, other: Self) -> Result<()> {
        if self.tokens == 0 {
            *self = other;
            return Ok(());
        }
        if self.tokens != other.tokens {
            return Err(Error::model(format!(
                "text_encoder_2: gives {} tokens where text_encoder gives {}; their tokenizers must have one length",
                other.tokens, self.tokens
            )));
        }
        let rows = self.values.chunks_exact(self.width).zip(other.values.chunks_exact(other.width));
        self.values = rows.flat_map(|(own, others)| own.iter().chain(others).copied()).collect();
        self.width += other.width;
        self.cut = self.cut.take().or(other.cut);
        if !other.pooled.is_empty() {
            self.pooled = other.pooled;
        }
        Ok(())
    }
}

impl RunsGraph for TextEncoder {
    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl TextEncoder {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, _: &Plan) -> Result<Self> {
        let stage = source.stage();
        if source.is_missing() {
            return Err(Error::model(format!("{stage} {}: is missing", source.file().path.display())));
        }
        let ids = model.tensor(stage, "input_ids");
        let contract = Contract::of_model(stage, model).usually(ids, &[Some(1), Geometry::of(stage, model).tokens]);
        let graph = Graph::open(library, source, &contract)?;
        let input = graph.find_input(ids).expect("the contract has checked that it is there");
        Ok(Self { graph, input, stage })
    }

    /// Hidden states of one prompt's token ids.
    fn run(&mut self, ids: &[u32], cancel: &Cancel) -> Result<Hidden> {
        self.graph.reshape(self.input, &[1, ids.len()])?;
        self.graph.write_ids(self.input, ids)?;
        let stage = self.stage;
        let (values, shape) = self.graph.run(cancel)?;
        let &[1, tokens, width] = shape else {
            return Err(Error::model(format!(
                "{stage}: returned {shape:?} for one prompt, expected [1, tokens, width]"
            )));
        };
        let values = values.to_vec();
        let pooled = self.graph.output(POOLED).map_or(Vec::new(), |(pooled, _)| pooled.to_vec());
        if let Some(bad) = values.iter().chain(&pooled).find(|value| !value.is_finite()) {
            return Err(Error::numeric(format!(
                "{stage}: gave {bad} for this prompt; another precision of it may do better (--precision)"
            )));
        }
        Ok(Hidden { values, tokens, width, pooled, cut: None })
    }
}

/// The place of the pooled vector among a text encoder's outputs.
const POOLED: usize = 1;

/// The start of a long text, as much as a warning should quote.
fn shorten(text: String) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

fn open_tokenizer(files: &TokenizerFiles) -> Result<Tokenizer> {
    match &files.vocabulary {
        Vocabulary::TokenizerJson(path) => Tokenizer::from_tokenizer_json(path, files.window),
        Vocabulary::VocabAndMerges(vocab, merges) => Tokenizer::from_vocab_and_merges(vocab, merges, files.window),
    }
}
