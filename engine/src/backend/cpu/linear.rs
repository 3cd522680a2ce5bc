//! Matrix times rows.
//!
//! Bytes: the matrix once a step, whatever the rows; one row is bound by memory. FLOPs: `2 * rows * n_out * dim`,
//! twice that with inputs in pairs.

use super::simd::multiply::{Inputs, PairRows, Segment, multiply, rounded_to_pair};
use super::{Activations, Cpu, InputScratch, Weight};
use crate::backend::cpu::pool::Pool;
use crate::quant::DType;

/// `y[row] = W x[row]`; `x [rows, dim]`, `y [rows, n_out]`.
pub(super) fn linear(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let takes_bf16 = weight.dtype == DType::Bf16 && cpu.activations == Activations::Bf16;
    let split = takes_bf16 && cpu.splits();
    let Cpu { pool, inputs, isa, .. } = cpu;
    let x = &x[..rows * weight.dim];
    let inputs = match (takes_bf16, split) {
        (false, _) => Inputs::Plain(x),
        (true, true) => Inputs::Split(split_rows(&mut inputs.pairs, pool, x, weight.dim)),
        (true, false) => Inputs::Plain(round_rows(inputs, x)),
    };
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    multiply(pool, *isa, y, inputs, std::slice::from_ref(weight), &all);
}

fn split_rows<'a>(pairs: &'a mut PairRows, pool: &mut Pool, x: &[f32], dim: usize) -> &'a PairRows {
    pairs.fill(pool, x.len() / dim, dim, |row| &x[row * dim..(row + 1) * dim]);
    pairs
}

fn round_rows<'a>(inputs: &'a mut InputScratch, x: &[f32]) -> &'a [f32] {
    let rounded = &mut inputs.rounded[..x.len()];
    rounded.iter_mut().zip(x).for_each(|(rounded, x)| *rounded = rounded_to_pair(*x));
    rounded
}

/// The same product with inputs never rounded: routers, whose choice must not depend on the activation form.
pub(super) fn linear_f32(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    let inputs = Inputs::Plain(&x[..rows * weight.dim]);
    multiply(&mut cpu.pool, cpu.isa, y, inputs, std::slice::from_ref(weight), &all);
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::cpu::testing::{
        Way, assert_close, assert_same_bits, backend, matrix, numbers, product_error, ways, width,
    };
    use crate::quant::DType;

    fn run(way: Way, threads: usize, x: &[f32], rows: usize, weight: &super::Weight) -> Vec<f32> {
        let mut cpu = backend(way, threads);
        let x = cpu.vector(x).unwrap();
        let mut y = cpu.alloc(rows * weight.n_out).unwrap();
        cpu.linear(&mut y, &x, weight, rows);
        y.clone()
    }

    #[track_caller]
    fn check(dtype: DType, n_out: usize, dim: usize, rows: usize) {
        let matrix = matrix(dim as u64, dtype, n_out, dim);
        let x = numbers(7, rows * dim);
        let sums = matrix.product(&x);
        let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
        for way in ways() {
            let got = run(way, 2, &x, rows, &matrix.weight);
            let error = product_error(way, dtype, dim);
            assert_close(&got, &want, |i| error * sums[i].size + 1e-30);
        }
    }

    #[test]
    fn odd_shapes_agree_with_the_oracle() {
        for dtype in DType::ALL {
            let mut dims =
                [1, 3, 15, 16, 17, 31, 32, 33, 63, 65, 100, 576].map(|n| width(dtype, n)).to_vec();
            dims.dedup();
            for dim in dims {
                check(dtype, 1, dim, 1);
                check(dtype, 13, dim, 3);
                check(dtype, 37, dim, 6);
            }
            check(dtype, 131, width(dtype, 576), 9);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
        for dtype in DType::ALL {
            // Large enough that a single row is handed to all threads.
            let (n_out, dim) = (131, width(dtype, 577));
            let matrix = matrix(5, dtype, n_out, dim);
            let x = numbers(9, 33 * dim);
            for way in ways() {
                let alone: Vec<f32> =
                    x.chunks(dim).flat_map(|x| run(way, 1, x, 1, &matrix.weight)).collect();
                for rows in 2..=33 {
                    let got = run(way, 1 + rows % 3, &x[..rows * dim], rows, &matrix.weight);
                    assert_same_bits(&got, &alone[..rows * n_out]);
                }
            }
        }
    }

    #[test]
    fn a_row_of_nan_stays_in_its_row() {
        let matrix = matrix(6, DType::Bf16, 40, 70);
        let mut x = numbers(3, 5 * 70);
        let clean: Vec<Vec<f32>> =
            ways().into_iter().map(|way| run(way, 2, &x, 5, &matrix.weight)).collect();
        x[2 * 70 + 11] = f32::NAN;
        x[3 * 70..4 * 70].fill(f32::INFINITY);
        for (way, clean) in ways().into_iter().zip(clean) {
            let got = run(way, 2, &x, 5, &matrix.weight);
            assert_same_bits(&got[..2 * 40], &clean[..2 * 40]);
            assert!(got[2 * 40..3 * 40].iter().all(|y| y.is_nan()));
            assert!(got[3 * 40..4 * 40].iter().all(|y| !y.is_finite()));
            assert_same_bits(&got[4 * 40..], &clean[4 * 40..]);
        }
    }
}
