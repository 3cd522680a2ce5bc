//! Few inputs: weights are read where they lie, bound by memory.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::{Block, OUTS_FEW, ROW_BYTES, STEP, Sums, TILE, Weights};
use crate::backend::cpu::simd::prefetch_far;

/// Adds the products of two tiles of weights with the inputs' values, then with their remainders.
macro_rules! add_both {
    ($sum:literal, $other:literal, $weights:literal, $others:literal) => {
        add!($sum, $weights, "tmm6");
        add!($other, $others, "tmm6");
        add!($sum, $weights, "tmm7");
        add!($other, $others, "tmm7");
    };
}

impl Block<'_> {
    /// [`Block::few`] for [`OUTS_FEW`] outputs: the same sums, more of them at once.
    ///
    /// # Safety
    /// As [`Block::few`].
    pub(super) unsafe fn few_whole(&self) {
        let w = &self.p.w;
        let (word, stride) = (size_of::<u32>(), self.x.stride);
        let whole = self.p.dim / STEP * STEP;
        let mut copy = MaybeUninit::<Weights>::uninit();
        let mut sums = MaybeUninit::<Sums>::uninit();
        let copy: *mut [u16; STEP] = copy.as_mut_ptr().cast();
        let sums: *mut [f32; TILE * TILE] = sums.as_mut_ptr().cast();
        // SAFETY: whole tiles lie inside the matrix; others are copied.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
            asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            let first = w.row(self.outs.start);
            let rows = TILE * w.row_bytes;
            let next = first.wrapping_add(4 * rows);
            for k in (0..self.p.dim).step_by(STEP) {
                for line in 0..OUTS_FEW {
                    prefetch_far(next.wrapping_add((k / STEP * OUTS_FEW + line) * ROW_BYTES));
                }
                let at = k / 2 * stride + self.rows.start;
                load!("tmm6", self.x.hi.add(at), stride * word);
                load!("tmm7", self.x.lo.add(at), stride * word);
                if k < whole {
                    let w = first.add(k * 2);
                    load!("tmm4", w, self.p.w.row_bytes);
                    load!("tmm5", w.add(rows), self.p.w.row_bytes);
                    add_both!("tmm0", "tmm2", "tmm4", "tmm5");
                    load!("tmm4", w.add(2 * rows), self.p.w.row_bytes);
                    load!("tmm5", w.add(3 * rows), self.p.w.row_bytes);
                } else {
                    let (middle, end) = (self.outs.start + 2 * TILE, self.outs.end);
                    self.copy_step(copy.cast(), self.outs.start..middle, k);
                    load!("tmm4", copy, ROW_BYTES);
                    load!("tmm5", copy.add(TILE), ROW_BYTES);
                    add_both!("tmm0", "tmm2", "tmm4", "tmm5");
                    self.copy_step(copy.cast(), middle..end, k);
                    load!("tmm4", copy, ROW_BYTES);
                    load!("tmm5", copy.add(TILE), ROW_BYTES);
                }
                add_both!("tmm1", "tmm3", "tmm4", "tmm5");
            }
            store!("tmm0", sums);
            store!("tmm2", sums.add(1));
            store!("tmm1", sums.add(2));
            store!("tmm3", sums.add(3));
            for tile in 0..4 {
                let out = self.outs.start + tile * TILE;
                self.write(sums.add(tile), out..out + TILE, self.rows.clone());
            }
        }
    }

    /// Up to 32 outputs of up to sixteen inputs, weights read where they lie: bound by memory.
    ///
    /// # Safety
    /// As [`product_amx`]; the tiles are configured.
    pub(super) unsafe fn few(&self) {
        let w = &self.p.w;
        let (word, stride) = (size_of::<u32>(), self.x.stride);
        let n_out = self.outs.len();
        let whole = if n_out == 2 * TILE { self.p.dim / STEP * STEP } else { 0 };
        // SAFETY: whole tiles lie inside the matrix; others are copied.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm2", options(nostack, nomem));
            let (upper, lower) =
                (w.row(self.outs.start), w.row(self.outs.start + TILE.min(n_out - 1)));
            // The outputs after these are neighbours in memory; they are asked for meanwhile.
            let next = upper.wrapping_add(2 * TILE * w.row_bytes);
            let mut copy = MaybeUninit::<Weights>::uninit();
            let copy: *mut [u16; STEP] = copy.as_mut_ptr().cast();
            for k in (0..self.p.dim).step_by(STEP) {
                for line in 0..2 * TILE {
                    prefetch_far(next.wrapping_add((k / STEP * 2 * TILE + line) * ROW_BYTES));
                }
                if k < whole {
                    load!("tmm4", upper.add(k * 2), w.row_bytes);
                    load!("tmm5", lower.add(k * 2), w.row_bytes);
                } else {
                    self.copy_step(copy.cast(), self.outs.clone(), k);
                    load!("tmm4", copy, ROW_BYTES);
                    load!("tmm5", copy.add(TILE), ROW_BYTES);
                }
                let at = k / 2 * stride + self.rows.start;
                load!("tmm6", self.x.hi.add(at), stride * word);
                load!("tmm7", self.x.lo.add(at), stride * word);
                add!("tmm0", "tmm4", "tmm6");
                add!("tmm2", "tmm5", "tmm6");
                add!("tmm0", "tmm4", "tmm7");
                add!("tmm2", "tmm5", "tmm7");
            }
            let mut sums = MaybeUninit::<[[f32; TILE * TILE]; 2]>::uninit();
            let sums: *mut [f32; TILE * TILE] = sums.as_mut_ptr().cast();
            // Of each row as many sums as there are inputs, and no others are read.
            store!("tmm0", sums);
            store!("tmm2", sums.add(1));
            self.write(sums, self.outs.clone(), self.rows.clone());
            self.write(sums.add(1), self.outs.start + TILE..self.outs.end, self.rows.clone());
        }
    }
}
