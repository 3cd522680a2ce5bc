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
