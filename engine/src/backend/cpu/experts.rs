//! The routed experts of a layer, in explicit parts: dispatch, experts, combine, add shared (routing came before).
//!
//! Bytes: each touched expert's three matrices once a step, however many rows chose it. Work is cut by expert and by
//! outputs, so that a skewed routing keeps all threads busy.

use super::aligned::Aligned;
use super::route::Routing;
use super::simd::gated::{Gated, Products, multiply_gated, room_len};
use super::simd::groups::{GroupRows, Places};
use super::simd::multiply::{Inputs, PairRows, Segment, SplitForm, multiply};
use super::{Cpu, Form, Weight};
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
    /// `[thread, 2, rows, outputs of a task]`: gate and up.
    halves: Aligned<f32>,
    /// `[N, M]`: what experts take whose down wants no whole numbers.
    product: Aligned<f32>,
    /// `[N, M]`: what the others take.
    products: GroupRows,
    /// `[N, D]`.
    down: Aligned<f32>,
}

/// `[N, max(D, M)]`: inputs, in the forms there are.
#[derive(Default)]
struct InputRoom {
    pairs: PairRows,
    groups: GroupRows,
    plain: Aligned<f32>,
    rounded: Aligned<f32>,
    /// Experts that take one form.
    chosen: Vec<Segment>,
}

/// What a backend's experts may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forms {
    pub(super) pairs: Option<SplitForm>,
    pub(super) has_groups: bool,
    pub(super) rounds: bool,
    pub(super) threads: usize,
}

impl Scratch {
    /// Room for the largest step.
    pub(super) fn new(shape: &ScratchShape, forms: Forms) -> Self {
        let (n, hidden, width) = sizes(shape);
        if n == 0 {
            return Self::default();
        }
        let widest = hidden.max(width);
        let n_group = if forms.has_groups { n } else { 0 };
        Self {
            start: vec![0; shape.n_routed_experts + 1],
            place: vec![0; n],
            origin: vec![0; n],
            segments: Vec::with_capacity(shape.n_routed_experts),
            inputs: InputRoom {
                pairs: forms
                    .pairs
                    .map_or_else(PairRows::default, |form| PairRows::with_room(form, n, widest)),
                groups: GroupRows::with_room(n_group, hidden),
                plain: Aligned::zeros(n * widest),
                rounded: Aligned::zeros(if forms.rounds { n * widest } else { 0 }),
                chosen: Vec::with_capacity(shape.n_routed_experts),
            },
            halves: Aligned::zeros(forms.threads * room_len(shape.step_rows_max)),
            product: Aligned::zeros(n * width),
            products: GroupRows::with_room(n_group, width),
            down: Aligned::zeros(n * hidden),
        }
    }

    /// Bytes of [`Scratch::new`].
    pub(super) fn bytes(shape: &ScratchShape, forms: Forms) -> u64 {
        let (n, hidden, width) = sizes(shape);
        if n == 0 {
            return 0;
        }
        let widest = hidden.max(width);
        let rounded = if forms.rounds { widest } else { 0 };
        let halves = forms.threads * room_len(shape.step_rows_max);
        let floats = n * (widest + rounded + hidden + width) + halves;
        let indices = shape.n_routed_experts * (1 + 2 * size_of::<Segment>() / 4) + 2 * n;
        let pairs = forms.pairs.map_or(0, |form| PairRows::bytes(form, n, widest));
        let n_group = if forms.has_groups { n } else { 0 };
        let groups = GroupRows::bytes(n_group, hidden) + GroupRows::bytes(n_group, width);
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
    products(cpu, &mut scratch, x, weights, (rows, routing.per_row));
    downs(cpu, &mut scratch, &weights.down, rows * routing.per_row);
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

/// Calls `each` for every combination of forms that occurs, with the segments that have it: experts may be stored in several
/// formats.
fn by_forms<F: PartialEq>(
    segments: &[Segment],
    chosen: &mut Vec<Segment>,
    forms: impl Fn(&Segment) -> F,
    mut each: impl FnMut(F, &[Segment]),
) {
    for (i, segment) in segments.iter().enumerate() {
        let of = forms(segment);
        if segments[..i].iter().all(|before| forms(before) != of) {
            chosen.clear();
            chosen.extend(segments[i..].iter().filter(|segment| forms(segment) == of));
            each(of, chosen);
        }
    }
}

/// `silu(gate x) * up x` of every entry, in the form that the expert's down takes.
fn products(
    cpu: &mut Cpu,
    s: &mut Scratch,
    x: &[f32],
    weights: &ExpertWeights<Weight>,
    (rows, per_row): (usize, usize),
) {
    let Some(first) = weights.gate.first() else { return };
    let (hidden, width, n) = (first.dim, first.n_out, rows * per_row);
    let Scratch { segments, inputs, place, origin, halves, product, products, .. } = s;
    let (isa, activations) = (cpu.isa, cpu.activations);
    let forms = |segment: &Segment| {
        let expert = segment.weight as usize;
        let of = |weights: &[Weight]| Form::of(activations, isa, &weights[expert]);
        (of(&weights.gate), of(&weights.up), of(&weights.down) == Form::Groups)
    };
    let row = |row: usize| &x[row * hidden..(row + 1) * hidden];
    let entry = |entry: usize| row(origin[entry] as usize);
    let places = Places { place: &place[..n], each: per_row, input: &origin[..n] };
    let mut chosen = std::mem::take(&mut inputs.chosen);
    by_forms(segments, &mut chosen, forms, |(gate, up, is_groups), chosen| {
        for form in [gate, up] {
            match form {
                // A row's numbers are the same for all its experts.
                Form::Groups => {
                    inputs.groups.fill_places(&mut cpu.pool, isa, places, hidden, row);
                }
                _ => inputs.fill(cpu, form, (n, hidden), entry),
            }
            if up == gate {
                break;
            }
        }
        let gated = Gated {
            gate: (inputs.of(gate, n * hidden), &weights.gate),
            up: (inputs.of(up, n * hidden), &weights.up),
        };
        let out = if is_groups {
            Products::Groups(products, n)
        } else {
            Products::Plain(&mut product[..n * width])
        };
        multiply_gated(&mut cpu.pool, isa, out, gated, chosen, &mut cpu.rooms, halves);
    });
    inputs.chosen = chosen;
}

/// `down product` of every entry.
fn downs(cpu: &mut Cpu, s: &mut Scratch, weights: &[Weight], n: usize) {
    let Some(width) = weights.first().map(|first| first.dim) else { return };
    let Scratch { segments, inputs, product, products, down, .. } = s;
    let (isa, activations) = (cpu.isa, cpu.activations);
    let form = |segment: &Segment| Form::of(activations, isa, &weights[segment.weight as usize]);
    let entry = |entry: usize| &product[entry * width..(entry + 1) * width];
    let mut chosen = std::mem::take(&mut inputs.chosen);
    by_forms(segments, &mut chosen, form, |form, chosen| {
        let inputs = if form == Form::Groups {
            Inputs::Groups(products)
        } else {
            inputs.fill(cpu, form, (n, width), entry);
            inputs.of(form, n * width)
        };
        multiply(&mut cpu.pool, isa, down, inputs, weights, chosen, &mut cpu.rooms);
    });
    inputs.chosen = chosen;
}

impl InputRoom {
    /// Takes `n` inputs of `dim` numbers, in another form than whole numbers.
    fn fill<'x>(
        &mut self,
        cpu: &mut Cpu,
        form: Form,
        (n, dim): (usize, usize),
        entry: impl Fn(usize) -> &'x [f32] + Sync,
    ) {
        let to = match form {
            Form::Split => return self.pairs.fill(&mut cpu.pool, n, dim, entry),
            Form::Rounded(_) => &mut self.rounded[..n * dim],
            Form::Plain | Form::Groups => &mut self.plain[..n * dim],
        };
        let part = |entry: usize| entry * dim..(entry + 1) * dim;
        cpu.pool.run_parts(n * dim, to, &mut cpu.threads, n, part, |i, to, _| {
            to.copy_from_slice(entry(i));
            if let Form::Rounded(parts) = form {
                for x in to {
                    *x = parts.rounded(*x);
                }
            }
        });
    }

    /// What was taken in that form last, `len` numbers.
    fn of(&self, form: Form, len: usize) -> Inputs<'_> {
        match form {
            Form::Split => Inputs::Split(&self.pairs),
            Form::Groups => Inputs::Groups(&self.groups),
            Form::Rounded(_) => Inputs::Plain(&self.rounded[..len]),
            Form::Plain => Inputs::Plain(&self.plain[..len]),
        }
    }
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
