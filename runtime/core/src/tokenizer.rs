//! Prompt to token ids: CLIP's byte-level byte-pair encoding, as Hugging Face's `tokenizers` computes it.
//!
//! A tokenizer comes from a `tokenizer.json`, or from the `vocab.json` and `merges.txt` that published Stable
//! Diffusion pipelines carry. A file that asks for anything not done here is refused, never approximated.
//! The one difference from Hugging Face: marks and compositions newer than its Unicode tables are normalised.

use std::borrow::{Borrow, Cow};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::iter;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

use crate::{Error, Result};

/// The largest tokenizer file that is read; CLIP's are below 4 MB.
const FILE_LIMIT_BYTES: u64 = 16 << 20;
/// The longest window; CLIP's is 77.
const WINDOW_LIMIT: usize = 1 << 16;
/// The most added tokens, for the prompt is searched for each of them.
const ADDED_LIMIT: usize = 1024;

/// What CLIP appends to the last symbol of a word.
const WORD_END: &str = "</w>";
/// The words that CLIP's pattern names before its classes of characters.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/// The markers that newer files name in the pattern; their inside is split again by the byte-level step.
const MARKERS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

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
    /// Reads a Hugging Face `tokenizer.json`.
    ///
    /// The window rules over the file's own `truncation` and `padding`; what the file says of start and end
    /// must agree with it.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) names the field that is not supported; [`Limit`](crate::ErrorKind::Limit) and [`Io`](crate::ErrorKind::Io)
    /// are about the file itself.
    pub fn from_tokenizer_json(path: impl AsRef<Path>, window: Window) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path)?;
        parse_json::<TokenizerFile>(&text).and_then(|file| file.resolve(window)).map_err(|e| opening(e, path))
    }

    /// Reads the `vocab.json` and `merges.txt` of a published Stable Diffusion pipeline, with the
    /// normalisation and the pattern that CLIP fixes.
    ///
    /// # Errors
    /// As [`Tokenizer::from_tokenizer_json`].
    pub fn from_vocab_and_merges(
        vocab_json: impl AsRef<Path>,
        merges_txt: impl AsRef<Path>,
        window: Window,
    ) -> Result<Self> {
        let (vocab_json, merges_txt) = (vocab_json.as_ref(), merges_txt.as_ref());
        let (vocab_text, merges_text) = (read_text(vocab_json)?, read_text(merges_txt)?);
        let vocab: Vocab = parse_json(&vocab_text).map_err(|e| opening(e, vocab_json))?;
        check_ids(&vocab, &[])
            .and_then(|len| check_window(&window, len))
            .map_err(|e| opening(e, vocab_json))?;
        let lines = merges_text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        Ok(Self {
            window,
            normalizers: Normalizer::ALL.to_vec(),
            pattern: Pattern::UnicodeAndMarkers,
            alphabet: Alphabet::new(&vocab, Some(window.end)).map_err(|e| opening(e, vocab_json))?,
            merges: merge_table(&vocab, lines.map(two_symbols)).map_err(|e| opening(e, merges_txt))?,
            // As the special_tokens_map.json of these pipelines has it: the padding is found as it stands,
            // even where it is as common as `!`; start and end are found in any case of their letters.
            verbatim: vocab_tokens(&vocab, |id| id == window.pad),
            normalized: vocab_tokens(&vocab, |id| {
                [window.start, window.end].contains(&id) && id != window.pad
            }),
        })
    }

    /// The ids of `prompt`, framed and cut to the window.
    ///
    /// Any text is a prompt; the time is about linear in its length.
    pub fn encode(&self, prompt: &str) -> Tokens {
        let mut ids = Vec::with_capacity(self.window.length);
        ids.push(self.window.start);
        let mut cut = String::new();
        for segment in self.segments(prompt) {
            let fitting = if cut.is_empty() { self.push_segment(&segment, &mut ids) } else { 0 };
            cut.push_str(&segment.text[fitting..]);
        }
        ids.push(self.window.end);
        ids.resize(self.window.length, self.window.pad);
        cut.truncate(cut.trim_end().len());
        Tokens { ids, cut: (!cut.is_empty()).then_some(cut) }
    }

    /// Appends the ids of `segment` until one place is left for the end; returns how many bytes of text fit.
    fn push_segment(&self, segment: &Segment, ids: &mut Vec<u32>) -> usize {
        let room = self.window.length - 1;
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
                None => segments
                    .extend(split_added(&normalize(&segment.text, &self.normalizers), &self.normalized)),
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
                    Error::model(format!(
                        "model.vocab lacks {text:?} and model.unk_token is null; add one of them"
                    ))
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normalizer {
    Nfc,
    Spaces,
    Lowercase,
}

impl Normalizer {
    const ALL: [Self; 3] = [Self::Nfc, Self::Spaces, Self::Lowercase];

    fn declaration(self) -> Value {
        match self {
            Self::Nfc => json!({ "type": "NFC" }),
            Self::Spaces => json!({ "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " }),
            Self::Lowercase => json!({ "type": "Lowercase" }),
        }
    }

    fn apply(self, text: &str) -> String {
        match self {
            Self::Nfc => text.nfc().collect(),
            Self::Spaces => collapse_spaces(text),
            // Character by character: `str::to_lowercase` treats a final sigma differently.
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
        }
    }
}

fn normalize(text: &str, normalizers: &[Normalizer]) -> String {
    normalizers.iter().fold(text.to_owned(), |text, normalizer| normalizer.apply(&text))
}

fn collapse_spaces(text: &str) -> String {
    let mut collapsed = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_whitespace() {
            true if collapsed.ends_with(' ') => {}
            true => collapsed.push(' '),
            false => collapsed.push(character),
        }
    }
    collapsed
}

/// What counts as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Unicode,
    UnicodeAndMarkers,
    Ascii,
}

impl Pattern {
    const ALL: [Self; 3] = [Self::Unicode, Self::UnicodeAndMarkers, Self::Ascii];

    fn regex(self) -> &'static str {
        match self {
            Self::Unicode => r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            Self::UnicodeAndMarkers => {
                r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
            }
            Self::Ascii => r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+",
        }
    }

    /// Whether the byte-level step may split the words again by its own regex: with the Unicode patterns that
    /// changes markers only, which [`words`] does.
    fn allows_byte_level_regex(self, use_regex: bool) -> bool {
        match self {
            Self::Unicode => true,
            Self::UnicodeAndMarkers => use_regex,
            Self::Ascii => !use_regex,
        }
    }

    fn class(self, character: char) -> Class {
        match (self, character) {
            (_, 'a'..='z') => Class::Letter,
            (_, '0'..='9') => Class::Number,
            _ if character.is_whitespace() => Class::Space,
            (Self::Ascii, _) => Class::Other,
            _ => unicode_class(character),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Number,
    Other,
}

/// Unicode's general categories L and N; `char::is_alphabetic` is a larger set.
fn unicode_class(character: char) -> Class {
    use GeneralCategory::*;
    match get_general_category(character) {
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter => Class::Letter,
        DecimalNumber | LetterNumber | OtherNumber => Class::Number,
        _ => Class::Other,
    }
}

/// The words of `text`, each with its byte offset.
fn words(text: &str, pattern: Pattern) -> impl Iterator<Item = (usize, &str)> {
    let (mut at, mut marker_end) = (0, 0);
    iter::from_fn(move || {
        at = text.len() - text[at..].trim_start().len();
        if at >= marker_end && pattern == Pattern::UnicodeAndMarkers {
            marker_end = at + prefix_len(&text[at..], &MARKERS);
        }
        let reach = if at < marker_end { marker_end } else { text.len() };
        let start = at;
        at += first_word_len(&text[start..reach], pattern)?;
        Some((start, &text[start..at]))
    })
}

/// The length in bytes of the word that `text` begins with; `text` does not begin with a space.
fn first_word_len(text: &str, pattern: Pattern) -> Option<usize> {
    let first = text.chars().next()?;
    let contraction_len = prefix_len(text, &CONTRACTIONS);
    if contraction_len > 0 {
        return Some(contraction_len);
    }
    Some(match pattern.class(first) {
        Class::Number => first.len_utf8(),
        class => text.find(|character| pattern.class(character) != class).unwrap_or(text.len()),
    })
}

fn prefix_len(text: &str, prefixes: &[&str]) -> usize {
    prefixes.iter().find(|prefix| text.starts_with(**prefix)).map_or(0, |prefix| prefix.len())
}

/// A token that is recognised as a whole in the prompt, such as `<|endoftext|>`.
#[derive(Debug, Clone)]
struct Added {
    text: String,
    id: u32,
}

/// A part of the prompt: an added token or the text between two.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    text: String,
    token: Option<u32>,
}

/// Splits at the added tokens, the longest of those that begin at the same place.
fn split_added(text: &str, added: &[Added]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let (mut start, mut at) = (0, 0);
    // A character never begins inside another one in UTF-8, so the search may go byte by byte.
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let Some(token) = added.iter().find(|token| rest.starts_with(token.text.as_bytes())) else {
            at += 1;
            continue;
        };
        push_text(&mut segments, &text[start..at]);
        segments.push(Segment { text: token.text.clone(), token: Some(token.id) });
        at += token.text.len();
        start = at;
    }
    push_text(&mut segments, &text[start..]);
    segments
}

fn push_text(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment { text: text.to_owned(), token: None });
    }
}

type Vocab<'a> = HashMap<Text<'a>, u32>;

/// A string that borrows from the file it stands in: serde copies a plain `Cow`.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A merge as files write it: `["a", "b"]`, or `"a b"` in older ones.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MergeText<'a> {
    #[serde(borrow)]
    Line(Text<'a>),
    Pair(Text<'a>, Text<'a>),
}

impl MergeText<'_> {
    fn symbols(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(Text(line)) => two_symbols(line),
            Self::Pair(Text(left), Text(right)) => Some((left, right)),
        }
    }
}

fn two_symbols(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(_, right)| !right.contains(' '))
}

/// `tokenizer.json`. What is compared with the few things supported stays a [`Value`], so that an error can
/// quote it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizerFile<'a> {
    #[serde(default)]
    version: Value,
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<AddedText>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    /// Turns ids into text, which nobody asks for here.
    #[serde(default, rename = "decoder")]
    _decoder: serde::de::IgnoredAny,
    #[serde(borrow)]
    model: ModelText<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddedText {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: Value,
    #[serde(default)]
    lstrip: Value,
    #[serde(default)]
    rstrip: Value,
    normalized: bool,
    /// Of interest to decoders only.
    #[serde(default, rename = "special")]
    _special: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelText<'a> {
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    dropout: Value,
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    fuse_unk: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow)]
    merges: Vec<MergeText<'a>>,
}

impl TokenizerFile<'_> {
    fn resolve(self, window: Window) -> Result<Tokenizer> {
        expect_field("version", &self.version, &[json!("1.0"), Value::Null])?;
        expect_field("truncation.direction", &self.truncation["direction"], &[json!("Right"), Value::Null])?;
        expect_field("padding.direction", &self.padding["direction"], &[json!("Right"), Value::Null])?;
        self.model.check_fields()?;
        let vocab = &self.model.vocab;
        check_window(&window, check_ids(vocab, &self.added_tokens)?)?;
        check_post_processor(&self.post_processor, &window)?;
        let normalizers = read_normalizers(&self.normalizer)?;
        let (verbatim, normalized) = read_added(self.added_tokens, &normalizers)?;
        Ok(Tokenizer {
            window,
            normalizers,
            pattern: read_pattern(&self.pre_tokenizer)?,
            alphabet: Alphabet::new(vocab, self.model.unknown()?)?,
            merges: merge_table(vocab, self.model.merges.iter().map(MergeText::symbols))?,
            verbatim,
            normalized,
        })
    }
}

impl ModelText<'_> {
    fn check_fields(&self) -> Result<()> {
        expect_field("model.type", &self.kind, &[json!("BPE"), Value::Null])?;
        expect_field("model.dropout", &self.dropout, &[Value::Null, json!(0.0)])?;
        let prefix = &self.continuing_subword_prefix;
        expect_field("model.continuing_subword_prefix", prefix, &[Value::Null, json!("")])?;
        expect_field("model.end_of_word_suffix", &self.end_of_word_suffix, &[json!(WORD_END)])?;
        expect_off("model.fuse_unk", &self.fuse_unk)?;
        expect_off("model.byte_fallback", &self.byte_fallback)?;
        expect_off("model.ignore_merges", &self.ignore_merges)
    }

    fn unknown(&self) -> Result<Option<u32>> {
        let Some(text) = &self.unk_token else { return Ok(None) };
        self.vocab.get(text.as_str()).copied().map(Some).ok_or_else(|| {
            Error::model(format!("model.unk_token is {text:?}, which model.vocab lacks; name a token of it"))
        })
    }
}

fn read_normalizers(declared: &Value) -> Result<Vec<Normalizer>> {
    let supported: Vec<_> = Normalizer::ALL.iter().map(|normalizer| normalizer.declaration()).collect();
    let read = |step: &Value| {
        expect_field("normalizer", step, &supported)?;
        Ok(Normalizer::ALL.into_iter().find(|normalizer| normalizer.declaration() == *step))
    };
    steps(declared, "normalizers").into_iter().filter_map(|step| read(step).transpose()).collect()
}

/// A split by one of the patterns, then bytes to characters.
fn read_pattern(declared: &Value) -> Result<Pattern> {
    let steps = steps(declared, "pretokenizers");
    let [split, byte_level] = steps[..] else {
        return Err(unsupported("pre_tokenizer", declared, "a Sequence of Split and ByteLevel"));
    };
    let regex = &split["pattern"]["Regex"];
    let Some(pattern) = Pattern::ALL.into_iter().find(|pattern| *regex == pattern.regex()) else {
        let supported = Pattern::ALL.map(Pattern::regex).join(" or ");
        return Err(unsupported("pre_tokenizer: Split.pattern.Regex", regex, supported));
    };
    let expected = json!({
        "type": "Split", "pattern": { "Regex": pattern.regex() }, "behavior": "Removed", "invert": true,
    });
    expect_field("pre_tokenizer", split, &[expected])?;
    check_byte_level(byte_level, pattern)?;
    Ok(pattern)
}

fn check_byte_level(declared: &Value, pattern: Pattern) -> Result<()> {
    expect_field("pre_tokenizer: the second type", &declared["type"], &[json!("ByteLevel")])?;
    expect_field(
        "pre_tokenizer: ByteLevel.add_prefix_space",
        &declared["add_prefix_space"],
        &[json!(false)],
    )?;
    let known = ["type", "add_prefix_space", "trim_offsets", "use_regex"];
    if let Some(field) = fields(declared).find(|field| !known.contains(field)) {
        return Err(unsupported("pre_tokenizer: ByteLevel", &json!(field), known.join(", ")));
    }
    // Files from before the field existed mean true.
    let use_regex = declared["use_regex"].as_bool().unwrap_or(true);
    let supported: Vec<_> = [false, true]
        .into_iter()
        .filter(|&on| pattern.allows_byte_level_regex(on))
        .map(Value::from)
        .collect();
    expect_field("pre_tokenizer: ByteLevel.use_regex", &json!(use_regex), &supported)
}

/// The steps of a possibly nested `Sequence` in order; no step for `null`.
fn steps<'a>(declared: &'a Value, list: &str) -> Vec<&'a Value> {
    match &declared["type"] {
        _ if declared.is_null() => Vec::new(),
        kind if kind == "Sequence" && declared[list].is_array() => {
            declared[list].as_array().into_iter().flatten().flat_map(|step| steps(step, list)).collect()
        }
        _ => vec![declared],
    }
}

/// The window frames the tokens; a post-processor may say the same, not something else.
fn check_post_processor(declared: &Value, window: &Window) -> Result<()> {
    let kind = &declared["type"];
    if declared.is_null() || kind == "ByteLevel" {
        return Ok(());
    }
    if kind != "RobertaProcessing" {
        return Err(unsupported("post_processor.type", kind, "null, ByteLevel or RobertaProcessing"));
    }
    expect_field("post_processor.cls", &declared["cls"][1], &[json!(window.start)])?;
    expect_field("post_processor.sep", &declared["sep"][1], &[json!(window.end)])
}

/// The added tokens to be found before and after normalisation, longest first.
fn read_added(declared: Vec<AddedText>, normalizers: &[Normalizer]) -> Result<(Vec<Added>, Vec<Added>)> {
    if declared.len() > ADDED_LIMIT {
        let message = format!("added_tokens has {} entries; at most {ADDED_LIMIT} are read", declared.len());
        return Err(Error::limit(message));
    }
    let (mut verbatim, mut normalized) = (Vec::new(), Vec::new());
    for AddedText { id, content, normalized: after, .. } in declared {
        if after {
            normalized.push(Added { text: normalize(&content, normalizers), id });
        } else {
            verbatim.push(Added { text: content, id });
        }
    }
    sort_added(&mut verbatim);
    sort_added(&mut normalized);
    Ok((verbatim, normalized))
}

/// The tokens of `vocab` with certain ids, as they are found in a prompt.
fn vocab_tokens(vocab: &Vocab, wanted: impl Fn(u32) -> bool) -> Vec<Added> {
    let tokens = vocab.iter().filter(|&(_, &id)| wanted(id));
    let mut added: Vec<_> = tokens.map(|(text, &id)| Added { text: text.0.to_string(), id }).collect();
    sort_added(&mut added);
    added
}

/// Longest first; an empty one would be found everywhere.
fn sort_added(added: &mut Vec<Added>) {
    added.retain(|token| !token.text.is_empty());
    added.sort_by_key(|token| Reverse(token.text.len()));
}

/// The number of tokens, once every id is known to lie below it.
fn check_ids(vocab: &Vocab, added: &[AddedText]) -> Result<usize> {
    let new = added.iter().filter(|token| !vocab.contains_key(token.content.as_str())).count();
    let len = vocab.len() + new;
    for token in added {
        check_added(token, vocab)?;
    }
    let entries = vocab.iter().map(|(text, &id)| (&*text.0, id));
    let added = added.iter().map(|token| (&*token.content, token.id));
    match entries.chain(added).find(|&(_, id)| id as usize >= len) {
        None => Ok(len),
        Some((text, id)) => {
            Err(Error::model(format!("token {text:?} has id {id}; {len} tokens have ids below {len}")))
        }
    }
}

fn check_added(token: &AddedText, vocab: &Vocab) -> Result<()> {
    expect_off("added_tokens.single_word", &token.single_word)?;
    expect_off("added_tokens.lstrip", &token.lstrip)?;
    expect_off("added_tokens.rstrip", &token.rstrip)?;
    let field = format!("added_tokens: the id of {:?}", token.content);
    match vocab.get(token.content.as_str()) {
        Some(&id) => expect_field(&field, &json!(token.id), &[json!(id)]),
        None if (token.id as usize) < vocab.len() => {
            let supported = format!("ids from {} on, for model.vocab has the others", vocab.len());
            Err(unsupported(&field, &json!(token.id), supported))
        }
        None => Ok(()),
    }
}

fn check_window(window: &Window, vocab_len: usize) -> Result<()> {
    if !(2..=WINDOW_LIMIT).contains(&window.length) {
        return Err(Error::model(format!(
            "the window's length is {}; it must be between 2 and {WINDOW_LIMIT}",
            window.length
        )));
    }
    for (name, id) in [("start", window.start), ("end", window.end), ("pad", window.pad)] {
        if id as usize >= vocab_len {
            return Err(Error::model(format!(
                "the window's {name} is token {id}, but the vocabulary has {vocab_len} tokens; correct the model's description"
            )));
        }
    }
    Ok(())
}

/// The merges by pair of ids; an earlier one has a lower rank.
fn merge_table<'a>(
    vocab: &Vocab,
    merges: impl Iterator<Item = Option<(&'a str, &'a str)>>,
) -> Result<HashMap<(u32, u32), Merge>> {
    let mut table = HashMap::with_capacity(merges.size_hint().0);
    let mut merged = String::new();
    for (rank, symbols) in (0..).zip(merges) {
        let (left, right) = symbols.ok_or_else(|| {
            Error::model(format!("merge {rank} is not two symbols with a space between them"))
        })?;
        merged.clear();
        merged.extend([left, right]);
        let id = |symbol: &str| {
            vocab.get(symbol).copied().ok_or_else(|| {
                Error::model(format!("merge {rank} needs the token {symbol:?}, which the vocabulary lacks"))
            })
        };
        table.insert((id(left)?, id(right)?), Merge { rank, id: id(&merged)? });
    }
    Ok(table)
}

fn expect_off(field: &str, found: &Value) -> Result<()> {
    expect_field(field, found, &[json!(false), Value::Null])
}

fn expect_field(field: &str, found: &Value, supported: &[Value]) -> Result<()> {
    if supported.contains(found) {
        return Ok(());
    }
    let supported: Vec<_> = supported.iter().map(Value::to_string).collect();
    Err(unsupported(field, found, supported.join(" or ")))
}

fn unsupported(field: &str, found: &Value, supported: impl fmt::Display) -> Error {
    Error::model(format!("{field} is {found}; supported: {supported}"))
}

fn fields(object: &Value) -> impl Iterator<Item = &str> {
    object.as_object().into_iter().flatten().map(|(field, _)| field.as_str())
}

fn opening(error: Error, path: &Path) -> Error {
    error.context(format_args!("cannot open the tokenizer {}", path.display()))
}

fn parse_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::model(e.to_string()))
}

/// Reads a whole file, if it is one and not too large.
fn read_text(path: &Path) -> Result<String> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut text));
    read.map_err(|e| opening(Error::io(e.to_string()), path))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        let message = format!("it has more than {FILE_LIMIT_BYTES} bytes; a tokenizer is smaller");
        return Err(opening(Error::limit(message), path));
    }
    String::from_utf8(text).map_err(|e| opening(Error::model(e.to_string()), path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::ErrorKind;

    const BOOTSTRAP: &str = "models/emoji-bootstrap/tokenizer.json";
    const BOOTSTRAP_WINDOW: Window = Window { length: 16, start: 0, end: 1, pad: 1 };

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    fn bootstrap() -> Tokenizer {
        Tokenizer::from_tokenizer_json(repository(BOOTSTRAP), BOOTSTRAP_WINDOW).unwrap()
    }

    fn tiny(model: &str, pad: u32) -> Tokenizer {
        let folder = repository(&format!("tests/models/{model}/tokenizer"));
        let window = Window { length: 77, start: 672, end: 673, pad };
        Tokenizer::from_vocab_and_merges(folder.join("vocab.json"), folder.join("merges.txt"), window)
            .unwrap()
    }

    #[test]
    fn ids_are_those_of_hugging_face() {
        let text = fs::read_to_string(repository("tests/golden/tokens.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let tokenizers = [
            ("emoji-bootstrap", bootstrap()),
            ("tiny-sd", tiny("tiny-sd", 673)),
            ("tiny-static", tiny("tiny-static", 0)),
        ];
        for case in golden["cases"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            for (name, tokenizer) in &tokenizers {
                assert_eq!(json!(tokenizer.encode(prompt).ids), case[name], "{name}: {prompt:?}");
            }
        }
    }

    #[test]
    fn window_frames_cuts_and_pads() {
        let tokenizer = bootstrap();
        let tokens = tokenizer.encode("a red apple");
        assert_eq!(tokens.ids[..5], [0, 269, 338, 1114, 1]);
        assert_eq!((tokens.ids.len(), tokens.cut), (16, None));
        let full = tokenizer.encode(&"apple ".repeat(14));
        assert_eq!((full.ids[14], full.ids[15], full.cut), (1114, 1, None));
    }

    #[test]
    fn cut_quotes_the_normalised_rest() {
        let fourteen = "red ".repeat(14);
        for (prompt, cut) in [
            (format!("{fourteen} A\u{a0}Blue  CAFE\u{301} "), "a\u{a0}blue  café"),
            (format!("{fourteen}<|endoftext|> X <|endoftext|> y"), "<|endoftext|> x <|endoftext|> y"),
            // A word that fits in part is quoted from its first token that does not.
            ("red ".repeat(13) + "applehouse", "lehouse"),
            // "é" is two tokens of this vocabulary, and only the first fits.
            ("red ".repeat(13) + "é!", "é!"),
        ] {
            assert_eq!(bootstrap().encode(&prompt).cut.as_deref(), Some(cut), "{prompt:?}");
        }
    }

    #[test]
    fn words_follow_the_pattern() {
        use Pattern::*;
        let table: [(Pattern, &str, &[&str]); 9] = [
            (Unicode, " it's  we'll\tI'd", &["it", "'s", "we", "'ll", "I", "'d"]),
            (Unicode, "'sun 'Sun !'s", &["'s", "un", "'", "Sun", "!'", "s"]),
            (Unicode, "x2y34", &["x", "2", "y", "3", "4"]),
            (Unicode, "日本²Ⅳ—!?é", &["日本", "²", "Ⅳ", "—!?", "é"]),
            // A combining mark is neither a letter nor a number, though `char::is_alphabetic` says it is.
            (Unicode, "हि", &["ह", "ि"]),
            (Ascii, "café2!Ⅳ a", &["caf", "é", "2", "!Ⅳ", "a"]),
            (Unicode, "a<|endoftext|>!", &["a", "<|", "endoftext", "|>!"]),
            (UnicodeAndMarkers, "a<|endoftext|>!", &["a", "<|", "endoftext", "|>", "!"]),
            (UnicodeAndMarkers, "!<|endoftext|>", &["!<|", "endoftext", "|>"]),
        ];
        for (pattern, text, expected) in table {
            let found: Vec<_> = words(text, pattern).map(|(_, word)| word).collect();
            assert_eq!(found, expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn normalizers_do_what_their_names_say() {
        assert_eq!(Normalizer::Nfc.apply("e\u{301}\u{1112}\u{1161}\u{11ab}"), "é한");
        assert_eq!(Normalizer::Spaces.apply("\t a \u{a0}\u{3000}\r\nb "), " a b ");
        assert_eq!(Normalizer::Lowercase.apply("ΣΑΣ İ"), "σασ i\u{307}");
    }

    #[test]
    fn bytes_are_written_as_printable_characters() {
        let characters = byte_characters();
        let at = |byte: u8| characters[usize::from(byte)];
        assert_eq!([at(0), at(b' '), at(b'!'), at(127), at(0xad), at(0xff)], ['Ā', 'Ġ', '!', 'ġ', 'Ń', 'ÿ']);
    }

    #[test]
    fn longest_added_token_wins() {
        let added = |text: &str, id| Added { text: text.to_owned(), id };
        let mut tokens = vec![added("<a>", 1), added("", 2), added("<a><b>", 3)];
        sort_added(&mut tokens);
        let found: Vec<_> = split_added("é<a><a><b>x", &tokens)
            .into_iter()
            .map(|segment| (segment.text, segment.token))
            .collect();
        let expected = [("é", None), ("<a>", Some(1)), ("<a><b>", Some(3)), ("x", None)];
        assert_eq!(found, expected.map(|(text, token)| (text.to_owned(), token)));
    }

    #[test]
    fn any_text_fills_the_window() {
        let tokenizers = [bootstrap(), tiny("tiny-sd", 673), tiny("tiny-static", 0)];
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
        char::from_u32(number % 0x11_0000)
            .filter(|_| number.is_multiple_of(3))
            .unwrap_or(COMMON[number as usize % 12])
    }

    #[test]
    fn very_long_words_are_not_quadratic() {
        let tokenizer = bootstrap();
        for text in ["a", "applehouse", "\u{301}", "!", "'", "<|endoftext|>", "日"] {
            let tokens = tokenizer.encode(&text.repeat(200_000 / text.len()));
            assert!(tokens.cut.is_some());
        }
    }

    /// The bootstrap's file after `edit`, opened.
    fn edited(edit: impl FnOnce(&mut Value)) -> Result<Tokenizer> {
        let text = fs::read_to_string(repository(BOOTSTRAP)).unwrap();
        let mut file = serde_json::from_str(&text).unwrap();
        edit(&mut file);
        open_text(&file.to_string())
    }

    fn open_text(text: &str) -> Result<Tokenizer> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        Tokenizer::from_tokenizer_json(&file, BOOTSTRAP_WINDOW)
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let regex = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
        let table = [
            ("/version", json!("2.0"), r#"version is "2.0"; supported: "1.0""#),
            ("/truncation", json!({ "direction": "Left" }), "truncation.direction"),
            ("/padding", json!({ "direction": "Left" }), "padding.direction"),
            ("/model/type", json!("Unigram"), r#"model.type is "Unigram"; supported: "BPE""#),
            ("/model/dropout", json!(0.1), "model.dropout is 0.1"),
            ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix"),
            (
                "/model/end_of_word_suffix",
                json!(null),
                r#"model.end_of_word_suffix is null; supported: "</w>""#,
            ),
            ("/model/fuse_unk", json!(true), "model.fuse_unk"),
            ("/model/byte_fallback", json!(true), "model.byte_fallback is true; supported: false"),
            ("/model/ignore_merges", json!(true), "model.ignore_merges"),
            ("/model/unk_token", json!("<unk>"), "model.unk_token"),
            ("/model/unk_token", json!(null), "model.unk_token is null"),
            ("/model/merges/7", json!(["in", "zzz"]), r#"merge 7 needs the token "zzz""#),
            ("/model/merges/7", json!("in"), "merge 7"),
            ("/model/vocab/in", json!(70_000), "id 70000"),
            ("/model/vocab/in", json!(-1), "-1"),
            ("/normalizer/normalizers/0", json!({ "type": "NFKC" }), r#"normalizer is {"type":"NFKC"}"#),
            ("/normalizer", json!({ "type": "Lowercase", "more": 1 }), "normalizer is"),
            ("/pre_tokenizer", json!(null), "pre_tokenizer is null"),
            (regex, json!("\\w+"), r#"Split.pattern.Regex is "\\w+""#),
            (regex, json!(Pattern::UnicodeAndMarkers.regex()), "ByteLevel.use_regex"),
            ("/pre_tokenizer/pretokenizers/0/invert", json!(false), "pre_tokenizer is"),
            ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "add_prefix_space is true"),
            ("/pre_tokenizer/pretokenizers/1/use_regex", json!(true), "use_regex is true; supported: false"),
            ("/post_processor", json!({ "type": "BertProcessing" }), "post_processor.type"),
            (
                "/post_processor",
                json!({ "type": "RobertaProcessing", "cls": ["x", 5] }),
                "post_processor.cls is 5",
            ),
            ("/added_tokens/0/lstrip", json!(true), "added_tokens.lstrip"),
            ("/added_tokens/0/id", json!(9), "<|startoftext|>"),
            ("/added_tokens/0/content", json!("<new>"), r#"the id of "<new>" is 0"#),
        ];
        for (pointer, value, message) in table {
            let error = edited(|file| *file.pointer_mut(pointer).unwrap() = value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{pointer}: {error}");
            assert!(error.to_string().contains(message), "{pointer}: {error}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        for pointer in ["", "/model", "/added_tokens/0", "/pre_tokenizer/pretokenizers/1"] {
            let error = edited(|file| file.pointer_mut(pointer).unwrap()["novelty"] = json!(1)).unwrap_err();
            assert!(error.to_string().contains("novelty"), "{pointer}: {error}");
        }
    }

    #[test]
    fn files_of_other_writers_mean_the_same() {
        let prompt = "A red apple, it's CAFÉ 42 <|endoftext|>";
        let as_lines = edited(|file| {
            for merge in file["model"]["merges"].as_array_mut().unwrap() {
                *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
            }
            file["model"].as_object_mut().unwrap().remove("type");
            file["post_processor"] = json!({ "type": "RobertaProcessing", "cls": ["", 0], "sep": ["", 1] });
        });
        assert_eq!(as_lines.unwrap().encode(prompt), bootstrap().encode(prompt));
    }

    #[test]
    fn added_tokens_may_extend_the_vocabulary() {
        let tokenizer = edited(|file| {
            let mut token = file["added_tokens"][0].clone();
            (token["id"], token["content"], token["normalized"]) =
                (json!(4096), json!("<My Style>"), json!(true));
            file["added_tokens"].as_array_mut().unwrap().push(token);
        });
        assert_eq!(tokenizer.unwrap().encode("red <MY style>").ids[..4], [0, 338, 4096, 1]);
    }

    #[test]
    fn window_must_fit_the_vocabulary() {
        for window in [
            Window { length: 1, ..BOOTSTRAP_WINDOW },
            Window { length: usize::MAX, ..BOOTSTRAP_WINDOW },
            Window { start: 4096, ..BOOTSTRAP_WINDOW },
            Window { end: u32::MAX, ..BOOTSTRAP_WINDOW },
            Window { pad: 4096, ..BOOTSTRAP_WINDOW },
        ] {
            let error = Tokenizer::from_tokenizer_json(repository(BOOTSTRAP), window).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{window:?}");
        }
    }

    #[test]
    fn files_that_are_none_are_errors() {
        for text in ["", "{", "[]", "null", "{\"model\":{}}", "\u{feff}{}", "[[[[[[[["] {
            assert_eq!(open_text(text).unwrap_err().kind(), ErrorKind::Model, "{text:?}");
        }
        let missing = Tokenizer::from_tokenizer_json("no/such/tokenizer.json", BOOTSTRAP_WINDOW).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert!(missing.to_string().contains("no/such/tokenizer.json"), "{missing}");
        let large = " ".repeat(FILE_LIMIT_BYTES as usize + 1);
        assert_eq!(open_text(&large).unwrap_err().kind(), ErrorKind::Limit);
    }
}
