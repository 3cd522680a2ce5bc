//! Matrices turned round, `[k, n_out]`, and products with them: outputs are lanes, so that a sum is one chain in the order of `k`
//! and nothing has to be added across lanes.
//!
//! `n` products of rows as they lie end in a tree for each output; these do not, and read a number of each input instead of
//! sixteen for each step. Who has a matrix for many rows turns it once (attention of prompts: 93 % of `vfmadd` instead of 65).

use super::rows::Rows;
use super::sums::{Sums, sums};
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{LANES, Lanes, Matrix, Portable, load_tail};
use crate::backend::cpu::Isa;

/// Numbers of `k` that are multiplied before the next: these and all rows' numbers of them stay in the first-level cache.
const K_BLOCK: usize = 64;

/// Outputs side by side, in registers.
const COLUMNS: usize = 4 * LANES;

/// `y[row, out] = sum_k x[row, k] * w[k, out]` for all rows of `x` and the first `n_out` outputs; rows of `y` are `y_stride`
/// apart. All are f32.
///
/// # Panics
/// When anything is outside: a bug of the caller.
pub(in super::super) fn product(
    isa: Isa,
    (y, y_stride): (&mut [f32], usize),
    x: Rows<'_>,
    w: Rows<'_>,
    n_out: usize,
) {
    let (n, dim) = (x.n(), w.n());
    let ((x, x_bytes), (w, w_bytes)) = (x.columns(0, dim).f32_at(), w.columns(0, n_out).f32_at());
    assert!(n == 0 || y.len() >= (n - 1) * y_stride + n_out, "outputs outside");
    for out in (0..n_out).step_by(COLUMNS) {
        for k in (0..dim).step_by(K_BLOCK) {
            let rows = w.wrapping_byte_add(k * w_bytes).wrapping_add(out);
            let p = Sums {
                rows: Matrix::f32(rows, w_bytes),
                n: (dim - k).min(K_BLOCK),
                dim: (n_out - out).min(COLUMNS),
                adds: k > 0,
                a: x.wrapping_add(k),
                a_stride: x_bytes / size_of::<f32>(),
                y: y[out..].as_mut_ptr(),
                y_stride,
            };
            // SAFETY: lengths checked above and when rows were made; `y` is exclusive; `isa` was checked when the backend
            // was made.
            unsafe { sums(isa, &p, n) }
        }
    }
}

/// Rows of f32 turned round: number `k` of row `i` goes to `to[k * stride + i]`.
///
/// # Panics
/// When there is no room: a bug of the caller.
pub(in super::super) fn turn(isa: Isa, from: Rows<'_>, to: &mut [f32], stride: usize) {
    let (n, dim) = (from.n(), from.dim());
    assert!(n <= stride && (dim == 0 || to.len() >= (dim - 1) * stride + n), "no room");
    let (at, row_bytes) = from.f32_at();
    let turn = Turn { from: at, row_bytes, to: to.as_mut_ptr(), stride, n, dim };
    // SAFETY: lengths checked above and when the rows were made; `isa` was checked when the backend was made.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2(&turn),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512(&turn),
            _ => all::<Portable>(&turn),
        }
    }
}

/// What [`turn`] does, as pointers.
struct Turn {
    from: *const f32,
    row_bytes: usize,
    to: *mut f32,
    stride: usize,
    n: usize,
    dim: usize,
}

/// # Safety
/// Of these three: pointers cover their shapes, and the processor has the instruction set.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(turn: &Turn) {
    // SAFETY: the caller's promise.
    unsafe { all::<Avx2>(turn) }
}

/// # Safety
/// As [`avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(turn: &Turn) {
    // SAFETY: the caller's promise.
    unsafe { all::<Avx512>(turn) }
}

/// # Safety
/// As [`avx2`].
#[inline(always)]
unsafe fn all<L: Lanes>(turn: &Turn) {
    for row in (0..turn.n).step_by(LANES) {
        for k in (0..turn.dim).step_by(LANES) {
            // SAFETY: the caller's promise; both are inside.
            unsafe { block::<L>(turn, row, k) }
        }
    }
}

/// Sixteen rows' sixteen numbers, or as many as there are.
///
/// # Safety
/// As [`avx2`].
#[inline(always)]
unsafe fn block<L: Lanes>(turn: &Turn, row: usize, k: usize) {
    let (n, dim) = ((turn.n - row).min(LANES), (turn.dim - k).min(LANES));
    // SAFETY: the caller's promise: rows below `n`, numbers below `dim`.
    unsafe {
        let mut v = [L::splat(0.0); LANES];
        for (i, v) in v.iter_mut().enumerate().take(n) {
            let at = turn.from.wrapping_byte_add((row + i) * turn.row_bytes).wrapping_add(k);
            *v = if dim == LANES { L::load(at) } else { load_tail::<L>(at, dim) };
        }
        L::transpose(&mut v);
        for (i, v) in v.iter().enumerate().take(dim) {
            L::store_first(turn.to.add((k + i) * turn.stride + row), *v, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::{assert_close, numbers, ways};

    #[test]
    fn turned_rows_have_every_number_in_its_place() {
        for way in ways() {
            for (n, dim) in [(1, 1), (16, 16), (17, 33), (64, 40), (5, 512), (128, 7)] {
                let from = numbers(3, n * dim);
                let (stride, mut to) = (n + 3, vec![9.0; dim * (n + 3)]);
                turn(way.isa, Rows::f32(&from, n, dim), &mut to, stride);
                for (k, line) in to.chunks(stride).enumerate() {
                    for (i, x) in line.iter().enumerate() {
                        let want = if i < n { from[i * dim + k] } else { 9.0 };
                        assert_eq!(x.to_bits(), want.to_bits(), "{n} x {dim}: row {i}, {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_agree_with_f64_and_leave_what_is_beside() {
        for way in ways() {
            for (n, dim, n_out, all) in
                [(1, 1, 1, 1), (3, 33, 16, 20), (64, 576, 128, 128), (9, 70, 97, 100)]
            {
                let (x_stride, y_stride) = (dim + 5, n_out + 2);
                let (x, w) = (numbers(4, n * x_stride), numbers(5, dim * all));
                let mut y = vec![9.0; n * y_stride];
                let from = Rows::f32(&x, n, x_stride);
                product(way.isa, (&mut y, y_stride), from, Rows::f32(&w, dim, all), n_out);
                let want: Vec<f64> = (0..n * y_stride)
                    .map(|i| match (i / y_stride, i % y_stride) {
                        (_, out) if out >= n_out => 9.0,
                        (row, out) => (0..dim)
                            .map(|k| f64::from(x[row * x_stride + k]) * f64::from(w[k * all + out]))
                            .sum(),
                    })
                    .collect();
                // A chain of up to 576 products of numbers below one.
                assert_close(&y, &want, |_| 1e-4);
            }
        }
    }
}
