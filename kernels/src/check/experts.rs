//! `experts.cu` against its formula in f64, in every weight format and tile, and its sort against a sort.

use super::weights::Weight;
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, close, from_bf16, same};
use crate::abi::{
    ExpertMatrices, ExpertsCombineParams, ExpertsDispatchParams, ExpertsDownParams,
    ExpertsGateUpParams,
};
use crate::geometry::experts as geometry;
use crate::geometry::experts::Form;
use crate::{Family, Format, Result};

/// Rows, experts, choices of a row, `D`, `M`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) n: usize,
    pub(super) n_expert: usize,
    pub(super) n_chosen: usize,
    pub(super) d: usize,
    pub(super) m: usize,
}

/// One of everything; tiles that are partly filled, of no pair, and full; widths that no tile fits.
const SHAPES: [Shape; 4] = [
    Shape { n: 1, n_expert: 1, n_chosen: 1, d: 8, m: 8 },
    Shape { n: 3, n_expert: 7, n_chosen: 2, d: 140, m: 20 },
    Shape { n: 40, n_expert: 4, n_chosen: 3, d: 40, m: 136 },
    Shape { n: 70, n_expert: 3, n_chosen: 2, d: 72, m: 33 },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (n, n_chosen, n_expert) in [(1, 1, 1), (1, 8, 256), (33, 3, 5), (700, 8, 384)] {
        for form in Form::ALL {
            let name = format!("dispatch, {n} rows, {n_chosen} of {n_expert}, {form:?}");
            let run = move |bench: &mut Bench<'_>| dispatch(bench, n, n_chosen, n_expert, form);
            checks.push(Check::new(Family::Experts, name, run));
        }
    }
    for format in Format::ALL {
        for form in Form::ALL {
            for shape in SHAPES {
                let name = format!("{format:?} {form:?}, {shape:?}");
                let run = move |bench: &mut Bench<'_>| check(bench, format, form, shape);
                checks.push(Check::new(Family::Experts, name, run));
            }
        }
        let name = format!("{format:?}, a row has its bits in any batch and tile");
        checks.push(Check::new(Family::Experts, name, move |bench| invariant(bench, format)));
    }
    checks
}

/// What dispatch leaves on the card, and where.
struct Dispatched {
    pair: u64,
    expert_start: u64,
    tile: u64,
    touched: u64,
    n_tile_max: u32,
}

/// Different experts for each row, some of them more often than others.
fn choices(random: &mut Random, n: usize, n_chosen: usize, n_expert: usize) -> Vec<u32> {
    let row = |_| {
        let mut chosen: Vec<u32> = Vec::new();
        while chosen.len() < n_chosen {
            let expert = (random.below(n_expert).min(random.below(n_expert))) as u32;
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        chosen
    };
    (0..n).flat_map(row).collect()
}

fn run_dispatch(
    bench: &mut Bench<'_>,
    expert: &[u32],
    n_chosen: usize,
    n_expert: usize,
    form: Form,
) -> Result<Dispatched> {
    let n_tile_max = form.n_tile_max(expert.len() as u32, n_expert as u32);
    let done = Dispatched {
        pair: bench.alloc::<u32>(expert.len())?,
        expert_start: bench.alloc::<u32>(n_expert + 1)?,
        tile: bench.alloc::<u32>(2 * n_tile_max as usize)?,
        touched: bench.upload(&[1000u64])?,
        n_tile_max,
    };
    let params = ExpertsDispatchParams {
        pair: done.pair as *mut _,
        expert_start: done.expert_start as *mut _,
        tile: done.tile as *mut _,
        touched: done.touched as *mut _,
        expert: bench.upload(expert)? as *const _,
        n_row: (expert.len() / n_chosen) as u32,
        n_chosen: n_chosen as u32,
        n_expert: n_expert as u32,
        tile_pairs: form.tile_pairs(),
        n_tile_max,
        unused: 0,
    };
    bench.launch(geometry::dispatch(&params), &params)?;
    Ok(done)
}

fn dispatch(
    bench: &mut Bench<'_>,
    n: usize,
    n_chosen: usize,
    n_expert: usize,
    form: Form,
) -> Result<()> {
    let expert = choices(&mut Random::new(n as u64), n, n_chosen, n_expert);
    let done = run_dispatch(bench, &expert, n_chosen, n_expert, form)?;
    let mut pair: Vec<u32> = (0..expert.len() as u32).collect();
    pair.sort_by_key(|pair| expert[*pair as usize]);
    let before = |e: u32| expert.iter().filter(|expert| **expert < e).count() as u32;
    let expert_start: Vec<u32> = (0..=n_expert as u32).map(before).collect();
    let mut tile = Vec::new();
    for (e, ends) in expert_start.windows(2).enumerate() {
        for first in (ends[0]..ends[1]).step_by(form.tile_pairs() as usize) {
            tile.extend([e as u32, first]);
        }
    }
    let chosen = expert_start.windows(2).filter(|ends| ends[0] < ends[1]).count();
    while tile.len() < 2 * done.n_tile_max as usize {
        tile.extend([u32::MAX, 0]);
    }
    same("pairs", &bench.download::<u32>(done.pair, pair.len())?, &pair)?;
    same("starts", &bench.download(done.expert_start, n_expert + 1)?, &expert_start)?;
    same("tiles", &bench.download(done.tile, tile.len())?, &tile)?;
    same("touched", &bench.download(done.touched, 1)?, &[1000 + chosen as u64])
}

pub(super) struct Case {
    shape: Shape,
    gate: Vec<Weight>,
    up: Vec<Weight>,
    down: Vec<Weight>,
    x: Rows,
    shared: Option<Rows>,
    expert: Vec<u32>,
    weight: Vec<f32>,
}

impl Case {
    pub(super) fn new(format: Format, shape: Shape) -> Self {
        let Shape { n, n_expert, n_chosen, d, m } = shape;
        let random = &mut Random::new((n + d + m) as u64);
        let mut matrices = |n_out, n_in| -> Vec<Weight> {
            (0..n_expert).map(|_| Weight::new(random, format, n_out, n_in)).collect()
        };
        let (gate, up, down) = (matrices(m, d), matrices(m, d), matrices(d, m));
        let x = Rows::normal(random, n, d, d.next_multiple_of(16), 1.0).rounded();
        let shared = Rows::normal(random, n, d, d.next_multiple_of(8) + 8, 1.0).rounded();
        let expert = choices(random, n, n_chosen, n_expert);
        let weight = (0..n * n_chosen).map(|_| 0.5 + 0.4 * random.unit()).collect();
        // A model may have no shared experts.
        let shared = (n != 3).then_some(shared);
        Self { shape, gate, up, down, x, shared, expert, weight }
    }

    /// The same at any size, for a launch that nobody checks. Every expert has as many rows.
    pub(super) fn large(format: Format, shape: Shape) -> Self {
        let Shape { n, n_expert, n_chosen, d, m } = shape;
        let random = &mut Random::new(d as u64);
        let mut matrices = |n_out, n_in| -> Vec<Weight> {
            (0..n_expert).map(|_| Weight::repeated(random, format, n_out, n_in)).collect()
        };
        let (gate, up, down) = (matrices(m, d), matrices(m, d), matrices(d, m));
        let x = Rows::normal(random, n, d, d.next_multiple_of(16), 1.0);
        let expert = (0..n * n_chosen).map(|pair| (pair % n_expert) as u32).collect();
        let weight = vec![0.5; n * n_chosen];
        Self { shape, gate, up, down, x: x.clone(), shared: Some(x), expert, weight }
    }

    /// `y` of the first `n` rows, padding included.
    pub(super) fn run(
        &self,
        bench: &mut Bench<'_>,
        format: Format,
        form: Form,
        n: usize,
    ) -> Result<Vec<u16>> {
        let Shape { n_expert, n_chosen, d, m, .. } = self.shape;
        let n_pair = n * n_chosen;
        let done = run_dispatch(bench, &self.expert[..n_pair], n_chosen, n_expert, form)?;
        let h_stride = m.next_multiple_of(8);
        let d_stride = d.next_multiple_of(8);
        let h = bench.alloc::<u16>(n_pair * h_stride)?;
        let out = bench.alloc::<u16>(n_pair * d_stride)?;
        let y = bench.alloc::<u16>(n * d_stride)?;
        let gate_up = ExpertsGateUpParams {
            gate: upload(bench, &self.gate)?,
            up: upload(bench, &self.up)?,
            h: h as *mut _,
            x: bench.upload(&self.x.as_bf16())? as *const _,
            pair: done.pair as *const _,
            expert_start: done.expert_start as *const _,
            tile: done.tile as *const _,
            n_chosen: n_chosen as u32,
            h_stride: h_stride as u32,
            x_stride: self.x.stride as u32,
            n_tile_max: done.n_tile_max,
        };
        bench.launch(geometry::gate_up(&gate_up, format, form), &gate_up)?;
        let down = ExpertsDownParams {
            down: upload(bench, &self.down)?,
            out: out as *mut _,
            h: h as *const _,
            pair: done.pair as *const _,
            expert_start: done.expert_start as *const _,
            tile: done.tile as *const _,
            out_stride: d_stride as u32,
            h_stride: h_stride as u32,
            n_tile_max: done.n_tile_max,
            unused: 0,
        };
        bench.launch(geometry::down(&down, format, form), &down)?;
        let (shared, shared_stride) = match &self.shared {
            Some(rows) => (bench.upload(&rows.as_bf16())?, rows.stride),
            None => (0, 0),
        };
        let combine = ExpertsCombineParams {
            y: y as *mut _,
            shared: shared as *const _,
            out: out as *const _,
            weight: bench.upload(&self.weight)? as *const _,
            n_row: n as u32,
            n_chosen: n_chosen as u32,
            dim: d as u32,
            y_stride: d_stride as u32,
            shared_stride: shared_stride as u32,
            out_stride: d_stride as u32,
        };
        bench.launch(geometry::combine(&combine), &combine)?;
        bench.download(y, n * d_stride)
    }

    /// A row in f64, and how far roundings of `h` and of each expert's output to bf16 may move it.
    fn oracle(&self, row: usize) -> (Vec<f64>, Vec<f64>) {
        let Shape { n_chosen, d, .. } = self.shape;
        let mut y: Vec<f64> = match &self.shared {
            Some(shared) => shared.row(row).iter().map(|x| f64::from(*x)).collect(),
            None => vec![0.0; d],
        };
        let mut error = vec![0.0; d];
        for pair in row * n_chosen..(row + 1) * n_chosen {
            let (expert, weight) = (self.expert[pair] as usize, f64::from(self.weight[pair]));
            let gate = self.gate[expert].apply(self.x.row(row)).0;
            let up = self.up[expert].apply(self.x.row(row)).0;
            let h: Vec<f64> =
                gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            for (i, row) in self.down[expert].values.chunks(h.len()).enumerate() {
                let terms = row.iter().zip(&h).map(|(w, h)| w * h);
                let (sum, squares) =
                    terms.fold((0.0, 0.0), |(sum, squares), t| (sum + t, squares + t * t));
                y[i] += weight * sum;
                // Each term is off by up to 2^-9 of itself, in one direction or the other, and so is the sum.
                error[i] += weight * (2.0 * f64::sqrt(squares) + sum.abs()) / 512.0;
            }
        }
        (y, error)
    }
}

fn upload(bench: &mut Bench<'_>, weights: &[Weight]) -> Result<ExpertMatrices> {
    let matrices = weights.iter().map(|weight| weight.upload(bench)).collect::<Result<Vec<_>>>()?;
    let quants: Vec<u64> = matrices.iter().map(|matrix| matrix.quants as u64).collect();
    let scales: Vec<u64> = matrices.iter().map(|matrix| matrix.scales as u64).collect();
    Ok(ExpertMatrices {
        quants: bench.upload(&quants)? as *const _,
        scales: bench.upload(&scales)? as *const _,
        n_out: matrices[0].n_out,
        n_in: matrices[0].n_in,
        quant_stride: matrices[0].quant_stride,
        scale_stride: matrices[0].scale_stride,
    })
}

fn check(bench: &mut Bench<'_>, format: Format, form: Form, shape: Shape) -> Result<()> {
    let case = Case::new(format, shape);
    let y = case.run(bench, format, form, shape.n)?;
    for (row, got) in y.chunks(shape.d.next_multiple_of(8)).enumerate() {
        let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
        let (mut want, error) = case.oracle(row);
        want.resize(got.len(), 0.0);
        let worst = error.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        close(&format!("row {row}"), &got, &want, Tolerance::bf16(worst))?;
    }
    Ok(())
}

/// The same rows in both tiles, and as the number of rows chooses one.
fn invariant(bench: &mut Bench<'_>, format: Format) -> Result<()> {
    let shape = Shape { n: 512, n_expert: 6, n_chosen: 2, d: 136, m: 24 };
    let case = Case::new(format, shape);
    let pick = |n| Form::pick(n as u32, shape.n_chosen as u32, shape.n_expert as u32);
    let all = case.run(bench, format, pick(512), 512)?;
    for n in ROW_COUNTS.into_iter().filter(|n| *n < 512) {
        let some = case.run(bench, format, pick(n), n)?;
        same(&format!("{n} rows"), &some, &all[..some.len()])?;
    }
    let few = case.run(bench, format, Form::Few, 70)?;
    same("few pairs a tile", &few, &all[..few.len()])
}
