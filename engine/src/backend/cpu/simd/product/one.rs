//! Products with one input: weights are widened where they are multiplied.

use super::many::{BESIDE, Part, ask};
use super::{Product, Way};
use crate::backend::cpu::simd::{LANES, Lanes, Stored, load_tail};

/// Rows of one input side by side: as many sums at once.
const ROWS: usize = 4;
/// One input.
pub(super) struct One;

impl Way for One {
    #[inline(always)]
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize) {
        for out in (0..outs).step_by(ROWS) {
            // SAFETY: the caller's promise.
            unsafe { one::<L, S>(p, out, (outs - out).min(ROWS)) }
        }
    }
}

/// Some outputs of the only input.
///
/// # Safety
/// As [`Way::run`]; there are `n` from `out` on, at most four.
#[inline(always)]
unsafe fn one<L: Lanes, S: Stored>(p: &Product, out: usize, n: usize) {
    let (dim, part) = (p.dim, Part { p, row: 0, n: 1, out, outs: n });
    // SAFETY: the caller's promise. Where there are fewer than four rows the last stands for the others.
    unsafe {
        let (mut rows, mut sums) = ([S::row(&p.w, out); ROWS], [L::splat(0.0); ROWS]);
        for (r, row) in rows.iter_mut().enumerate() {
            *row = S::row(&p.w, out + r.min(n - 1));
        }
        let whole = dim / LANES * LANES;
        for at in (0..whole).step_by(S::ASKED) {
            for r in 0..ROWS {
                ask::<S>(part.place::<S>(r + ROWS, at).wrapping_add(BESIDE), S::ASKED);
            }
            for k in (at..whole.min(at + S::ASKED)).step_by(LANES) {
                let x = L::load(p.x.add(k));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = L::fma(S::load::<L>(row, k), x, *sum);
                }
            }
        }
        if whole < dim {
            let x = load_tail::<L>(p.x.add(whole), dim - whole);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = L::fma(S::load_tail::<L>(row, whole, dim - whole), x, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate().take(n) {
            *p.y.add(out + r) = L::sum(sum);
        }
    }
}
