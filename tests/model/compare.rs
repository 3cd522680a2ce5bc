//! `compare.py` in Rust: the same keys, limits and excuses for near-ties.

use std::collections::BTreeMap;
use std::path::Path;

use hadal_engine::checkpoint::Source;
use hadal_engine::trace::{self, TraceData, TraceOptions};
use safetensors::{Dtype, SafeTensors};

/// A named array: floats, or integers, with its shape.
#[derive(Debug, Clone)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) floats: Vec<f64>,
    pub(super) is_integer: bool,
}

pub(super) type Arrays = BTreeMap<String, Array>;

/// What the engine computes, by the golden files' names.
pub(super) fn traced(source: &Source, options: &TraceOptions) -> Arrays {
    let trace = trace::run(source, options).unwrap();
    let arrays = trace.tensors.into_iter().map(|tensor| {
        let (floats, is_integer) = match tensor.data {
            TraceData::F32(values) => (values.into_iter().map(f64::from).collect(), false),
            TraceData::I64(values) => (values.into_iter().map(|v| v as f64).collect(), true),
        };
        (tensor.name, Array { shape: tensor.shape, floats, is_integer })
    });
    arrays.collect()
}

/// Tolerances on logits whose standard deviation is about 2; other tensors are scaled by their own spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    max_abs: f64,
    rms: f64,
    kl_mean: f64,
    kl_max: f64,
    /// Golden top-2 margin below which another token is no error.
    pub(super) tie: f64,
    /// Golden selection margin below which another expert is no error.
    pub(super) route_tie: f64,
}

pub(super) const F32: Limits =
    Limits { max_abs: 3e-4, rms: 5e-5, kl_mean: 1e-8, kl_max: 1e-7, tie: 2e-3, route_tie: 1e-4 };
pub(super) const BF16: Limits =
    Limits { max_abs: 0.6, rms: 0.09, kl_mean: 4e-3, kl_max: 4e-2, tie: 0.25, route_tie: 3e-2 };

/// Spread the limits are written for.
const REFERENCE_STD: f64 = 2.0;
/// Share of logit rows that may differ because of a near-tie between experts.
const MAX_EXCUSED: f64 = 0.15;

/// Reads `golden.safetensors`.
pub(super) fn read(path: &Path) -> Arrays {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, array(view.dtype(), view.shape(), view.data())))
        .collect()
}

fn array(dtype: Dtype, shape: &[usize], data: &[u8]) -> Array {
    let floats = match dtype {
        Dtype::F32 => {
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
        }
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f64())
            .collect(),
        Dtype::I64 => {
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
        }
        other => panic!("golden dtype {other:?}"),
    };
    Array { shape: shape.to_vec(), floats, is_integer: dtype == Dtype::I64 }
}

/// Compares one key; the list of what is wrong, empty when nothing is.
pub(super) fn compare(key: &str, golden: &Arrays, made: &Array, limits: &Limits) -> Vec<String> {
    let reference = &golden[key];
    if key == "decode_tokens" {
        return tokens(reference, made, &golden["decode_margin"].floats, limits);
    }
    if key == "mtp.draft_tokens" {
        return drafts(reference, made, &golden["mtp.logits"], limits);
    }
    if reference.shape != made.shape {
        return vec![format!("shape {:?}, expected {:?}", made.shape, reference.shape)];
    }
    let margin = row_margin(key, golden, reference.shape[0]);
    if reference.is_integer {
        return choices(reference, made, margin.as_deref(), limits);
    }
    floats(key, reference, made, margin.as_deref(), limits)
}

/// Greedy tokens must be equal up to the first near-tie.
fn tokens(golden: &Array, made: &Array, margin: &[f64], limits: &Limits) -> Vec<String> {
    let first = golden.floats.iter().zip(&made.floats).position(|(a, b)| a != b);
    match first {
        Some(at) if margin[at] >= limits.tie => {
            vec![format!("token {at} differs although the golden margin is {:.3}", margin[at])]
        }
        None if made.floats.len() < golden.floats.len() => {
            vec![format!("only {} of {} tokens", made.floats.len(), golden.floats.len())]
        }
        _ => Vec::new(),
    }
}

/// Drafted tokens must be equal wherever the golden logits were clear.
fn drafts(golden: &Array, made: &Array, logits: &Array, limits: &Limits) -> Vec<String> {
    if golden.shape != made.shape {
        return vec![format!("shape {:?}, expected {:?}", made.shape, golden.shape)];
    }
    let rows = logits.floats.chunks(logits.shape[1]);
    let pairs = golden.floats.iter().zip(&made.floats);
    let is_bad = |((a, b), row): &((&f64, &f64), &[f64])| a != b && top2_margin(row) >= limits.tie;
    match pairs.zip(rows).filter(is_bad).count() {
        0 => Vec::new(),
        bad => vec![format!("{bad} drafts differ although the golden margin is clear")],
    }
}

/// Expert choices as sets, except where the golden choice was nearly tied.
fn choices(golden: &Array, made: &Array, margin: Option<&[f64]>, limits: &Limits) -> Vec<String> {
    let dim = golden.shape[1];
    let sorted = |row: &[f64]| {
        let mut row = row.to_vec();
        row.sort_by(f64::total_cmp);
        row
    };
    let rows = golden.floats.chunks(dim).zip(made.floats.chunks(dim)).enumerate();
    let bad = rows
        .filter(|(i, (a, b))| {
            sorted(a) != sorted(b) && margin.is_none_or(|margin| margin[*i] >= limits.route_tie)
        })
        .count();
    if bad > 0 {
        vec![format!("{bad} rows choose other experts although the choice is clear")]
    } else {
        Vec::new()
    }
}

/// Smallest expert-selection margin of the position behind each row, where known.
fn row_margin(key: &str, golden: &Arrays, rows: usize) -> Option<Vec<f64>> {
    let margin = &golden.get("routing_margin")?.floats;
    let prompt = golden["input_ids"].floats.len();
    let margin = if key.starts_with("decode_") { &margin[prompt - 1..] } else { &margin[..] };
    Some(margin.iter().copied().take(rows).collect())
}

fn is_logits(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    ["logits", "decode_logits", "first_logits"].iter().any(|start| last.starts_with(start))
        && !key.contains("router")
}

fn floats(
    key: &str,
    golden: &Array,
    made: &Array,
    margin: Option<&[f64]>,
    limits: &Limits,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if made.floats.iter().any(|value| !value.is_finite()) {
        wrong.push("not finite".into());
    }
    if is_logits(key) && golden.shape.len() == 2 {
        let kept = logit_rows(golden, made, margin, limits, &mut wrong);
        let pick = |array: &Array| -> Vec<f64> {
            let dim = array.shape[1];
            array
                .floats
                .chunks(dim)
                .zip(&kept)
                .filter(|(_, keep)| **keep)
                .flat_map(|(row, _)| row)
                .copied()
                .collect()
        };
        distance(&pick(golden), &pick(made), 1.0, limits, &mut wrong);
    } else {
        let spread = std(&golden.floats);
        let scale = if spread == 0.0 { 1.0 } else { spread } / REFERENCE_STD;
        distance(&golden.floats, &made.floats, scale, limits, &mut wrong);
    }
    wrong
}

fn std(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn distance(golden: &[f64], made: &[f64], scale: f64, limits: &Limits, wrong: &mut Vec<String>) {
    let deltas: Vec<f64> = golden.iter().zip(made).map(|(a, b)| (a - b).abs()).collect();
    let max_abs = deltas.iter().copied().fold(0.0, f64::max);
    let rms = (deltas.iter().map(|d| d * d).sum::<f64>() / deltas.len().max(1) as f64).sqrt();
    if max_abs.is_nan() || max_abs > limits.max_abs * scale {
        wrong.push(format!("max_abs {max_abs:.3e} > {:.3e}", limits.max_abs * scale));
    }
    if rms.is_nan() || rms > limits.rms * scale {
        wrong.push(format!("rms {rms:.3e} > {:.3e}", limits.rms * scale));
    }
}

/// Row-wise checks of logits. Returns which rows are kept for the distances: all but excused ones.
fn logit_rows(
    golden: &Array,
    made: &Array,
    margin: Option<&[f64]>,
    limits: &Limits,
    wrong: &mut Vec<String>,
) -> Vec<bool> {
    let dim = golden.shape[1];
    let rows: Vec<(&[f64], &[f64])> =
        golden.floats.chunks(dim).zip(made.floats.chunks(dim)).collect();
    let kl: Vec<f64> = rows.iter().map(|(a, b)| divergence(a, b)).collect();
    let far = |i: usize| is_far(rows[i].0, rows[i].1, limits);
    let mut kept: Vec<bool> = (0..rows.len())
        .map(|i| !(margin.is_some_and(|margin| margin[i] < limits.route_tie) && far(i)))
        .collect();
    let excused = kept.iter().filter(|keep| !**keep).count();
    if excused as f64 / rows.len() as f64 > MAX_EXCUSED {
        wrong.push(format!("{excused} rows are far off, too many for near-ties between experts"));
        kept.fill(true);
    }
    let kept_kl: Vec<f64> =
        kl.iter().zip(&kept).filter(|(_, keep)| **keep).map(|(kl, _)| *kl).collect();
    let mean = kept_kl.iter().sum::<f64>() / kept_kl.len().max(1) as f64;
    let max = kept_kl.iter().copied().fold(0.0, f64::max);
    if mean.is_nan() || mean > limits.kl_mean || max > limits.kl_max {
        wrong.push(format!("kl mean {mean:.3e}, max {max:.3e}"));
    }
    let other =
        |(a, b): &(&[f64], &[f64])| arg_max(a) != arg_max(b) && top2_margin(a) >= limits.tie;
    if rows.iter().zip(&kept).any(|(row, keep)| *keep && other(row)) {
        wrong.push("argmax differs where the golden margin is clear".into());
    }
    kept
}

/// The share of rows of logits that are further off than `limits` says.
pub(super) fn far_rows(golden: &Array, made: &Array, limits: &Limits) -> f64 {
    assert_eq!(golden.shape, made.shape);
    let dim = golden.shape[1];
    let far = |(a, b): &(&[f64], &[f64])| is_far(a, b, limits);
    let rows = golden.floats.chunks(dim).zip(made.floats.chunks(dim));
    rows.filter(far).count() as f64 / golden.shape[0] as f64
}

/// Whether a row of logits, `b`, is further from `a` than `limits` says; also where one is no number.
fn is_far(a: &[f64], b: &[f64], limits: &Limits) -> bool {
    let is_near = divergence(a, b) <= limits.kl_max
        && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= limits.max_abs);
    !is_near
}

fn arg_max(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn top2_margin(row: &[f64]) -> f64 {
    let mut sorted = row.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() - 1] - sorted[sorted.len() - 2]
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let log_softmax = |row: &[f64]| -> Vec<f64> {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        row.iter().map(|x| x - max - sum).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

#[test]
fn a_wrong_number_is_found() {
    let array = |floats: Vec<f64>| Array { shape: vec![1, 3], floats, is_integer: false };
    let golden: Arrays = [
        ("logits".to_owned(), array(vec![1.0, 2.0, -3.0])),
        ("input_ids".to_owned(), Array { shape: vec![1], floats: vec![0.0], is_integer: true }),
    ]
    .into();
    assert!(compare("logits", &golden, &array(vec![1.0, 2.0, -3.0]), &F32).is_empty());
    assert!(!compare("logits", &golden, &array(vec![1.0, 2.001, -3.0]), &F32).is_empty());
    assert!(!compare("logits", &golden, &array(vec![2.0, 1.0, -3.0]), &BF16).is_empty());
    assert!(!compare("logits", &golden, &array(vec![1.0, f64::NAN, -3.0]), &BF16).is_empty());
}
