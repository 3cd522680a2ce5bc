//! Whole golden checkpoints on the simulated card, held to the reference with bf16's tolerances.

use std::path::{Path, PathBuf};

use hadal_engine::TokenId;
use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::{Quant, Source, Target};
use hadal_engine::trace::{self, TraceData, TraceOptions};

use super::card::{Card, PROFILES, card};
use super::compare::{self, Array, Arrays};

/// What is compared: everything the reference has in bf16 that does not hang on one near-tie.
const KEYS: [&str; 4] = ["logits", "decode_logits", "decode_tokens", "hidden.final"];

pub(crate) fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

/// A trace, on the card or on the processor with inputs in f32.
fn run(
    source: &Source,
    tokens: &[i64],
    n_greedy: usize,
    step_rows: usize,
    (cuda, target): (Option<usize>, Option<Target>),
) -> Arrays {
    let quant = target.map(|target| Quant { target, cache: false });
    let activations = Some(Activations::F32);
    let options = TraceOptions {
        tokens: tokens.iter().map(|id| TokenId(*id as u32)).collect(),
        n_greedy,
        all: true,
        step_rows,
        cpu: CpuOptions { threads: Some(2), activations, quant, ..CpuOptions::default() },
        cuda,
    };
    let trace = trace::run(source, &options).unwrap();
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
    check_source(card, &Source::Directory(folder(case)), case, step_rows, &KEYS);
}

/// The same with a case's checkpoint in another file.
#[track_caller]
fn check_source(card: &Card, source: &Source, case: &str, step_rows: usize, keys: &[&str]) {
    let mut golden = compare::read(&folder(case).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let n_greedy = golden["decode_tokens"].floats.len();
    let mut made = run(source, &ids, n_greedy, step_rows, (Some(0), None));
    // Behind a token that a near-tie let be another one, the two answer different texts.
    let tokens = golden["decode_tokens"].floats.iter().zip(&made["decode_tokens"].floats);
    let same = tokens.take_while(|(golden, made)| golden == made).count();
    for arrays in [&mut golden, &mut made] {
        let logits = arrays.get_mut("decode_logits").unwrap();
        logits.shape[0] = logits.shape[0].min(same + 1);
        logits.floats.truncate(logits.shape[0] * logits.shape[1]);
    }
    let mut wrong = Vec::new();
    for key in keys.iter().filter(|key| golden.contains_key(**key)) {
        if *key == "decode_tokens" && is_routed_otherwise(&golden, same, n_greedy) {
            continue;
        }
        let differs = compare::compare(key, &golden, &made[*key], &compare::BF16);
        wrong.extend(differs.iter().map(|w| format!("`{key}`: {w}")));
    }
    assert!(wrong.is_empty(), "{case}, {step_rows} rows a step:\n  {}", wrong.join("\n  "));
    assert_eq!(card.live_bytes(), 0, "{case} leaves memory behind");
}

/// Whether the first other token is behind a row whose experts were nearly tied.
fn is_routed_otherwise(golden: &Arrays, same: usize, n_greedy: usize) -> bool {
    let Some(margins) = golden.get("routing_margin").map(|margins| &margins.floats) else {
        return false;
    };
    // The first token is drawn from the prompt's last row; nothing is drawn behind the last.
    let first = (margins.len() + 1).saturating_sub(n_greedy + 1);
    margins.get(first + same).is_some_and(|margin| *margin < compare::BF16.route_tie)
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

#[test]
fn heads_with_rotary_keys_of_their_own_and_averaged_shared_experts() {
    let Some(card) = card("devices=h100") else { return };
    let source = Source::File(folder("mini-untied").join("state_dict.pt"));
    // A row of this prompt has two experts nearly tied, which its logits are excused for and its state is not.
    check_source(&card, &source, "mini-untied", 64, &KEYS[..3]);
}

/// What excuses near-ties between experts is looked up by these.
fn is_about_the_prompt(key: &str) -> bool {
    matches!(key, "routing_margin" | "input_ids")
}

#[test]
fn whole_numbers_are_multiplied_as_they_are_stored() {
    for (profile, target) in [("rtx5090", Target::Q8), ("a100", Target::Q4)] {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        let source = Source::Directory(folder("v3-fp8"));
        let golden = compare::read(&folder("v3-fp8").join("golden.safetensors"));
        let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
        let mut want = run(&source, &ids, 0, 64, (None, Some(target)));
        let made = run(&source, &ids, 0, 64, (Some(0), Some(target)));
        want.extend(golden.into_iter().filter(|(key, _)| is_about_the_prompt(key)));
        let wrong = compare::compare("logits", &want, &made["logits"], &compare::BF16);
        assert!(wrong.is_empty(), "{target:?}: {wrong:?}");
        assert_eq!(card.live_bytes(), 0);
    }
}
