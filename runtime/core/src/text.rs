//! Prompt → token ids → hidden states that steer the denoiser.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::graph::{Contract, Graph, IDS, REAL, Rule, Source};
use crate::library::Library;
use crate::model::{Model, TokenizerFiles, Vocabulary};
use crate::stage::Stage;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Prompts whose hidden states are kept; a product's prompt and its negative repeat.
const CACHED_PROMPTS: usize = 16;

/// Most characters of a prompt's cut end that a warning quotes.
const QUOTED_CHARACTERS: usize = 80;

/// The text encoder's graph and vocabulary, opened.
pub(crate) struct TextEncoder {
    pub(crate) graph: Graph,
    tokenizer: Tokenizer,
    input: usize,
    cache: VecDeque<(String, Arc<Hidden>)>,
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

impl TextEncoder {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model) -> Result<Self> {
        let name = |name| model.tensor(Stage::TextEncoder, name);
        let length = Some(model.tokenizer.window.length);
        let contract = Contract {
            inputs: vec![Rule::new(name("input_ids"), IDS, &[None, length]).usually(&[Some(1), length])],
            output: Rule::new(name("last_hidden_state"), REAL, &[None; 3]),
        };
        let graph = Graph::open(library, source, &contract)?;
        let input = graph.find_input(name("input_ids")).expect("the contract has checked that it is there");
        Ok(Self { graph, tokenizer: open_tokenizer(&model.tokenizer)?, input, cache: VecDeque::new() })
    }

    /// Hidden states of a prompt; a prompt that was seen lately costs nothing.
    pub(crate) fn encode(&mut self, prompt: &str, cancel: &Cancel) -> Result<Arc<Hidden>> {
        if let Some((_, hidden)) = self.cache.iter().find(|(cached, _)| cached == prompt) {
            return Ok(Arc::clone(hidden));
        }
        let tokens = self.tokenizer.encode(prompt);
        self.graph.reshape(self.input, &[1, tokens.ids.len()])?;
        self.graph.write_ids(self.input, &tokens.ids)?;
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
        let hidden = Arc::new(Hidden { values: values.to_vec(), tokens: count, width, cut: tokens.cut.map(shorten) });
        if self.cache.len() == CACHED_PROMPTS {
            self.cache.pop_front();
        }
        self.cache.push_back((prompt.to_owned(), Arc::clone(&hidden)));
        Ok(hidden)
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
