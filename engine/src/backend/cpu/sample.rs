//! Drawing a token: bias, penalties, temperature, top-k, top-p, min-p, draw.
//!
//! The draw is a hash of (seed, position), so it does not know what else is in the batch. With top-k or top-p, candidates
//! are ordered by logit, then by id; few more of them are sorted than the filters need. Without, they stay in the order
//! of ids.
//!
//! What is read of a large vocabulary is read in vectors. The best candidates are found by the largest logit of each
//! lane of a block of 256: the n-th largest of those is a bound that at least n candidates reach. For top-p the bound is what
//! weights of a power of two and more add up to.

use super::simd::LANES;
use super::simd::row::{self, BLOCK};
use super::{Cpu, Isa};
use crate::step::{Penalty, SampleRow, Sampled, Step, TokenId};

/// A thread's candidates.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[V]`: the row's logits after bias and penalties, where it has any.
    logits: Vec<f32>,
    candidates: Candidates,
}

/// A token with its logit, the better the smaller: the larger the logit, ties by lowest id, both zeros alike. One number,
/// because many are sorted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(id: usize, logit: f32) -> Self {
        // One zero of two, as for whoever compares floats.
        let logit = logit + 0.0;
        let bits = logit.to_bits();
        // Ascending as floats descend.
        let order = if logit.is_sign_negative() { bits } else { !bits & !(1 << 31) };
        Self(u64::from(order) << 32 | id as u64)
    }

    fn id(self) -> u32 {
        self.0 as u32
    }
}

/// What is found among a row's logits.
#[derive(Default)]
struct Candidates {
    /// `[V]`: the best first, as far as they are sorted.
    best: Vec<Candidate>,
    /// `[V]`: probabilities, not normalised, in the order of `best` or of all ids.
    weights: Vec<f32>,
    /// `[V / 256, 16]`, twice: the largest logit of each lane, and once more to find the n-th of them.
    maxima: Vec<f32>,
    ordered: Vec<f32>,
    /// `[V / 256]`: the sum of each block's weights.
    sums: Vec<f32>,
}

/// Lanes of all blocks of so many logits.
fn lanes(vocab_size: usize) -> usize {
    vocab_size.div_ceil(BLOCK) * LANES
}

impl Scratch {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self {
            logits: Vec::with_capacity(vocab_size),
            candidates: Candidates {
                best: Vec::with_capacity(vocab_size),
                weights: Vec::with_capacity(vocab_size),
                maxima: Vec::with_capacity(lanes(vocab_size)),
                ordered: Vec::with_capacity(lanes(vocab_size)),
                sums: Vec::with_capacity(vocab_size.div_ceil(BLOCK)),
            },
        }
    }

    pub(super) fn bytes(vocab_size: usize) -> u64 {
        let floats = 2 * lanes(vocab_size) + vocab_size.div_ceil(BLOCK);
        let all = vocab_size * (size_of::<Candidate>() + 2 * size_of::<f32>());
        (all + floats * size_of::<f32>()) as u64
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
    let (n, isa) = (out.len(), cpu.isa);
    cpu.pool.run_parts(
        4 * n * vocab_size,
        out,
        &mut cpu.threads,
        n,
        |i| i..i + 1,
        |i, out, scratch| {
            let raw = &logits[i * vocab_size..][..vocab_size];
            out[0] = draw(isa, raw, i, step, &mut scratch.sample);
        },
    );
}

/// One row's token.
fn draw(isa: Isa, raw: &[f32], i: usize, step: &Step, scratch: &mut Scratch) -> Sampled {
    if !row::is_finite(isa, raw) {
        return Sampled::NotFinite;
    }
    let settings = &step.samples[i];
    let Scratch { logits: changed, candidates } = scratch;
    let logits = adjusted(raw, i, step, changed);
    let max = candidates.find_maxima(isa, logits);
    let id = if settings.temperature == 0.0 || settings.top_k == 1 {
        greedy(logits, &candidates.maxima, max)
    } else {
        Draw { isa, settings, logits, max }.token(candidates)
    };
    Sampled::Token(TokenId(id))
}

/// The row's logits after bias and penalties: `raw` where it has none.
fn adjusted<'a>(raw: &'a [f32], i: usize, step: &Step, changed: &'a mut Vec<f32>) -> &'a [f32] {
    let biases = &step.biases[step.bias_start[i] as usize..step.bias_start[i + 1] as usize];
    let seen = &step.penalties[step.penalty_start[i] as usize..step.penalty_start[i + 1] as usize];
    if biases.is_empty() && seen.is_empty() {
        return raw;
    }
    changed.clear();
    changed.extend_from_slice(raw);
    for (token, bias) in biases {
        changed[token.0 as usize] += bias;
    }
    penalise(changed, seen, &step.samples[i]);
    changed
}

fn penalise(logits: &mut [f32], seen: &[Penalty], row: &SampleRow) {
    for seen in seen {
        let logit = &mut logits[seen.token.0 as usize];
        *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
        if seen.in_output > 0 {
            *logit -= row.presence + row.frequency * seen.in_output as f32;
        }
        // A tiny penalty divides beyond all numbers, and the difference of two infinities is none.
        *logit = logit.clamp(f32::MIN, f32::MAX);
    }
}

/// The token of the largest logit, ties by lowest id.
fn greedy(logits: &[f32], maxima: &[f32], best: f32) -> u32 {
    // The first of them is in the first block that has one.
    let first = maxima.iter().position(|max| *max == best).unwrap_or(0) / LANES * BLOCK;
    let block = &logits[first..(first + BLOCK).min(logits.len())];
    (first + block.iter().position(|logit| *logit == best).unwrap_or(0)) as u32
}

/// One row's draw at a temperature.
struct Draw<'a> {
    isa: Isa,
    settings: &'a SampleRow,
    logits: &'a [f32],
    /// The largest logit.
    max: f32,
}

impl Draw<'_> {
    /// The token drawn. Maxima are found.
    fn token(&self, found: &mut Candidates) -> u32 {
        let top_k = self.settings.top_k as usize;
        if top_k > 0 && top_k < self.logits.len() {
            found.take_best(self.logits, top_k);
        } else if self.settings.top_p < 1.0 {
            return self.token_of_mass(found);
        } else {
            return self.token_of_all(found);
        }
        let sum = self.weigh(found);
        let top_p = self.settings.top_p;
        self.pick(found, if top_p < 1.0 { sum * top_p } else { f32::INFINITY })
    }

    /// Weights of the best candidates; their sum.
    fn weigh(&self, found: &mut Candidates) -> f32 {
        let Candidates { best, weights, .. } = found;
        weights.clear();
        weights.extend(best.iter().map(|candidate| self.logits[candidate.id() as usize]));
        row::softmax_weights_in_place(self.isa, weights, self.max, self.settings.temperature)
    }

    /// With top-p alone: sorts only as many of the best as hold its mass.
    fn token_of_mass(&self, found: &mut Candidates) -> u32 {
        let (n, temperature) = (self.logits.len(), self.settings.temperature);
        found.weights.resize(n, 0.0);
        let mass =
            row::softmax_weights(self.isa, &mut found.weights, self.logits, self.max, temperature)
                * self.settings.top_p;
        let mut weight = self.holding(&found.weights, mass);
        loop {
            found.take_reaching(self.logits, self.max + temperature * weight.ln());
            let held = self.weigh(found);
            if held >= mass || found.best.len() == n {
                return self.pick(found, mass);
            }
            // Seldom: sums in another order, or rounding of the bound.
            weight *= weight;
        }
    }

    /// A power of two so that weights of at least that have `mass`; zero where there is none.
    fn holding(&self, weights: &[f32], mass: f32) -> f32 {
        let mut first = 0.5f32;
        while first > 0.0 {
            let held = row::masses_above(self.isa, weights, first);
            if let Some(i) = held.iter().position(|held| *held >= mass) {
                return first * 0.5f32.powi(i as i32);
            }
            first *= 0.5f32.powi(held.len() as i32);
        }
        0.0
    }

    /// Draws from the best candidates up to the one at which their weights reach `mass`, as far as min-p keeps them.
    fn pick(&self, found: &Candidates, mass: f32) -> u32 {
        let (min_p, mut sum) = (self.settings.min_p, 0.0);
        let reached = found.weights.iter().position(|weight| {
            sum += weight;
            sum >= mass
        });
        let n = reached.map_or(found.weights.len(), |at| at + 1);
        // The largest weight is 1, and weights descend.
        let kept = found.weights[..n].partition_point(|weight| *weight >= min_p).max(1);
        let weights = &found.weights[..kept];
        let left = self.uniform() * f64::from(weights.iter().sum::<f32>());
        // Rounding can leave a crumb beyond the last weight.
        let at = crossing(weights, left).unwrap_or(kept - 1);
        found.best[at].id()
    }

    /// With neither top-k nor top-p: nothing needs an order.
    fn token_of_all(&self, found: &mut Candidates) -> u32 {
        let Candidates { weights, sums, .. } = found;
        weights.resize(self.logits.len(), 0.0);
        sums.resize(self.logits.len().div_ceil(BLOCK), 0.0);
        let (min_p, temperature) = (self.settings.min_p, self.settings.temperature);
        let blocks = weights.chunks_mut(BLOCK).zip(self.logits.chunks(BLOCK));
        for (sum, (weights, logits)) in sums.iter_mut().zip(blocks) {
            *sum = row::softmax_weights(self.isa, weights, logits, self.max, temperature);
            if min_p > 0.0 {
                *sum = row::sum_from(self.isa, weights, min_p);
            }
        }
        let all = sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        let mut left = self.uniform() * all;
        let mut last = 0;
        for (i, (block, sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
            let sum = f64::from(*sum);
            if sum > 0.0 {
                let end = || block.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
                if left < sum {
                    return (i * BLOCK + crossing(block, left).unwrap_or_else(end)) as u32;
                }
                last = i * BLOCK + end();
            }
            left -= sum;
        }
        last as u32
    }

    /// A number in [0, 1) that (seed, position) alone decides.
    fn uniform(&self) -> f64 {
        uniform(self.settings.seed, self.settings.position)
    }
}

/// The candidate at which the sum of weights passes `left`.
fn crossing(weights: &[f32], mut left: f64) -> Option<usize> {
    weights.iter().position(|weight| {
        left -= f64::from(*weight);
        left < 0.0
    })
}

impl Candidates {
    /// Finds each lane's largest logit; the largest of all.
    fn find_maxima(&mut self, isa: Isa, logits: &[f32]) -> f32 {
        self.maxima.resize(lanes(logits.len()), 0.0);
        row::lane_maxima(isa, &mut self.maxima, logits);
        self.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Finds the `k` best, fewer than all, and sorts them. Maxima are found.
    fn take_best(&mut self, logits: &[f32], k: usize) {
        let Self { best, maxima, ordered, .. } = self;
        let bound = if k < maxima.len() {
            ordered.clear();
            ordered.extend_from_slice(maxima);
            *ordered.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        find_reaching(best, maxima, logits, bound);
        best.select_nth_unstable(k - 1);
        best.truncate(k);
        best.sort_unstable();
    }

    /// Finds all that reach `bound`, and sorts them. Maxima are found.
    fn take_reaching(&mut self, logits: &[f32], bound: f32) {
        find_reaching(&mut self.best, &self.maxima, logits, bound);
        self.best.sort_unstable();
    }
}

/// All candidates that reach `bound`, in no order.
fn find_reaching(best: &mut Vec<Candidate>, maxima: &[f32], logits: &[f32], bound: f32) {
    best.clear();
    for (lane, _) in maxima.iter().enumerate().filter(|(_, max)| **max >= bound) {
        let first = lane / LANES * BLOCK + lane % LANES;
        let end = (first / BLOCK * BLOCK + BLOCK).min(logits.len());
        let all = (first..end).step_by(LANES);
        let reaching = all.filter(|id| logits[*id] >= bound);
        best.extend(reaching.map(|id| Candidate::new(id, logits[id])));
    }
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
