//! Prompt to token ids: CLIP's byte-level byte-pair encoding, as Hugging Face's `tokenizers` computes it.
//!
//! A tokenizer comes from a `tokenizer.json`, or from the `vocab.json` and `merges.txt` that published Stable
//! Diffusion pipelines carry. A file that asks for anything not done here is refused, never approximated.
//! The one difference from Hugging Face: marks and compositions newer than its Unicode tables are normalised.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;

use crate::{Error, Result};

mod file;
mod split;

use file::Vocab;
use split::{Added, Normalizer, Pattern, Segment, normalize, split_added, words};

/// What CLIP appends to the last symbol of a word.
const WORD_END: &str = "</w>";

/// The frame a text encoder expects its tokens in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Number of ids, start and end included.
    pub length: usize,
    /// Id before the first token.
    pub start: u32,
    /// Id after the last token.
    pub end: u32,
    /// Id that fills the window after the end.
    pub pad: u32,
}

/// A prompt as the text encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Exactly [`Window::length`] ids: start, the tokens that fit, end, padding.
    pub ids: Vec<u32>,
    /// The normalised text that did not fit into the window, for a warning to quote.
    pub cut: Option<String>,
}

/// Text that was cut off, if there is more of it than spaces.
pub(crate) fn tidy(mut cut: String) -> Option<String> {
    cut.truncate(cut.trim_end().len());
    (!cut.is_empty()).then_some(cut)
}

/// Splits prompts into the tokens of one vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    window: Window,
    normalizers: Vec<Normalizer>,
    pattern: Pattern,
    alphabet: Alphabet,
    merges: HashMap<(u32, u32), Merge>,
    /// Added tokens found in the prompt as it was typed, longest first.
    verbatim: Vec<Added>,
    /// Added tokens found in the normalised prompt, longest first.
    normalized: Vec<Added>,
}

impl fmt::Debug for Tokenizer {
    /// Without the tables, which fill thousands of lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("window", &self.window).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The ids of `prompt`, framed and cut to the window.
    ///
    /// Any text is a prompt; the time is about linear in its length.
    pub fn encode(&self, prompt: &str) -> Tokens {
        let mut ids = Vec::with_capacity(self.window.length);
        let cut = self.read(prompt, self.room(), &mut ids);
        Tokens { ids: self.frame(&ids), cut: tidy(cut) }
    }

    /// How many tokens fit between start and end.
    pub fn room(&self) -> usize {
        self.window.length - 2
    }

    /// Appends the ids of `text`, unframed, until there are `room`; returns the normalised text that did not fit.
    pub(crate) fn read(&self, text: &str, room: usize, ids: &mut Vec<u32>) -> String {
        let mut cut = String::new();
        for segment in self.segments(text) {
            let fitting = if cut.is_empty() { self.push_segment(&segment, room, ids) } else { 0 };
            cut.push_str(&segment.text[fitting..]);
        }
        cut
    }

    /// A window of ids: start, `ids`, of which there is [`room`](Self::room), end, padding.
    pub(crate) fn frame(&self, ids: &[u32]) -> Vec<u32> {
        let Window { length, start, end, pad } = self.window;
        let mut framed = Vec::with_capacity(length);
        framed.push(start);
        framed.extend_from_slice(ids);
        framed.push(end);
        framed.resize(length, pad);
        framed
    }

    /// Appends the ids of `segment` until there are `room`; returns how many bytes of text fit.
    fn push_segment(&self, segment: &Segment, room: usize, ids: &mut Vec<u32>) -> usize {
        if let Some(id) = segment.token {
            if ids.len() == room {
                return 0;
            }
            ids.push(id);
            return segment.text.len();
        }
        for (mut offset, word) in words(&segment.text, self.pattern) {
            if ids.len() == room {
                return offset;
            }
            for (id, len) in self.merge_word(word) {
                if ids.len() == room {
                    return segment.text.floor_char_boundary(offset);
                }
                ids.push(id);
                offset += len;
            }
        }
        segment.text.len()
    }

    /// The prompt as normalised text between added tokens.
    fn segments(&self, prompt: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        for segment in split_added(prompt, &self.verbatim) {
            match segment.token {
                Some(_) => segments.push(segment),
                None => segments.extend(split_added(&normalize(&segment.text, &self.normalizers), &self.normalized)),
            }
        }
        segments
    }

    /// The ids of one word with the number of its bytes that each stands for.
    ///
    /// The pair of lowest rank merges first, the leftmost of equals. A queue of candidates over a linked list
    /// keeps a very long word from taking quadratic time.
    fn merge_word(&self, word: &str) -> impl Iterator<Item = (u32, usize)> {
        let mut symbols = self.alphabet.symbols(word);
        let mut queue: BinaryHeap<_> =
            (0..symbols.len()).filter_map(|left| self.candidate(&symbols, left)).map(Reverse).collect();
        while let Some(Reverse((merge, left))) = queue.pop() {
            // A candidate is stale when one of its symbols has merged with another since.
            if self.candidate(&symbols, left) != Some((merge, left)) {
                continue;
            }
            join(&mut symbols, left, merge.id);
            let changed = [symbols[left].previous, left];
            queue.extend(changed.into_iter().filter_map(|at| self.candidate(&symbols, at)).map(Reverse));
        }
        symbols.into_iter().filter(|symbol| symbol.len > 0).map(|symbol| (symbol.id, symbol.len))
    }

    /// The merge of the symbol at `left` with the one after it, if there is one.
    fn candidate(&self, symbols: &[Symbol], left: usize) -> Option<(Merge, usize)> {
        let first = symbols.get(left).filter(|symbol| symbol.len > 0)?;
        let second = symbols.get(first.next)?;
        self.merges.get(&(first.id, second.id)).map(|&merge| (merge, left))
    }
}

/// What becomes of two neighbours; ordered by rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    rank: u32,
    id: u32,
}

/// A token of a word that is being merged. `len` is 0 once it is part of its left neighbour; a neighbour that
/// does not exist is an index beyond the word.
struct Symbol {
    id: u32,
    len: usize,
    previous: usize,
    next: usize,
}

fn join(symbols: &mut [Symbol], left: usize, id: u32) {
    let right = symbols[left].next;
    let (right_len, after) = (symbols[right].len, symbols[right].next);
    symbols[right].len = 0;
    symbols[left].id = id;
    symbols[left].len += right_len;
    symbols[left].next = after;
    if let Some(symbol) = symbols.get_mut(after) {
        symbol.previous = left;
    }
}

/// The ids of single bytes, inside a word and at its end.
#[derive(Debug, Clone)]
struct Alphabet {
    inner: [u32; 256],
    last: [u32; 256],
}

impl Alphabet {
    /// Bytes that the vocabulary lacks become `unknown`.
    fn new(vocab: &Vocab, unknown: Option<u32>) -> Result<Self> {
        let mut alphabet = Self { inner: [0; 256], last: [0; 256] };
        for (byte, character) in byte_characters().into_iter().enumerate() {
            for (ids, ending) in [(&mut alphabet.inner, ""), (&mut alphabet.last, WORD_END)] {
                let text = format!("{character}{ending}");
                ids[byte] = vocab.get(text.as_str()).copied().or(unknown).ok_or_else(|| {
                    Error::model(format!("model.vocab lacks {text:?} and model.unk_token is null; add one of them"))
                })?;
            }
        }
        Ok(alphabet)
    }

    fn symbols(&self, word: &str) -> Vec<Symbol> {
        let last = word.len() - 1;
        let symbol = |(at, byte): (usize, u8)| {
            let ids = if at == last { &self.last } else { &self.inner };
            Symbol { id: ids[usize::from(byte)], len: 1, previous: at.wrapping_sub(1), next: at + 1 }
        };
        word.bytes().enumerate().map(symbol).collect()
    }
}

/// The characters that stand for bytes in a byte-level vocabulary: printable bytes for themselves, the others
/// for the characters from U+0100 on.
fn byte_characters() -> [char; 256] {
    let mut stand_ins = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => stand_ins.next().expect("there are characters after U+0100"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use super::*;

    pub(super) const EMOJI: &str = "models/emoji/tokenizer.json";
    pub(super) const EMOJI_WINDOW: Window = Window { length: 16, start: 0, end: 1, pad: 1 };

    pub(super) fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    pub(super) fn emoji() -> Tokenizer {
        Tokenizer::from_tokenizer_json(repository(EMOJI), EMOJI_WINDOW).unwrap()
    }

    fn tiny(model: &str, pad: u32) -> Tokenizer {
        let folder = repository(&format!("tests/models/{model}/tokenizer"));
        let window = Window { length: 77, start: 672, end: 673, pad };
        Tokenizer::from_vocab_and_merges(folder.join("vocab.json"), folder.join("merges.txt"), window).unwrap()
    }

    #[test]
    fn ids_are_those_of_hugging_face() {
        let text = fs::read_to_string(repository("tests/golden/tokens.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let tokenizers =
            [("emoji", emoji()), ("tiny-sd", tiny("tiny-sd", 673)), ("tiny-static", tiny("tiny-static", 0))];
        for case in golden["cases"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            for (name, tokenizer) in &tokenizers {
                assert_eq!(json!(tokenizer.encode(prompt).ids), case[name], "{name}: {prompt:?}");
            }
        }
    }

    #[test]
    fn window_frames_cuts_and_pads() {
        let tokenizer = emoji();
        let tokens = tokenizer.encode("a red apple");
        assert_eq!(tokens.ids[..5], [0, 266, 323, 858, 1]);
        assert_eq!((tokens.ids.len(), tokens.cut), (16, None));
        let full = tokenizer.encode(&"apple ".repeat(14));
        assert_eq!((full.ids[14], full.ids[15], full.cut), (858, 1, None));
    }

    #[test]
    fn cut_quotes_the_normalised_rest() {
        let fourteen = "red ".repeat(14);
        for (prompt, cut) in [
            (format!("{fourteen} A\u{a0}Blue  CAFE\u{301} "), "a\u{a0}blue  café"),
            (format!("{fourteen}<|endoftext|> X <|endoftext|> y"), "<|endoftext|> x <|endoftext|> y"),
            // A word that fits in part is quoted from its first token that does not.
            ("red ".repeat(13) + "applehouse", "pplehouse"),
            // "é" is two tokens of this vocabulary, and only the first fits.
            ("red ".repeat(13) + "é!", "é!"),
        ] {
            assert_eq!(emoji().encode(&prompt).cut.as_deref(), Some(cut), "{prompt:?}");
        }
    }

    #[test]
    fn bytes_are_written_as_printable_characters() {
        let characters = byte_characters();
        let at = |byte: u8| characters[usize::from(byte)];
        assert_eq!([at(0), at(b' '), at(b'!'), at(127), at(0xad), at(0xff)], ['Ā', 'Ġ', '!', 'ġ', 'Ń', 'ÿ']);
    }

    #[test]
    fn any_text_fills_the_window() {
        let tokenizers = [emoji(), tiny("tiny-sd", 673), tiny("tiny-static", 0)];
        let mut random = rand_mt::Mt::new(1);
        for _ in 0..2_000 {
            let len = random.next_u32() % 100;
            let prompt: String = (0..len).map(|_| random_character(&mut random)).collect();
            for tokenizer in &tokenizers {
                let Tokens { ids, cut } = tokenizer.encode(&prompt);
                assert_eq!(ids.len(), tokenizer.window.length, "{prompt:?}");
                assert_eq!(ids[0], tokenizer.window.start);
                let last = if cut.is_some() { tokenizer.window.end } else { *ids.last().unwrap() };
                assert!([tokenizer.window.end, tokenizer.window.pad].contains(&last), "{prompt:?}");
            }
        }
    }

    fn random_character(random: &mut rand_mt::Mt) -> char {
        const COMMON: [char; 12] = ['a', 'R', ' ', '\'', 's', '\0', '\u{301}', '\u{ad}', '<', '|', '😀', '9'];
        let number = random.next_u32();
        char::from_u32(number % 0x11_0000).filter(|_| number.is_multiple_of(3)).unwrap_or(COMMON[number as usize % 12])
    }

    #[test]
    fn very_long_words_are_not_quadratic() {
        let tokenizer = emoji();
        for text in ["a", "applehouse", "\u{301}", "!", "'", "<|endoftext|>", "日"] {
            let tokens = tokenizer.encode(&text.repeat(200_000 / text.len()));
            assert!(tokens.cut.is_some());
        }
    }
}
