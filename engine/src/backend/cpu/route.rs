//! Which experts a row goes to, and how much each counts (DeepSeek-V3 paper, section 2.1.2; V2 paper, section 2.2).

use super::{Cpu, Weight, linear};
use crate::backend::{RouteRule, RoutingTrace, Scoring, ScratchShape};

/// Experts chosen for each row.
#[derive(Debug, Default)]
pub struct Routing {
    /// `[rows, K]`, best first.
    pub(super) indices: Vec<u32>,
    /// `[rows, K]`.
    pub(super) weights: Vec<f32>,
    /// `[rows, E]`: the gate's output.
    logits: Vec<f32>,
    /// `[E]`, `[E]`, `[n_group]`: one row's scores, what is chosen by, and the groups' scores.
    scores: Vec<f32>,
    choice: Vec<f32>,
    groups: Vec<f32>,
    /// `K`.
    pub(super) per_row: usize,
    n_expert: usize,
    /// `[E]`: whether a row of this step goes there.
    seen: Vec<bool>,
    /// Different experts of a step, added up over all steps and layers.
    pub(super) touched: u64,
}

impl Routing {
    /// Bytes of what [`Routing::with_room`] makes.
    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        let (k, e) = (shape.num_experts_per_tok, shape.n_routed_experts);
        ((shape.step_rows_max * (2 * k + e) + 2 * e) * size_of::<f32>() + e) as u64
    }

    /// Room for `rows` rows.
    pub(super) fn with_room(rows: usize, rule: &RouteRule) -> Self {
        let (k, e) = (rule.num_experts_per_tok, rule.n_routed_experts);
        Self {
            indices: vec![0; rows * k],
            weights: vec![0.0; rows * k],
            logits: vec![0.0; rows * e],
            scores: vec![0.0; e],
            choice: vec![0.0; e],
            groups: vec![0.0; rule.n_group],
            per_row: k,
            n_expert: e,
            seen: vec![false; e],
            touched: 0,
        }
    }

    /// Counts the experts that the first rows go to, each once.
    fn count(&mut self, rows: usize) {
        self.seen.fill(false);
        for expert in &self.indices[..rows * self.per_row] {
            let seen = &mut self.seen[*expert as usize];
            self.touched += u64::from(!*seen);
            *seen = true;
        }
    }

    /// Every row to all experts, each with the same weight.
    pub(super) fn average(rows: usize, n_expert: usize) -> Self {
        Self {
            indices: (0..rows).flat_map(|_| 0..n_expert as u32).collect(),
            weights: vec![1.0 / n_expert as f32; rows * n_expert],
            per_row: n_expert,
            ..Self::default()
        }
    }

    /// A copy of the first rows' choices.
    pub(super) fn trace(&self, rows: usize) -> RoutingTrace {
        RoutingTrace {
            indices: self.indices[..rows * self.per_row].to_vec(),
            weights: self.weights[..rows * self.per_row].to_vec(),
            logits: self.logits[..rows * self.n_expert].to_vec(),
        }
    }
}

/// See [`crate::backend::Backend::route`].
pub(super) fn route(
    cpu: &mut Cpu,
    routing: &mut Routing,
    x: &[f32],
    gate: &Weight,
    bias: Option<&[f32]>,
    rule: &RouteRule,
    rows: usize,
) {
    linear::linear_f32(cpu, &mut routing.logits, x, gate, rows);
    let Routing { indices, weights, logits, scores, choice, groups, per_row, n_expert, .. } =
        &mut *routing;
    let each = logits
        .chunks_mut(*n_expert)
        .zip(indices.chunks_mut(*per_row))
        .zip(weights.chunks_mut(*per_row));
    let add = |to: &mut [f32], bias: &[f32]| to.iter_mut().zip(bias).for_each(|(to, b)| *to += b);
    for ((logits, indices), weights) in each.take(rows) {
        if let (Some(bias), Scoring::Softmax) = (bias, rule.scoring) {
            add(logits, bias);
        }
        score(scores, logits, rule.scoring);
        choice.copy_from_slice(scores);
        if let (Some(bias), Scoring::Sigmoid) = (bias, rule.scoring) {
            add(choice, bias);
        }
        drop_groups(choice, groups, rule);
        choose(indices, choice);
        weigh(weights, indices, scores, rule);
        // A score that is no number is never chosen; the row must not look as if all were well.
        if scores.iter().any(|score| score.is_nan()) {
            weights.fill(f32::NAN);
        }
    }
    routing.count(rows);
}

fn score(scores: &mut [f32], logits: &[f32], scoring: Scoring) {
    match scoring {
        Scoring::Sigmoid => {
            scores.iter_mut().zip(logits).for_each(|(score, z)| *score = 1.0 / (1.0 + (-z).exp()));
        }
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().zip(logits).for_each(|(score, z)| *score = (z - max).exp());
            let sum: f32 = scores.iter().sum();
            for score in scores {
                *score /= sum;
            }
        }
    }
}

/// Sets the choice of experts outside the kept groups to minus infinity: 0 would win over a negative biased score.
fn drop_groups(choice: &mut [f32], groups: &mut [f32], rule: &RouteRule) {
    if rule.n_group <= 1 {
        return;
    }
    let size = choice.len() / rule.n_group;
    for (group, choice) in groups.iter_mut().zip(choice.chunks(size)) {
        let (best, second) = best_two(choice);
        *group = match rule.scoring {
            Scoring::Sigmoid => best + second,
            Scoring::Softmax => best,
        };
    }
    for i in 0..rule.n_group {
        let before = |j: usize| groups[j] > groups[i] || (groups[j] == groups[i] && j < i);
        if (0..rule.n_group).filter(|j| before(*j)).count() >= rule.topk_group {
            choice[i * size..(i + 1) * size].fill(f32::NEG_INFINITY);
        }
    }
}

/// The two largest; a group of one counts its only expert once.
fn best_two(values: &[f32]) -> (f32, f32) {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for value in values {
        if *value > best {
            (best, second) = (*value, best);
        } else if *value > second {
            second = *value;
        }
    }
    (best, if values.len() < 2 { 0.0 } else { second })
}

/// The largest of `choice`, best first, ties by lowest expert. Taken ones become minus infinity, NaN is never taken
/// before a number; each expert is taken once.
fn choose(indices: &mut [u32], choice: &mut [f32]) {
    for at in 0..indices.len() {
        let mut best = None;
        for (expert, value) in choice.iter().enumerate() {
            let taken = || indices[..at].contains(&(expert as u32));
            let better = best.is_none_or(|(_, most): (usize, f32)| {
                *value > most || most.is_nan() && !value.is_nan()
            });
            if better && !taken() {
                best = Some((expert, *value));
            }
        }
        if let Some((expert, _)) = best {
            indices[at] = expert as u32;
        }
    }
}

/// The chosen experts' unbiased scores, normalised where the model says so, scaled last.
fn weigh(weights: &mut [f32], indices: &[u32], scores: &[f32], rule: &RouteRule) {
    weights.iter_mut().zip(indices).for_each(|(weight, expert)| *weight = scores[*expert as usize]);
    if rule.norm_topk_prob {
        let sum = weights.iter().sum::<f32>() + 1e-20;
        for weight in weights.iter_mut() {
            *weight /= sum;
        }
    }
    for weight in weights {
        *weight *= rule.routed_scaling_factor;
    }
}

#[cfg(test)]
mod tests;
