//! What a prompt is split into: added tokens, then the words of the normalised text between them.

use std::cmp::Reverse;
use std::iter;

use serde_json::{Value, json};
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// The words that CLIP's pattern names before its classes of characters.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/// The markers that newer files name in the pattern; their inside is split again by the byte-level step.
const MARKERS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Normalizer {
    Nfc,
    Spaces,
    Lowercase,
}

impl Normalizer {
    pub(super) const ALL: [Self; 3] = [Self::Nfc, Self::Spaces, Self::Lowercase];

    pub(super) fn declaration(self) -> Value {
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

pub(super) fn normalize(text: &str, normalizers: &[Normalizer]) -> String {
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
pub(super) enum Pattern {
    Unicode,
    UnicodeAndMarkers,
    Ascii,
}

impl Pattern {
    pub(super) const ALL: [Self; 3] = [Self::Unicode, Self::UnicodeAndMarkers, Self::Ascii];

    pub(super) fn regex(self) -> &'static str {
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
    pub(super) fn allows_byte_level_regex(self, use_regex: bool) -> bool {
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
pub(super) fn words(text: &str, pattern: Pattern) -> impl Iterator<Item = (usize, &str)> {
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
pub(super) struct Added {
    pub(super) text: String,
    pub(super) id: u32,
}

/// A part of the prompt: an added token or the text between two.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) text: String,
    pub(super) token: Option<u32>,
}

/// Splits at the added tokens, the longest of those that begin at the same place.
pub(super) fn split_added(text: &str, added: &[Added]) -> Vec<Segment> {
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

/// Longest first; an empty one would be found everywhere.
pub(super) fn sort_added(added: &mut Vec<Added>) {
    added.retain(|token| !token.text.is_empty());
    added.sort_by_key(|token| Reverse(token.text.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn longest_added_token_wins() {
        let added = |text: &str, id| Added { text: text.to_owned(), id };
        let mut tokens = vec![added("<a>", 1), added("", 2), added("<a><b>", 3)];
        sort_added(&mut tokens);
        let found: Vec<_> =
            split_added("é<a><a><b>x", &tokens).into_iter().map(|segment| (segment.text, segment.token)).collect();
        let expected = [("é", None), ("<a>", Some(1)), ("<a><b>", Some(3)), ("x", None)];
        assert_eq!(found, expected.map(|(text, token)| (text.to_owned(), token)));
    }
}
