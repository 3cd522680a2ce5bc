//! Every golden case through the engine: logits, hidden states, router choices, attention, greedy continuations.

use std::path::{Path, PathBuf};

use hadal_engine::TokenId;
use hadal_engine::backend::cpu::{Activations, CpuOptions, Isa};
use hadal_engine::checkpoint::Source;
use hadal_engine::trace::TraceOptions;

use super::compare::{self, Array, Arrays, Limits};

/// Cases, and the tensors each must have been compared on beside `logits`, `decode_logits`, `decode_tokens`.
const CASES: [(&str, &[&str]); 23] = [
    (
        "v3-moe-f32",
        &[
            "hidden.0",
            "hidden.1",
            "hidden.2",
            "hidden.3",
            "hidden.final",
            "router.1.indices",
            "router.1.logits",
            "router.1.weights",
            "router.2.indices",
            "router.2.logits",
            "router.2.weights",
            "attn.0",
            "attn.1",
            "attn.2",
            "mlp.0",
            "mlp.1",
            "mlp.2",
            "mla.0.c_kv",
            "mla.0.k_rope",
            "mla.0.heads_out",
        ],
    ),
    (
        "v3-moe-bf16",
        &[
            "hidden.0",
            "hidden.3",
            "hidden.final",
            "router.1.indices",
            "router.1.logits",
            "router.1.weights",
            "router.2.indices",
            "router.2.weights",
        ],
    ),
    (
        "v3-noqlora-f32",
        &["hidden.0", "hidden.3", "hidden.final", "router.1.indices", "router.2.indices"],
    ),
    (
        "v3-noqlora-bf16",
        &["hidden.0", "hidden.3", "hidden.final", "router.1.indices", "router.2.indices"],
    ),
    ("v3-tied-f32", &["hidden.0", "hidden.3", "hidden.final", "router.2.indices"]),
    ("v3-tied-bf16", &["hidden.0", "hidden.3", "hidden.final", "router.2.indices"]),
    ("v3-yarn-f32", &["hidden.final", "router.1.indices"]),
    ("v3-yarn-bf16", &["hidden.final", "router.1.indices"]),
    ("v2-lite-f32", &["hidden.final", "router.1.indices"]),
    ("v2-lite-bf16", &["hidden.final", "router.1.indices"]),
    ("v2-group-f32", &["hidden.final", "router.1.indices"]),
    ("v2-group-bf16", &["hidden.final", "router.1.indices"]),
    ("v3-mtp-f32", &MTP),
    ("v3-mtp-bf16", &MTP),
    ("glm-lite-f32", &MTP),
    ("glm-lite-bf16", &MTP),
    ("kimi-k2-f32", &["hidden.final", "router.2.indices", "mla.0.k_rope"]),
    ("kimi-k2-bf16", &["hidden.final", "router.2.indices"]),
    ("v3-halves-f32", &["hidden.final", "router.2.indices", "mla.0.k_rope", "mla.0.heads_out"]),
    ("v3-halves-bf16", &["hidden.final", "router.2.indices"]),
    ("v3-fp8", &["hidden.final", "router.1.indices"]),
    ("v3-fp8-ue8m0", &["hidden.final", "router.1.indices"]),
    (
        "v3-realdims",
        &["hidden.final", "router.1.indices", "mla.0.c_kv", "mla.0.k_rope", "mla.0.heads_out"],
    ),
];

const MTP: [&str; 5] =
    ["hidden.final", "router.1.indices", "mtp.hidden", "mtp.logits", "mtp.draft_tokens"];

/// Keys of a golden file that are inputs, or results of something that is not done here.
fn is_other(key: &str) -> bool {
    matches!(
        key,
        "input_ids"
            | "decode_margin"
            | "routing_margin"
            | "logits_bf16"
            | "logits_dequant_bf16"
            | "logits_w8a8"
            | "mtp.draft_tokens_prenorm"
    ) || key.starts_with("extra.")
}

pub(super) fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

/// What the engine computes, by the golden files' names.
pub(super) fn run_on(
    source: &Source,
    tokens: &[i64],
    n_greedy: usize,
    step_rows: usize,
    cpu: &CpuOptions,
) -> Arrays {
    let options = TraceOptions {
        tokens: tokens.iter().map(|id| TokenId(*id as u32)).collect(),
        n_greedy,
        all: true,
        step_rows,
        cpu: cpu.clone(),
        cuda: None,
    };
    compare::traced(source, &options)
}

/// One case in one setting: every key of the golden file that an ordinary pass has.
#[track_caller]
fn check(case: &str, required: &[&str], cpu: &CpuOptions, step_rows: usize, limits: &Limits) {
    check_source(&Source::Directory(folder(case)), case, required, cpu, step_rows, limits);
}

/// A case's checkpoint from another place.
#[track_caller]
pub(super) fn check_source(
    source: &Source,
    case: &str,
    required: &[&str],
    cpu: &CpuOptions,
    step_rows: usize,
    limits: &Limits,
) {
    let golden = compare::read(&folder(case).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let n_greedy = golden["decode_tokens"].floats.len();
    let made = run_on(source, &ids, n_greedy, step_rows, cpu);
    let keys: Vec<&String> = golden.keys().filter(|key| !is_other(key)).collect();
    for required in ["logits", "decode_logits", "decode_tokens"].iter().chain(required) {
        assert!(
            keys.iter().any(|key| key == required),
            "{case}: the golden file has no `{required}`"
        );
    }
    let mut wrong = Vec::new();
    for key in keys {
        match made.get(key) {
            None => wrong.push(format!("`{key}` was not produced")),
            Some(array) => {
                wrong.extend(
                    compare::compare(key, &golden, array, limits)
                        .iter()
                        .map(|w| format!("`{key}`: {w}")),
                );
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{case} with {cpu:?}, {step_rows} rows a step:\n  {}",
        wrong.join("\n  ")
    );
}

/// Two threads with every instruction set this processor has; says which it has not.
pub(super) fn every_isa(activations: Activations) -> impl Iterator<Item = CpuOptions> {
    let available = Isa::ALL.into_iter().filter(|isa| {
        if !isa.is_available() {
            println!("skipped: this processor has no {isa:?}");
        }
        isa.is_available()
    });
    available.map(move |isa| CpuOptions {
        threads: Some(2),
        isa: Some(isa),
        activations: Some(activations),
        ..CpuOptions::default()
    })
}

/// Every case on every instruction set.
fn on_every_isa(activations: Activations, limits: &Limits) {
    for cpu in every_isa(activations) {
        for (case, required) in CASES {
            check(case, required, &cpu, 64, limits);
        }
    }
}

#[test]
fn float32_activations_follow_the_reference_to_float32_accuracy() {
    on_every_isa(Activations::F32, &compare::F32);
}

#[test]
fn bf16_activations_follow_the_reference_to_bf16_accuracy() {
    on_every_isa(Activations::Bf16, &compare::BF16);
}

/// Rows of prompts with inputs rounded once are as near as with pairs, but for few where two experts are nearly tied and, if
/// the other one is taken, for what sees those rows (docs/decisions/0004). Answers go another way there and are not compared.
#[test]
fn prompts_with_inputs_rounded_once_follow_the_reference_but_for_near_ties() {
    for cpu in every_isa(Activations::Bf16Rounded) {
        for (case, _) in CASES.iter().filter(|(case, _)| case.ends_with("bf16")) {
            let golden = compare::read(&folder(case).join("golden.safetensors"));
            let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
            let made = run_on(&Source::Directory(folder(case)), &ids, 0, 64, &cpu);
            let far = compare::far_rows(&golden["logits"], &made["logits"], &compare::BF16);
            let may = if *case == "kimi-k2-bf16" { 0.15 } else { 0.05 };
            assert!(far <= may, "{case} with {cpu:?}: {far} of the rows are far off");
        }
    }
}

#[test]
fn short_chunks_give_the_same_numbers() {
    let cpu = CpuOptions {
        threads: Some(1),
        isa: None,
        activations: Some(Activations::F32),
        ..CpuOptions::default()
    };
    for (case, required) in CASES {
        check(case, required, &cpu, 7, &compare::F32);
    }
}

/// The short prompts beside each case, down to a single token.
#[test]
fn extra_prompts_give_the_first_logits_and_the_tokens_of_the_reference() {
    for (case, _) in CASES {
        let golden = compare::read(&folder(case).join("golden.safetensors"));
        let notes: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder(case).join("golden.json")).unwrap())
                .unwrap();
        let prompts = notes["extra_prompts"].as_array().unwrap();
        assert!(!prompts.is_empty(), "{case} has no extra prompts");
        for (i, prompt) in prompts.iter().enumerate() {
            let list = |key: &str| -> Vec<i64> {
                prompt[key].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
            };
            let (ids, want) = (list("input_ids"), list("decode_tokens"));
            let cpu = CpuOptions {
                threads: Some(1),
                isa: None,
                activations: Some(Activations::F32),
                ..CpuOptions::default()
            };
            let source = Source::Directory(folder(case));
            let made = run_on(&source, &ids, want.len(), 64, &cpu);
            let logits = &made["logits"];
            let last = logits.floats[logits.floats.len() - logits.shape[1]..].to_vec();
            let last = Array { shape: vec![logits.shape[1]], floats: last, is_integer: false };
            let key = format!("extra.{i}.first_logits");
            let wrong = compare::compare(&key, &golden, &last, &compare::F32);
            assert!(wrong.is_empty(), "{case} {key}: {wrong:?}");
            let tokens: Vec<i64> =
                made["decode_tokens"].floats.iter().map(|id| *id as i64).collect();
            if prompt["min_margin"].as_f64().unwrap() >= compare::F32.tie {
                assert_eq!(tokens, want, "{case}, extra prompt {i}");
            }
        }
    }
}
