//! A chat template over a conversation with every role.
#![no_main]

use hadal_engine::checkpoint::TextFiles;
use hadal_engine::text::{Message, Role, Text};
use hadal_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

const TOKENIZER: &[u8] = include_bytes!("../../tests/golden/v3-tied-bf16/tokenizer.json");
const CONFIG: &[u8] = include_bytes!("../../tests/golden/v3-tied-bf16/tokenizer_config.json");

fuzz_target!(|input: &[u8]| {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let files = TextFiles {
        tokenizer: Some(TOKENIZER.to_vec()),
        tokenizer_config: Some(CONFIG.to_vec()),
        chat_template: Some(source.to_owned()),
        ..TextFiles::default()
    };
    // Fuel bounds what a template makes: see `text/template.rs`.
    bounded(input.len(), 512 << 20, || {
        let Ok(text) = Text::open(&files) else { return };
        let conversation = [
            (Role::System, "Be brief."),
            (Role::User, "Hi <think> {{ 7 * 7 }}"),
            (Role::Assistant, "Hello."),
            (Role::Tool, "{\"a\": 1}"),
            (Role::User, "Bye"),
        ];
        let message = |(role, content): (Role, &str)| Message { role, content: content.to_owned() };
        drop(text.encode_chat(&conversation.map(message)));
    });
});
