//! Prompt → token ids → hidden states that steer the denoiser.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::graph::{Contract, Geometry, Graph, Source};
use crate::library::Library;
use crate::model::{Model, TokenizerFiles, Vocabulary};
use crate::prompt_cache::Entries;
use crate::request::Plan;
use crate::residency::{RunsGraph, Slot};
use crate::stage::Stage;
use crate::tokenizer::{Tokenizer, Tokens};
use crate::{Error, Result};

/// Prompts whose hidden states are kept; a product's prompt and its negative repeat.
const CACHED_PROMPTS: usize = 16;

/// Most characters of a prompt's cut end that a warning quotes.
const QUOTED_CHARACTERS: usize = 80;

/// All that it takes to read prompts; the text encoder is opened for those alone that were not seen lately.
pub(crate) struct TextStage {
    pub(crate) encoder: Slot<TextEncoder>,
    tokenizer: Tokenizer,
    recent: VecDeque<(String, Arc<Hidden>)>,
    entries: Option<Entries>,
    read: Reading,
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
}

/// Hidden states of one prompt, `[tokens, width]`, row by row.
#[derive(Debug)]
pub(crate) struct Hidden {
    pub(crate) values: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    /// The end of the prompt, where it did not fit into the window; the start of it, where it is long.
    pub(crate) cut: Option<String>,
}

impl TextStage {
    /// Opens the vocabulary, and the encoder where it is to be resident and no prompt cache may spare it.
    pub(crate) fn settled(
        mut encoder: Slot<TextEncoder>,
        entries: Option<Entries>,
        model: &Model,
        plan: &Plan,
    ) -> Result<Self> {
        if entries.is_none() {
            encoder.settle(model, plan)?;
        }
        let warnings = entries.iter().filter_map(|entries| entries.warning.clone()).collect();
        let read = Reading { warnings, ..Reading::default() };
        Ok(Self { encoder, tokenizer: open_tokenizer(&model.tokenizer)?, recent: VecDeque::new(), entries, read })
    }

    /// Hidden states of a prompt; a prompt that was seen lately costs nothing.
    pub(crate) fn encode(&mut self, prompt: &str, model: &Model, plan: &Plan, cancel: &Cancel) -> Result<Arc<Hidden>> {
        if let Some((_, hidden)) = self.recent.iter().find(|(recent, _)| recent == prompt) {
            return Ok(Arc::clone(hidden));
        }
        let Tokens { ids, cut } = self.tokenizer.encode(prompt);
        let hidden = match self.find_entry(&ids) {
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
                self.keep_entry(&ids, &hidden);
                hidden
            }
        };
        let hidden = Arc::new(Hidden { cut: cut.map(shorten), ..hidden });
        if self.recent.len() == CACHED_PROMPTS {
            self.recent.pop_front();
        }
        self.recent.push_back((prompt.to_owned(), Arc::clone(&hidden)));
        Ok(hidden)
    }
}

impl TextStage {
    /// What became of the prompts since this was last asked.
    pub(crate) fn take_reading(&mut self) -> Reading {
        std::mem::take(&mut self.read)
    }

    fn find_entry(&mut self, ids: &[u32]) -> Option<Hidden> {
        let found = self.entries.as_ref()?.read(ids).unwrap_or_else(|warning| {
            self.read.warnings.push(warning);
            None
        });
        self.read.hits += usize::from(found.is_some());
        found
    }

    /// A cache that cannot be written to costs time, not the picture.
    fn keep_entry(&mut self, ids: &[u32], hidden: &Hidden) {
        self.read.misses += 1;
        if let Some(Err(e)) = self.entries.as_ref().map(|entries| entries.write(ids, hidden)) {
            self.read.warnings.push(format!("this prompt is not kept: {e}"));
        }
    }
}

impl RunsGraph for TextEncoder {
    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl TextEncoder {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, _: &Plan) -> Result<Self> {
        if source.is_missing() {
            return Err(Error::model(format!("text_encoder {}: is missing", source.file().path.display())));
        }
        let name = |name| model.tensor(Stage::TextEncoder, name);
        let geometry = Geometry::of(model);
        let contract = Contract::of(Stage::TextEncoder, &name, geometry);
        let contract = contract.usually(name("input_ids"), &[Some(1), geometry.tokens]);
        let graph = Graph::open(library, source, &contract)?;
        let input = graph.find_input(name("input_ids")).expect("the contract has checked that it is there");
        Ok(Self { graph, input })
    }

    /// Hidden states of one prompt's token ids.
    fn run(&mut self, ids: &[u32], cancel: &Cancel) -> Result<Hidden> {
        self.graph.reshape(self.input, &[1, ids.len()])?;
        self.graph.write_ids(self.input, ids)?;
        let (values, shape) = self.graph.run(cancel)?;
        let &[1, count, width] = shape else {
            return Err(Error::model(format!(
                "text_encoder: returned {shape:?} for one prompt, expected [1, tokens, width]"
            )));
        };
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::numeric(format!(
                "text_encoder: gave {bad} for this prompt; another precision of it may do better (--precision)"
            )));
        }
        Ok(Hidden { values: values.to_vec(), tokens: count, width, cut: None })
    }
}

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
