//! The routed experts of a layer, in explicit parts: dispatch, experts, combine, add shared (routing came before).
//!
//! Bytes: each touched expert's three matrices once a step, however many rows chose it. Work is cut by expert and by
//! outputs, so that a skewed routing keeps all threads busy.

use super::route::Routing;
use super::simd::groups::GroupRows;
use super::simd::multiply::{Inputs, Order, PairRows, Segment, multiply, rounded_to_pair};
use super::{Cpu, Form, Weight, swiglu};
use crate::backend::{ExpertWeights, ScratchShape};

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
    inputs: InputRoom,
    /// `[N, M]`.
    gate: Vec<f32>,
    /// `[N, M]`.
    up: Vec<f32>,
    /// `[N, M]`.
    product: Vec<f32>,
    /// `[N, D]`.
    down: Vec<f32>,
}

/// `[N, max(D, M)]`: inputs, in the forms there are.
#[derive(Default)]
struct InputRoom {
    pairs: PairRows,
    groups: GroupRows,
    plain: Vec<f32>,
    /// Experts that take one form.
    chosen: Vec<Segment>,
}

impl Scratch {
    /// Room for the largest step.
    pub(super) fn new(shape: &ScratchShape, pairs: Option<Order>, has_groups: bool) -> Self {
        let (n, hidden, width) = sizes(shape);
        if n == 0 {
            return Self::default();
        }
        let widest = hidden.max(width);
        Self {
            start: vec![0; shape.n_routed_experts + 1],
            place: vec![0; n],
            origin: vec![0; n],
            segments: Vec::with_capacity(shape.n_routed_experts),
            inputs: InputRoom {
                pairs: pairs
                    .map_or_else(PairRows::default, |order| PairRows::with_room(order, n, widest)),
                groups: GroupRows::with_room(if has_groups { n } else { 0 }, widest),
                plain: vec![0.0; n * widest],
                chosen: Vec::with_capacity(shape.n_routed_experts),
            },
            gate: vec![0.0; n * width],
            up: vec![0.0; n * width],
            product: vec![0.0; n * width],
            down: vec![0.0; n * hidden],
        }
    }

    /// Bytes of [`Scratch::new`].
    pub(super) fn bytes(shape: &ScratchShape, pairs: Option<Order>, has_groups: bool) -> u64 {
        let (n, hidden, width) = sizes(shape);
        let widest = hidden.max(width);
        let floats = n * (widest + hidden + 3 * width);
        let indices = shape.n_routed_experts * (1 + 2 * size_of::<Segment>() / 4) + 2 * n;
        let pairs = pairs.map_or(0, |order| PairRows::bytes(order, n, widest));
        let groups = GroupRows::bytes(if has_groups { n } else { 0 }, widest);
        ((floats + indices) * size_of::<f32>()) as u64 + pairs + groups
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
    let products = [(&mut s.gate[..], &weights.gate[..]), (&mut s.up, &weights.up)];
    project(cpu, &mut s.inputs, &s.segments, products, (n, hidden), row);
    swiglu::swiglu(cpu, &mut s.product, &s.gate, &s.up, width, n);
    let product = &s.product;
    let row = |entry: usize| &product[entry * width..][..width];
    let products = [(&mut s.down[..], &weights.down[..])];
    project(cpu, &mut s.inputs, &s.segments, products, (n, width), row);
}

/// Products of the same `n` inputs of `dim` numbers, each matrix with the form it takes: experts may be stored in
/// several formats.
fn project<'x, const N: usize>(
    cpu: &mut Cpu,
    room: &mut InputRoom,
    segments: &[Segment],
    mut products: [(&mut [f32], &[Weight]); N],
    (n, dim): (usize, usize),
    row: impl Fn(usize) -> &'x [f32] + Sync,
) {
    let mut chosen = std::mem::take(&mut room.chosen);
    for form in [Form::Plain, Form::Rounded, Form::Split, Form::Groups] {
        let takes = |cpu: &Cpu, weights: &[Weight], segment: &Segment| {
            cpu.form(&weights[segment.weight as usize]) == form
        };
        let mut all = products.iter().flat_map(|(_, w)| segments.iter().map(move |s| (*w, s)));
        if !all.any(|(weights, segment)| takes(cpu, weights, segment)) {
            continue;
        }
        let inputs = prepare(cpu, form, room, (n, dim), &row);
        for (y, weights) in &mut products {
            chosen.clear();
            chosen.extend(segments.iter().filter(|segment| takes(cpu, weights, segment)));
            multiply(&mut cpu.pool, cpu.isa, y, inputs, weights, &chosen, &mut cpu.rooms);
        }
    }
    room.chosen = chosen;
}

/// Gathers `n` inputs of `dim` numbers, in the form the matrices want.
fn prepare<'s, 'x>(
    cpu: &mut Cpu,
    form: Form,
    room: &'s mut InputRoom,
    (n, dim): (usize, usize),
    row: &(impl Fn(usize) -> &'x [f32] + Sync),
) -> Inputs<'s> {
    match form {
        Form::Split => {
            room.pairs.fill(&mut cpu.pool, n, dim, row);
            return Inputs::Split(&room.pairs);
        }
        Form::Groups => {
            room.groups.fill(&mut cpu.pool, cpu.isa, n, dim, row);
            return Inputs::Groups(&room.groups);
        }
        Form::Plain | Form::Rounded => {}
    }
    let plain = &mut room.plain[..n * dim];
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
mod tests;
