//! Tokenizer files, `tokenizer.json` or `vocab.json` and `merges.txt`, and what is refused of them.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::split::{Added, Normalizer, Pattern, normalize, sort_added};
use super::{Alphabet, Merge, Tokenizer, WORD_END, Window};
use crate::bounded::{self, Unread};
use crate::{Error, Result};

/// The largest tokenizer file that is read; CLIP's are below 4 MB.
const FILE_LIMIT_BYTES: u64 = 16 << 20;
/// The longest window; CLIP's is 77.
const WINDOW_LIMIT: usize = 1 << 16;
/// The most added tokens, for the prompt is searched for each of them.
const ADDED_LIMIT: usize = 1024;

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`.
    ///
    /// The window rules over the file's own `truncation` and `padding`; what the file says of start and end
    /// must agree with it.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) names the field that is not supported;
    /// [`Limit`](crate::ErrorKind::Limit) and [`Io`](crate::ErrorKind::Io) are about the file itself.
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
        check_ids(&vocab, &[]).and_then(|len| check_window(&window, len)).map_err(|e| opening(e, vocab_json))?;
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
            normalized: vocab_tokens(&vocab, |id| [window.start, window.end].contains(&id) && id != window.pad),
        })
    }
}

pub(super) type Vocab<'a> = HashMap<Text<'a>, u32>;

/// A string that borrows from the file it stands in: serde copies a plain `Cow`.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

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
    expect_field("pre_tokenizer: ByteLevel.add_prefix_space", &declared["add_prefix_space"], &[json!(false)])?;
    let known = ["type", "add_prefix_space", "trim_offsets", "use_regex"];
    if let Some(field) = fields(declared).find(|field| !known.contains(field)) {
        return Err(unsupported("pre_tokenizer: ByteLevel", &json!(field), known.join(", ")));
    }
    // Files from before the field existed mean true.
    let use_regex = declared["use_regex"].as_bool().unwrap_or(true);
    let supported: Vec<_> =
        [false, true].into_iter().filter(|&on| pattern.allows_byte_level_regex(on)).map(Value::from).collect();
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
        Some((text, id)) => Err(Error::model(format!("token {text:?} has id {id}; {len} tokens have ids below {len}"))),
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
                "the window's {name} is token {id}, but the vocabulary has {vocab_len} tokens; \
                 correct the model's description"
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
        let (left, right) = symbols
            .ok_or_else(|| Error::model(format!("merge {rank} is not two symbols with a space between them")))?;
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
    bounded::read(path, FILE_LIMIT_BYTES).map_err(|e| {
        let error = match &e {
            Unread::TooLong(_) => Error::limit(format!("it {e}; a tokenizer is smaller")),
            Unread::NotText(error) => Error::model(error.to_string()),
            Unread::Failed(error) => Error::io(error.to_string()),
        };
        opening(error, path)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{EMOJI, EMOJI_WINDOW, emoji, repository};
    use super::*;
    use crate::ErrorKind;

    /// The emoji model's file after `edit`, opened.
    fn edited(edit: impl FnOnce(&mut Value)) -> Result<Tokenizer> {
        let text = fs::read_to_string(repository(EMOJI)).unwrap();
        let mut file = serde_json::from_str(&text).unwrap();
        edit(&mut file);
        open_text(&file.to_string())
    }

    fn open_text(text: &str) -> Result<Tokenizer> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        Tokenizer::from_tokenizer_json(&file, EMOJI_WINDOW)
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
            ("/model/end_of_word_suffix", json!(null), r#"model.end_of_word_suffix is null; supported: "</w>""#),
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
            ("/post_processor", json!({ "type": "RobertaProcessing", "cls": ["x", 5] }), "post_processor.cls is 5"),
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
        assert_eq!(as_lines.unwrap().encode(prompt), emoji().encode(prompt));
    }

    #[test]
    fn added_tokens_may_extend_the_vocabulary() {
        let tokenizer = edited(|file| {
            let mut token = file["added_tokens"][0].clone();
            (token["id"], token["content"], token["normalized"]) = (json!(2816), json!("<My Style>"), json!(true));
            file["added_tokens"].as_array_mut().unwrap().push(token);
        });
        assert_eq!(tokenizer.unwrap().encode("red <MY style>").ids[..4], [0, 323, 2816, 1]);
    }

    #[test]
    fn window_must_fit_the_vocabulary() {
        for window in [
            Window { length: 1, ..EMOJI_WINDOW },
            Window { length: usize::MAX, ..EMOJI_WINDOW },
            Window { start: 2816, ..EMOJI_WINDOW },
            Window { end: u32::MAX, ..EMOJI_WINDOW },
            Window { pad: 2816, ..EMOJI_WINDOW },
        ] {
            let error = Tokenizer::from_tokenizer_json(repository(EMOJI), window).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{window:?}");
        }
    }

    #[test]
    fn files_that_are_none_are_errors() {
        for text in ["", "{", "[]", "null", "{\"model\":{}}", "\u{feff}{}", "[[[[[[[["] {
            assert_eq!(open_text(text).unwrap_err().kind(), ErrorKind::Model, "{text:?}");
        }
        let missing = Tokenizer::from_tokenizer_json("no/such/tokenizer.json", EMOJI_WINDOW).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert!(missing.to_string().contains("no/such/tokenizer.json"), "{missing}");
        let large = " ".repeat(FILE_LIMIT_BYTES as usize + 1);
        assert_eq!(open_text(&large).unwrap_err().kind(), ErrorKind::Limit);
    }
}
