//! Files made by hand: the smallest model there is, and everything that can be wrong with one.

mod file;
mod parts;
mod vocabulary;

use std::path::{Path, PathBuf};

use super::super::{Checkpoint, Source, discover};
use file::{File, typed};

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&Source::File(path)).map_err(|error| error.to_string())
}

fn open(file: &File) -> Result<Checkpoint, String> {
    open_bytes(&file.bytes())
}

/// One change to the smallest model, and words of the refusal.
#[track_caller]
fn refused(change: impl FnOnce(&mut File), words: &[&str]) {
    let mut file = File::model();
    change(&mut file);
    let error = open(&file).err().expect("was opened");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn the_smallest_model_opens_with_released_names_and_shapes() {
    let checkpoint = open(&File::model()).unwrap();
    let config = &checkpoint.config;
    assert_eq!((config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim), (3, 2, 4));
    assert!(config.tie_word_embeddings && config.moe.is_none() && config.q_lora_rank.is_none());
    let shape = |name: &str| checkpoint.tensor(name).unwrap().shape;
    assert_eq!(shape("model.layers.0.self_attn.k_b_proj.weight"), [10, 3]);
    assert_eq!(shape("model.layers.0.self_attn.v_b_proj.weight"), [8, 5]);
    assert!(!checkpoint.has("rope_freqs.weight"));
}

#[test]
fn experts_are_slices_of_their_stack() {
    let mut file = File::model();
    let numbers = |n: u32| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
    file.tensors.retain(|tensor| {
        !["ffn_gate.", "ffn_up", "ffn_down"].iter().any(|part| tensor.name.contains(part))
    });
    for (key, value) in
        [("count", 3), ("used_count", 2), ("feed_forward_length", 2), ("gating_func", 2)]
    {
        file.number(&format!("deepseek2.expert_{key}"), value);
    }
    file.tensor("blk.0.ffn_gate_inp.weight", &[4, 3]).tensor("blk.0.exp_probs_b.bias", &[3]);
    file.stored("blk.0.ffn_gate_up_exps.weight", &[4, 4, 3], 0, numbers(48));
    file.stored("blk.0.ffn_down_exps.weight", &[2, 4, 3], 0, numbers(24));
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.config.model_type, "deepseek_v3");
    let first = |name: &str| {
        let tensor =
            checkpoint.tensor(&format!("model.layers.0.mlp.experts.{name}.weight")).unwrap();
        (tensor.shape.clone(), tensor.to_f32()[0])
    };
    assert_eq!(first("0.gate_proj"), (vec![2, 4], 0.0));
    assert_eq!(first("0.up_proj"), (vec![2, 4], 8.0));
    assert_eq!(first("2.gate_proj"), (vec![2, 4], 32.0));
    assert_eq!(first("2.down_proj"), (vec![4, 2], 16.0));
    file.find("blk.0.ffn_down_exps.weight").shape = vec![2, 2, 6];
    let error = open(&file).err().unwrap();
    assert!(error.contains("ffn_down_exps") && error.contains("3 experts"), "{error}");
}

#[test]
fn a_router_without_a_named_function_is_v3s_where_it_has_a_bias() {
    let mut file = File::model();
    file.tensors.retain(|tensor| {
        !["ffn_gate.", "ffn_up", "ffn_down"].iter().any(|part| tensor.name.contains(part))
    });
    for (key, value) in [("count", 3), ("used_count", 2), ("feed_forward_length", 2)] {
        file.number(&format!("deepseek2.expert_{key}"), value);
    }
    file.tensor("blk.0.ffn_gate_inp.weight", &[4, 3]);
    for kind in ["gate", "up"] {
        file.tensor(&format!("blk.0.ffn_{kind}_exps.weight"), &[4, 2, 3]);
    }
    file.tensor("blk.0.ffn_down_exps.weight", &[2, 4, 3]);
    assert_eq!(open(&file).unwrap().config.model_type, "deepseek_v2");
    file.tensor("blk.0.exp_probs_b.bias", &[3]);
    assert_eq!(open(&file).unwrap().config.model_type, "deepseek_v3");
}

#[test]
fn wrong_headers_are_refused_with_what_was_found() {
    let whole = File::model().bytes();
    let changed = |at: usize, new: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        open_bytes(&bytes).err().unwrap()
    };
    assert!(changed(0, b"GGML").contains("GGUF"));
    assert!(changed(4, &[0, 0, 0, 3]).contains("big-endian"));
    assert!(changed(4, &[1, 0, 0, 0]).contains("version 1"));
    assert!(changed(4, &[9, 0, 0, 0]).contains("version 9"));
    assert!(changed(8, &u64::MAX.to_le_bytes()).contains("tensors are announced"));
    assert!(changed(16, &(1u64 << 40).to_le_bytes()).contains("keys are announced"));
    let mut older = File::model();
    older.version = 2;
    open(&older).unwrap();
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = File::model().bytes();
    for len in 0..whole.len() {
        assert!(open_bytes(&whole[..len]).is_err(), "opened with {len} of {}", whole.len());
    }
    open_bytes(&whole).unwrap();
}

#[test]
fn no_changed_byte_ends_in_a_panic() {
    let whole = File::model().bytes();
    for at in 0..whole.len().min(2500) {
        for change in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            // Most are refused; a byte of a weight or of an unused key's value is nobody's concern.
            drop(open_bytes(&bytes));
        }
    }
}

#[test]
fn wrong_keys_are_refused_by_name() {
    refused(
        |file| {
            file.words("general.architecture", "llama");
        },
        &["`llama`", "deepseek2"],
    );
    refused(
        |file| {
            file.words("general.architecture", "glm-dsa");
        },
        &["`glm-dsa`", "indexer"],
    );
    refused(|file| file.keys.clear(), &["`general.architecture`", "missing"]);
    refused(
        |file| {
            file.words("deepseek2.block_count", "many");
        },
        &["`deepseek2.block_count`", "many", "whole number"],
    );
    refused(
        |file| {
            file.number("deepseek2.rope.dimension_count", 5);
        },
        &["`deepseek2.rope.dimension_count`", "5"],
    );
    refused(
        |file| {
            file.key("deepseek2.context_length", typed(5, &(-1i32).to_le_bytes()));
        },
        &["`deepseek2.context_length`", "-1"],
    );
    refused(
        |file| {
            file.number("general.alignment", 24);
        },
        &["`general.alignment`", "24"],
    );
    refused(
        |file| {
            file.key("a.flag", typed(7, &[2]));
        },
        &["`a.flag`", "is 2"],
    );
    refused(
        |file| {
            file.key("a.key", typed(13, &[0; 8]));
        },
        &["`a.key`", "type 13"],
    );
    refused(|file| file.keys.push(file.keys[3].clone()), &["is there twice"]);
}

#[test]
fn lists_beyond_the_file_and_foreign_scaling_are_refused_by_name() {
    refused(
        |file| {
            let huge = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
            file.key("a.list", typed(9, &huge));
        },
        &["`a.list`", "truncated"],
    );
    refused(
        |file| {
            let mut nested = [&4u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
            for _ in 0..5 {
                nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &nested].concat();
            }
            file.key("a.list", typed(9, &nested));
        },
        &["`a.list`", "nested"],
    );
    refused(
        |file| {
            file.words("deepseek2.rope.scaling.type", "linear");
        },
        &["`linear`", "yarn"],
    );
    // A factor without a type stretches positions evenly.
    let factor = |factor: f32| typed(6, &factor.to_le_bytes());
    refused(
        |file| {
            file.key("deepseek2.rope.scaling.factor", factor(4.0));
        },
        &["`linear`", "yarn"],
    );
    refused(
        |file| {
            file.key("deepseek2.attention.temperature_scale", factor(0.1));
        },
        &["`deepseek2.attention.temperature_scale`", "0.1"],
    );
    let mut file = File::model();
    file.key("deepseek2.rope.scaling.factor", factor(1.0));
    file.key("deepseek2.attention.temperature_scale", factor(0.0));
    open(&file).unwrap();
}

#[test]
fn weights_that_no_key_asks_for_are_refused() {
    refused(
        |file| {
            file.tensor("blk.0.attn_output.bias", &[4]);
        },
        &["`blk.0.attn_output.bias`", "no such weight"],
    );
    refused(
        |file| {
            file.tensor("blk.1.attn_norm.weight", &[4]);
        },
        &["`model.layers.1.input_layernorm.weight`", "layer 1", "has 1"],
    );
}

#[test]
fn the_layer_that_predicts_further_tokens_is_kept_under_its_released_names() {
    let mut file = File::model();
    file.number("deepseek2.block_count", 2).number("deepseek2.nextn_predict_layers", 1);
    // Many writers leave the layer out and keep the keys.
    assert!(!open(&file).unwrap().has_mtp());
    let layer: Vec<_> = file.tensors.iter().filter(|t| t.name.starts_with("blk.0.")).collect();
    let layer: Vec<_> =
        layer.into_iter().map(|t| (t.name.replace("blk.0", "blk.1"), t.shape.clone())).collect();
    for (name, shape) in &layer {
        file.tensor(name, shape);
    }
    for (name, shape) in [
        ("eh_proj", &[8, 4][..]),
        ("enorm", &[4]),
        ("hnorm", &[4]),
        ("shared_head_norm", &[4]),
        ("embed_tokens", &[4, 3]),
    ] {
        file.tensor(&format!("blk.1.nextn.{name}.weight"), shape);
    }
    let checkpoint = open(&file).unwrap();
    assert!(checkpoint.has_mtp() && checkpoint.config.num_nextn_predict_layers == 1);
    assert_eq!(checkpoint.tensor("model.layers.1.eh_proj.weight").unwrap().shape, [4, 8]);
    file.tensors.retain(|tensor| tensor.name != "blk.1.nextn.hnorm.weight");
    let error = open(&file).err().unwrap();
    assert!(error.contains("`model.layers.1.hnorm.weight` is missing"), "{error}");
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    const GATE: &str = "blk.0.ffn_gate.weight";
    refused(|file| file.find(GATE).kind = 16, &["gate_proj", "IQ2_XXS", "Q8_0"]);
    refused(|file| file.find(GATE).kind = 99, &["gate_proj", "number 99"]);
    refused(|file| file.find(GATE).kind = 8, &[GATE, "rows of 4", "multiple of 32"]);
    refused(|file| file.find(GATE).shape = vec![4, 6, 1, 1, 1], &[GATE, "5 dimensions"]);
    refused(|file| file.find(GATE).shape = vec![4, 0], &[GATE, "nothing is in it"]);
    refused(|file| file.find(GATE).shape = vec![1 << 40, 1 << 40], &[GATE, "2^64"]);
    refused(|file| file.find(GATE).shape = vec![4, 1 << 20], &[GATE, "truncated"]);
    refused(|file| file.find(GATE).shape = vec![6, 4], &["gate_proj", "[4, 6]", "[6, 4]"]);
    refused(|file| file.find(GATE).offset = Some(33), &[GATE, "33", "multiple of 32"]);
    refused(|file| file.find(GATE).offset = Some(0), &["overlap"]);
    refused(|file| file.find(GATE).offset = Some(u64::MAX - 31), &[GATE, "truncated"]);
    refused(|file| file.find(GATE).name = "blk.0.ffn_up.weight".into(), &["ffn_up", "twice"]);
    refused(|file| file.tensors.retain(|tensor| tensor.name != GATE), &["gate_proj", "missing"]);
    refused(
        |file| file.find("blk.0.attn_k_b.weight").shape = vec![30],
        &["attn_k_b", "a matrix for each head"],
    );
}
