//! The most bytes of a text that one token can stand for.
//!
//! What is longer than the context's tokens times this fits under no circumstances, and need not be encoded to be
//! refused: encoding takes some hundred times a text's size in memory, and seconds for megabytes.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use super::bytes::byte_level_mapping;

/// What `tokenizer.json` does to a text, beside its vocabulary: that is most of the file, and is not read again.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Steps {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    pub(super) decoder: Option<Value>,
    #[serde(default)]
    model: Affixes,
}

#[derive(Debug, Default, Deserialize)]
struct Affixes {
    #[serde(rename = "type")]
    kind: Option<Value>,
    continuing_subword_prefix: Option<Value>,
    end_of_word_suffix: Option<Value>,
}

/// The longest token of a byte-level vocabulary, in bytes of the text. `None` for tokenizers that may leave out or
/// shorten text, or cover any length of it with one token: there no length of a text says anything of its tokens.
pub(super) fn longest_token_bytes(inner: &Inner, steps: &Steps) -> Option<usize> {
    let model = &steps.model;
    let is_exact = keeps_text(steps.normalizer.as_ref())
        && splits_to_bytes(steps.pre_tokenizer.as_ref())
        && model.kind.as_ref().and_then(Value::as_str) == Some("BPE")
        && is_nothing(model.continuing_subword_prefix.as_ref())
        && is_nothing(model.end_of_word_suffix.as_ref());
    if !is_exact {
        return None;
    }
    let vocab = inner.get_vocab(true);
    // A byte without a token of its own would be left out.
    if !byte_level_mapping().keys().all(|byte| vocab.contains_key(byte.to_string().as_str())) {
        return None;
    }
    let added = inner.get_added_tokens_decoder();
    // These take the white space beside them along, however much there is.
    if added.values().any(|token| token.lstrip || token.rstrip) {
        return None;
    }
    // Each character of a byte-level token is a byte; an added token is its own text.
    let lengths = vocab.keys().map(|token| token.chars().count());
    lengths.chain(added.values().map(|token| token.content.len())).max()
}

fn is_nothing(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value == "")
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a normalizer leaves the text as it is.
fn keeps_text(normalizer: Option<&Value>) -> bool {
    let Some(normalizer) = normalizer.filter(|normalizer| !normalizer.is_null()) else {
        return true;
    };
    let steps = normalizer.get("normalizers").and_then(Value::as_array);
    kind(normalizer) == "Sequence"
        && steps.is_some_and(|steps| steps.iter().all(|s| keeps_text(Some(s))))
}

/// Whether a pre-tokenizer cuts the text, drops nothing of it, and writes it as bytes.
fn splits_to_bytes(pre_tokenizer: Option<&Value>) -> bool {
    let Some(step) = pre_tokenizer else { return false };
    let steps = match step.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) if kind(step) == "Sequence" => steps.as_slice(),
        _ => std::slice::from_ref(step),
    };
    let drops_nothing = |step: &Value| match kind(step) {
        "ByteLevel" | "Digits" => true,
        "Split" | "Punctuation" => {
            step.get("behavior").and_then(Value::as_str).is_some_and(|how| how != "Removed")
        }
        _ => false,
    };
    steps.iter().all(drops_nothing) && steps.iter().any(|step| kind(step) == "ByteLevel")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A byte-level vocabulary with two longer tokens, changed by `spoil`.
    fn check(spoil: impl FnOnce(&mut Value), want: Option<usize>) {
        let mut bytes: Vec<char> = byte_level_mapping().into_keys().collect();
        bytes.sort_unstable();
        let tokens = bytes.iter().map(char::to_string).chain(["th".into(), "the".into()]);
        let vocab: serde_json::Map<String, Value> =
            tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{ "id": 258, "content": "<｜x｜>", "special": true, "normalized": false,
                "lstrip": false, "rstrip": false, "single_word": false }],
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "String": " " }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }
            ] },
            "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"]] }
        });
        spoil(&mut json);
        let inner = Inner::from_bytes(serde_json::to_vec(&json).unwrap()).unwrap();
        let steps: Steps = serde_json::from_value(json).unwrap();
        assert_eq!(longest_token_bytes(&inner, &steps), want);
    }

    #[test]
    fn the_longest_token_is_counted_in_bytes() {
        check(|_| {}, Some("<｜x｜>".len()));
        check(|json| json["added_tokens"] = json!([]), Some(3));
        check(
            |json| json["normalizer"] = json!({ "type": "Sequence", "normalizers": [] }),
            Some(9),
        );
    }

    #[test]
    fn where_text_may_be_dropped_or_shortened_there_is_no_bound() {
        check(|json| json["normalizer"] = json!({ "type": "NFC" }), None);
        check(|json| json["pre_tokenizer"] = json!({ "type": "Whitespace" }), None);
        check(
            |json| json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"),
            None,
        );
        check(|json| json["added_tokens"][0]["rstrip"] = json!(true), None);
        let without_a = |json: &mut Value| {
            json["model"]["vocab"].as_object_mut().map(|vocab| vocab.remove("a"));
        };
        check(without_a, None);
    }
}
