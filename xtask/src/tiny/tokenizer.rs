//! A tokenizer that needs no training: DeepSeek's special tokens, then one token a byte.

use serde_json::{Map, Value, json};

const SPECIAL: &[&str] = &[
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
];

/// V3's turns, without tools.
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}\
{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}\
{% elif message['role'] == 'system' %}{{ message['content'] }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

/// `tokenizer.json`.
pub(super) fn byte_level() -> Value {
    let special = |(id, text): (usize, &&str)| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let mut vocab = Map::new();
    for (id, text) in SPECIAL.iter().enumerate() {
        vocab.insert((*text).into(), id.into());
    }
    for (byte, letter) in byte_letters().into_iter().enumerate() {
        vocab.insert(letter.to_string(), (SPECIAL.len() + byte).into());
    }
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": SPECIAL[0], "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { SPECIAL[0]: { "id": SPECIAL[0], "ids": [0], "tokens": [SPECIAL[0]] } },
        },
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

/// `tokenizer_config.json`.
pub(super) fn config(context: usize) -> Value {
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[2],
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
    })
}

/// The letter that stands for each byte in a byte-level vocabulary: printable Latin-1 for itself, the others from
/// U+0100 upwards, in order.
fn byte_letters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_letter() {
        let letters = byte_letters();
        let distinct: std::collections::BTreeSet<char> = letters.iter().copied().collect();
        assert_eq!(distinct.len(), 256);
        assert_eq!(
            (letters[usize::from(b'a')], letters[usize::from(b' ')], letters[0]),
            ('a', 'Ġ', 'Ā')
        );
    }

    #[test]
    fn ids_are_dense() {
        let tokenizer = byte_level();
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        let mut ids: Vec<u64> = vocab.values().map(|id| id.as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..261).collect::<Vec<u64>>());
    }
}
