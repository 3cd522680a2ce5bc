//! Ids to text as they come, never cutting a character.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::step::TokenId;

/// Ids kept for context by decoders that are not byte-level.
const WINDOW: usize = 16;

/// Turns ids into text, holding back bytes until a character is whole.
///
/// What `push` and `finish` give together is what decoding all ids at once gives, with broken bytes as U+FFFD.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Byte-level: bytes of a character that is not whole yet.
    pending: Vec<u8>,
    /// Otherwise: the last ids, and how many bytes of their text were given out.
    window: Vec<TokenId>,
    given: usize,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new(), window: Vec::new(), given: 0 }
    }

    /// The text that became certain with this id; may be empty. Special tokens decode to nothing.
    pub fn push(&mut self, id: TokenId) -> String {
        match self.tokenizer.bytes() {
            Some(table) => {
                self.pending.extend_from_slice(table.get(id));
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
}
