//! The routed experts of a layer, in explicit parts: dispatch, experts, combine, add shared (routing came before).
//!
//! Bytes: each touched expert's three matrices once a step, however many rows chose it. Work is cut by expert and by
//! outputs, so that a skewed routing keeps all threads busy.

use super::route::Routing;
use super::simd::multiply::{Inputs, Order, PairRows, Segment, multiply, rounded_to_pair};
use super::{Activations, Cpu, Weight, swiglu};
use crate::backend::{ExpertWeights, ScratchShape};
use crate::quant::DType;

/// Room for one layer's rows, grouped by expert. `N = rows * K` entries.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[E + 1]`: where each expert's entries begin.
    start: Vec<u32>,
    /// `[N]`: the entry of choice `k` of row `r` is `place[r * K + k]`.
    place: Vec<u32>,
    /// `[N]`: which row an entry came from.
    origin: Vec<u32>,
    /// Touched experts.
    segments: Vec<Segment>,
    /// `[N, max(D, M)]`: inputs, as pairs or as they are.
    pairs: PairRows,
    inputs: Vec<f32>,
    /// `[N, M]`.
    gate: Vec<f32>,
    /// `[N, M]`.
    up: Vec<f32>,
    /// `[N, M]`.
    product: Vec<f32>,
    /// `[N, D]`.
    down: Vec<f32>,
}

impl Scratch {
    /// Room for the largest step.
    pub(super) fn new(shape: &ScratchShape, pairs: Option<Order>) -> Self {
        let (n, hidden, width) = sizes(shape);
        if n == 0 {
            return Self::default();
        }
        Self {
            start: vec![0; shape.n_routed_experts + 1],
            place: vec![0; n],
            origin: vec![0; n],
            segments: Vec::with_capacity(shape.n_routed_experts),
            pairs: pairs.map_or_else(PairRows::default, |order| {
                PairRows::with_room(order, n, hidden.max(width))
            }),
            inputs: vec![0.0; n * hidden],
            gate: vec![0.0; n * width],
            up: vec![0.0; n * width],
            product: vec![0.0; n * width],
            down: vec![0.0; n * hidden],
        }
    }

    /// Bytes of [`Scratch::new`].
    pub(super) fn bytes(shape: &ScratchShape, pairs: Option<Order>) -> u64 {
        let (n, hidden, width) = sizes(shape);
        let floats = n * (2 * hidden + 3 * width);
        let indices = shape.n_routed_experts * (1 + size_of::<Segment>() / 4) + 2 * n;
        let pairs = pairs.map_or(0, |order| PairRows::bytes(order, n, hidden.max(width)));
        ((floats + indices) * size_of::<f32>()) as u64 + pairs
    }
}

/// Entries, `D`, `M`.
fn sizes(shape: &ScratchShape) -> (usize, usize, usize) {
    (
        shape.step_rows_max * shape.num_experts_per_tok,
        shape.hidden_size,
        shape.moe_intermediate_size,
    )
}

/// See [`crate::backend::Backend::experts`].
pub(super) fn experts(
    cpu: &mut Cpu,
    y: &mut [f32],
    shared: Option<&[f32]>,
    x: &[f32],
    routing: &Routing,
    weights: &ExpertWeights<Weight>,
    rows: usize,
) {
    // Taken out for the length of the call, so that pool and scratch can be borrowed beside each other.
    let mut scratch = std::mem::take(&mut cpu.experts);
    dispatch(&mut scratch, routing, rows);
    run_experts(cpu, &mut scratch, x, weights, rows * routing.per_row);
    let hidden = weights.down.first().map_or(0, |down| down.n_out);
    combine(cpu, y, &scratch, routing, hidden, rows);
    if let Some(shared) = shared {
        super::rms_norm::add(cpu, y, shared, rows * hidden);
    }
    cpu.experts = scratch;
}

/// Groups rows by expert: a counting sort, so that an expert's rows keep their order.
fn dispatch(scratch: &mut Scratch, routing: &Routing, rows: usize) {
    let chosen = &routing.indices[..rows * routing.per_row];
    let start = &mut scratch.start;
    start.fill(0);
    for expert in chosen {
        start[*expert as usize + 1] += 1;
    }
    scratch.segments.clear();
    for expert in 0..start.len() - 1 {
        let n = start[expert + 1];
        start[expert + 1] += start[expert];
        if n > 0 {
            scratch.segments.push(Segment {
                weight: expert as u32,
                start: start[expert],
                end: start[expert] + n,
            });
        }
    }
    for (choice, expert) in chosen.iter().enumerate() {
        let entry = start[*expert as usize];
        start[*expert as usize] += 1;
        scratch.place[choice] = entry;
        scratch.origin[entry as usize] = (choice / routing.per_row) as u32;
    }
}

/// `down(silu(gate x) * up x)` of every entry.
fn run_experts(
    cpu: &mut Cpu,
    s: &mut Scratch,
    x: &[f32],
    weights: &ExpertWeights<Weight>,
    n: usize,
) {
    let Some(first) = weights.gate.first() else { return };
    let (hidden, width) = (first.dim, first.n_out);
    let origin = &s.origin[..n];
    let row = |entry: usize| &x[origin[entry] as usize * hidden..][..hidden];
    let form = Form::of(cpu, weights.gate.iter().chain(&weights.up));
    let inputs = prepare(cpu, form, &mut s.pairs, &mut s.inputs, n, hidden, row);
    multiply(&mut cpu.pool, cpu.isa, &mut s.gate, inputs, &weights.gate, &s.segments);
    multiply(&mut cpu.pool, cpu.isa, &mut s.up, inputs, &weights.up, &s.segments);
    swiglu::swiglu(cpu, &mut s.product, &s.gate, &s.up, width, n);
    let product = &s.product;
    let row = |entry: usize| &product[entry * width..][..width];
    let form = Form::of(cpu, weights.down.iter());
    let inputs = prepare(cpu, form, &mut s.pairs, &mut s.inputs, n, width, row);
    multiply(&mut cpu.pool, cpu.isa, &mut s.down, inputs, &weights.down, &s.segments);
}

/// What a matrix's inputs look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Rounded,
    Split,
}

impl Form {
    /// What all of the matrices take: pairs are for bf16 alone.
    fn of<'a>(cpu: &Cpu, mut weights: impl Iterator<Item = &'a Weight>) -> Self {
        let takes_pairs =
            cpu.activations == Activations::Bf16 && weights.all(|w| w.dtype == DType::Bf16);
        match takes_pairs {
            true if cpu.splits() => Self::Split,
            true => Self::Rounded,
            false => Self::Plain,
        }
    }
}

/// Gathers `n` inputs of `dim` numbers, in the form the matrices want.
fn prepare<'s, 'x>(
    cpu: &mut Cpu,
    form: Form,
    pairs: &'s mut PairRows,
    plain: &'s mut [f32],
    n: usize,
    dim: usize,
    row: impl Fn(usize) -> &'x [f32] + Sync,
) -> Inputs<'s> {
    if form == Form::Split {
        pairs.fill(&mut cpu.pool, n, dim, row);
        return Inputs::Split(pairs);
    }
    let plain = &mut plain[..n * dim];
    let part = |entry: usize| entry * dim..(entry + 1) * dim;
    cpu.pool.run_parts(n * dim, plain, &mut cpu.threads, n, part, |entry, to, _| {
        to.copy_from_slice(row(entry));
        if form == Form::Rounded {
            for x in to {
                *x = rounded_to_pair(*x);
            }
        }
    });
    Inputs::Plain(plain)
}

/// `y[row] = sum_k w_k * entry(row, k)`, in the order of the row's own choices.
fn combine(
    cpu: &mut Cpu,
    y: &mut [f32],
    scratch: &Scratch,
    routing: &Routing,
    hidden: usize,
    rows: usize,
) {
    let k = routing.per_row;
    let part = |row: usize| row * hidden..(row + 1) * hidden;
    let (work, y) = (rows * k * hidden, &mut y[..rows * hidden]);
    cpu.pool.run_parts(work, y, &mut cpu.threads, rows, part, |row, y, _| {
        y.fill(0.0);
        for choice in row * k..(row + 1) * k {
            let weight = routing.weights[choice];
            let from = &scratch.down[scratch.place[choice] as usize * hidden..][..hidden];
            y.iter_mut().zip(from).for_each(|(y, x)| *y += weight * x);
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::testing::{
        Matrix, Way, assert_close, assert_same_bits, backend, matrix, numbers, ways, width,
    };
    use crate::backend::cpu::{Routing, Weight};
    use crate::backend::{Backend, ExpertWeights, RouteRule, Scoring};
    use crate::quant::DType;

    const E: usize = 12;
    const K: usize = 4;

    /// `D` and `M`, as near to 100 and 65 as rows can be long.
    fn sizes(dtype: DType) -> (usize, usize) {
        (width(dtype, 100), width(dtype, 65))
    }

    struct Layer {
        dtype: DType,
        gate: Vec<Matrix>,
        up: Vec<Matrix>,
        down: Vec<Matrix>,
    }

    impl Layer {
        fn seeded(dtype: DType) -> Self {
            let (d, m) = sizes(dtype);
            let all = |seed: u64, n_out, dim| {
                (0..E as u64).map(|e| matrix(seed + e, dtype, n_out, dim)).collect()
            };
            Self { dtype, gate: all(100, m, d), up: all(200, m, d), down: all(300, d, m) }
        }

        fn weights(self) -> ExpertWeights<Weight> {
            let taken = |all: Vec<Matrix>| all.into_iter().map(|m| m.weight).collect();
            ExpertWeights { gate: taken(self.gate), up: taken(self.up), down: taken(self.down) }
        }

        /// One row's sum over its choices, in f64.
        fn oracle(&self, x: &[f32], choices: &[(u32, f32)]) -> Vec<f64> {
            let (d, m) = sizes(self.dtype);
            let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
            let mut y = vec![0.0; d];
            for (expert, weight) in choices {
                let e = *expert as usize;
                let hidden: Vec<f64> = (0..m)
                    .map(|i| {
                        let gate = self.gate[e].dot(i, &x).value;
                        gate / (1.0 + (-gate).exp()) * self.up[e].dot(i, &x).value
                    })
                    .collect();
                for (i, y) in y.iter_mut().enumerate() {
                    *y += f64::from(*weight) * self.down[e].dot(i, &hidden).value;
                }
            }
            y
        }
    }

    /// Choices of 33 rows: all different, all the same four experts, or one expert that everyone chose.
    fn choices(skew: usize) -> Vec<(u32, f32)> {
        let weights = numbers(77, 33 * K);
        let expert = |row: usize, k: usize| match skew {
            0 => (row * 5 + k * 3) % E,
            1 => [9, 2, 11, 0][k],
            _ if k == 0 => 7,
            _ => (row + k * 2) % 7,
        };
        (0..33 * K).map(|i| (expert(i / K, i % K) as u32, weights[i] + 1.5)).collect()
    }

    fn routing_of(cpu: &mut crate::backend::cpu::Cpu, choices: &[(u32, f32)]) -> Routing {
        let rule = RouteRule {
            scoring: Scoring::Sigmoid,
            n_routed_experts: E,
            num_experts_per_tok: K,
            n_group: 1,
            topk_group: 1,
            norm_topk_prob: false,
            routed_scaling_factor: 1.0,
        };
        let mut routing = cpu.routing(40, &rule).unwrap();
        for (i, (expert, weight)) in choices.iter().enumerate() {
            routing.indices[i] = *expert;
            routing.weights[i] = *weight;
        }
        routing
    }

    fn run(
        way: Way,
        threads: usize,
        x: &[f32],
        shared: Option<&[f32]>,
        choices: &[(u32, f32)],
        weights: &ExpertWeights<Weight>,
    ) -> Vec<f32> {
        let (rows, d) = (choices.len() / K, weights.gate[0].dim);
        let mut cpu = backend(way, threads);
        let routing = routing_of(&mut cpu, choices);
        let (x, shared) = (cpu.vector(x).unwrap(), shared.map(|s| cpu.vector(s).unwrap()));
        let mut y = cpu.vector(&vec![9.0; rows * d]).unwrap();
        cpu.experts(&mut y, shared.as_ref(), &x, &routing, weights, rows);
        y.clone()
    }

    #[test]
    fn even_and_skewed_routings_agree_with_the_oracle() {
        for dtype in DType::ALL {
            let d = sizes(dtype).0;
            let (x, shared) = (numbers(1, 33 * d), numbers(2, 33 * d));
            for skew in 0..3 {
                let layer = Layer::seeded(dtype);
                let choices = choices(skew);
                let routed: Vec<f64> = x
                    .chunks(d)
                    .zip(choices.chunks(K))
                    .flat_map(|(x, choices)| layer.oracle(x, choices))
                    .collect();
                let with_shared: Vec<f64> =
                    routed.iter().zip(&shared).map(|(y, s)| y + f64::from(*s)).collect();
                let weights = layer.weights();
                for way in ways() {
                    // Three products in a row of terms up to 100 in size: 2^-17 of that with pairs, less without.
                    let bound = |_| 2e-2;
                    let got = run(way, 2, &x, None, &choices, &weights);
                    assert_close(&got, &routed, bound);
                    let got = run(way, 2, &x, Some(&shared), &choices, &weights);
                    assert_close(&got, &with_shared, bound);
                }
            }
        }
    }

    #[test]
    fn an_average_is_the_sum_of_all_experts_over_their_number() {
        // Fewer than the scratch has room for: others keep their places empty.
        let mut layer = Layer::seeded(DType::F32);
        for all in [&mut layer.gate, &mut layer.up, &mut layer.down] {
            all.truncate(3);
        }
        let d = sizes(DType::F32).0;
        let x = numbers(1, 33 * d);
        let choices = [0, 1, 2].map(|expert| (expert, 1.0 / 3.0));
        let want: Vec<f64> = x.chunks(d).flat_map(|x| layer.oracle(x, &choices)).collect();
        let weights = layer.weights();
        for way in ways() {
            let mut cpu = backend(way, 2);
            let all = cpu.average_routing(33, 3).unwrap();
            let (x, mut y) = (cpu.vector(&x).unwrap(), cpu.alloc(33 * d).unwrap());
            cpu.experts(&mut y, None, &x, &all, &weights, 33);
            assert_close(&y, &want, |_| 2e-2);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_the_others_chose_and_on_any_threads() {
        for dtype in DType::ALL {
            let d = sizes(dtype).0;
            let x = numbers(1, 33 * d);
            let weights = Layer::seeded(dtype).weights();
            for way in ways() {
                for skew in 0..3 {
                    let choices = choices(skew);
                    let alone: Vec<f32> = x
                        .chunks(d)
                        .zip(choices.chunks(K))
                        .flat_map(|(x, choices)| run(way, 1, x, None, choices, &weights))
                        .collect();
                    for (threads, rows) in [(1, 33), (2, 33), (3, 33), (2, 2), (3, 5)] {
                        let got =
                            run(way, threads, &x[..rows * d], None, &choices[..rows * K], &weights);
                        assert_same_bits(&got, &alone[..rows * d]);
                    }
                }
            }
        }
    }
}
