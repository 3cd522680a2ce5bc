//! A checkpoint's tokenizer: text to ids with control tokens only where we put them, ids to bytes.
//!
//! Two tokenizers over one vocabulary: the checkpoint's own, which recognises control tokens, and one without them,
//! for text that people wrote. What a person writes is never a control token, whatever it looks like.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use crate::error::{Error, Result};
use crate::step::TokenId;

/// A checkpoint's tokenizer.
pub(super) struct Tokenizer {
    inner: Inner,
    /// The same without its added tokens.
    plain: Inner,
    /// Added tokens by first character, longest first.
    added: HashMap<char, Vec<(String, TokenId)>>,
    /// `[V]`: each id's bytes; empty for special tokens. `None` when the decoder is not byte-level.
    bytes: Option<ByteTable>,
}

/// Every id's bytes, back to back.
pub(super) struct ByteTable {
    start: Vec<u32>,
    bytes: Vec<u8>,
}

impl ByteTable {
    /// An id's bytes; none for an id without an entry.
    pub(super) fn get(&self, id: TokenId) -> &[u8] {
        let at = id.0 as usize;
        match (self.start.get(at), self.start.get(at + 1)) {
            (Some(start), Some(end)) => {
                self.bytes.get(*start as usize..*end as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }
}

fn error(problem: impl std::fmt::Display) -> Error {
    Error::Tokenizer { problem: problem.to_string() }
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub(super) fn open(json: &[u8]) -> Result<Self> {
        let inner = Inner::from_bytes(json)
            .map_err(|e| error(format!("`tokenizer.json` cannot be used: {e}")))?;
        let mut value: Value = serde_json::from_slice(json).map_err(error)?;
        let is_byte_level = value.get("decoder").is_some_and(is_byte_level);
        if let Some(object) = value.as_object_mut() {
            object.insert("added_tokens".into(), Value::Array(Vec::new()));
            // A post-processor may name tokens that are only added ones; nothing is post-processed here.
            object.insert("post_processor".into(), Value::Null);
        }
        let plain = serde_json::to_vec(&value).map_err(error)?;
        let plain = Inner::from_bytes(plain)
            .map_err(|e| error(format!("`tokenizer.json` without its added tokens: {e}")))?;
        let mut added: HashMap<char, Vec<(String, TokenId)>> = HashMap::new();
        for (id, token) in inner.get_added_tokens_decoder() {
            if let Some(first) = token.content.chars().next() {
                added.entry(first).or_default().push((token.content.clone(), TokenId(id)));
            }
        }
        for tokens in added.values_mut() {
            tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.0.cmp(&b.0)));
        }
        let bytes = if is_byte_level { Some(byte_table(&inner)) } else { None };
        Ok(Self { inner, plain, added, bytes })
    }

    /// The control token that `text` begins with, the longest: its length in bytes and its id.
    pub(super) fn control_at(&self, text: &str) -> Option<(usize, TokenId)> {
        let tokens = self.added.get(&text.chars().next()?)?;
        tokens
            .iter()
            .find(|(content, _)| text.starts_with(content.as_str()))
            .map(|(content, id)| (content.len(), *id))
    }

    /// Text in which nothing is a control token: ids with the bytes each covers.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<(TokenId, (usize, usize))>> {
        let encoding = self.plain.encode(text, false).map_err(error)?;
        let ids = encoding.get_ids().iter().map(|id| TokenId(*id));
        Ok(ids.zip(encoding.get_offsets().iter().copied()).collect())
    }

    /// Raw text: control tokens are recognised, and the post-processor adds its own.
    pub(super) fn encode_raw(&self, text: &str) -> Result<Vec<TokenId>> {
        let encoding = self.inner.encode(text, true).map_err(error)?;
        Ok(encoding.get_ids().iter().map(|id| TokenId(*id)).collect())
    }

    /// An id by its text.
    pub(super) fn id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token).map(TokenId)
    }

    /// Each id's bytes, where the decoder is byte-level.
    pub(super) fn bytes(&self) -> Option<&ByteTable> {
        self.bytes.as_ref()
    }

    /// Text of ids, special tokens left out.
    pub(super) fn decode(&self, ids: &[TokenId]) -> String {
        let ids: Vec<u32> =
            ids.iter().map(|id| id.0).filter(|id| self.inner.id_to_token(*id).is_some()).collect();
        // The decoder fails on no id that it has; an empty answer is the honest one if it ever did.
        self.inner.decode(&ids, true).unwrap_or_default()
    }
}

/// Whether a decoder maps each character of a token to a byte, and does nothing else.
fn is_byte_level(decoder: &Value) -> bool {
    decoder.get("type").and_then(Value::as_str) == Some("ByteLevel")
}

/// Every id's bytes under the byte-level mapping; a token with a character outside the mapping stands for itself.
fn byte_table(inner: &Inner) -> ByteTable {
    let mapping = byte_level_mapping();
    let added = inner.get_added_tokens_decoder();
    let last = inner.get_vocab(true).values().copied().max().unwrap_or(0);
    let mut table = ByteTable { start: vec![0], bytes: Vec::new() };
    for id in 0..=last {
        let is_special = added.get(&id).is_some_and(|token| token.special);
        if let Some(token) = inner.id_to_token(id).filter(|_| !is_special) {
            let mapped: Option<Vec<u8>> = token.chars().map(|c| mapping.get(&c).copied()).collect();
            table.bytes.extend(mapped.unwrap_or_else(|| token.into_bytes()));
        }
        table.start.push(table.bytes.len() as u32);
    }
    table
}

/// GPT-2's mapping: printable Latin-1 characters stand for their byte, the others begin at U+0100 in order.
fn byte_level_mapping() -> HashMap<char, u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut mapping = HashMap::new();
    for byte in 0..=255u8 {
        let c = if is_printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        };
        mapping.insert(c, byte);
    }
    mapping
}
