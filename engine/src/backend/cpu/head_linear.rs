//! One product per head with what expands latents: the two ends of absorbed attention.
//!
//! Bytes: each head's matrix once, whatever the rows. Halves in blocks take whole-number inputs as other matrices do; all
//! others take f32.

use std::ops::Range;

use super::simd::groups::GroupRows;
use super::simd::heads::{Heads, add_heads, dot_heads, panel_heads};
use super::{Cpu, Form, Weight};
use crate::backend::{KvB, MlaShape, ScratchShape};
use crate::quant::panels;

/// Rows that whole-number inputs are made for at once.
const ROWS: usize = 32;

/// Inputs of all heads as whole numbers.
#[derive(Default)]
pub(super) struct Scratch {
    groups: GroupRows,
}

impl Scratch {
    pub(super) fn new(shape: &ScratchShape) -> Self {
        let (rows, dim) = sizes(shape);
        Self { groups: GroupRows::with_room(rows, dim) }
    }

    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        let (rows, dim) = sizes(shape);
        GroupRows::bytes(rows, dim)
    }
}

/// Inputs, and numbers of the widest.
fn sizes(shape: &ScratchShape) -> (usize, usize) {
    let mla = &shape.mla;
    (ROWS.min(shape.step_rows_max) * mla.n_head, mla.kv_lora_rank.max(mla.qk_nope_head_dim))
}

/// `y[row, h, c] = sum_n q[row, h, n] * w_uk[h, n, c]`, in the order of `n` (of lanes of `n` where the key half is turned).
pub(super) fn key(
    cpu: &mut Cpu,
    y: &mut [f32],
    q: &[f32],
    kv_b: KvB<&Weight>,
    shape: &MlaShape,
    rows: Range<usize>,
) {
    let (n_head, n, latent) = (shape.n_head, shape.qk_nope_head_dim, shape.kv_lora_rank);
    let heads = Heads { n_head, x_dim: shape.qk_head_dim(), y_dim: latent, rows: rows.len() };
    let (x, y) = (&q[rows.start * n_head * heads.x_dim..], &mut y[rows.start * n_head * latent..]);
    match kv_b {
        KvB::Whole(whole) => {
            let first = |head| head * (n + shape.v_head_dim);
            add_heads(&mut cpu.pool, cpu.isa, (y, x), whole, (first, n), heads);
        }
        KvB::Apart { key, .. } => {
            let first = |head| head * shape.qk_head_dim();
            add_heads(&mut cpu.pool, cpu.isa, (y, x), key, (first, n), heads);
        }
        KvB::Halves { key, .. } => half(cpu, y, x, key, heads),
    }
}

/// `y[row, h, v] = sum_c o_latent[row, h, c] * w_uv[h, v, c]`.
pub(super) fn value(
    cpu: &mut Cpu,
    y: &mut [f32],
    x: &[f32],
    kv_b: KvB<&Weight>,
    shape: &MlaShape,
    rows: Range<usize>,
) {
    let (n_head, n, v) = (shape.n_head, shape.qk_nope_head_dim, shape.v_head_dim);
    let heads = Heads { n_head, x_dim: shape.kv_lora_rank, y_dim: v, rows: rows.len() };
    let (x, y) = (&x[rows.start * n_head * heads.x_dim..], &mut y[rows.start * n_head * v..]);
    match kv_b {
        KvB::Whole(whole) => {
            let first = |head| head * (n + v) + n;
            dot_heads(&mut cpu.pool, cpu.isa, (y, x), whole, first, heads);
        }
        KvB::Apart { value, .. } => {
            dot_heads(&mut cpu.pool, cpu.isa, (y, x), value, |head| head * v, heads);
        }
        KvB::Halves { value, .. } => half(cpu, y, x, value, heads),
    }
}

/// Heads' matrices one below the other.
fn half(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, heads: Heads) {
    let is_whole_panels = heads.y_dim.is_multiple_of(panels::OUTS);
    if cpu.form(weight) != Form::Groups || !is_whole_panels {
        let first = |head| head * heads.y_dim;
        return dot_heads(&mut cpu.pool, cpu.isa, (y, x), weight, first, heads);
    }
    let Cpu { pool, isa, rooms, heads: Scratch { groups }, .. } = cpu;
    for start in (0..heads.rows).step_by(ROWS) {
        let heads = Heads { rows: ROWS.min(heads.rows - start), ..heads };
        let x = &x[start * heads.n_head * heads.x_dim..];
        groups.fill(pool, *isa, heads.rows * heads.n_head, weight.dim, |i| {
            &x[i * heads.x_dim..(i + 1) * heads.x_dim]
        });
        let y = &mut y[start * heads.n_head * heads.y_dim..];
        panel_heads(pool, *isa, (y, groups), weight, heads, rooms);
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::HeadSide::{Key, Value};
    use crate::backend::cpu::Activations;
    use crate::backend::cpu::testing::{
        EVEN, Matrix, ODD, Sum, TestKvB, Way, assert_close, assert_same_bits, backend, backend_for,
        kv_b_forms, matrix, numbers, product_error, ways,
    };
    use crate::backend::{HeadSide, KvB, MlaShape};
    use crate::checkpoint::{Bytes, Tensor};
    use crate::quant::DType;

    /// Numbers a row takes in and gives out.
    fn widths(side: HeadSide, shape: &MlaShape) -> (usize, usize) {
        match side {
            Key => (shape.n_head * shape.qk_head_dim(), shape.n_head * shape.kv_lora_rank),
            Value => (shape.n_head * shape.kv_lora_rank, shape.n_head * shape.v_head_dim),
        }
    }

    fn oracle(side: HeadSide, shape: &MlaShape, kv_b: &Matrix, x: &[f32]) -> Vec<Sum> {
        let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let mut out = Vec::new();
        for head in 0..shape.n_head {
            let w = |i: usize, j: usize| kv_b.values[(head * (n + v) + i) * c + j];
            let terms: Vec<Vec<f64>> = match side {
                Key => (0..c)
                    .map(|j| {
                        let q = &x[head * shape.qk_head_dim()..];
                        (0..n).map(|i| f64::from(q[i]) * w(i, j)).collect()
                    })
                    .collect(),
                Value => (0..v)
                    .map(|i| (0..c).map(|j| f64::from(x[head * c + j]) * w(n + i, j)).collect())
                    .collect(),
            };
            let x = match side {
                Key => &x[head * shape.qk_head_dim()..][..n],
                Value => &x[head * c..][..c],
            };
            out.extend(terms.iter().map(|terms| Sum {
                value: terms.iter().sum(),
                size: terms.iter().map(|term| term.abs()).sum(),
                steps: steps(terms, x),
            }));
        }
        out
    }

    /// See [`Sum::steps`].
    fn steps(terms: &[f64], x: &[f32]) -> f64 {
        let step = |(terms, x): (&[f64], &[f32])| {
            let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let each = terms.iter().zip(x).filter(|(_, x)| **x != 0.0);
            each.map(|(term, x)| (term / f64::from(*x)).abs() * f64::from(largest) / 254.0)
                .sum::<f64>()
        };
        terms.chunks(32).zip(x.chunks(32)).map(step).sum()
    }

    fn run(
        way: Way,
        threads: usize,
        side: HeadSide,
        shape: &MlaShape,
        kv_b: &TestKvB,
        rows: usize,
    ) -> Vec<f32> {
        let (x_width, y_width) = widths(side, shape);
        let mut cpu = backend_for(way, threads, *shape).0;
        let x = cpu.vector(&numbers(11, 6 * x_width)).unwrap();
        let mut y = cpu.vector(&vec![9.0; 6 * y_width]).unwrap();
        let panels = kv_b.in_panels(&mut cpu).filter(|_| way.activations == Activations::Int8);
        cpu.head_linear(&mut y, &x, kv_b.stored(), side, shape, 1..1 + rows);
        if let Some(panels) = panels {
            let mut packed = cpu.vector(&vec![9.0; 6 * y_width]).unwrap();
            cpu.head_linear(&mut packed, &x, panels.as_ref(), side, shape, 1..1 + rows);
            assert_same_bits(&packed, &y);
        }
        y.to_vec()
    }

    #[test]
    fn two_matrices_give_what_one_of_both_gives() {
        let (n, v, c, r) =
            (ODD.qk_nope_head_dim, ODD.v_head_dim, ODD.kv_lora_rank, ODD.qk_rope_head_dim);
        let (k_up, v_up) = (
            matrix(3, DType::F32, ODD.n_head * (n + r), c),
            matrix(4, DType::F32, ODD.n_head * v, c),
        );
        // The same rows in one matrix; the rotary rows of `k_up` are in neither sum.
        let rows = |head: usize| {
            let key = &k_up.values[head * (n + r) * c..][..n * c];
            [key, &v_up.values[head * v * c..][..v * c]].concat()
        };
        let joint: Vec<f64> = (0..ODD.n_head).flat_map(rows).collect();
        let bytes = joint.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        let shape = vec![ODD.n_head * (n + v), c];
        let tensor = Tensor {
            name: "joint".into(),
            dtype: DType::F32,
            shape,
            bytes: Bytes::owned(bytes),
            scales: None,
        };
        for (way, side) in ways().into_iter().flat_map(|way| [(way, Key), (way, Value)]) {
            let (x_width, y_width) = widths(side, &ODD);
            let mut cpu = backend(way, 2);
            let joint = cpu.weight(&tensor, crate::backend::Use::Product).unwrap();
            let x = cpu.vector(&numbers(11, 4 * x_width)).unwrap();
            let (mut one, mut two) = (
                cpu.alloc(1, 4 * y_width, crate::backend::Role::Inner).unwrap(),
                cpu.alloc(1, 4 * y_width, crate::backend::Role::Inner).unwrap(),
            );
            cpu.head_linear(&mut one, &x, KvB::Whole(&joint), side, &ODD, 0..4);
            let apart = KvB::Apart { key: &k_up.weight, value: &v_up.weight };
            cpu.head_linear(&mut two, &x, apart, side, &ODD, 0..4);
            assert_same_bits(&two, &one);
        }
    }

    #[test]
    fn both_halves_agree_with_the_oracle_in_the_rows_given() {
        for (shape, dtype, kv_b) in kv_b_forms(3) {
            for (way, side) in ways().into_iter().flat_map(|way| [(way, Key), (way, Value)]) {
                let (x_width, width) = widths(side, &shape);
                let got = run(way, 2, side, &shape, &kv_b, 4);
                let x = numbers(11, 6 * x_width);
                let sums: Vec<Sum> = (1..5)
                    .flat_map(|row| oracle(side, &shape, &kv_b.whole, &x[row * x_width..]))
                    .collect();
                let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
                // The key half is one chain of `n` roundings a number.
                let plain = if dtype == DType::Bf16 { DType::F32 } else { dtype };
                let error = product_error(way, plain, 16 * shape.qk_head_dim());
                let is_whole = way.is_whole(dtype)
                    && matches!(kv_b.stored(), KvB::Halves { .. })
                    && (width / shape.n_head).is_multiple_of(16);
                let steps = if is_whole { 1.0 } else { 0.0 };
                let bound = |i: usize| error * sums[i].size + steps * sums[i].steps;
                assert_close(&got[width..5 * width], &want, bound);
                assert!(got[..width].iter().chain(&got[5 * width..]).all(|y| *y == 9.0));
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
        let forms = [TestKvB::whole, TestKvB::halves].map(|form| form(3, DType::Bf16, &EVEN));
        for kv_b in forms.into_iter().chain([TestKvB::halves(3, DType::Q4_0, &EVEN)]) {
            for (way, side) in ways().into_iter().flat_map(|way| [(way, Key), (way, Value)]) {
                let width = widths(side, &EVEN).1;
                let all = run(way, 1, side, &EVEN, &kv_b, 5);
                for (threads, rows) in [(1, 1), (2, 1), (2, 4), (3, 5)] {
                    let got = run(way, threads, side, &EVEN, &kv_b, rows);
                    let part = width..(1 + rows) * width;
                    assert_same_bits(&got[part.clone()], &all[part]);
                }
            }
        }
    }
}
