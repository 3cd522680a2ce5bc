//! A GPT-2 vocabulary, `vocab.json` with `merges.txt`, as the `tokenizer.json` that newer tools write of it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::json::parse_object;
use crate::error::{Error, Result};

/// GPT-2's only control token: it ends a text.
const END: &str = "<|endoftext|>";

/// Joins the two files.
///
/// # Errors
/// [`Error::Format`] naming the file and what is wrong in it.
pub(super) fn tokenizer(vocab: (&Path, &[u8]), merges: (&Path, &[u8])) -> Result<Vec<u8>> {
    let vocabulary = parse_object(vocab.0, vocab.1)?;
    let format = |path: &Path, problem: String| Error::Format { path: path.to_owned(), problem };
    if let Some((token, id)) = vocabulary
        .iter()
        .find(|(_, id)| id.as_u64().and_then(|id| u32::try_from(id).ok()).is_none())
    {
        return Err(format(vocab.0, format!("token `{token}` has the id {id}, wanted a number")));
    }
    let text = std::str::from_utf8(merges.1).map_err(|error| {
        format(merges.0, format!("not UTF-8 after {} bytes", error.valid_up_to()))
    })?;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        let Some((left, right)) = line.split_once(' ').filter(|(_, right)| !right.contains(' '))
        else {
            return Err(format(merges.0, format!("line {} is no pair of tokens", number + 1)));
        };
        pairs.push(json!([left, right]));
    }
    let bytes = serde_json::to_vec(&document(&vocabulary, &pairs));
    bytes.map_err(|source| Error::Json { path: vocab.0.to_owned(), source })
}

/// GPT-2's pieces around a vocabulary.
fn document(vocabulary: &Map<String, Value>, merges: &[Value]) -> Value {
    let added: Vec<Value> = vocabulary
        .get(END)
        .map(|id| {
            json!({"id": id, "content": END, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .into_iter()
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges}
    })
}

/// What `tokenizer_config.json` says of a GPT-2 vocabulary when it is not there: which token ends an answer.
pub(super) fn tokenizer_config() -> Vec<u8> {
    json!({ "eos_token": END }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(vocab: &str, merges: &str) -> Result<Vec<u8>> {
        let (v, m) = (Path::new("vocab.json"), Path::new("merges.txt"));
        tokenizer((v, vocab.as_bytes()), (m, merges.as_bytes()))
    }

    #[test]
    fn both_files_are_one_document() {
        let bytes =
            join(r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#, "#version: 0.2\na b\n")
                .unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["model"]["merges"], json!([["a", "b"]]));
        assert_eq!(value["added_tokens"][0]["id"], 3);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = join(r#"{"a": "x"}"#, "").unwrap_err().to_string();
        assert_eq!(error, "vocab.json: token `a` has the id \"x\", wanted a number");
        let error = join("{}", "a b\nc\n").unwrap_err().to_string();
        assert_eq!(error, "merges.txt: line 2 is no pair of tokens");
    }
}
