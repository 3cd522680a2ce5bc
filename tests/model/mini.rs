//! mini-deepseek from files of `torch.save`: every container against the numbers of the model's own code.

use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::{Checkpoint, Source};

use super::compare::{self, Array, Arrays, Limits};
use super::golden::{every_isa, folder, run_on};

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

/// Everything the golden file has; of rounded weights it has the logits alone.
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
    for cpu in every_isa(activations) {
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

/// What the golden files do not have of rounded weights: decode form against prompt form over the same tokens.
#[test]
fn answers_of_rounded_weights_are_what_their_prompts_give() {
    let (case, name) = ("mini-tied", "state_dict_bf16.pt");
    let prompt = ids(&compare::read(&folder(case).join("golden.safetensors"))["input_ids"]);
    for (activations, bound) in [(Activations::F32, 3e-4), (Activations::Bf16, 3e-3)] {
        let cpu = CpuOptions {
            threads: Some(2),
            isa: None,
            activations: Some(activations),
            ..CpuOptions::default()
        };
        let decoded = run_on(&source(case, name), &prompt, 32, 64, &cpu);
        let all = [prompt.clone(), ids(&decoded["decode_tokens"])].concat();
        let prompted = run_on(&source(case, name), &all, 0, 64, &cpu);
        let vocab = prompted["logits"].shape[1];
        let want = &prompted["logits"].floats[(prompt.len() - 1) * vocab..(all.len() - 1) * vocab];
        let got = &decoded["decode_logits"].floats;
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < bound, "{activations:?}: {worst}");
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

/// Penalty, temperature, top-k and top-p as the model's own inference code orders and means them: what reaches the draw.
/// A reference to recognise its numbers by; the server follows the field's conventions instead.
mod their_sampling {
    /// One setting of `golden.json`.
    pub(super) struct Setting {
        pub(super) temperature: f64,
        pub(super) top_k: usize,
        pub(super) top_p: f64,
    }

    /// Every logit of a token seen so far is divided, whatever its sign.
    pub(super) fn penalise(logits: &mut [f64], seen: &[i64], penalty: f64) {
        let mut seen = seen.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in &seen {
            logits[*id as usize] /= penalty;
        }
    }

    /// Temperature 0 leaves logits as they are and still draws; ties with the k-th are all kept.
    pub(super) fn probabilities(logits: &[f64], setting: &Setting) -> Vec<f64> {
        let temperature = if setting.temperature > 0.0 { setting.temperature } else { 1.0 };
        let mut logits: Vec<f64> = logits.iter().map(|z| z / temperature).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        if setting.top_k > 0 {
            let least = logits[order[setting.top_k.min(order.len()) - 1]];
            logits.iter_mut().filter(|z| **z < least).for_each(|z| *z = f64::NEG_INFINITY);
        }
        let softmax = |logits: &[f64]| -> Vec<f64> {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|z| (z - max).exp()).sum();
            logits.iter().map(|z| (z - max).exp() / sum).collect()
        };
        if setting.top_p < 1.0 {
            let (all, mut sum) = (softmax(&logits), 0.0);
            for id in order {
                if sum > setting.top_p {
                    logits[id] = f64::NEG_INFINITY;
                }
                sum += all[id];
            }
        }
        softmax(&logits)
    }
}

fn notes(case: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder(case).join("golden.json")).unwrap()).unwrap()
}

#[test]
fn filtered_distributions_are_those_of_the_models_own_sampler() {
    for case in ["mini-tied", "mini-untied"] {
        let golden = compare::read(&folder(case).join("golden.safetensors"));
        let settings = notes(case)["sampler"].as_array().unwrap().clone();
        assert!(settings.len() >= 7, "{case} has few settings");
        for (i, note) in settings.iter().enumerate() {
            let number = |key: &str| note[key].as_f64().unwrap();
            let setting = their_sampling::Setting {
                temperature: number("temperature"),
                top_k: number("top_k") as usize,
                top_p: number("top_p"),
            };
            let logits = &golden[&format!("sampler.{i}.logits")].floats;
            let made = their_sampling::probabilities(logits, &setting);
            let want = &golden[&format!("sampler.{i}.probs")].floats;
            // The reference computes them in f32.
            assert!(made.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{case} {i}");
            assert_eq!(
                made.iter().filter(|p| **p > 0.0).count() as f64,
                number("kept"),
                "{case} {i}"
            );
        }
    }
}

#[test]
fn greedy_tokens_under_their_repetition_penalty_are_the_references() {
    let cpu = CpuOptions {
        threads: Some(2),
        isa: None,
        activations: Some(Activations::F32),
        ..CpuOptions::default()
    };
    for case in ["mini-tied", "mini-untied"] {
        let golden = compare::read(&folder(case).join("golden.safetensors"));
        let prompt = ids(&golden["input_ids"]);
        for (penalty, want) in notes(case)["greedy_with_repetition_penalty"].as_object().unwrap() {
            let want: Vec<i64> =
                want.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
            let (mut tokens, mut made) = (prompt.clone(), Vec::new());
            while made.len() < want.len() {
                let logits =
                    run_on(&source(case, "state_dict.pt"), &tokens, 0, 64, &cpu)["logits"].clone();
                let mut last = logits.floats[logits.floats.len() - logits.shape[1]..].to_vec();
                their_sampling::penalise(&mut last, &tokens, penalty.parse().unwrap());
                let best =
                    (0..last.len()).fold(0, |best, i| if last[i] > last[best] { i } else { best });
                tokens.push(best as i64);
                made.push(best as i64);
            }
            assert_eq!(made, want, "{case}, penalty {penalty}");
        }
    }
}
