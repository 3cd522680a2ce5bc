//! Many inputs: weights are asked for, and copied a chunk at a time.

use std::ops::Range;

use super::{Block, CHUNK, ROW_BYTES, STEP, TILE, Weights};
use crate::backend::cpu::simd::prefetch_far;

impl Block<'_> {
    /// A chunk's weights of up to 32 outputs, step after step.
    ///
    /// # Safety
    /// As [`super::product_amx`]; `chunk` is inside.
    #[inline(always)]
    pub(super) unsafe fn copy_chunk(
        &self,
        to: *mut [Weights; CHUNK / STEP],
        outs: Range<usize>,
        chunk: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(narrow) = self.narrow {
                return Self::copy_unit(narrow, to, &outs, chunk / CHUNK);
            }
            let to: *mut Weights = to.cast();
            for (step, k) in (chunk..self.p.dim.min(chunk + CHUNK)).step_by(STEP).enumerate() {
                self.copy_step(to.add(step), outs.clone(), k);
            }
        }
    }

    /// Weights `k..k + 32` of up to 32 outputs as two tiles, zero where there are none.
    ///
    /// # Safety
    /// As [`product_amx`].
    #[inline(always)]
    pub(super) unsafe fn copy_step(&self, to: *mut Weights, outs: Range<usize>, k: usize) {
        let n = (self.p.dim - k).min(STEP);
        let to: *mut [u16; STEP] = to.cast();
        // SAFETY: `n` weights of each output are inside the matrix.
        unsafe {
            for (i, out) in outs.clone().enumerate() {
                let from = self.p.w.row(out).add(k * 2);
                if n == STEP {
                    std::ptr::copy_nonoverlapping(from, to.add(i).cast(), ROW_BYTES);
                } else {
                    let mut row = [0u16; STEP];
                    std::ptr::copy_nonoverlapping(from, row.as_mut_ptr().cast(), n * 2);
                    *to.add(i) = row;
                }
            }
            for i in outs.len()..2 * TILE {
                *to.add(i) = [0; STEP];
            }
        }
    }

    /// Asks for share `part` of `of` of the chunk of weights that begins at `k`: they are copied next.
    pub(super) fn fetch(&self, k: usize, (part, of): (usize, usize)) {
        const LINES: usize = CHUNK / STEP;
        if k >= self.p.dim || self.rows.start > 0 {
            return;
        }
        if let Some(narrow) = self.narrow {
            return narrow.ask_share(
                self.outs.start / TILE..self.outs.end.div_ceil(TILE),
                k / CHUNK,
                (part, of),
            );
        }
        let n = self.outs.len() * LINES;
        for line in n * part / of..n * (part + 1) / of {
            // SAFETY: the row is inside; what is asked for need not be.
            let row = unsafe { self.p.w.row(self.outs.start + line / LINES) };
            prefetch_far(row.wrapping_add(k * 2 + line % LINES * ROW_BYTES));
        }
    }
}
