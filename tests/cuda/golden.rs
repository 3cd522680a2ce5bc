//! Whole golden checkpoints on the simulated card, held to the reference with bf16's tolerances.

use std::path::{Path, PathBuf};

use hadal_engine::TokenId;
use hadal_engine::checkpoint::Source;
use hadal_engine::trace::{self, TraceData, TraceOptions};

use super::card::{Card, PROFILES, card};
use super::compare::{self, Array, Arrays};

/// What is compared: everything the reference has in bf16 that does not hang on one near-tie.
const KEYS: [&str; 4] = ["logits", "decode_logits", "decode_tokens", "hidden.final"];

pub(crate) fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

fn run_on_card(case: &str, tokens: &[i64], n_greedy: usize, step_rows: usize) -> Arrays {
    let options = TraceOptions {
        tokens: tokens.iter().map(|id| TokenId(*id as u32)).collect(),
        n_greedy,
        all: true,
        step_rows,
        cuda: Some(0),
        ..TraceOptions::default()
    };
    let trace = trace::run(&Source::Directory(folder(case)), &options).unwrap();
    let arrays = trace.tensors.into_iter().map(|tensor| {
        let (floats, is_integer) = match tensor.data {
            TraceData::F32(values) => (values.into_iter().map(f64::from).collect(), false),
            TraceData::I64(values) => (values.into_iter().map(|v| v as f64).collect(), true),
        };
        (tensor.name, Array { shape: tensor.shape, floats, is_integer })
    });
    arrays.collect()
}

/// One case; prompts in chunks of `step_rows` rows, then one row a step.
#[track_caller]
fn check(card: &Card, case: &str, step_rows: usize) {
    let mut golden = compare::read(&folder(case).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let n_greedy = golden["decode_tokens"].floats.len();
    let mut made = run_on_card(case, &ids, n_greedy, step_rows);
    // Behind a token that a near-tie let be another one, the two answer different texts.
    let tokens = golden["decode_tokens"].floats.iter().zip(&made["decode_tokens"].floats);
    let same = tokens.take_while(|(golden, made)| golden == made).count();
    for arrays in [&mut golden, &mut made] {
        let logits = arrays.get_mut("decode_logits").unwrap();
        logits.shape[0] = logits.shape[0].min(same + 1);
        logits.floats.truncate(logits.shape[0] * logits.shape[1]);
    }
    let mut wrong = Vec::new();
    for key in KEYS {
        let differs = compare::compare(key, &golden, &made[key], &compare::BF16);
        wrong.extend(differs.iter().map(|w| format!("`{key}`: {w}")));
    }
    assert!(wrong.is_empty(), "{case}, {step_rows} rows a step:\n  {}", wrong.join("\n  "));
    assert_eq!(card.live_bytes(), 0, "{case} leaves memory behind");
}

#[test]
fn v3_on_every_card() {
    for profile in PROFILES {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check(&card, "v3-moe-bf16", 64);
    }
}

#[test]
fn prompts_in_chunks_of_odd_sizes_and_any_order_of_streams() {
    for seed in [2, 3] {
        let Some(card) = card(&format!("devices=rtx5090 seed={seed}")) else { return };
        check(&card, "v2-lite-bf16", 7);
    }
}

#[test]
fn other_rotations_rules_and_ways_to_make_queries() {
    let Some(card) = card("devices=a100") else { return };
    for case in ["v3-yarn-bf16", "v2-group-bf16", "v3-noqlora-bf16", "v3-tied-bf16"] {
        check(&card, case, 33);
    }
}

#[test]
fn relatives_and_halves_of_kv_b() {
    let Some(card) = card("devices=h100") else { return };
    for case in ["v3-halves-bf16", "glm-lite-bf16", "kimi-k2-bf16"] {
        check(&card, case, 64);
    }
}

#[test]
fn eight_bit_floats_with_and_without_their_own_instructions() {
    for profile in ["a100", "h100"] {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check(&card, "v3-fp8", 64);
        check(&card, "v3-fp8-ue8m0", 64);
    }
}

#[test]
fn f32_weights_are_rounded_and_released_head_sizes_run() {
    let Some(card) = card("devices=rtx4090") else { return };
    check(&card, "v3-moe-f32", 64);
    check(&card, "v3-realdims", 64);
}
