//! Weight files with a broken length, header or data, beside a configuration that is whole.

use serde_json::{Map, Value, json};

use crate::{Corpus, golden};

const CASE: &str = "v3-tied-bf16";
const FILE: &str = "model.safetensors";
/// A matrix of the case.
const TENSOR: &str = "model.layers.0.mlp.down_proj.weight";

/// A file taken apart.
struct Parts {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Parts {
    fn read(bytes: &[u8]) -> Self {
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).unwrap(), data: data.to_vec() }
    }

    fn with(&self, edit: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
        let mut header = self.header.clone();
        edit(&mut header);
        join(&serde_json::to_vec(&header).unwrap(), &self.data)
    }
}

fn join(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

pub(crate) fn add(corpus: &mut Corpus) {
    let whole = std::fs::read(golden(CASE).join(FILE)).unwrap();
    let parts = Parts::read(&whole);
    let mut file = |name: &str, words: &'static str, bytes: &[u8]| {
        corpus.folder(&format!("safetensors-{name}"), words, CASE, &[(FILE, Some(bytes))]);
    };
    lengths(&whole, &mut file);
    headers(&parts, &mut file);
    entries(&parts, &mut file);
    for tensor in parts.header.keys().filter(|name| !name.starts_with("__")) {
        file("without-a-tensor", "tensor", &parts.with(|header| drop(header.remove(tensor))));
    }
    let lines = (0..100_000)
        .map(|i| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
    let lines = format!("{{{}}}", lines.collect::<Vec<_>>().join(","));
    file("many-tensors", "is missing", &join(lines.as_bytes(), &parts.data));
    let lines = (0..100_000).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(",");
    file("many-that-are-none", "`dtype`", &join(format!("{{{lines}}}").as_bytes(), &parts.data));
    let lines = format!("{{\"a\":[0{}]}}", ",0".repeat(1 << 19));
    file("a-member-of-many", "more values", &join(lines.as_bytes(), &parts.data));
    corpus.folder("safetensors-missing", "safetensors", CASE, &[(FILE, None)]);
}

/// The eight bytes in front, and ends that come too soon.
fn lengths(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    file("empty", "empty", b"");
    for bytes in [1, 7] {
        file("cut-in-its-length", "8 bytes", &whole[..bytes]);
    }
    file("cut-after-its-length", "truncated", &whole[..8]);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    file("cut-in-its-header", "truncated", &whole[..8 + header / 2]);
    for part in 0..8 {
        let end = 8 + header + (whole.len() - 8 - header) * part / 8;
        file("cut-in-its-data", "truncated", &whole[..end]);
    }
    file("cut-by-a-byte", "truncated", &whole[..whole.len() - 1]);
    for bit in 18..64 {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        file("length-bit", "header", &flipped);
    }
    let mut swapped = whole.to_vec();
    swapped[..8].reverse();
    file("big-endian-length", "header", &swapped);
}

/// Headers that are not what the format says.
fn headers(parts: &Parts, file: &mut impl FnMut(&str, &'static str, &[u8])) {
    let text = serde_json::to_string(&parts.header).unwrap();
    let mut header =
        |name: &str, words, header: &str| file(name, words, &join(header.as_bytes(), &parts.data));
    header("no-header", "JSON", "");
    header("array", "object", "[]");
    header("deep", "JSON", &format!("{{\"a\":{}", "[".repeat(50_000)));
    header("half", "JSON", &text[..text.len() / 2]);
    header("two-objects", "JSON", &format!("{text}{{}}"));
    header("nothing-in-it", "tensor", "{}");
    let entry = serde_json::to_string(&parts.header[TENSOR]).unwrap();
    header("a-name-twice", "twice", &format!("{},\"{TENSOR}\":{entry}}}", &text[..text.len() - 1]));
    let bytes = join(&[b'{', b'"', 0xc3, 0x28, b'"', b':', b'1', b'}'], &parts.data);
    file("not-utf-8", "JSON", &bytes);
}

/// One entry of a header, changed.
fn entries(parts: &Parts, file: &mut impl FnMut(&str, &'static str, &[u8])) {
    let offsets = &parts.header[TENSOR]["data_offsets"];
    let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
    let (huge, len) = (u64::MAX, parts.data.len() as u64);
    let shape = parts.header[TENSOR]["shape"].clone();
    let mut set = |name: &str, field: &str, value: Value| {
        let bytes = parts.with(|header| header[TENSOR][field] = value);
        file(name, TENSOR, &bytes);
    };
    for value in [json!("F99"), json!("I64"), json!("F64"), json!("BF16BE"), json!(7), json!(null)]
    {
        set("dtype", "dtype", value);
    }
    let shapes = [
        json!([0]),
        json!([]),
        json!([huge, huge]),
        json!([1u64 << 32, 1u64 << 32]),
        json!([-48, -96]),
        json!([48.0, 96.5]),
        json!("48x96"),
        json!({ "0": 48 }),
        json!([shape[1], shape[0]]),
        json!([shape[0], shape[1], 1]),
        json!([1, shape[0].as_u64().unwrap() * shape[1].as_u64().unwrap()]),
    ];
    for value in shapes {
        set("shape", "shape", value);
    }
    let offsets = [
        json!([end, start]),
        json!([start, huge]),
        json!([huge, huge]),
        json!([start, end + 2]),
        json!([start + 1, end]),
        json!([len, len + end - start]),
        json!([-1, end]),
        json!([start]),
        json!([start, end, end]),
        json!("0-100"),
        json!(null),
    ];
    for value in offsets {
        set("offsets", "data_offsets", value);
    }
    let other = "model.layers.1.mlp.down_proj.weight";
    let theirs = parts.header[other]["data_offsets"].clone();
    file("overlap", "overlap", &parts.with(|header| header[TENSOR]["data_offsets"] = theirs));
    for value in [json!(null), json!([]), json!("tensor"), json!(1)] {
        file("entry", TENSOR, &parts.with(|header| header[TENSOR] = value));
    }
}
