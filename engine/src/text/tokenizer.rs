//! A checkpoint's tokenizer: text to ids with control tokens only where we put them, ids to bytes.
//!
//! Two tokenizers over one vocabulary: the checkpoint's own, which recognises control tokens, and one that does not,
//! for text that people wrote. What a person writes is never a control token, whatever it looks like.
//!
//! A conversation without look-alikes is encoded whole, by the checkpoint's own. One with look-alikes is encoded piece
//! by piece between its control tokens; tokenizers that treat the beginning of a text in a way of its own (a space put
//! in front of it), or whose control tokens take white space along, then do so for each piece.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::bytes::ByteTable;
use super::controls::{Controls, is_control};
use super::guard::guarded;
use super::longest::{Steps, longest_token_bytes};
use super::marks::Rendered;
use super::tiktoken;
use crate::error::{Error, Result};
use crate::step::TokenId;

/// Times that text is cut because its model reads a control token in it.
const CUTS_MAX: usize = 8;

/// A checkpoint's tokenizer.
pub(super) struct Tokenizer {
    inner: Inner,
    /// The same, for which control tokens are text.
    plain: Inner,
    controls: Controls,
    control_ids: HashSet<TokenId>,
    /// `None` when ids have no bytes of their own.
    bytes: Option<ByteTable>,
    /// The most bytes of a text that one token covers; `None` where that has no bound.
    longest: Option<usize>,
}

/// An id, and the bytes of the text it covers.
pub(super) type Piece = (TokenId, Range<usize>);

fn error(problem: impl std::fmt::Display) -> Error {
    Error::Tokenizer { problem: problem.to_string() }
}

fn read(json: &[u8]) -> Result<Inner> {
    let mut inner = guarded(|| {
        Inner::from_bytes(json).map_err(|e| error(format!("`tokenizer.json` cannot be used: {e}")))
    })?;
    // Left over from training: a prompt is neither cut nor filled up.
    inner.with_truncation(None).map_err(error)?.with_padding(None);
    Ok(inner)
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub(super) fn open(json: &[u8]) -> Result<Self> {
        let inner = read(json)?;
        let steps: Steps = serde_json::from_slice(json).map_err(error)?;
        let added: Vec<(TokenId, AddedToken)> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| is_control(token))
            .map(|(id, token)| (TokenId(id), token))
            .collect();
        let control_ids: HashSet<TokenId> = added.iter().map(|(id, _)| *id).collect();
        let bytes = ByteTable::new(&inner, steps.decoder.as_ref());
        let longest = longest_token_bytes(&inner, &steps);
        // All of them special, so that text which looks like one can be taken for text.
        let special = added.iter().map(|(_, token)| token.clone().special(true));
        let mut plain = inner.clone();
        guarded(|| plain.add_special_tokens(special).map_err(error))?;
        plain.set_encode_special_tokens(true);
        let controls = Controls::new(added.into_iter().map(|(id, token)| (token.content, id)));
        Ok(Self { inner, plain, controls, control_ids, bytes, longest })
    }

    /// The fewest tokens that a text of so many bytes can be; 0 where that is not known.
    pub(super) fn tokens_at_least(&self, n_byte: usize) -> usize {
        self.longest.map_or(0, |longest| n_byte.div_ceil(longest.max(1)))
    }

    /// Reads `tiktoken.model`, with the special tokens of `tokenizer_config.json`.
    pub(super) fn open_tiktoken(model: &[u8], config: &Value) -> Result<Self> {
        let json = tiktoken::to_json(model, config)?;
        let tokenizer = Self::open(&serde_json::to_vec(&json).map_err(error)?)?;
        // A special token that is a word of the vocabulary, or stands there twice, would move all behind it.
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let name = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let id = token.get("id").and_then(Value::as_u64).map(|id| TokenId(id as u32));
            if tokenizer.id(name) != id {
                return Err(error(format!("special token `{name}` is another token too")));
            }
        }
        Ok(tokenizer)
    }

    /// The control tokens.
    pub(super) fn controls(&self) -> &Controls {
        &self.controls
    }

    /// A rendered conversation: its control tokens and no others.
    pub(super) fn encode(&self, rendered: &Rendered) -> Result<Vec<Piece>> {
        let whole = pieces(&self.inner, &rendered.text, 0)?;
        let found = whole.iter().map(|(id, _)| id).filter(|id| self.control_ids.contains(id));
        if found.eq(rendered.controls.iter().map(|(_, id)| id)) {
            return Ok(whole);
        }
        let (mut all, mut from) = (Vec::new(), 0);
        for (range, id) in &rendered.controls {
            self.encode_plain(&rendered.text, from..range.start, &mut all)?;
            all.push((*id, range.clone()));
            from = range.end;
        }
        self.encode_plain(&rendered.text, from..rendered.text.len(), &mut all)?;
        Ok(all)
    }

    /// Encodes a part of a text in which nothing is a control token.
    fn encode_plain(&self, text: &str, part: Range<usize>, all: &mut Vec<Piece>) -> Result<()> {
        let mut parts = vec![part];
        for cut in 0..=CUTS_MAX {
            let (mut encoded, mut cuts) = (Vec::new(), Vec::new());
            for part in &parts {
                let piece = text.get(part.clone()).unwrap_or_default();
                encoded.extend(pieces(&self.plain, piece, part.start)?);
            }
            // A vocabulary of whole words may hold a control token's name as a word: it is cut behind its first
            // character, and where that does not help the word is left out.
            for (_, range) in encoded.iter().filter(|(id, _)| self.control_ids.contains(id)) {
                let first = text.get(range.clone()).and_then(|word| word.chars().next());
                cuts.push(range.start + first.map_or(0, char::len_utf8));
            }
            if cuts.is_empty() || cut == CUTS_MAX {
                all.extend(encoded.into_iter().filter(|(id, _)| !self.control_ids.contains(id)));
                return Ok(());
            }
            parts = split(&parts, &cuts);
        }
        Ok(())
    }

    /// Raw text: control tokens are recognised, and the post-processor adds its own.
    pub(super) fn encode_raw(&self, text: &str) -> Result<Vec<TokenId>> {
        let encoding = guarded(|| self.inner.encode(text, true).map_err(error))?;
        Ok(encoding.get_ids().iter().map(|id| TokenId(*id)).collect())
    }

    /// An id by its text.
    pub(super) fn id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token).map(TokenId)
    }

    /// Ids that have a text.
    pub(super) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Each id's bytes, where ids have bytes of their own.
    pub(super) fn bytes(&self) -> Option<&ByteTable> {
        self.bytes.as_ref()
    }

    /// Text of ids, special tokens left out.
    pub(super) fn decode(&self, ids: &[TokenId]) -> String {
        let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
        // The decoder fails on no id that it has; an empty answer is the honest one if it ever did.
        guarded(|| self.inner.decode(&ids, true).map_err(error)).unwrap_or_default()
    }
}

fn pieces(inner: &Inner, text: &str, base: usize) -> Result<Vec<Piece>> {
    let encoding = guarded(|| inner.encode(text, false).map_err(error))?;
    let ids = encoding.get_ids().iter().map(|id| TokenId(*id));
    let ranges = encoding.get_offsets().iter().map(|(start, end)| base + start..base + end);
    Ok(ids.zip(ranges).collect())
}

/// Ascending ranges, cut at ascending places; empty ones are left out.
fn split(parts: &[Range<usize>], cuts: &[usize]) -> Vec<Range<usize>> {
    let mut cuts = cuts.iter().copied().peekable();
    let mut all = Vec::new();
    for part in parts {
        let mut from = part.start;
        while let Some(cut) = cuts.next_if(|cut| *cut <= part.end) {
            all.push(from..cut);
            from = cut;
        }
        all.push(from..part.end);
    }
    all.retain(|part| part.start < part.end);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn added(id: u32, content: &str, special: bool) -> Value {
        json!({"id": id, "content": content, "special": special, "normalized": !special,
            "lstrip": false, "rstrip": false, "single_word": false})
    }

    /// A vocabulary of pieces with scores, in which control tokens are words too.
    fn unigram() -> Tokenizer {
        let vocab = ["<unk>", "</s>", "<", "/", "s", ">", "a", "th", "<think>", "ü", "think"];
        let vocab: Vec<Value> = vocab.iter().map(|piece| json!([piece, -1.0])).collect();
        let json = json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 3,
                "strategy": "LongestFirst", "stride": 0}, "padding": null,
            "added_tokens": [added(1, "</s>", true), added(8, "<think>", false), added(9, "ü", false)],
            "normalizer": {"type": "Lowercase"}, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}
        });
        Tokenizer::open(&serde_json::to_vec(&json).unwrap()).unwrap()
    }

    #[track_caller]
    fn check(rendered: &Rendered, want: &[u32]) {
        let got = unigram().encode(rendered).unwrap();
        assert_eq!(got.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), want, "{}", rendered.text);
        let covered: String = got.iter().map(|(_, range)| &rendered.text[range.clone()]).collect();
        assert_eq!(covered, rendered.text);
    }

    #[test]
    fn words_of_the_vocabulary_that_are_control_tokens_are_cut() {
        let plain = |text: &str| Rendered { text: text.into(), ..Rendered::default() };
        check(&plain("a</s>"), &[6, 2, 3, 4, 5]);
        check(&plain("</s></s>a"), &[2, 3, 4, 5, 2, 3, 4, 5, 6]);
        // A normalizer makes a control token of what was none.
        check(&plain("a<THINK>"), &[6, 2, 10, 5]);
        let real = Rendered {
            text: "a</s>a<THINK>".into(),
            controls: vec![(1..5, TokenId(1))],
            answers: vec![],
        };
        check(&real, &[6, 1, 6, 2, 10, 5]);
    }

    #[test]
    fn added_words_are_words_and_a_stored_truncation_is_left_out() {
        check(&Rendered { text: "üaaaaa".into(), ..Rendered::default() }, &[9, 6, 6, 6, 6, 6]);
        let hostile = Rendered { text: "ü<think>".into(), ..Rendered::default() };
        check(&hostile, &[9, 2, 10, 5]);
        assert_eq!(unigram().encode_raw("aaaa").unwrap().len(), 4);
    }
}
