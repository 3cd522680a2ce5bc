//! One product per head with what expands latents, inputs always f32: the two ends of absorbed attention.

use std::ops::Range;

use super::simd::multiply::{add_weighted_rows, dot_rows};
use super::{Cpu, Weight};
use crate::backend::{KvB, MlaShape};

/// `y[row, h, c] = sum_n q[row, h, n] * w_uk[h, n, c]`, in the order of `n` (of lanes of `n` where the key half is turned).
pub(super) fn key(
    cpu: &mut Cpu,
    y: &mut [f32],
    q: &[f32],
    kv_b: KvB<&Weight>,
    shape: &MlaShape,
    rows: Range<usize>,
) {
    let (heads, latent) = (shape.n_head, shape.kv_lora_rank);
    let isa = cpu.isa;
    let part = |task: usize| {
        let start = (rows.start * heads + task) * latent;
        start..start + latent
    };
    let work = rows.len() * heads * latent * shape.qk_nope_head_dim;
    cpu.pool.run_parts(work, y, &mut cpu.threads, rows.len() * heads, part, |task, y, _| {
        let (row, head) = (rows.start + task / heads, task % heads);
        let (n, qk) = (shape.qk_nope_head_dim, shape.qk_head_dim());
        let q = &q[(row * heads + head) * qk..][..n];
        let mut add = |weight, first| {
            y.fill(0.0);
            add_weighted_rows(isa, y, q, weight, first);
        };
        match kv_b {
            KvB::Whole(whole) => add(whole, head * (n + shape.v_head_dim)),
            KvB::Apart { key, .. } => add(key, head * qk),
            KvB::Halves { key, .. } => dot_rows(isa, y, q, key, head * latent),
        }
    });
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
    let (heads, latent, width) = (shape.n_head, shape.kv_lora_rank, shape.v_head_dim);
    let isa = cpu.isa;
    let part = |task: usize| {
        let start = (rows.start * heads + task) * width;
        start..start + width
    };
    let work = rows.len() * heads * latent * width;
    cpu.pool.run_parts(work, y, &mut cpu.threads, rows.len() * heads, part, |task, y, _| {
        let (row, head) = (rows.start + task / heads, task % heads);
        let x = &x[(row * heads + head) * latent..][..latent];
        let (n, v) = (shape.qk_nope_head_dim, shape.v_head_dim);
        let (weight, first) = match kv_b {
            KvB::Whole(whole) => (whole, head * (n + v) + n),
            KvB::Apart { value, .. } | KvB::Halves { value, .. } => (value, head * v),
        };
        dot_rows(isa, y, x, weight, first);
    });
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::HeadSide::{Key, Value};
    use crate::backend::cpu::testing::{
        EVEN, Matrix, ODD, Sum, TestKvB, Way, assert_close, assert_same_bits, backend, kv_b_forms,
        matrix, numbers, product_error, ways,
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
            out.extend(terms.iter().map(|terms| Sum {
                value: terms.iter().sum(),
                size: terms.iter().map(|term| term.abs()).sum(),
                ..Sum::default()
            }));
        }
        out
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
        let mut cpu = backend(way, threads);
        let x = cpu.vector(&numbers(11, 6 * x_width)).unwrap();
        let mut y = cpu.vector(&vec![9.0; 6 * y_width]).unwrap();
        cpu.head_linear(&mut y, &x, kv_b.stored(), side, shape, 1..1 + rows);
        y.clone()
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
            let joint = cpu.weight(&tensor).unwrap();
            let x = cpu.vector(&numbers(11, 4 * x_width)).unwrap();
            let (mut one, mut two) =
                (cpu.alloc(4 * y_width).unwrap(), cpu.alloc(4 * y_width).unwrap());
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
                assert_close(&got[width..5 * width], &want, |i| error * sums[i].size);
                assert!(got[..width].iter().chain(&got[5 * width..]).all(|y| *y == 9.0));
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
        for kv_b in [TestKvB::whole, TestKvB::halves].map(|form| form(3, DType::Bf16, &EVEN)) {
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
