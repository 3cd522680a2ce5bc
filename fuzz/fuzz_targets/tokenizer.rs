//! `tokenizer.json`, then text through it and back.
#![no_main]

use std::sync::Once;

use hadal_engine::checkpoint::TextFiles;
use hadal_engine::text::{Message, Role, Text};
use hadal_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

/// The engine turns the library's panics into errors; the fuzzer's hook would end the process before it can.
static HOOK: Once = Once::new();

fuzz_target!(|input: &[u8]| {
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let files = TextFiles { tokenizer: Some(input.to_vec()), ..TextFiles::default() };
    // A pattern is compiled into a program that is bounded by itself, not by its length.
    bounded(input.len(), 64 << 20, || {
        let Ok(text) = Text::open(&files) else { return };
        let content = "Hello <s> wörld, 12345 \u{1f980}\n\n  def f(x):".to_owned();
        let message = Message { role: Role::User, content };
        let Ok(encoded) = text.encode_chat(&[message]) else { return };
        let mut detokenizer = text.detokenizer();
        for token in encoded.tokens {
            drop(detokenizer.push(token));
        }
        drop(detokenizer.finish());
    });
});
