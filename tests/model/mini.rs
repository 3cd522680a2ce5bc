//! mini-deepseek from files of `torch.save`: every container against the numbers of the model's own code.

use hadal_engine::backend::cpu::{Activations, CpuOptions, Isa};
use hadal_engine::checkpoint::{Checkpoint, Source};

use super::compare::{self, Array, Arrays, Limits};
use super::golden::{folder, run_on};

/// Case, file, and whether its weights are bf16 roundings of the ones the reference ran on.
const FILES: [(&str, &str, bool); 6] = [
    ("mini-tied", "legacy.pt", false),
    ("mini-tied", "pretrain_final.pt", false),
    ("mini-tied", "rl_final.pt", false),
    ("mini-tied", "state_dict.pt", false),
    ("mini-tied", "state_dict_bf16.pt", true),
    ("mini-untied", "state_dict.pt", false),
];

/// Tensors that must have been compared, beside logits and tokens.
fn required(case: &str) -> &'static [&'static str] {
    match case {
        "mini-tied" => &[
            "hidden.0",
            "hidden.3",
            "hidden.final",
            "router.1.indices",
            "router.1.probs",
            "router.1.weights",
            "router.3.indices",
            "router.3.probs",
            "router.3.weights",
            "mtp.0.logits",
            "mtp.1.logits",
        ],
        _ => &[
            "hidden.0",
            "hidden.2",
            "hidden.final",
            "router.1.indices",
            "router.1.probs",
            "router.1.weights",
            "router.2.indices",
            "router.2.probs",
            "router.2.weights",
        ],
    }
}

fn source(case: &str, file: &str) -> Source {
    Source::File(folder(case).join(file))
}

fn is_input(key: &str) -> bool {
    matches!(key, "input_ids" | "decode_margin" | "routing_margin" | "logits_bf16_weights")
        || key.starts_with("sampler.")
}

fn ids(array: &Array) -> Vec<i64> {
    array.floats.iter().map(|id| *id as i64).collect()
}

/// Everything the golden file has, or the logits of rounded weights alone.
#[track_caller]
fn check(file: (&str, &str, bool), cpu: &CpuOptions, step_rows: usize, limits: &Limits) {
    let (case, name, is_rounded) = file;
    let mut golden = compare::read(&folder(case).join("golden.safetensors"));
    let n_greedy = golden["decode_tokens"].floats.len();
    let made = run_on(&source(case, name), &ids(&golden["input_ids"]), n_greedy, step_rows, cpu);
    let keys: Vec<String> = if is_rounded {
        let rounded = golden["logits_bf16_weights"].clone();
        golden.insert("logits".into(), rounded);
        vec!["logits".into()]
    } else {
        let keys: Vec<String> = golden.keys().filter(|key| !is_input(key)).cloned().collect();
        for required in ["logits", "decode_logits", "decode_tokens"].iter().chain(required(case)) {
            assert!(keys.iter().any(|key| key == required), "{case} has no golden `{required}`");
        }
        keys
    };
    let wrong: Vec<String> =
        keys.iter().flat_map(|key| differences(key, &golden, &made, limits)).collect();
    assert!(
        wrong.is_empty(),
        "{case}/{name} with {cpu:?}, {step_rows} rows a step:\n  {}",
        wrong.join("\n  ")
    );
}

fn differences(key: &str, golden: &Arrays, made: &Arrays, limits: &Limits) -> Vec<String> {
    match made.get(key) {
        None => vec![format!("`{key}` was not produced")],
        Some(array) => compare::compare(key, golden, array, limits)
            .iter()
            .map(|wrong| format!("`{key}`: {wrong}"))
            .collect(),
    }
}

fn on_every_isa(activations: Activations, limits: &Limits) {
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16, Isa::Amx] {
        if !isa.is_available() {
            println!("skipped: this processor has no {isa:?}");
            continue;
        }
        let cpu = CpuOptions {
            threads: Some(2),
            isa: Some(isa),
            activations: Some(activations),
            quant: None,
        };
        for file in FILES {
            check(file, &cpu, 64, limits);
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

#[test]
fn short_chunks_give_the_same_numbers() {
    let cpu = CpuOptions {
        threads: Some(1),
        isa: None,
        activations: Some(Activations::F32),
        quant: None,
    };
    for file in FILES {
        check(file, &cpu, 7, &compare::F32);
    }
}

#[test]
fn a_name_outside_the_list_is_refused_by_name() {
    let error = Checkpoint::open(&source("mini-tied", "reject_unknown_global.pt")).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("reject_unknown_global.pt") && error.contains("`os.getenv`"), "{error}");
}
