//! What bytes each id stands for.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use crate::step::TokenId;

/// Every id's bytes, back to back. Only for decoders that give each id bytes of its own, whatever stands around it.
pub(super) struct ByteTable {
    start: Vec<u32>,
    bytes: Vec<u8>,
    /// The decoder leaves out a space that the whole text begins with.
    pub strips_first_space: bool,
}

/// How a token's text stands for bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Each character is a byte.
    ByteLevel,
    /// `▁` is a space, `<0x0A>` a byte, all else itself.
    Pieces,
}

impl ByteTable {
    /// Every id's bytes under a decoder; special tokens have none. `None`: a decoder that needs more than the id.
    pub(super) fn new(inner: &Inner, decoder: Option<&Value>) -> Option<Self> {
        let (spelling, strips_first_space) = spelling(decoder?)?;
        let mapping = byte_level_mapping();
        let added = inner.get_added_tokens_decoder();
        let last = inner.get_vocab(true).values().copied().max().unwrap_or(0);
        let mut table = Self { start: vec![0], bytes: Vec::new(), strips_first_space };
        for id in 0..=last {
            let is_special = added.get(&id).is_some_and(|token| token.special);
            if let Some(token) = inner.id_to_token(id).filter(|_| !is_special) {
                let bytes = match spelling {
                    Spelling::ByteLevel => {
                        token.chars().map(|c| mapping.get(&c).copied()).collect()
                    }
                    Spelling::Pieces => single_byte(&token)
                        .map(|byte| vec![byte])
                        .or_else(|| Some(token.replace('▁', " ").into_bytes())),
                };
                // A token with a character outside the mapping stands for itself.
                table.bytes.extend(bytes.unwrap_or_else(|| token.into_bytes()));
            }
            table.start.push(table.bytes.len() as u32);
        }
        Some(table)
    }

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

/// How a decoder spells, and whether it strips the first space; `None` for one that is neither of the two kinds.
fn spelling(decoder: &Value) -> Option<(Spelling, bool)> {
    let steps = match decoder.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(decoder),
    };
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(ToOwned::to_owned);
    let kinds: Vec<String> = steps.iter().map(kind).collect::<Option<_>>()?;
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    match (kinds.as_slice(), steps) {
        (["ByteLevel"], _) => Some((Spelling::ByteLevel, false)),
        (["Replace", "ByteFallback", "Fuse"], [replace, ..]) if is_space(replace) => {
            Some((Spelling::Pieces, false))
        }
        (["Replace", "ByteFallback", "Fuse", "Strip"], [replace, _, _, strip])
            if is_space(replace)
                && strip.get("content").and_then(Value::as_str) == Some(" ")
                && strip.get("stop").and_then(Value::as_u64) == Some(0) =>
        {
            let start = strip.get("start").and_then(Value::as_u64)?;
            (start <= 1).then_some((Spelling::Pieces, start == 1))
        }
        _ => None,
    }
}

fn is_space(replace: &Value) -> bool {
    replace.pointer("/pattern/String").and_then(Value::as_str) == Some("▁")
        && replace.get("content").and_then(Value::as_str) == Some(" ")
}

/// The byte of a token like `<0x0A>`.
fn single_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// GPT-2's mapping: printable Latin-1 characters stand for their byte, the others begin at U+0100 in order.
pub(super) fn byte_level_mapping() -> HashMap<char, u8> {
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
