//! GGUF files with broken counts, keys and tensors. The format: magic, version, number of tensors, number of keys;
//! keys as (name, type, value); tensors as (name, dimensions, type, offset); data. All little-endian.

use crate::{Corpus, golden};

const FILE: &str = "v3-tied-bf16.gguf";
/// Where the header's counts are.
const N_TENSOR: usize = 8;
const N_KEY: usize = 16;
const UINT32: u32 = 4;

pub(crate) fn add(corpus: &mut Corpus) {
    let whole = std::fs::read(golden("gguf").join(FILE)).unwrap();
    let mut file = |name: &str, words: &'static str, bytes: &[u8]| {
        corpus.file(&format!("gguf-{name}"), "model.gguf", words, bytes, None);
    };
    header(&whole, &mut file);
    keys(&whole, &mut file);
    tensors(&whole, &mut file);
    file("many-tokens", "is missing", &vocabulary(1 << 18, 1));
    file("many-user-tokens", "is missing", &vocabulary(1 << 18, 4));
}

/// A file without tensors whose vocabulary is all there is.
fn vocabulary(n_token: u32, kind: u8) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let number =
        |key: &str, n: u32| [&text(key)[..], &4u32.to_le_bytes(), &n.to_le_bytes()].concat();
    let word = |key: &str, word: &str| [text(key), 8u32.to_le_bytes().into(), text(word)].concat();
    let list = |key: &str, kind: u32, n: u32, bytes: &[u8]| {
        let head = [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &u64::from(n).to_le_bytes()];
        [text(key), head.concat(), bytes.to_vec()].concat()
    };
    let sizes = [
        ("context_length", 256),
        ("embedding_length", 64),
        ("block_count", 3),
        ("feed_forward_length", 144),
        ("vocab_size", n_token),
        ("attention.head_count", 4),
        ("attention.kv_lora_rank", 32),
        ("attention.key_length", 24),
        ("attention.value_length", 16),
        ("rope.dimension_count", 8),
    ];
    let tokens: Vec<u8> = (0..n_token).flat_map(|i| text(&format!("{i:05x}"))).collect();
    let mut keys = vec![
        word("general.architecture", "deepseek2"),
        word("tokenizer.ggml.model", "gpt2"),
        word("tokenizer.ggml.pre", "deepseek-v3"),
        list("tokenizer.ggml.tokens", 8, n_token, &tokens),
        list("tokenizer.ggml.token_type", 0, n_token, &vec![kind; n_token as usize]),
        list("tokenizer.ggml.merges", 8, 1, &text("a b")),
    ];
    keys.extend(sizes.map(|(key, n)| number(&format!("deepseek2.{key}"), n)));
    let counts = [0u64.to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat();
    [b"GGUF".to_vec(), 3u32.to_le_bytes().into(), counts, keys.concat()].concat()
}

fn patched(whole: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut patched = whole.to_vec();
    patched[at..at + bytes.len()].copy_from_slice(bytes);
    patched
}

/// Where a name's characters end.
fn after(whole: &[u8], name: &str) -> usize {
    let text = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
    let at = whole.windows(text.len()).position(|window| window == text);
    at.unwrap_or_else(|| panic!("{name} is not in the file")) + text.len()
}

fn header(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    file("empty", "empty", b"");
    for bytes in [1, 4, 8, 16, 23] {
        file("cut-in-its-header", "model.gguf", &whole[..bytes]);
    }
    for part in 1..24 {
        file("cut", "model.gguf", &whole[..whole.len() * part / 24]);
    }
    file("cut-by-a-byte", "model.gguf", &whole[..whole.len() - 1]);
    file("magic", "GGUF", &patched(whole, 0, b"GGML"));
    file("magic-turned", "GGUF", &patched(whole, 0, b"FUGG"));
    file("version-big-endian", "big-endian", &patched(whole, 4, &3u32.to_be_bytes()));
    for version in [0u32, 1, 4, u32::MAX] {
        file("version", "version", &patched(whole, 4, &version.to_le_bytes()));
    }
    for (name, at) in [("tensors", N_TENSOR), ("keys", N_KEY)] {
        for bit in 8..64 {
            let mut flipped = whole.to_vec();
            flipped[at + bit / 8] ^= 1 << (bit % 8);
            file(&format!("{name}-bit"), "model.gguf", &flipped);
        }
        file(&format!("no-{name}"), "model.gguf", &patched(whole, at, &0u64.to_le_bytes()));
    }
}

fn keys(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    for key in [
        "deepseek2.block_count",
        "deepseek2.embedding_length",
        "deepseek2.attention.head_count",
        "deepseek2.attention.kv_lora_rank",
        "deepseek2.expert_count",
        "deepseek2.expert_used_count",
    ] {
        let at = after(whole, key);
        for value in [0u32, u32::MAX] {
            let value = [UINT32.to_le_bytes(), value.to_le_bytes()].concat();
            file(key, "model.gguf", &patched(whole, at, &value));
        }
        // A value of another type takes another length: what follows is no key any more.
        for kind in [8u32, 9, 12, 13, 99, u32::MAX] {
            file(key, "model.gguf", &patched(whole, at, &kind.to_le_bytes()));
        }
        // Without its name the key is missing.
        file(key, "model.gguf", &patched(whole, at - 1, b"#"));
    }
    let tokens = after(whole, "tokenizer.ggml.tokens");
    for count in [u64::MAX, 1 << 40, 1 << 62] {
        file("endless-array", "model.gguf", &patched(whole, tokens + 8, &count.to_le_bytes()));
    }
    file("array-of-arrays", "model.gguf", &patched(whole, tokens + 4, &9u32.to_le_bytes()));
    let first = tokens + 16;
    for len in [u64::MAX, 1 << 33] {
        file("endless-text", "model.gguf", &patched(whole, first, &len.to_le_bytes()));
    }
    let architecture = after(whole, "general.architecture") + 12;
    file("another-architecture", "llama", &patched(whole, architecture, b"llama2222"));
    // Arrays in arrays in arrays, each of one.
    let mut deep = [&whole[..N_TENSOR], &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    deep.extend([&1u64.to_le_bytes()[..], b"a", &9u32.to_le_bytes()].concat());
    for _ in 0..100_000 {
        deep.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    }
    file("deep-array", "model.gguf", &deep);
}

fn tensors(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    let at = after(whole, "blk.0.ffn_down.weight");
    for n in [0u32, 1, 3, 5, u32::MAX] {
        file("dimensions", "model.gguf", &patched(whole, at, &n.to_le_bytes()));
    }
    for (place, size) in [(4, 0), (4, u64::MAX), (12, u64::MAX), (12, 1 << 40), (4, 95)] {
        file("size", "model.gguf", &patched(whole, at + place, &size.to_le_bytes()));
    }
    for kind in [3u32, 16, 23, 31, 99, u32::MAX] {
        file("type", "model.gguf", &patched(whole, at + 20, &kind.to_le_bytes()));
    }
    for offset in [u64::MAX, 1, 1 << 40, whole.len() as u64 / 32 * 32] {
        file("offset", "model.gguf", &patched(whole, at + 24, &offset.to_le_bytes()));
    }
    for name in ["blk.0.ffn_down.weight", "output_norm.weight", "token_embd.weight"] {
        file("unnamed", "model.gguf", &patched(whole, after(whole, name) - 1, b"#"));
    }
    let other = after(whole, "blk.1.ffn_down.weight");
    let twice = patched(whole, other - 21, b"blk.0.ffn_down.weight");
    file("a-name-twice", "blk.0.ffn_down.weight", &twice);
    let theirs: [u8; 8] = whole[other + 24..other + 32].try_into().unwrap();
    file("overlap", "model.gguf", &patched(whole, at + 24, &theirs));
}
