//! Few inputs: weights are read where they lie, bound by memory.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::{Block, ROW_BYTES, STEP, TILE, Weights};
use crate::backend::cpu::simd::pair_rows::Parts;
use crate::backend::cpu::simd::prefetch_far;

impl Block<'_> {
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
                // A quarter before each tile: all at once they would keep the tiles' own lines waiting.
                let ask = |quarter: usize| {
                    for line in quarter * TILE / 2..(quarter + 1) * TILE / 2 {
                        let line = k / STEP * 2 * TILE + line;
                        prefetch_far(next.wrapping_add(line * ROW_BYTES));
                    }
                };
                let (upper, lower, row_bytes) = if k < whole {
                    (upper.add(k * 2), lower.add(k * 2), w.row_bytes)
                } else {
                    self.copy_step(copy.cast(), self.outs.clone(), k);
                    (
                        copy.cast::<u8>().cast_const(),
                        copy.add(TILE).cast::<u8>().cast_const(),
                        ROW_BYTES,
                    )
                };
                let at = k / 2 * stride + self.rows.start;
                ask(0);
                load!("tmm4", upper, row_bytes);
                ask(1);
                load!("tmm5", lower, row_bytes);
                ask(2);
                load!("tmm6", self.x.hi.add(at), stride * word);
                ask(3);
                if self.x.parts == Parts::Two {
                    load!("tmm7", self.x.lo.add(at), stride * word);
                    add!("tmm0", "tmm4", "tmm6");
                    add!("tmm2", "tmm5", "tmm6");
                    add!("tmm0", "tmm4", "tmm7");
                    add!("tmm2", "tmm5", "tmm7");
                } else {
                    add!("tmm0", "tmm4", "tmm6");
                    add!("tmm2", "tmm5", "tmm6");
                }
            }
            self.write_few();
        }
    }

    /// Writes the sums of up to 32 outputs: tiles 0 and 2.
    ///
    /// # Safety
    /// As [`Block::few`]; the tiles have them.
    pub(super) unsafe fn write_few(&self) {
        // SAFETY: the caller's promise.
        unsafe {
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
