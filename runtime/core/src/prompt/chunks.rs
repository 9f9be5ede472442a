//! A prompt → windows of token ids, each id with its weight.

use super::{LongPrompts, Piece, Prompt};
use crate::tokenizer::{Tokenizer, tidy};
use crate::{Error, Result};

/// A chunk ends after a comma where one is among its last tokens, as in the web UI: that is where thoughts end.
const COMMA_TOKENS: usize = 20;
/// Most chunks of one prompt; each costs a run of the text encoder, and all of them time in every step.
const MAX_CHUNKS: usize = 32;

/// What a text encoder reads at once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    /// A window of ids, with start, end and padding.
    pub(crate) ids: Vec<u32>,
    /// One an id; 1 for those that stand for no word.
    pub(crate) weights: Vec<f32>,
}

impl Chunk {
    fn new(tokens: &[(u32, f32)], tokenizer: &Tokenizer) -> Self {
        let ids: Vec<_> = tokens.iter().map(|&(id, _)| id).collect();
        let ids = tokenizer.frame(&ids);
        let mut weights = vec![1.0; ids.len()];
        // Behind the start.
        weights[1..=tokens.len()].iter_mut().zip(tokens).for_each(|(weight, (_, given))| *weight = *given);
        Self { ids, weights }
    }

    pub(crate) fn is_weighted(&self) -> bool {
        self.weights.iter().any(|&weight| weight != 1.0)
    }
}

/// The windows of a prompt, at least one; and what did not fit, where it is cut to one.
///
/// Pieces of different weight are tokenised each on its own.
///
/// # Errors
/// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for more than 32 chunks.
pub(crate) fn chunks(prompt: &Prompt, tokenizer: &Tokenizer) -> Result<(Vec<Chunk>, Option<String>)> {
    let room = tokenizer.room();
    // A window without room is never filled.
    if prompt.long == LongPrompts::Cut || room == 0 {
        let (tokens, cut) = tokens(&prompt.sections[0], tokenizer, room);
        return Ok((vec![Chunk::new(&tokens, tokenizer)], tidy(cut)));
    }
    let comma = comma(tokenizer);
    let mut chunks = Vec::new();
    for section in &prompt.sections {
        let (tokens, _) = tokens(section, tokenizer, usize::MAX);
        let mut rest = tokens.as_slice();
        loop {
            let (chunk, after) = rest.split_at(chunk_len(rest, room, comma));
            chunks.push(Chunk::new(chunk, tokenizer));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    match chunks.len() {
        1..=MAX_CHUNKS => Ok((chunks, None)),
        many => Err(Error::limit(format!(
            "the prompt fills {many} chunks of {room} tokens, expected at most {MAX_CHUNKS}; shorten it"
        ))),
    }
}

/// Ids of pieces with their weights, at most `room`; and the text that did not fit.
fn tokens(pieces: &[Piece], tokenizer: &Tokenizer, room: usize) -> (Vec<(u32, f32)>, String) {
    let (mut ids, mut tokens, mut cut) = (Vec::new(), Vec::new(), String::new());
    for Piece { text, weight } in pieces {
        let rest = tokenizer.read(text, room, &mut ids);
        if !cut.is_empty() && !rest.is_empty() {
            cut.push(' ');
        }
        cut.push_str(&rest);
        tokens.extend(ids[tokens.len()..].iter().map(|&id| (id, *weight)));
    }
    (tokens, cut)
}

/// The id of a comma, where it has one of its own.
fn comma(tokenizer: &Tokenizer) -> Option<u32> {
    let mut ids = Vec::new();
    tokenizer.read(",", usize::MAX, &mut ids);
    (ids.len() == 1).then(|| ids[0])
}

/// How many of the tokens the next chunk takes.
fn chunk_len(tokens: &[(u32, f32)], room: usize, comma: Option<u32>) -> usize {
    if tokens.len() <= room {
        return tokens.len();
    }
    let first = room - COMMA_TOKENS.min(room / 2);
    let last_comma = tokens[first..room].iter().rposition(|&(id, _)| Some(id) == comma);
    last_comma.map_or(room, |at| first + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::prompt::Syntax;
    use crate::tokenizer::Window;

    /// 266 is "a", 323 "red", 858 "apple".
    fn tokenizer(length: usize) -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji/tokenizer.json");
        Tokenizer::from_tokenizer_json(path, Window { length, start: 0, end: 1, pad: 1 }).unwrap()
    }

    fn read(text: &str, long: LongPrompts) -> Result<(Vec<Chunk>, Option<String>)> {
        chunks(&Prompt::new(text, Syntax::Weighted, long)?, &tokenizer(16))
    }

    #[test]
    fn plain_prompts_are_those_of_the_tokenizer() {
        let tokenizer = tokenizer(16);
        for text in
            ["", "a red apple", "A\u{a0}CAFE\u{301}, <|endoftext|> 42!", &"red ".repeat(14), &"Red! ".repeat(30)]
        {
            let expected = tokenizer.encode(text);
            for syntax in [Syntax::Plain, Syntax::Weighted] {
                let prompt = Prompt::new(text, syntax, LongPrompts::Cut).unwrap();
                let (chunks, cut) = chunks(&prompt, &tokenizer).unwrap();
                assert_eq!((chunks.len(), &chunks[0].ids, &cut), (1, &expected.ids, &expected.cut), "{text:?}");
                assert!(!chunks[0].is_weighted());
            }
        }
    }

    #[test]
    fn weights_are_those_of_their_tokens() {
        let (chunks, cut) = read("a (red:1.5) apple", LongPrompts::Cut).unwrap();
        assert_eq!((chunks[0].ids[..5].to_vec(), cut), (vec![0, 266, 323, 858, 1], None));
        assert_eq!(chunks[0].weights[..5], [1.0, 1.0, 1.5, 1.0, 1.0]);
        assert_eq!(chunks[0].weights[5..], [1.0; 11]);
        let (chunks, cut) = read(&format!("{}(Red Apple:2) (APPLE:0.5)", "red ".repeat(13)), LongPrompts::Cut).unwrap();
        assert_eq!((chunks[0].weights[14], chunks[0].weights[15], cut.as_deref()), (2.0, 1.0, Some("apple apple")));
    }

    #[test]
    fn chunks_hold_every_token_in_order() {
        let lengths = |text: &str| {
            let (chunks, cut) = read(text, LongPrompts::Chunks).unwrap();
            assert_eq!(cut, None);
            assert!(chunks.iter().all(|chunk| chunk.ids.len() == 16 && chunk.ids[0] == 0 && chunk.ids[15] == 1));
            chunks.iter().map(|chunk| chunk.ids[1..15].iter().filter(|&&id| id != 1).count()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(""), [0]);
        assert_eq!(lengths(&"red ".repeat(14)), [14]);
        assert_eq!(lengths(&"red ".repeat(15)), [14, 1]);
        assert_eq!(lengths(&"red ".repeat(42)), [14, 14, 14]);
        // After the last comma of the second half, if there is one.
        assert_eq!(lengths(&format!("{}, {}", "red ".repeat(9), "red ".repeat(9))), [10, 9]);
        assert_eq!(lengths(&format!("{}, {}", "red ".repeat(3), "red ".repeat(13))), [14, 3]);
        assert_eq!(lengths("red apple BREAK a BREAK BREAK red"), [2, 1, 0, 1]);
        let (chunks, _) = read(&format!("{}(red red:2)", "red ".repeat(13)), LongPrompts::Chunks).unwrap();
        assert_eq!((chunks[0].weights[13..].to_vec(), chunks[1].weights[1]), (vec![1.0, 2.0, 1.0], 2.0));
    }

    #[test]
    fn chunks_have_a_limit() {
        let error = read(&"red ".repeat(14 * 32 + 1), LongPrompts::Chunks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert_eq!(error.to_string(), "the prompt fills 33 chunks of 14 tokens, expected at most 32; shorten it");
    }

    #[test]
    fn the_smallest_windows_end() {
        for (length, expected) in [(2, 1), (3, 5), (4, 3), (5, 2)] {
            let prompt = Prompt::new("red, red, red", Syntax::Plain, LongPrompts::Chunks).unwrap();
            let (chunks, _) = chunks(&prompt, &tokenizer(length)).unwrap();
            assert_eq!(chunks.len(), expected, "{length}: {chunks:?}");
            assert!(chunks.iter().all(|chunk| chunk.ids.len() == length));
        }
    }
}
