//! Drawing a token: bias, penalties, temperature, top-k, top-p, min-p, draw.
//!
//! The draw is a hash of (seed, position), so it does not know what else is in the batch. Candidates are ordered by
//! logit, then by id; no more of them are sorted than the filters need.

use std::cmp::Ordering;

use super::Cpu;
use crate::step::{SampleRow, Sampled, Step, TokenId};

/// Candidates sorted at first when top-p alone limits them; four times more each time that is not enough.
const HEAD: usize = 256;

/// A thread's candidates.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[V]`: the row's logits after bias and penalties.
    logits: Vec<f32>,
    /// `[V]`: ids, the best first as far as they are sorted.
    ids: Vec<u32>,
    /// `[V]`: probabilities in the order of `ids`.
    weights: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self {
            logits: Vec::with_capacity(vocab_size),
            ids: Vec::with_capacity(vocab_size),
            weights: Vec::with_capacity(vocab_size),
        }
    }

    pub(super) fn bytes(vocab_size: usize) -> u64 {
        (vocab_size * (size_of::<u32>() + 2 * size_of::<f32>())) as u64
    }
}

/// One token for every sample row of the step, in their order.
pub(super) fn sample(
    cpu: &mut Cpu,
    out: &mut Vec<Sampled>,
    logits: &[f32],
    vocab_size: usize,
    step: &Step,
) {
    out.clear();
    out.resize(step.samples.len(), Sampled::NotFinite);
    let n = out.len();
    cpu.pool.run_parts(
        4 * n * vocab_size,
        out,
        &mut cpu.threads,
        n,
        |i| i..i + 1,
        |i, out, scratch| {
            out[0] = draw(&logits[i * vocab_size..][..vocab_size], i, step, &mut scratch.sample);
        },
    );
}

/// One row's token.
fn draw(raw: &[f32], i: usize, step: &Step, scratch: &mut Scratch) -> Sampled {
    if raw.iter().any(|logit| !logit.is_finite()) {
        return Sampled::NotFinite;
    }
    let row = &step.samples[i];
    let Scratch { logits, ids, weights } = scratch;
    logits.clear();
    logits.extend_from_slice(raw);
    for (token, bias) in &step.biases[step.bias_start[i] as usize..step.bias_start[i + 1] as usize]
    {
        logits[token.0 as usize] += bias;
    }
    penalise(logits, i, step, row);
    if row.temperature == 0.0 || row.top_k == 1 {
        return Sampled::Token(TokenId(greedy(logits)));
    }
    candidates(logits, row, ids, weights);
    Sampled::Token(TokenId(pick(row, ids, weights)))
}

fn penalise(logits: &mut [f32], i: usize, step: &Step, row: &SampleRow) {
    for seen in &step.penalties[step.penalty_start[i] as usize..step.penalty_start[i + 1] as usize]
    {
        let logit = &mut logits[seen.token.0 as usize];
        *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
        if seen.in_output > 0 {
            *logit -= row.presence + row.frequency * seen.in_output as f32;
        }
        // A tiny penalty divides beyond all numbers, and the difference of two infinities is none.
        *logit = logit.clamp(f32::MIN, f32::MAX);
    }
}

/// The largest logit, ties by lowest id.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Fills `ids` with what the filters leave, best first, and `weights` with its probabilities (not normalised).
fn candidates(logits: &[f32], row: &SampleRow, ids: &mut Vec<u32>, weights: &mut Vec<f32>) {
    let best_first = |a: &u32, b: &u32| -> Ordering {
        logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b))
    };
    ids.clear();
    ids.extend(0..logits.len() as u32);
    let k = if row.top_k == 0 { ids.len() } else { (row.top_k as usize).min(ids.len()) };
    if k < ids.len() {
        ids.select_nth_unstable_by(k, best_first);
        ids.truncate(k);
    }
    let max = ids.iter().map(|id| logits[*id as usize]).fold(f32::NEG_INFINITY, f32::max);
    // Dividing the difference keeps the largest exponent at zero for any temperature.
    let weight = |id: u32| ((logits[id as usize] - max) / row.temperature).exp();
    if row.top_p < 1.0 {
        // Summed in the order of the ids, before sorting: the same whatever `select_nth` left behind.
        if k == logits.len() {
            let total: f32 = ids.iter().map(|id| weight(*id)).sum();
            cut_by_mass(ids, total * row.top_p, weight, best_first);
        } else {
            ids.sort_unstable_by(best_first);
            let total: f32 = ids.iter().map(|id| weight(*id)).sum();
            cut_sorted(ids, total * row.top_p, weight);
        }
    } else {
        ids.sort_unstable_by(best_first);
    }
    weights.clear();
    weights.extend(ids.iter().map(|id| weight(*id)));
    if row.min_p > 0.0 {
        // The largest weight is 1, and weights descend.
        let kept = weights.partition_point(|weight| *weight >= row.min_p).max(1);
        weights.truncate(kept);
        ids.truncate(kept);
    }
}

/// Sorts only as many of the best as hold `mass`, and keeps those.
fn cut_by_mass(
    ids: &mut Vec<u32>,
    mass: f32,
    weight: impl Fn(u32) -> f32,
    best_first: impl Fn(&u32, &u32) -> Ordering,
) {
    let mut head = HEAD;
    loop {
        if head < ids.len() {
            ids.select_nth_unstable_by(head, &best_first);
        }
        let n = head.min(ids.len());
        ids[..n].sort_unstable_by(&best_first);
        let held: f32 = ids[..n].iter().map(|id| weight(*id)).sum();
        if held >= mass || n == ids.len() {
            ids.truncate(n);
            return cut_sorted(ids, mass, weight);
        }
        head *= 4;
    }
}

/// Keeps the first ids up to the one at which their weights reach `mass`.
fn cut_sorted(ids: &mut Vec<u32>, mass: f32, weight: impl Fn(u32) -> f32) {
    let mut sum = 0.0;
    let reached = ids.iter().position(|id| {
        sum += weight(*id);
        sum >= mass
    });
    ids.truncate(reached.map_or(ids.len(), |at| at + 1));
}

/// The candidate at a place between 0 and the sum of weights that (seed, position) alone decides.
fn pick(row: &SampleRow, ids: &[u32], weights: &[f32]) -> u32 {
    let total: f32 = weights.iter().sum();
    let mut left = uniform(row.seed, row.position) * f64::from(total);
    for (id, weight) in ids.iter().zip(weights) {
        left -= f64::from(*weight);
        if left < 0.0 {
            return *id;
        }
    }
    // Rounding can leave a crumb beyond the last weight.
    ids.last().copied().unwrap_or(0)
}

/// A number in [0, 1) from (seed, position): two rounds of splitmix64's finaliser (Steele, Lea and Flood 2014).
fn uniform(seed: u64, position: u32) -> f64 {
    let mixed =
        mix(mix(seed).wrapping_add(u64::from(position).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
