//! Root-mean-square norm over rows, and the addition that comes before it.

use super::Cpu;

/// Independent sums of squares, added in a fixed tree: the compiler may use vectors and the order stays the same.
const LANES: usize = 16;

/// Rows of one task.
const ROWS: usize = 4;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, one row.
pub(super) fn row(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *sum += x * x;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Every row of `x`, `weight.len()` wide.
pub(super) fn rms_norm(
    cpu: &mut Cpu,
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    rows: usize,
) {
    let dim = weight.len();
    let part = |task: usize| task * ROWS * dim..((task + 1) * ROWS).min(rows) * dim;
    cpu.pool.run_parts(
        2 * rows * dim,
        &mut y[..rows * dim],
        &mut cpu.threads,
        rows.div_ceil(ROWS),
        part,
        |task, y, _| {
            for (y, x) in y.chunks_mut(dim).zip(x[part(task)].chunks(dim)) {
                row(y, x, weight, eps);
            }
        },
    );
}

/// `x += delta`, the first `len` numbers.
pub(super) fn add(cpu: &mut Cpu, x: &mut [f32], delta: &[f32], len: usize) {
    const PART: usize = 16_384;
    let part = |task: usize| task * PART..((task + 1) * PART).min(len);
    cpu.pool.run_parts(
        len,
        &mut x[..len],
        &mut cpu.threads,
        len.div_ceil(PART),
        part,
        |task, x, _| {
            for (x, delta) in x.iter_mut().zip(&delta[part(task)]) {
                *x += delta;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::cpu::testing::{assert_close, assert_same_bits, backend, numbers, ways};

    const EPS: f32 = 1e-6;

    fn oracle(x: &[f32], weight: &[f32]) -> Vec<f64> {
        let norm = |row: &[f32]| {
            let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let scale = (squares / row.len() as f64 + f64::from(EPS)).sqrt();
            row.iter()
                .zip(weight)
                .map(|(x, w)| f64::from(*x) / scale * f64::from(*w))
                .collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(norm).collect()
    }

    #[test]
    fn rows_of_any_width_agree_with_the_oracle() {
        for dim in [1, 3, 15, 16, 17, 63, 65, 100, 576, 1024] {
            let (x, delta, weight) = (numbers(1, 9 * dim), numbers(2, 9 * dim), numbers(3, dim));
            for way in ways() {
                let mut cpu = backend(way, 2);
                let mut x_buf = cpu.vector(&x).unwrap();
                let (delta_buf, weight_buf) =
                    (cpu.vector(&delta).unwrap(), cpu.vector(&weight).unwrap());
                let mut y = cpu.alloc(1, 9 * dim, crate::backend::Role::Inner).unwrap();
                // A chain of squares, a root, a division and two products: some roundings of 2^-24 each.
                let bound = 2f64.powi(-24) * (dim as f64 / 32.0 + 8.0);
                cpu.rms_norm(&mut y, &x_buf, &weight_buf, EPS, 9);
                let want = oracle(&x, &weight);
                assert_close(&y, &want, |i| bound * want[i].abs() + 1e-30);
                cpu.add_rms_norm(&mut y, &mut x_buf, &delta_buf, &weight_buf, EPS, 9);
                let sum: Vec<f32> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
                assert_same_bits(&x_buf, &sum);
                let want = oracle(&sum, &weight);
                assert_close(&y, &want, |i| bound * want[i].abs() + 1e-30);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_threads_and_later_rows_are_left_alone() {
        let dim = 1009;
        let (x, weight) = (numbers(4, 40 * dim), numbers(5, dim));
        let way = ways()[0];
        let run = |threads, rows| {
            let mut cpu = backend(way, threads);
            let (x, weight) = (cpu.vector(&x).unwrap(), cpu.vector(&weight).unwrap());
            let mut y = cpu.vector(&vec![9.0; 40 * dim]).unwrap();
            cpu.rms_norm(&mut y, &x, &weight, EPS, rows);
            y.to_vec()
        };
        let all = run(1, 40);
        for (threads, rows) in [(1, 1), (2, 2), (2, 39), (3, 37), (3, 40)] {
            let got = run(threads, rows);
            assert_same_bits(&got[..rows * dim], &all[..rows * dim]);
            assert!(got[rows * dim..].iter().all(|y| *y == 9.0));
        }
    }
}
