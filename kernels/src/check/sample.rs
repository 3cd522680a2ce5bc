//! `sample.cu` against the rules in words: sort, cut, add up, and see where the draw falls.

use super::measure::{Measure, Model, Traffic, sectors};
use super::{Bench, Check, Random, same};
use crate::abi::{SampleBias, SampleParams, SamplePenalty, SampleRule};
use crate::geometry::sample as geometry;
use crate::{Failure, Family, Kernel, Result};

const NONE: u32 = u32::MAX;
const VOCAB: usize = 129_280;
/// Draws that fall this near to a border, as a share of all weights, may fall on its other side: an exponential in f32 of a
/// quotient near 20 is good to a few units in the sixth place.
const BORDER: f64 = 1e-5;

fn greedy() -> SampleRule {
    SampleRule {
        seed: 0,
        position: 0,
        top_k: 0,
        mask: NONE,
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        unused: 0,
    }
}

fn warm(temperature: f32) -> SampleRule {
    SampleRule { temperature, ..greedy() }
}

/// Every filter alone and with others; heads that fit the candidates and heads that do not.
fn rules() -> Vec<SampleRule> {
    vec![
        greedy(),
        SampleRule { top_k: 1, ..warm(1.0) },
        warm(0.7),
        SampleRule { min_p: 0.05, ..warm(1.5) },
        SampleRule { top_k: 5, ..warm(1.0) },
        SampleRule { top_k: 40, top_p: 0.9, ..warm(1.3) },
        SampleRule { top_p: 0.95, ..warm(0.6) },
        SampleRule { top_p: 0.5, min_p: 0.1, ..warm(1.0) },
        SampleRule { top_k: 1 << 20, top_p: 0.99, ..warm(0.3) },
        SampleRule { top_k: 1500, min_p: 1e-3, ..warm(3.0) },
        SampleRule { top_p: 0.9, ..warm(100.0) },
        SampleRule { top_p: 1e-6, ..warm(2.0) },
        SampleRule { min_p: 1.0, ..warm(2.0) },
        SampleRule { min_p: 1.5, ..warm(2.0) },
        SampleRule { min_p: 1.5, top_p: 0.0, ..warm(2.0) },
    ]
}

/// One of every way through the kernel.
fn some_rules() -> Vec<SampleRule> {
    let rules = rules();
    [0, 2, 3, 5, 7].map(|rule| rules[rule]).to_vec()
}

/// One launch: rows, and how each is drawn.
struct Case {
    vocab_size: usize,
    rules: Vec<SampleRule>,
    /// `[n_row, vocab_size]`.
    logits: Vec<f32>,
    penalties: Vec<Vec<SamplePenalty>>,
    biases: Vec<Vec<SampleBias>>,
    /// `[n_mask, ceil(vocab_size / 32)]`.
    masks: Vec<u32>,
}

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name: String, case: Case| {
        checks.push(Check::new(Family::Sample, name, move |bench| case.check(bench)));
    };
    for vocab_size in [5, 1000, 5003] {
        add(format!("every rule, {vocab_size} tokens"), Case::seeded(vocab_size, rules()));
    }
    for vocab_size in [1, 33] {
        add(format!("some rules, {vocab_size} tokens"), Case::seeded(vocab_size, some_rules()));
    }
    let mut equal = Case::seeded(2500, some_rules());
    equal.logits.fill(-3.25);
    add("equal logits".into(), equal);
    let few = vec![greedy(), SampleRule { top_p: 0.8, ..warm(0.5) }, warm(0.9)];
    add("129280 tokens".into(), large(few));
    add("bias and penalties".into(), penalised());
    add("masks".into(), masked());
    let family = Family::Sample;
    checks.push(Check::new(family, "NaN and infinities spoil their own row", not_finite));
    checks.push(Check::new(family, "a row has its token in any batch", invariant));
    checks.push(Check::new(family, "tokens come as often as they weigh", frequencies));
    checks
}

/// V3's vocabulary, and logits that leave few candidates.
fn large(rules: Vec<SampleRule>) -> Case {
    let mut case = Case::seeded(VOCAB, rules);
    case.logits.iter_mut().for_each(|logit| *logit *= 2.5);
    case
}

fn penalised() -> Case {
    let rules = some_rules().into_iter().map(|rule| SampleRule {
        repetition: 1.3,
        presence: 0.4,
        frequency: 0.25,
        ..rule
    });
    let mut case = Case::seeded(200, rules.collect());
    for (row, (penalties, biases)) in case.penalties.iter_mut().zip(&mut case.biases).enumerate() {
        penalties.extend((0..60).map(|i| SamplePenalty { token: i * 3, in_output: i % 3 }));
        if row % 2 == 0 {
            biases
                .extend((0..20).map(|i| SampleBias { token: i * 7, amount: i as f32 * 0.5 - 4.0 }));
        }
    }
    case
}

fn masked() -> Case {
    let mut case = Case::seeded(300, rules());
    let random = &mut Random::new(5);
    let words = 300usize.div_ceil(32);
    case.masks = (0..3 * words).map(|_| (random.bits() & random.bits()) as u32).collect();
    // The third allows one token alone, the last.
    case.masks[2 * words..].fill(0);
    case.masks[2 * words + 299 / 32] = 1 << (299 % 32);
    for (row, rule) in case.rules.iter_mut().enumerate() {
        rule.mask = [0, 1, 2, NONE][row % 4];
    }
    case
}

/// A number in [0, 1) from (seed, position), as the engine's documentation has it: two rounds of splitmix64's finaliser.
fn uniform(seed: u64, position: u32) -> f64 {
    let first = Random::new(seed).bits();
    let golden = 0x9e37_79b9_7f4a_7c15u64;
    let second = Random::new(first.wrapping_add(golden.wrapping_mul(u64::from(position)))).bits();
    (second >> 11) as f64 / (1u64 << 53) as f64
}

impl Case {
    fn seeded(vocab_size: usize, mut rules: Vec<SampleRule>) -> Self {
        let random = &mut Random::new(vocab_size as u64);
        for rule in &mut rules {
            rule.seed = random.bits();
            rule.position = random.below(1000) as u32;
        }
        let n = rules.len();
        Self {
            vocab_size,
            logits: random.normals(n * vocab_size).iter().map(|x| x * 3.0).collect(),
            penalties: vec![Vec::new(); n],
            biases: vec![Vec::new(); n],
            masks: Vec::new(),
            rules,
        }
    }

    /// The tokens of some rows.
    fn run(&self, bench: &mut Bench<'_>, rows: std::ops::Range<usize>) -> Result<Vec<u32>> {
        let n_row = rows.len();
        let stride = self.vocab_size.next_multiple_of(4) + 4;
        // What lies behind a row must not matter.
        let mut logits = vec![f32::NAN; n_row * stride];
        for (to, row) in logits.chunks_mut(stride).zip(rows.clone()) {
            to[..self.vocab_size].copy_from_slice(self.row(row));
        }
        let starts = |lens: &mut dyn Iterator<Item = usize>| {
            let mut sum = 0;
            let ends = lens.map(|len| {
                sum += len as u32;
                sum
            });
            std::iter::once(0).chain(ends).collect::<Vec<u32>>()
        };
        let penalty_start = starts(&mut self.penalties[rows.clone()].iter().map(Vec::len));
        let bias_start = starts(&mut self.biases[rows.clone()].iter().map(Vec::len));
        let token = bench.alloc::<u32>(n_row)?;
        let masks = bench.upload(&self.masks)?;
        let params = SampleParams {
            token: token as *mut _,
            logits: bench.upload(&logits)? as *mut _,
            rule: bench.upload_structs(&self.rules[rows.clone()])? as *const _,
            penalty_start: bench.upload(&penalty_start)? as *const _,
            penalty: bench.upload_structs(&self.penalties[rows.clone()].concat())? as *const _,
            bias_start: bench.upload(&bias_start)? as *const _,
            bias: bench.upload_structs(&self.biases[rows].concat())? as *const _,
            masks: if self.masks.is_empty() { std::ptr::null() } else { masks as *const _ },
            n_row: n_row as u32,
            vocab_size: self.vocab_size as u32,
            logits_stride: stride as u32,
            unused: 0,
        };
        bench.launch(geometry::sample(&params), &params)?;
        bench.download(token, n_row)
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.logits[row * self.vocab_size..][..self.vocab_size]
    }

    fn is_allowed(&self, row: usize, token: usize) -> bool {
        let mask = self.rules[row].mask;
        let words = self.vocab_size.div_ceil(32);
        mask == NONE || self.masks[mask as usize * words + token / 32] >> (token % 32) & 1 == 1
    }

    /// A row's logits after bias and penalties, in f64 from where they are no longer given numbers.
    fn adjusted(&self, row: usize) -> Vec<f64> {
        let rule = &self.rules[row];
        let mut logits: Vec<f64> = self.row(row).iter().map(|x| f64::from(*x)).collect();
        for bias in &self.biases[row] {
            logits[bias.token as usize] += f64::from(bias.amount);
        }
        for seen in &self.penalties[row] {
            let logit = &mut logits[seen.token as usize];
            let repetition = f64::from(rule.repetition);
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if seen.in_output > 0 {
                *logit -= f64::from(rule.presence)
                    + f64::from(rule.frequency) * f64::from(seen.in_output);
            }
        }
        logits
    }

    /// Every token that the rule may give: one, and its neighbours where the draw falls on a border.
    fn oracle(&self, row: usize) -> Vec<u32> {
        let rule = &self.rules[row];
        let logits = self.adjusted(row);
        let mut order: Vec<usize> =
            (0..logits.len()).filter(|token| self.is_allowed(row, *token)).collect();
        let n_all = logits.len();
        let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let best = order.iter().copied().min_by(by_logit).unwrap_or(0);
        if rule.temperature == 0.0 || rule.top_k == 1 {
            return vec![best as u32];
        }
        let weight =
            |token: usize| ((logits[token] - logits[best]) / f64::from(rule.temperature)).exp();
        let top_k = rule.top_k as usize;
        let has_top_k = top_k > 0 && top_k < n_all;
        let mut lengths = vec![order.len()];
        if has_top_k || rule.top_p < 1.0 {
            order.sort_by(by_logit);
            if has_top_k {
                order.truncate(top_k);
            }
            lengths = vec![order.len()];
            if rule.top_p < 1.0 {
                lengths = heads(&order.iter().map(|t| weight(*t)).collect::<Vec<_>>(), rule.top_p);
            }
        }
        let mut tokens = Vec::new();
        for n in lengths {
            let kept = order[..n].iter().copied();
            // Rounding decides about weights at min-p's very border; both ways are right.
            for least in
                [f64::from(rule.min_p) * (1.0 - BORDER), f64::from(rule.min_p) * (1.0 + BORDER)]
            {
                let least = least.min(1.0);
                let kept: Vec<usize> = kept.clone().filter(|t| weight(*t) >= least).collect();
                tokens.extend(fall(&kept, weight, uniform(rule.seed, rule.position)));
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    fn check(&self, bench: &mut Bench<'_>) -> Result<()> {
        let got = self.run(bench, 0..self.rules.len())?;
        for (row, got) in got.iter().enumerate() {
            let want = self.oracle(row);
            if !want.contains(got) {
                let rule = &self.rules[row];
                return Err(Failure(format!("row {row}: token {got}, wanted {want:?}: {rule:?}")));
            }
        }
        Ok(())
    }
}

/// Lengths of the shortest head with a share of the weight: one, or two where the share is met at a border.
fn heads(weights: &[f64], share: f32) -> Vec<usize> {
    let mass: f64 = weights.iter().sum();
    let reach = |target: f64| {
        let mut sum = 0.0;
        let at = weights.iter().position(|weight| {
            sum += weight;
            sum >= target
        });
        at.map_or(weights.len(), |at| at + 1)
    };
    let target = mass * f64::from(share);
    let (low, high) = (reach(target - mass * BORDER), reach(target + mass * BORDER));
    (low..=high).collect()
}

/// Where a draw falls along weights: every token within a border of it.
fn fall(tokens: &[usize], weight: impl Fn(usize) -> f64, u: f64) -> Vec<u32> {
    let sum: f64 = tokens.iter().map(|token| weight(*token)).sum();
    let (mut upto, mut found) = (0.0, Vec::new());
    for token in tokens {
        let before = upto;
        upto += weight(*token);
        let weighs = weight(*token) > 0.0;
        if weighs && before - sum * BORDER <= u * sum && u * sum < upto + sum * BORDER {
            found.push(*token as u32);
        }
    }
    found
}

fn not_finite(bench: &mut Bench<'_>) -> Result<()> {
    let mut case = Case::seeded(70, rules()[..9].to_vec());
    let bad =
        [(1, 0, f32::NAN), (4, 69, f32::INFINITY), (6, 33, f32::NEG_INFINITY), (8, 9, f32::NAN)];
    for (row, token, value) in bad {
        case.logits[row * 70 + token] = value;
    }
    // A penalty must not hide what it works on.
    case.penalties[8].push(SamplePenalty { token: 9, in_output: 1 });
    // And a mask that allows nothing gives nothing.
    case.masks = vec![0; 3];
    case.rules[3].mask = 0;
    // Nor does a temperature that is no number, with and without an order.
    case.rules[2].temperature = f32::NAN;
    case.rules[7].temperature = f32::NAN;
    let got = case.run(bench, 0..9)?;
    for (row, token) in got.iter().enumerate() {
        let is_bad = [1, 2, 3, 4, 6, 7, 8].contains(&row);
        if (*token == NONE) != is_bad || !is_bad && !case.oracle(row).contains(token) {
            return Err(Failure(format!("row {row}: token {token}")));
        }
    }
    Ok(())
}

fn invariant(bench: &mut Bench<'_>) -> Result<()> {
    let case = penalised();
    let all = case.run(bench, 0..case.rules.len())?;
    for row in 0..case.rules.len() {
        same(&format!("row {row} alone"), &case.run(bench, row..row + 1)?, &all[row..=row])?;
    }
    same("the last two", &case.run(bench, all.len() - 2..all.len())?, &all[all.len() - 2..])
}

/// Draws of many positions, without filters: a share of 1, 2, 3 and 4 tenths.
fn frequencies(bench: &mut Bench<'_>) -> Result<()> {
    const DRAWS: usize = 120;
    let rules = (0..DRAWS as u32).map(|position| SampleRule { seed: 11, position, ..warm(1.0) });
    let mut case = Case::seeded(4, rules.clone().collect());
    case.rules = rules.collect();
    case.logits = (0..DRAWS).flat_map(|_| [0.1f32, 0.2, 0.3, 0.4].map(f32::ln)).collect();
    let mut counts = [0usize; 4];
    for token in case.run(bench, 0..DRAWS)? {
        counts[(token as usize).min(3)] += 1;
    }
    for (token, count) in counts.iter().enumerate() {
        // Four standard deviations of the widest share.
        if count.abs_diff(DRAWS * (token + 1) / 10) > 21 {
            return Err(Failure(format!("counts {counts:?} of {DRAWS}")));
        }
    }
    Ok(())
}

/// Rows that are read three times: once to find the largest, twice more for top-p with few candidates.
fn traffic(n_row: usize) -> Traffic {
    let (row, n_row) = (sectors(4 * VOCAB), n_row as u64);
    Traffic {
        memory_bytes: n_row * row,
        // Every warp of a row reads its rule and the row's lists' ends.
        read_bytes: n_row * (row * 3 + 32 * 32 * 7),
        write_bytes: n_row * 32,
        flops: 0,
        is_mma: false,
    }
}

pub(super) fn measures() -> Vec<Measure> {
    let rule = SampleRule { top_p: 0.8, ..warm(0.5) };
    let model = |name, n: usize| {
        Model::new(name, traffic(n), move |bench, shrink| {
            let n = shrink.of(n);
            Case::seeded(shrink.of(VOCAB), vec![rule; n]).run(bench, 0..n).map(drop)
        })
    };
    let models = vec![model("V3, 1 row", 1), model("V3, 64 rows", 64)];
    let run = move |bench: &mut Bench<'_>| large(vec![rule]).check(bench);
    vec![Measure::new(Kernel::Sample, "1 row of 129280, top-p", traffic(1), models, run)]
}
