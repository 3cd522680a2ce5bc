//! `tiktoken.model`, the vocabulary of Kimi-K2 and Moonlight: lines of `base64(bytes) rank`, made into a
//! `tokenizer.json`.
//!
//! tiktoken joins, again and again, the two neighbours whose joined bytes have the lowest rank. A BPE does the same
//! when its merges are all the ways to cut a token into two others, in the order of the tokens' ranks; a piece that is
//! a token by itself is taken whole (`ignore_merges`). How a text is cut into pieces is code beside the file,
//! `tokenization_kimi.py`; its expression stands here, and a file of another class is refused.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::bytes::byte_level_mapping;
use crate::error::{Error, Result};

/// The `tokenizer_class` whose expression is [`PIECES`].
const CLASS: &str = "TikTokenTokenizer";
/// Ids behind the vocabulary that the class gives to special tokens, named or not.
const SPECIALS: usize = 256;
/// The largest file; released ones have three megabytes.
const FILE_BYTES_MAX: usize = 16 << 20;
/// The longest token; released ones are half as long.
const TOKEN_BYTES_MAX: usize = 256;
/// Ways to cut all tokens in two; released vocabularies have some hundred thousand.
const MERGES_MAX: usize = 1 << 21;
/// Runs of Han; words with their contraction, capitals in front of small letters; three digits; the rest.
const PIECES: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

fn error(problem: impl std::fmt::Display) -> Error {
    Error::Tokenizer { problem: format!("`tiktoken.model` cannot be used: {problem}") }
}

/// The file as a `tokenizer.json`, with the special tokens of `tokenizer_config.json`.
///
/// # Errors
/// [`Error::Tokenizer`], with the line.
pub(super) fn to_json(file: &[u8], config: &Value) -> Result<Value> {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("none");
    if class != CLASS {
        return Err(error(format!(
            "`tokenizer_class` is `{}`, and how a text is cut is known for `{CLASS}` only",
            class.chars().take(60).collect::<String>()
        )));
    }
    let tokens = tokens(file)?;
    let spelled = spelling(&tokens);
    let ranks: HashMap<&[u8], usize> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    if let Some(byte) = (0..=255u8).find(|byte| !ranks.contains_key([*byte].as_slice())) {
        return Err(error(format!("byte {byte} has no token: not every text could be written")));
    }
    let vocab: Map<String, Value> = spelled
        .iter()
        .cloned()
        .zip(0..)
        .map(|(token, id): (String, usize)| (token, json!(id)))
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": specials(config, tokens.len()),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges(&tokens, &ranks, &spelled)?},
    }))
}

/// Tokens by rank: ranks are the numbers from 0 without a gap, or ids behind them would move.
fn tokens(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    if file.len() > FILE_BYTES_MAX {
        return Err(error(format!("it has {} bytes, wanted at most {FILE_BYTES_MAX}", file.len())));
    }
    let text = std::str::from_utf8(file).map_err(error)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut tokens = vec![Vec::new(); lines.len()];
    for (line, at) in lines.iter().zip(1..) {
        let wanted = || error(format!("line {at} is no `base64(bytes) rank`"));
        let (bytes, rank) = line.split_once(' ').ok_or_else(wanted)?;
        if bytes.len() > TOKEN_BYTES_MAX * 2 {
            return Err(error(format!("line {at} has a token of over {TOKEN_BYTES_MAX} bytes")));
        }
        let bytes = base64::decode(bytes).map_err(|_| wanted())?;
        let rank: usize = rank.trim_end().parse().map_err(|_| wanted())?;
        let range = format!("a rank of its own below {}", lines.len());
        match tokens.get_mut(rank) {
            Some(token) if token.is_empty() && !bytes.is_empty() => *token = bytes,
            _ => return Err(error(format!("line {at} has rank {rank}, wanted {range}"))),
        }
    }
    if tokens.is_empty() {
        return Err(error("it has no tokens"));
    }
    Ok(tokens)
}

/// Tokens as a byte-level vocabulary writes them: a printable character for each byte.
fn spelling(tokens: &[Vec<u8>]) -> Vec<String> {
    let mut letters = ['\0'; 256];
    for (letter, byte) in byte_level_mapping() {
        letters[byte as usize] = letter;
    }
    let spell = |token: &Vec<u8>| token.iter().map(|byte| letters[*byte as usize]).collect();
    tokens.iter().map(spell).collect()
}

/// Every way to cut a token into two others, by the token's rank.
fn merges(
    tokens: &[Vec<u8>],
    ranks: &HashMap<&[u8], usize>,
    spelled: &[String],
) -> Result<Vec<Value>> {
    let mut merges = Vec::new();
    for token in tokens {
        let mut cuts: Vec<(usize, usize)> = (1..token.len())
            .filter_map(|at| {
                let (left, right) = token.split_at(at);
                Some((*ranks.get(left)?, *ranks.get(right)?))
            })
            .collect();
        cuts.sort_unstable();
        if merges.len() + cuts.len() > MERGES_MAX {
            return Err(error(format!("its tokens can be cut in over {MERGES_MAX} ways")));
        }
        for (left, right) in cuts {
            if let (Some(left), Some(right)) = (spelled.get(left), spelled.get(right)) {
                merges.push(json!([left, right]));
            }
        }
    }
    Ok(merges)
}

/// The special tokens behind `n_token` others: those that the configuration names, and reserved ones between them.
fn specials(config: &Value, n_token: usize) -> Vec<Value> {
    let named = config.get("added_tokens_decoder");
    let special = |id: usize| {
        let named = named.and_then(|named| named.get(id.to_string()));
        let content = named.and_then(|token| token.get("content")?.as_str());
        let content = content.map_or_else(|| format!("<|reserved_token_{id}|>"), ToOwned::to_owned);
        let flag = |field: &str, default: bool| {
            named.and_then(|token| token.get(field)?.as_bool()).unwrap_or(default)
        };
        json!({"id": id, "content": content, "special": flag("special", true),
            "normalized": false, "lstrip": false, "rstrip": false, "single_word": false})
    };
    (n_token..n_token + SPECIALS).map(special).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(file: &str, class: &str) -> String {
        to_json(file.as_bytes(), &json!({"tokenizer_class": class})).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert!(refused("", CLASS).contains("no tokens"));
        assert!(refused("IQ== 0\n", "Other").contains("`Other`"));
        assert!(refused("IQ== 0\nIg==", CLASS).contains("line 2"));
        assert!(refused("IQ== 0\n!!! 1", CLASS).contains("line 2"));
        assert!(refused("IQ== 0\nIg== 0", CLASS).contains("rank 0"));
        assert!(refused("IQ== 0\nIg== 7", CLASS).contains("below 2"));
        assert!(refused("IQ== 0\n 1", CLASS).contains("rank 1"));
        assert!(refused("IQ== 0\n", CLASS).contains("byte 0 has no token"));
        assert!(refused(&format!("{} 0", "QUFB".repeat(999)), CLASS).contains("over 256 bytes"));
        assert!(to_json(&[0xff], &json!({"tokenizer_class": CLASS})).is_err());
    }
}
