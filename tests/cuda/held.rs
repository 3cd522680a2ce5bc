//! Checkpoints on a card, held to a reference with bf16's tolerances: what tests on simulated cards and on real ones share.

use std::path::{Path, PathBuf};

use hadal_engine::TokenId;
use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::{Checkpoint, Quant, Source, Target};
use hadal_engine::trace::TraceOptions;

use super::card::Card;
use super::compare::{self, Array, Arrays};

/// What is compared: everything the reference has in bf16 that does not hang on one near-tie.
pub(crate) const KEYS: [&str; 4] = ["logits", "decode_logits", "decode_tokens", "hidden.final"];

pub(crate) fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

/// A trace, on the card or on the processor with inputs in f32.
pub(crate) fn run(
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
    compare::traced(source, &options)
}

/// Every case's checkpoint in its own folder.
pub(crate) const CASES: [&str; 14] = [
    "v3-moe-bf16",
    "v2-lite-bf16",
    "v3-yarn-bf16",
    "v2-group-bf16",
    "v3-noqlora-bf16",
    "v3-tied-bf16",
    "v3-halves-bf16",
    "glm-lite-bf16",
    "kimi-k2-bf16",
    "v3-fp8",
    "v3-fp8-ue8m0",
    "v3-moe-f32",
    "v3-realdims",
    "v3-mtp-bf16",
];

/// One case; prompts in chunks of `step_rows` rows, then one row a step.
#[track_caller]
pub(crate) fn check(card: &Card, case: &str, step_rows: usize) {
    let elsewhere = check_source(card, &Source::Directory(folder(case)), case, step_rows, &KEYS);
    assert!(elsewhere.len() <= 2, "{case}: rows {elsewhere:?} had other experts");
}

/// The same with a case's checkpoint in another file. Rows of the prompt whose experts were others, in a near-tie.
#[track_caller]
pub(crate) fn check_source(
    card: &Card,
    source: &Source,
    case: &str,
    step_rows: usize,
    keys: &[&str],
) -> Vec<usize> {
    let mut golden = compare::read(&folder(case).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let n_greedy = golden["decode_tokens"].floats.len();
    let mut made = run(source, &ids, n_greedy, step_rows, (Some(0), None));
    let same = with_same_text(&mut golden, &mut made);
    let elsewhere = rows_of_other_experts(&golden, &made);
    let mut wrong = Vec::new();
    for key in keys.iter().filter(|key| golden.contains_key(**key)) {
        if *key == "decode_tokens" && is_routed_otherwise(&golden, same, n_greedy) {
            continue;
        }
        let is_state = key.starts_with("hidden.");
        let left = |array: &Array| {
            if is_state { without(array, &elsewhere) } else { array.clone() }
        };
        let mut golden = golden.clone();
        golden.insert((*key).to_owned(), left(&golden[*key]));
        let differs = compare::compare(key, &golden, &left(&made[*key]), &compare::BF16);
        wrong.extend(differs.iter().map(|w| format!("`{key}`: {w}")));
    }
    assert!(wrong.is_empty(), "{case}, {step_rows} rows a step:\n  {}", wrong.join("\n  "));
    assert_eq!(card.live_bytes(), 0, "{case} leaves memory behind");
    elsewhere
}

/// Rows of the prompt that were given other experts than the reference's, and whose experts the reference nearly tied.
fn rows_of_other_experts(golden: &Arrays, made: &Arrays) -> Vec<usize> {
    let Some(margins) = golden.get("routing_margin") else { return Vec::new() };
    let choices = golden.iter().filter(|(key, _)| key.ends_with(".indices"));
    let choices: Vec<_> =
        choices.filter_map(|(key, golden)| Some((golden, made.get(key)?))).collect();
    let set = |array: &Array, row: usize| {
        let mut row = array.floats[row * array.shape[1]..][..array.shape[1]].to_vec();
        row.sort_by(f64::total_cmp);
        row
    };
    let rows = 0..golden["input_ids"].floats.len();
    rows.filter(|row| margins.floats[*row] < compare::BF16.route_tie)
        .filter(|row| choices.iter().any(|(a, b)| set(a, *row) != set(b, *row)))
        .collect()
}

/// An array without some rows.
fn without(array: &Array, rows: &[usize]) -> Array {
    let kept: Vec<&[f64]> = array
        .floats
        .chunks(array.shape[1])
        .enumerate()
        .filter(|(row, _)| !rows.contains(row))
        .map(|(_, row)| row)
        .collect();
    let shape = vec![kept.len(), array.shape[1]];
    Array { shape, floats: kept.concat(), is_integer: array.is_integer }
}

/// Cuts answers behind a token that a near-tie let be another one: from there on the two answer different texts. How many
/// tokens are the same.
pub(crate) fn with_same_text(golden: &mut Arrays, made: &mut Arrays) -> usize {
    let tokens = golden["decode_tokens"].floats.iter().zip(&made["decode_tokens"].floats);
    let same = tokens.take_while(|(golden, made)| golden == made).count();
    for arrays in [golden, made] {
        let logits = arrays.get_mut("decode_logits").unwrap();
        logits.shape[0] = logits.shape[0].min(same + 1);
        logits.floats.truncate(logits.shape[0] * logits.shape[1]);
    }
    same
}

/// Whether the first other token is behind a row whose experts were nearly tied: `kimi-k2-bf16`'s last token is, by 0.0002
/// where the choice differs by 0.03 and more for most rows.
fn is_routed_otherwise(golden: &Arrays, same: usize, n_greedy: usize) -> bool {
    let Some(margins) = golden.get("routing_margin").map(|margins| &margins.floats) else {
        return false;
    };
    // The first token is drawn from the prompt's last row; nothing is drawn behind the last.
    let first = (margins.len() + 1).saturating_sub(n_greedy + 1);
    margins.get(first + same).is_some_and(|margin| *margin < compare::BF16.route_tie)
}

/// The case that the files were made from.
const GGUF_CASE: &str = "v3-fp8-ue8m0";

/// A file, and what its weights take on a card.
pub(crate) struct GgufFile {
    pub(crate) name: &'static str,
    /// Bytes of a number of a layer's matrices, factors included.
    pub(crate) bytes_each: f64,
    /// Numbers that are in `Q8_0` in any case.
    pub(crate) n_eight_bits: u32,
}

/// `Q8_0` with `kv_b_proj` in halves, `Q4_0` with it whole, and a mixture of `Q5_0`, `Q5_1`, `Q6_K` and `Q8_0` as
/// quantisers make it.
pub(crate) const GGUF_FILES: [GgufFile; 3] = [
    GgufFile { name: "v3-fp8-ue8m0-q8_0.gguf", bytes_each: 34.0 / 32.0, n_eight_bits: 0 },
    GgufFile { name: "v3-fp8-ue8m0-q4_0.gguf", bytes_each: 18.0 / 32.0, n_eight_bits: 0 },
    GgufFile { name: "v3-fp8-ue8m0-mixture.gguf", bytes_each: 2.0, n_eight_bits: 163_840 },
];

pub(crate) fn gguf_source(file: &GgufFile) -> Source {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gguf");
    Source::File(folder.join(file.name))
}

/// A GGUF file on the card against the processor with inputs in f32: logits of the prompt and of greedy answers, and the
/// tokens of these.
#[track_caller]
pub(crate) fn check_gguf(card: &Card, file: &GgufFile) {
    let golden = compare::read(&folder(GGUF_CASE).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let (source, n_greedy) = (gguf_source(file), 16);
    let mut want = run(&source, &ids, n_greedy, 64, (None, None));
    let mut made = run(&source, &ids, n_greedy, 7, (Some(0), None));
    want.insert("decode_margin".into(), margins(&want["decode_logits"]));
    want.insert("input_ids".into(), golden["input_ids"].clone());
    let answer: Vec<i64> = want["decode_tokens"].floats.iter().map(|id| *id as i64).collect();
    let routing = routing_margins(&source, &[ids.as_slice(), &answer].concat());
    let same = with_same_text(&mut want, &mut made);
    // The row that the first other token is drawn from.
    let margin = routing.floats[ids.len() - 1 + same.min(n_greedy - 1)];
    want.insert("routing_margin".into(), routing);
    for key in ["logits", "decode_logits", "decode_tokens"] {
        if key == "decode_tokens" && same < n_greedy && margin < compare::BF16.route_tie {
            continue;
        }
        let wrong = compare::compare(key, &want, &made[key], &compare::BF16);
        assert!(wrong.is_empty(), "{}, `{key}`: {wrong:?}", file.name);
    }
    assert_eq!(card.live_bytes(), 0);
}

/// Of each row of a text, by how much the last expert that the processor chooses is better than the next: of scores with
/// their bias, as the model's rule has them (V3, one group).
fn routing_margins(source: &Source, text: &[i64]) -> Array {
    // The one mixture of this checkpoint.
    let name = "model.layers.1.mlp.gate.e_score_correction_bias";
    let bias = Checkpoint::open(source).unwrap().tensor(name).unwrap().to_f32();
    let traced = run(source, text, 0, 64, (None, None));
    let (logits, chosen) = (&traced["router.1.logits"], traced["router.1.indices"].shape[1]);
    let margin = |row: &[f64]| {
        let scores = row.iter().zip(&bias);
        let mut scores: Vec<f64> =
            scores.map(|(logit, bias)| 1.0 / (1.0 + (-logit).exp()) + f64::from(*bias)).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores[chosen - 1] - scores[chosen]
    };
    let floats: Vec<f64> = logits.floats.chunks(logits.shape[1]).map(margin).collect();
    Array { shape: vec![floats.len()], floats, is_integer: false }
}

/// Of each row, by how much its largest number is larger than the next.
fn margins(logits: &Array) -> Array {
    let margin = |row: &[f64]| {
        let mut row = row.to_vec();
        row.sort_by(|a, b| b.total_cmp(a));
        row[0] - row[1]
    };
    let floats: Vec<f64> = logits.floats.chunks(logits.shape[1]).map(margin).collect();
    Array { shape: vec![floats.len()], floats, is_integer: false }
}
