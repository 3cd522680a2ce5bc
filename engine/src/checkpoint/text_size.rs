//! What a tokenizer will take once it is read, estimated from its file: hash tables have the sizes they have.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::TextFiles;

/// The text side keeps two: one that sees control tokens and one that does not.
const TOKENIZERS: u64 = 2;
/// Bytes of a compiled pattern, with the Unicode classes that released tokenizers use.
const PATTERN_BYTES: u64 = 92_000;
/// What the text side takes beside the tokenizers' tables: templates, the byte mapping.
const BESIDE_BYTES: u64 = 40_000;
/// Bytes of an added token, with its place in the tables and in the machine that finds it.
const ADDED_BYTES: u64 = 400;

/// Entries of a list or object, and the bytes of their keys.
#[derive(Default)]
struct Counted {
    n: u64,
    key_bytes: u64,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    vocab: Counted,
    #[serde(default)]
    merges: Counted,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    model: Model,
    #[serde(default)]
    added_tokens: Counted,
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Counted;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list or an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counted, A::Error> {
                let mut counted = Counted::default();
                while let Some((key, _)) =
                    map.next_entry::<std::borrow::Cow<'de, str>, IgnoredAny>()?
                {
                    counted.n += 1;
                    counted.key_bytes += key.len() as u64;
                }
                Ok(counted)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Counted, A::Error> {
                let mut counted = Counted::default();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    counted.n += 1;
                }
                Ok(counted)
            }
        }
        from.deserialize_any(Count)
    }
}

impl TextFiles {
    /// Bytes that tokenizer and template will take once they are read.
    pub fn loaded_bytes(&self) -> u64 {
        let tokenizer = self.tokenizer.as_deref().map_or(0, tokenizer_bytes);
        tokenizer + self.chat_template.as_ref().map_or(0, String::len) as u64
    }
}

fn tokenizer_bytes(json: &[u8]) -> u64 {
    // A file that does not parse will be refused when it is read; until then it counts as released ones do.
    let Ok(file) = serde_json::from_slice::<File>(json) else { return 8 * json.len() as u64 };
    let Model { vocab, merges } = file.model;
    let patterns = json.windows(7).filter(|window| window == b"\"Regex\"").count() as u64;
    // Text to id and id to text, 32 bytes an entry, and the texts twice; a merge is two pairs of ids.
    let tables = 2 * table_bytes(vocab.n, 32) + table_bytes(merges.n, 16) + 2 * vocab.key_bytes;
    // Where each id's bytes begin, and the bytes.
    let spelled = vocab.n * 4 + vocab.key_bytes;
    TOKENIZERS * (tables + patterns * PATTERN_BYTES + file.added_tokens.n * ADDED_BYTES)
        + spelled
        + BESIDE_BYTES
}

/// A hash table of `n` entries: a power of two of places, at most seven eighths of them taken, a byte beside each.
fn table_bytes(n: u64, entry_bytes: u64) -> u64 {
    if n == 0 { 0 } else { (n * 8 / 7 + 1).next_power_of_two() * (entry_bytes + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_vocabulary_are_counted() {
        let map = r#"{"model": {"vocab": {"a": 0, "\u0062c": 1}, "merges": []}}"#;
        let list = r#"{"added_tokens": [], "model": {"vocab": [["a", 0.5], ["b", 1]]}}"#;
        assert_eq!(tokenizer_bytes(map.as_bytes()), 2 * (2 * 4 * 33 + 6) + 8 + 3 + 40_000);
        assert_eq!(tokenizer_bytes(list.as_bytes()), 2 * 2 * 4 * 33 + 8 + 40_000);
    }

    #[test]
    fn what_is_no_tokenizer_counts_by_its_length() {
        assert_eq!(tokenizer_bytes(b"[1, 2"), 40);
        assert_eq!(tokenizer_bytes(br#"{"model": 7}"#), 96);
        assert_eq!(TextFiles::default().loaded_bytes(), 0);
    }
}
