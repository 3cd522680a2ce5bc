//! Ids to text as they come, never cutting a character.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::step::TokenId;

/// Ids kept for context by decoders whose ids have no bytes of their own.
const WINDOW: usize = 16;

/// Turns ids into text, holding back bytes until a character is whole.
///
/// What `push` and `finish` give together is what decoding all ids at once gives, with broken bytes as U+FFFD.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Where ids have bytes: those of a character that is not whole yet.
    pending: Vec<u8>,
    /// A space that the text begins with is left out, and it has not begun.
    strips_space: bool,
    /// Otherwise: the last ids, and how many bytes of their text were given out.
    window: Vec<TokenId>,
    given: usize,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let strips_space = tokenizer.bytes().is_some_and(|table| table.strips_first_space);
        Self { tokenizer, pending: Vec::new(), strips_space, window: Vec::new(), given: 0 }
    }

    /// The text that became certain with this id; may be empty. Special tokens decode to nothing.
    pub fn push(&mut self, id: TokenId) -> String {
        match self.tokenizer.bytes() {
            Some(table) => {
                let mut bytes = table.get(id);
                if self.strips_space && !bytes.is_empty() {
                    self.strips_space = false;
                    bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
                }
                self.pending.extend_from_slice(bytes);
                take_whole(&mut self.pending)
            }
            None => self.push_decoded(id),
        }
    }

    /// What is left at the end: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.tokenizer.bytes().is_some() {
            return String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        }
        let text = self.tokenizer.decode(&self.window);
        self.window.clear();
        text.get(std::mem::take(&mut self.given)..).unwrap_or_default().to_owned()
    }

    /// Decodes a window of ids and gives what is new; text that ends in U+FFFD may still become a character.
    fn push_decoded(&mut self, id: TokenId) -> String {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window);
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() < 2 * WINDOW {
            return String::new();
        }
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = self.given.max(text.len());
        if self.window.len() >= 2 * WINDOW {
            self.window.drain(..WINDOW);
            self.given = self.tokenizer.decode(&self.window).len();
        }
        new
    }
}

/// Takes the text at the front of `bytes` that no later byte can change.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                at = bytes.len();
            }
            Err(error) => {
                let (whole, _) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(whole));
                at += whole.len();
                // No length: the end may be the beginning of a character.
                let Some(broken) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                at += broken;
            }
        }
    }
    bytes.drain(..at);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Cutting bytes anywhere gives what decoding them whole gives.
    #[test]
    fn pieces_are_the_whole() {
        let samples: [&[u8]; 6] = [
            "plain".as_bytes(),
            "naïve 日本語 🦀 end".as_bytes(),
            b"\xff\xfebroken\xe6\x97",
            b"\xf0\x9f\xa6",
            b"\xe6\xe6\x97\xa5\xf0\x9f\xa6\x80",
            b"",
        ];
        for bytes in samples {
            for size in 1..5 {
                let (mut pending, mut text) = (Vec::new(), String::new());
                for chunk in bytes.chunks(size) {
                    pending.extend_from_slice(chunk);
                    text += &take_whole(&mut pending);
                }
                text += &String::from_utf8_lossy(&pending);
                assert_eq!(text, String::from_utf8_lossy(bytes), "{bytes:?} by {size}");
            }
        }
    }

    fn tokenizer(decoder: &Value, vocab: &[&str]) -> Arc<Tokenizer> {
        let vocab: Value = vocab
            .iter()
            .zip(0..)
            .map(|(piece, id)| ((*piece).to_owned(), json!(id)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let json = json!({
            "version": "1.0", "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": "</s>", "special": true, "normalized": false,
                "lstrip": false, "rstrip": false, "single_word": false}],
            "decoder": decoder, "model": {"type": "BPE", "vocab": vocab, "merges": []}
        });
        Arc::new(Tokenizer::open(&serde_json::to_vec(&json).unwrap()).unwrap())
    }

    /// Ids in an order without order, also specials and ids without an entry.
    fn ids(seed: u64, vocab_size: u64) -> Vec<TokenId> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            TokenId(((state >> 33) % (vocab_size + 2)) as u32)
        };
        (0..200).map(|_| next()).collect()
    }

    #[track_caller]
    fn check(tokenizer: &Arc<Tokenizer>, ids: &[TokenId], want: &str) {
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
        let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
        text += &detokenizer.finish();
        assert_eq!(text, want);
    }

    #[test]
    fn byte_level_ids_in_any_order_are_what_the_library_decodes() {
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let vocab = ["</s>", "a", "Ġb", "æ", "Ĺ", "¥", "ð", "Ł", "¦", "Ģ", "Ċ", "日", "ÿ"];
        let tokenizer = tokenizer(&decoder, &vocab);
        for seed in 0..50 {
            let ids = ids(seed, vocab.len() as u64);
            check(&tokenizer, &ids, &tokenizer.decode(&ids));
        }
    }

    #[test]
    fn sentence_pieces_fall_back_to_bytes_and_lose_the_first_space() {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let vocab = ["</s>", "▁a", "b▁", "<0xE6>", "<0x97>", "<0xA5>", "<0xzz>"];
        let tokenizer = tokenizer(&decoder, &vocab);
        let decoded = |ids: &[u32]| {
            let ids: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            check(&tokenizer, &ids, &tokenizer.decode(&ids));
            tokenizer.decode(&ids)
        };
        assert_eq!(decoded(&[0, 1, 2, 3, 4, 5, 1, 0, 6, 99]), "ab 日 a<0xzz>");
        // Broken bytes are one U+FFFD a run, as UTF-8 has it; the library gives one a byte.
        check(&tokenizer, &[3, 4, 1].map(TokenId), "\u{fffd} a");
        check(&tokenizer, &[3, 4].map(TokenId), "\u{fffd}");
    }

    #[test]
    fn other_decoders_are_followed_through_a_window() {
        let decoder = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let vocab = ["</s>", "▁a", "b▁", "日", "▁", "c"];
        let tokenizer = tokenizer(&decoder, &vocab);
        for seed in 0..50 {
            let ids = ids(seed, vocab.len() as u64);
            check(&tokenizer, &ids, &tokenizer.decode(&ids));
        }
    }
}
