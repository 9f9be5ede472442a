//! Prompt → token ids → hidden states that steer the denoiser.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::graph::{Contract, Geometry, Graph, Source};
use crate::library::Library;
use crate::model::{Model, TokenizerFiles, Vocabulary};
use crate::prompt::{LongPrompts, Prompt, chunks};
use crate::prompt_cache::Entries;
use crate::request::Plan;
use crate::residency::{AnySlot as _, RunsGraph, Slot};
use crate::stage::Stage;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Prompts whose hidden states are kept; a product's prompt and its negative repeat.
const CACHED_PROMPTS: usize = 16;

/// Most characters of a prompt's cut end that a warning quotes.
const QUOTED_CHARACTERS: usize = 80;

/// All that it takes to read prompts; text encoders are opened for those alone that were not seen lately.
pub(crate) struct TextStage {
    /// In the order of their hidden states; none where no words steer the model.
    readers: Vec<Reader>,
    recent: VecDeque<(Prompt, Arc<Hidden>)>,
    read: Reading,
}

/// A text encoder with what it needs to read prompts.
struct Reader {
    stage: Stage,
    encoder: Slot<TextEncoder>,
    tokenizer: Tokenizer,
    entries: Option<Entries>,
    /// Of a window without words, once a weight has needed it.
    empty: Option<Hidden>,
}

/// What running an encoder takes.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a Plan,
    pub(crate) cancel: &'a Cancel,
}

/// Where hidden states came from.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Windows of ids found in the prompt cache on disk.
    pub(crate) hits: usize,
    /// Windows of ids that a text encoder read.
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
            readers.push(Reader { stage, encoder, tokenizer: open_tokenizer(files)?, entries, empty: None });
        }
        let noted = readers.iter().filter_map(|reader| reader.entries.as_ref()?.warning.clone());
        let read = Reading { warnings: noted.collect(), ..Reading::default() };
        Ok(Self { readers, recent: VecDeque::new(), read })
    }

    /// Hidden states of prompts, in their order and with as many tokens each; a prompt that was seen lately costs
    /// nothing.
    pub(crate) fn encode(&mut self, prompts: &[&Prompt], run: Run) -> Result<Vec<Arc<Hidden>>> {
        let mut hidden = self.encode_each(prompts, run)?;
        let tokens = hidden.iter().map(|hidden| hidden.tokens).max().unwrap_or_default();
        for (hidden, prompt) in hidden.iter_mut().zip(prompts) {
            if hidden.tokens < tokens {
                let empty = self.encode_each(&[&prompt.without_words()], run)?;
                Arc::make_mut(hidden).lengthen(tokens, &empty[0])?;
            }
        }
        Ok(hidden)
    }

    fn encode_each(&mut self, prompts: &[&Prompt], run: Run) -> Result<Vec<Arc<Hidden>>> {
        let mut unseen = Vec::new();
        for prompt in prompts {
            let is_recent = self.recent.iter().any(|(recent, _)| recent == *prompt);
            if !is_recent && !unseen.contains(prompt) {
                unseen.push(*prompt);
            }
        }
        let mut found = vec![Hidden::default(); unseen.len()];
        for reader in &mut self.readers {
            for (hidden, prompt) in found.iter_mut().zip(&unseen) {
                hidden.join(reader.encode(prompt, &mut self.read, run)?)?;
            }
            // Staged, one encoder is in memory at a time.
            reader.encoder.end();
        }
        self.recent.extend(unseen.into_iter().cloned().zip(found.into_iter().map(Arc::new)));
        let hidden = |prompt: &&Prompt| {
            let seen = self.recent.iter().find(|(recent, _)| recent == *prompt);
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
    /// Hidden states of a prompt, chunk after chunk, each word at its weight.
    fn encode(&mut self, prompt: &Prompt, read: &mut Reading, run: Run) -> Result<Hidden> {
        let (chunks, cut) = chunks(prompt, &self.tokenizer)?;
        let mut whole = Hidden::default();
        for chunk in &chunks {
            let mut hidden = self.encode_window(&chunk.ids, prompt, read, run)?;
            if chunk.is_weighted() {
                let empty = match self.empty.take() {
                    Some(empty) => empty,
                    None => self.encode_window(&self.tokenizer.frame(&[]), prompt, read, run)?,
                };
                hidden.weigh(&chunk.weights, &empty).map_err(|e| e.context(self.stage))?;
                self.empty = Some(empty);
            }
            whole.append(hidden);
        }
        Ok(Hidden { cut: cut.map(shorten), ..whole })
    }

    /// Hidden states of a window of a prompt's ids, from the prompt cache or the encoder.
    fn encode_window(&mut self, ids: &[u32], prompt: &Prompt, read: &mut Reading, run: Run) -> Result<Hidden> {
        if let Some(hidden) = self.find_entry(ids, read) {
            return Ok(hidden);
        }
        let hidden = match (self.encoder.begin(run.model, run.plan), &self.entries) {
            (Err(e), Some(entries)) => {
                let (prompt, folder) = (shorten(prompt.text()), entries.folder().display());
                return Err(e.context(format_args!("\"{prompt}\" is not in the prompt cache {folder}")));
            }
            (encoder, _) => encoder?.run(ids, run.cancel)?,
        };
        self.keep_entry(ids, &hidden, read);
        Ok(hidden)
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

    /// Makes words count more or less: each token's z becomes `z₀ + weight·(z − z₀)`, where z₀ is the same place of a
    /// window without words, as ComfyUI and compel do it. Weight 0 leaves the place empty, weight 1 as it is. (The web UI
    /// scales z and then restores the mean of the whole, which fails where that is near 0.)
    fn weigh(&mut self, weights: &[f32], empty: &Self) -> Result<()> {
        if (self.tokens, self.values.len()) != (weights.len(), empty.values.len()) {
            return Err(Error::model(format!(
                "gives {} hidden states for {} token ids, so a weight has no place to act; leave weights out",
                self.tokens,
                weights.len()
            )));
        }
        let rows = self.values.chunks_exact_mut(self.width).zip(empty.values.chunks_exact(self.width));
        for ((row, empty), &weight) in rows.zip(weights).filter(|(_, weight)| **weight != 1.0) {
            row.iter_mut().zip(empty).for_each(|(z, empty)| *z = empty + weight * (*z - empty));
        }
        Ok(())
    }

    /// Puts those of the next chunk behind these. The first chunk's pooled vector counts.
    fn append(&mut self, next: Self) {
        if self.tokens == 0 {
            *self = next;
            return;
        }
        self.values.extend(next.values);
        self.tokens += next.tokens;
    }

    /// Adds chunks without words until there are so many tokens.
    fn lengthen(&mut self, tokens: usize, empty: &Self) -> Result<()> {
        if !(tokens - self.tokens).is_multiple_of(empty.tokens.max(1)) || self.width != empty.width {
            return Err(Error::model(format!(
                "text encoders give {} and {tokens} tokens for two prompts, {} for one without words; chunks cannot \
                 make up for that",
                self.tokens, empty.tokens
            )));
        }
        while self.tokens < tokens {
            self.append(empty.clone());
        }
        Ok(())
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

/// How many windows the longest of a plan's prompts fills; nothing is opened where each is cut to one.
pub(crate) fn count_windows(prompts: &[&Prompt], model: &Model) -> Result<usize> {
    let Some(files) = model.tokenizers.values().next() else { return Ok(0) };
    if prompts.iter().all(|prompt| prompt.long == LongPrompts::Cut) {
        return Ok(1);
    }
    let tokenizer = open_tokenizer(files)?;
    let counts = prompts.iter().map(|prompt| Ok(chunks(prompt, &tokenizer)?.0.len()));
    counts.reduce(|most, count| Ok(most?.max(count?))).unwrap_or(Ok(1))
}

fn open_tokenizer(files: &TokenizerFiles) -> Result<Tokenizer> {
    match &files.vocabulary {
        Vocabulary::TokenizerJson(path) => Tokenizer::from_tokenizer_json(path, files.window),
        Vocabulary::VocabAndMerges(vocab, merges) => Tokenizer::from_vocab_and_merges(vocab, merges, files.window),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(values: &[f32], pooled: f32) -> Hidden {
        Hidden { values: values.to_vec(), tokens: values.len() / 2, width: 2, pooled: vec![pooled], cut: None }
    }

    #[test]
    fn weights_lead_away_from_the_empty_window_and_towards_it() {
        let empty = hidden(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0.0);
        let mut words = hidden(&[2.0, 1.0, 5.0, 0.0, 0.3, 0.1, 9.0, 8.0], 0.5);
        words.weigh(&[1.5, 0.0, 1.0, 0.5], &empty).unwrap();
        // The third is bit for bit as it was, which 0.3 = 5 + (0.3 − 5) is not.
        assert_eq!(words.values, [2.5, 0.5, 3.0, 4.0, 0.3, 0.1, 8.0, 8.0]);
        assert_eq!(words.pooled, [0.5]);
        let error = words.weigh(&[2.0; 3], &empty).unwrap_err();
        assert!(error.to_string().contains("gives 4 hidden states for 3 token ids"), "{error}");
    }

    #[test]
    fn chunks_follow_one_another_and_the_first_is_pooled() {
        let (first, empty) = (hidden(&[1.0, 2.0, 3.0, 4.0], 0.5), hidden(&[7.0, 8.0, 9.0, 9.5], 0.25));
        let mut whole = Hidden::default();
        whole.append(first);
        whole.append(hidden(&[5.0, 6.0, 0.0, 0.0], 0.75));
        whole.lengthen(6, &empty).unwrap();
        assert_eq!(whole.values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 7.0, 8.0, 9.0, 9.5]);
        assert_eq!((whole.tokens, whole.pooled.as_slice()), (6, &[0.5_f32] as &[f32]));
        assert!(whole.lengthen(7, &empty).is_err());
    }
}
