//! Indexes of checkpoints in several files: names that lead elsewhere, files that are not there.

use serde_json::{Value, json};

use crate::{Corpus, golden};

const CASE: &str = "v3-yarn-bf16";
const FILE: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const TENSOR: &str = "model.norm.weight";

pub(crate) fn add(corpus: &mut Corpus) {
    let whole: Value =
        serde_json::from_slice(&std::fs::read(golden(CASE).join(FILE)).unwrap()).unwrap();
    let mut map = |name: &str, words: &'static str, file: Value| {
        let mut index = whole.clone();
        index["weight_map"][TENSOR] = file;
        let bytes = serde_json::to_vec(&index).unwrap();
        corpus.folder(&format!("index-{name}"), words, CASE, &[(FILE, Some(&bytes))]);
    };
    for away in [
        "../model.safetensors",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\..\\model.safetensors",
        "model\0.safetensors",
        "./model-00001-of-00002.safetensors",
    ] {
        map("away", "a file name of this folder", json!(away));
    }
    for value in [json!(null), json!(1), json!([FIRST]), json!({ "file": FIRST })] {
        map("no-name", "a file name of this folder", value);
    }
    map("not-there", "model-00003-of-00002.safetensors", json!("model-00003-of-00002.safetensors"));
    let mut file = |name: &str, words: &'static str, files: &[(&str, Option<&[u8]>)]| {
        corpus.folder(&format!("index-{name}"), words, CASE, files);
    };
    file("no-map", "weight_map", &[(FILE, Some(b"{\"metadata\": {}}"))]);
    file("map-is-a-list", "weight_map", &[(FILE, Some(b"{\"weight_map\": []}"))]);
    file("empty", "JSON", &[(FILE, Some(b""))]);
    let lines = (0..200_000).map(|i| format!("\"{i}\":\"x\"")).collect::<Vec<_>>().join(",");
    let lines = format!("{{\"weight_map\":{{{lines}}}}}");
    file("many-tensors", "/x: cannot read", &[(FILE, Some(lines.as_bytes()))]);
    file("a-shard-is-missing", SECOND, &[(SECOND, None)]);
    file("both-shards-are-missing", FIRST, &[(FIRST, None), (SECOND, None)]);
    let first = std::fs::read(golden(CASE).join(FIRST)).unwrap();
    file("a-shard-twice", "another file", &[(SECOND, Some(&first))]);
    file("a-shard-is-half", "truncated", &[(SECOND, Some(&first[..first.len() / 2]))]);
    file("a-shard-is-empty", SECOND, &[(SECOND, Some(b""))]);
}
