//! What a prompt says: its words, and how strongly each of them counts.
//!
//! The grammar of weights is that of the Stable Diffusion web UI (AUTOMATIC1111), read strictly: what that passes over,
//! such as a bracket that is never closed, is an error that tells its place, and so is what is not done here.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

mod chunks;

pub(crate) use chunks::chunks;

/// What `(words)` multiplies by, and `[words]` divides by.
const EMPHASIS: f64 = 1.1;
/// Largest weight, alone or as a product; pictures fall apart long before.
const MAX_WEIGHT: f64 = 10.0;
/// Most brackets around a word.
const MAX_DEPTH: usize = 100;
/// Most characters of a prompt that a message quotes.
const QUOTED_CHARACTERS: usize = 30;

/// How a prompt is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Syntax {
    /// Every character is text.
    #[default]
    Plain,
    /// `(words:1.3)` is a weight, `(words)` one of 1.1, `[words]` one of 1/1.1; nested ones multiply. `BREAK` starts
    /// another chunk. A backslash makes a bracket, a colon, a bar or a backslash text.
    Weighted,
}

/// What becomes of a prompt that is longer than the text encoder's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongPrompts {
    /// Its end is cut off, and a warning quotes it.
    #[default]
    Cut,
    /// It is read in chunks of a window each, whose hidden states follow one another. For denoisers that take any number
    /// of tokens.
    Chunks,
}

impl LongPrompts {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Cut, Self::Chunks];

    /// The name that users type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Chunks => "chunks",
        }
    }

    /// One line for help texts.
    pub fn about(self) -> &'static str {
        match self {
            Self::Cut => "their end is cut off, with a warning",
            Self::Chunks => "they are read in several, one after the other",
        }
    }
}

impl FromStr for LongPrompts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| Error::usage(format!("expected {}", Self::ALL.map(Self::name).join(" or "))))
    }
}

/// A prompt that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// What is between one `BREAK` and the next; at least one, which may be empty.
    pub sections: Vec<Vec<Piece>>,
    /// What becomes of it where it is long.
    pub long: LongPrompts,
}

/// Words of one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The words, without brackets and backslashes.
    pub text: String,
    /// From 0 to 10; 1 changes nothing.
    pub weight: f32,
}

impl Prompt {
    /// Reads a prompt; the time is linear in its length.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a weighted one with a bracket that lacks its other, with a
    /// weight outside 0 to 10, with what the web UI understands and safelight does not, or with several sections where
    /// it is to be cut to one window; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for more than 100 brackets in each
    /// other.
    pub fn new(text: &str, syntax: Syntax, long: LongPrompts) -> Result<Self> {
        let sections = match syntax {
            Syntax::Plain if text.is_empty() => vec![Vec::new()],
            Syntax::Plain => vec![vec![Piece { text: text.to_owned(), weight: 1.0 }]],
            Syntax::Weighted => Reader::new(text).read()?,
        };
        if long == LongPrompts::Cut && sections.len() > 1 {
            return Err(Error::usage(
                "weighted prompt: BREAK starts another chunk, which a prompt that is cut to one has not; take \
                 --long-prompts chunks",
            ));
        }
        Ok(Self { sections, long })
    }

    /// One without words, to be read like this one.
    pub(crate) fn without_words(&self) -> Self {
        Self { sections: vec![Vec::new()], long: self.long }
    }

    /// Its words.
    pub(crate) fn text(&self) -> String {
        let words: String = self.sections.iter().flatten().map(|piece| piece.text.as_str()).collect();
        words.trim().to_owned()
    }
}

/// The first thing in a plain prompt that would be a weight in a weighted one, such as `(red:1.3)`.
pub fn find_weight(text: &str) -> Option<&str> {
    let mut open = None;
    for (at, character) in text.char_indices() {
        match character {
            '(' => open = Some(at),
            ')' => open = None,
            ':' => {
                if let (Some(open), Some(found)) = (open, Suffix::find(&text[at + 1..]))
                    && found.bracket == ')'
                    && found.number.parse::<f64>().is_ok()
                {
                    return Some(&text[open..at + 1 + found.len]);
                }
            }
            _ => (),
        }
    }
    None
}

/// What follows a colon: a number and the bracket that it ends with.
struct Suffix<'a> {
    number: &'a str,
    bracket: char,
    /// Bytes of both, and of spaces around the number.
    len: usize,
}

impl<'a> Suffix<'a> {
    fn find(text: &'a str) -> Option<Self> {
        let trimmed = text.trim_start();
        let end = trimmed.find(|c| !matches!(c, '0'..='9' | '+' | '-' | '.' | ',' | '%')).unwrap_or(trimmed.len());
        let rest = trimmed[end..].trim_start();
        let bracket = rest.chars().next().filter(|c| matches!(c, ')' | ']'))?;
        (end > 0).then(|| Self { number: &trimmed[..end], bracket, len: text.len() - rest.len() + 1 })
    }
}

/// A pair of brackets.
struct Group {
    /// Index of the one around it.
    parent: usize,
    /// Where it was opened, in bytes.
    at: usize,
    bracket: char,
    weight: f64,
}

/// A weighted prompt while it is read.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The first is around everything; a group comes after its parent.
    groups: Vec<Group>,
    /// The innermost group that is open.
    group: usize,
    depth: usize,
    /// Text with the index of its group.
    sections: Vec<Vec<(String, usize)>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let all = Group { parent: 0, at: 0, bracket: ' ', weight: 1.0 };
        Self { text, at: 0, groups: vec![all], group: 0, depth: 0, sections: vec![Vec::new()] }
    }

    fn read(mut self) -> Result<Vec<Vec<Piece>>> {
        while let Some(character) = self.text[self.at..].chars().next() {
            match character {
                '\\' => self.escape()?,
                '(' | '[' => self.open(character)?,
                ')' | ']' => self.close(character, None)?,
                ':' => self.colon()?,
                '|' if self.bracket() == '[' => {
                    return Err(self.fault(self.at, "words that take turns are not done; write \\| for a plain bar"));
                }
                '<' if ["<lora:", "<lyco:", "<hypernet:"].iter().any(|tag| self.text[self.at..].starts_with(tag)) => {
                    return Err(self.fault(self.at, "networks cannot be named in a prompt; leave it out"));
                }
                _ if self.is_word("BREAK") => {
                    self.at += "BREAK".len();
                    self.sections.push(Vec::new());
                }
                _ if self.is_word("AND") => {
                    return Err(self.fault(self.at, "prompts are not composed; write \"and\" for the word"));
                }
                _ => self.push(character),
            }
        }
        if self.group != 0 {
            let Group { at, bracket, .. } = self.groups[self.group];
            return Err(self.fault(at, &format!("the bracket is never closed; write \\{bracket} for a plain one")));
        }
        self.finish()
    }

    fn bracket(&self) -> char {
        self.groups[self.group].bracket
    }

    /// Whether a word begins here, and is this one.
    fn is_word(&self, word: &str) -> bool {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        let (before, after) = self.text.split_at(self.at);
        after.strip_prefix(word).is_some_and(|after| !after.starts_with(is_letter)) && !before.ends_with(is_letter)
    }

    /// Takes a character over as text.
    fn push(&mut self, character: char) {
        self.at += character.len_utf8();
        let section = self.sections.last_mut().expect("there is one from the start");
        match section.last_mut() {
            Some((text, group)) if *group == self.group => text.push(character),
            _ => section.push((character.into(), self.group)),
        }
    }

    fn escape(&mut self) -> Result<()> {
        let escaped = self.text[self.at + 1..].chars().next();
        let Some(escaped) = escaped.filter(|c| matches!(c, '(' | ')' | '[' | ']' | ':' | '|' | '\\')) else {
            return Err(self.fault(self.at, "a backslash stands before ( ) [ ] : | \\ only; write \\\\ for itself"));
        };
        self.at += 1;
        self.push(escaped);
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<()> {
        if self.depth == MAX_DEPTH {
            let told = format!(
                "weighted prompt: more than {MAX_DEPTH} brackets are open at character {}",
                self.place(self.at)
            );
            return Err(Error::limit(told));
        }
        self.groups.push(Group { parent: self.group, at: self.at, bracket, weight: 1.0 });
        self.group = self.groups.len() - 1;
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Closes the innermost group with a weight, or with that of its bracket.
    fn close(&mut self, bracket: char, weight: Option<f64>) -> Result<()> {
        let (opening, usual) = if bracket == ')' { ('(', EMPHASIS) } else { ('[', 1.0 / EMPHASIS) };
        if self.bracket() != opening {
            let told = format!("the bracket closes no {opening}; write \\{bracket} for a plain one");
            return Err(self.fault(self.at, &told));
        }
        let group = &mut self.groups[self.group];
        group.weight = weight.unwrap_or(usual);
        self.group = group.parent;
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// A colon is text, unless a number and the end of the group follow.
    fn colon(&mut self) -> Result<()> {
        let suffix = Suffix::find(&self.text[self.at + 1..]);
        let Some(Suffix { number, len, .. }) = suffix.filter(|suffix| match self.bracket() {
            '(' => suffix.bracket == ')',
            '[' => suffix.bracket == ']',
            _ => false,
        }) else {
            self.push(':');
            return Ok(());
        };
        let opened = self.groups[self.group].at;
        if self.bracket() == '[' {
            let told = "square brackets take no number; write (words:0.8), or \\: for a plain colon";
            return Err(self.fault(opened, told));
        }
        let weight = number.parse::<f64>().ok().filter(|weight| (0.0..=MAX_WEIGHT).contains(weight));
        if weight.is_none() {
            let told = format!("weight {number}, expected 0 to {MAX_WEIGHT}, or \\: for a plain colon");
            return Err(self.fault(opened, &told));
        }
        self.at += len;
        self.close(')', weight)
    }

    /// Multiplies nested weights, and joins neighbours of one weight: text in brackets of weight 1 is read as without.
    fn finish(mut self) -> Result<Vec<Vec<Piece>>> {
        for index in 1..self.groups.len() {
            let weight = self.groups[index].weight * self.groups[self.groups[index].parent].weight;
            if weight > MAX_WEIGHT {
                let told = format!("weights multiply to {weight:.1}, expected at most {MAX_WEIGHT}");
                return Err(self.fault(self.groups[index].at, &told));
            }
            self.groups[index].weight = weight;
        }
        let sections = std::mem::take(&mut self.sections).into_iter().map(|section| {
            let mut pieces: Vec<Piece> = Vec::new();
            for (text, group) in section {
                let weight = self.groups[group].weight as f32;
                match pieces.last_mut() {
                    Some(last) if last.weight == weight => last.text.push_str(&text),
                    _ => pieces.push(Piece { text, weight }),
                }
            }
            pieces
        });
        Ok(sections.collect())
    }

    /// The number of the character at a byte, from 1.
    fn place(&self, at: usize) -> usize {
        self.text[..at].chars().count() + 1
    }

    fn fault(&self, at: usize, what: &str) -> Error {
        let quote: String = self.text[at..].chars().take(QUOTED_CHARACTERS).collect();
        Error::usage(format!("weighted prompt, character {} (\"{quote}\"): {what}", self.place(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn read(text: &str) -> Result<Prompt> {
        Prompt::new(text, Syntax::Weighted, LongPrompts::Chunks)
    }

    /// The sections of a prompt, pieces as `text*weight`.
    fn told(text: &str) -> Vec<String> {
        let piece = |piece: &Piece| format!("{}*{:.3}", piece.text, piece.weight);
        let section = |pieces: &Vec<Piece>| pieces.iter().map(piece).collect::<Vec<_>>().join("|");
        read(text).unwrap().sections.iter().map(section).collect()
    }

    #[test]
    fn weights_are_those_of_the_web_ui() {
        for (text, expected) in [
            ("normal text", "normal text*1.000"),
            ("an (important) word", "an *1.000|important*1.100| word*1.000"),
            ("(unbalanced\\)", "the bracket is never closed"),
            ("\\(literal\\]", "(literal]*1.000"),
            ("(unnecessary)(parens)", "unnecessaryparens*1.100"),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)",
                "a *1.000|house*1.573| *1.100|on*1.000| a *1.100|hill*0.550|, sun, *1.100|sky*1.464|.*1.100",
            ),
            ("[dim]", "dim*0.909"),
            ("((x))[[y]]", "x*1.210|y*0.826"),
            ("(a : +.5 )", "a *0.500"),
            ("(a:1)b(c:1.0) d", "ab"),
            ("(time: noon) 16:9", "time: noon*1.100| 16:9*1.000"),
            ("(16\\:9)", "16:9*1.100"),
            ("(a:b:2)", "a:b*2.000"),
            ("(a:)", "a:*1.100"),
            ("", ""),
            ("()", ""),
            ("(gone:0)", "gone*0.000"),
        ] {
            let found = read(text).map_or_else(|e| e.to_string(), |_| told(text).join(" / "));
            assert!(found.contains(expected), "{text:?}: {found}");
        }
        assert_eq!(told("(a:1)b(c:1.0) d"), ["abc d*1.000"]);
    }

    #[test]
    fn break_parts_sections_and_nothing_else_does() {
        assert_eq!(told("a BREAK b"), ["a *1.000", " b*1.000"]);
        assert_eq!(told("(a BREAK b:2)"), ["a *2.000", " b*2.000"]);
        assert_eq!(told("BREAK"), ["", ""]);
        assert_eq!(told("break BREAKS xBREAK BREAK_"), ["break BREAKS xBREAK BREAK_*1.000"]);
    }

    #[test]
    fn faults_tell_their_place() {
        for (text, telling) in [
            ("é (a", "weighted prompt, character 3 (\"(a\"): the bracket is never closed; write \\( for a plain one"),
            ("a) b", "character 2 (\") b\"): the bracket closes no (; write \\) for a plain one"),
            ("(a]", "character 3 (\"]\"): the bracket closes no [;"),
            ("a (b:11)", "character 3 (\"(b:11)\"): weight 11, expected 0 to 10"),
            ("(b:-1)", "weight -1, expected 0 to 10"),
            ("(b:1,3)", "weight 1,3, expected 0 to 10"),
            ("(b:1.2.3)", "weight 1.2.3, expected 0 to 10"),
            ("((b:4):4)", "character 2 (\"(b:4):4)\"): weights multiply to 16.0, expected at most 10"),
            ("[a:b:0.5]", "character 1 (\"[a:b:0.5]\"): square brackets take no number"),
            ("[a|b]", "character 3 (\"|b]\"): words that take turns are not done"),
            ("a AND b", "character 3 (\"AND b\"): prompts are not composed"),
            ("<lora:x:1>", "networks cannot be named in a prompt"),
            ("\\o/", "a backslash stands before"),
            ("\\", "a backslash stands before"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text:?}");
            assert!(error.to_string().contains(telling), "{text:?}: {error}");
        }
        let error = Prompt::new("a BREAK b", Syntax::Weighted, LongPrompts::Cut).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("BREAK starts another chunk"), "{error}");
        assert_eq!(read(&"[".repeat(101)).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn plain_prompts_are_text_and_their_weights_are_found() {
        let text = "a (red:1.3) [b] \\( BREAK";
        let plain = Prompt::new(text, Syntax::Plain, LongPrompts::Cut).unwrap();
        assert_eq!(plain.sections, [[Piece { text: text.into(), weight: 1.0 }]]);
        assert_eq!(find_weight(text), Some("(red:1.3)"));
        for text in ["a (red)", "16:9)", "(a) b:1.3)", "(a:b)", "(a:1,3)", "[a:1.3]", ""] {
            assert_eq!(find_weight(text), None, "{text:?}");
        }
    }

    #[test]
    fn any_text_is_read_in_linear_time() {
        const CHARACTERS: [char; 16] =
            ['(', ')', '[', ']', ':', '\\', '1', '.', ' ', 'a', 'é', '|', '<', 'B', '\u{301}', '😀'];
        let mut random = rand_mt::Mt::new(1);
        for _ in 0..20_000 {
            let text: String =
                (0..random.next_u32() % 12).map(|_| CHARACTERS[random.next_u32() as usize % 16]).collect();
            if let Ok(prompt) = read(&text) {
                let weights = prompt.sections.iter().flatten().map(|piece| piece.weight);
                assert!(weights.into_iter().all(|weight| (0.0..=10.0).contains(&weight)), "{text:?}");
            }
            find_weight(&text);
        }
        for text in ["a", "(a)", "(a", ":", ": ", "(:1", ": 1", "(a:1.3)", "\\(", "BREAK ", "[(a)]", "日"] {
            let _ = read(&text.repeat(1_000_000 / text.len()));
            find_weight(&text.repeat(1_000_000 / text.len()));
        }
    }
}
