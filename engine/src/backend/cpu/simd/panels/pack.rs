//! Rows into panels, sixteen of them at once: the bytes that `panels::pack` of `quant` writes.
//!
//! Loading a model is little but this, and reading memory, and having the system clear some. A panel's vectors are the
//! stored words of sixteen rows, turned; what formats do to their bits before they are stored is undone in whole vectors.

mod blocks;

use std::ops::Range;

use super::formats::{Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::ints::turns::Turns;
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::quant::DType;
use crate::quant::panels::{Layout, OUTS};
use blocks::Unit;
pub(super) use blocks::{Block, Blocks};

/// Writes sixteen whole rows into `panel`; `false`, and nothing written, when that is left to the plain way.
pub(super) fn pack(isa: Isa, dtype: DType, rows: &[u8], dim: usize, panel: &mut [u8]) -> bool {
    let (Some(layout), Some(row_bytes)) = (Layout::of(dtype), dtype.row_bytes(dim)) else {
        return false;
    };
    let is_whole = rows.len() == OUTS * row_bytes && layout.panel_bytes(dim) == Some(panel.len());
    // Whoever has more has these, which are quick to ask for.
    let set = if isa >= Isa::Avx512Vnni { Isa::Avx512Vnni } else { Isa::Avx2 };
    if !is_whole || isa < set || !set.is_available() || row_bytes == 0 {
        return false;
    }
    let next = rows.as_ptr().wrapping_add(rows.len());
    let (rows, to) = (Sixteen { at: rows.as_ptr(), row_bytes, next }, panel.as_mut_ptr());
    // SAFETY: sixteen rows of whole blocks, a panel of as many units, and a processor with `set`, all seen above.
    unsafe {
        match dtype {
            DType::Q8_0 => rows.pack::<Q8_0>(set, to),
            DType::Q4_0 => rows.pack::<Q4_0>(set, to),
            DType::Q5_0 => rows.pack::<Q5_0>(set, to),
            DType::Q5_1 => rows.pack::<Q5_1>(set, to),
            DType::Q4K => rows.pack::<Q4K>(set, to),
            DType::Q5K => rows.pack::<Q5K>(set, to),
            DType::Q6K => rows.pack::<Q6K>(set, to),
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => return false,
        }
    }
    true
}

/// Sixteen rows of a matrix in blocks.
#[derive(Clone, Copy)]
pub(super) struct Sixteen {
    /// The first row's first block.
    pub(super) at: *const u8,
    pub(super) row_bytes: usize,
    /// What is read after these rows, most often the next sixteen: asked for meanwhile, never read.
    pub(super) next: *const u8,
}

impl Sixteen {
    /// # Safety
    /// The rows are there, of `B`'s whole blocks, and so is a panel for them; the processor has `set`, AVX-512 or AVX2.
    unsafe fn pack<B: Blocks>(&self, set: Isa, panel: *mut u8) {
        let blocks = 0..self.row_bytes / B::DTYPE.block_bytes();
        // SAFETY: the caller's promise.
        unsafe {
            if set == Isa::Avx512Vnni {
                self.pack_avx512::<B>(blocks, panel);
            } else {
                self.pack_avx2::<B>(blocks, panel);
            }
        }
    }

    /// # Safety
    /// As [`Sixteen::pack_blocks`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack_avx512<B: Blocks>(&self, blocks: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.pack_blocks::<Avx512, B>(blocks, panel) }
    }

    /// # Safety
    /// As [`Sixteen::pack_blocks`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pack_avx2<B: Blocks>(&self, blocks: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.pack_blocks::<Avx2, B>(blocks, panel) }
    }

    /// Block number `index` of these rows.
    #[inline(always)]
    pub(super) fn block<B: Blocks>(&self, index: usize) -> Block {
        Block {
            at: self.at.wrapping_add(index * B::BYTES),
            stride: self.row_bytes,
            ahead: self.next.wrapping_add(index * OUTS * B::BYTES),
        }
    }

    /// Writes some blocks, from the first of a unit on, into units from `to` on.
    ///
    /// # Safety
    /// As [`Sixteen::pack`], for these blocks; the processor has `L`.
    #[inline(always)]
    pub(super) unsafe fn pack_blocks<L: Turns, B: Blocks>(
        &self,
        blocks: Range<usize>,
        to: *mut u8,
    ) {
        let layout = B::LAYOUT;
        let (per_unit, parts) = (B::PER_UNIT, B::PARTS);
        let n = blocks.len();
        // SAFETY: the caller's promise: there is a unit for every `per_unit` blocks.
        unsafe {
            if !n.is_multiple_of(per_unit) {
                // Zeros for those that the last unit lacks.
                to.add(n / per_unit * layout.unit_bytes()).write_bytes(0, layout.unit_bytes());
            }
            for i in 0..n {
                let (block, index) = (blocks.start + i, i % per_unit);
                let head = to.add(i / per_unit * layout.unit_bytes());
                let groups = head.add(layout.head_bytes + index * parts * layout.group_bytes);
                B::pack::<L>(self.block::<B>(block), Unit { head, index, groups });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::panels;

    /// Bytes that `seed` decides.
    fn bytes(mut seed: u64, n: usize) -> Vec<u8> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    /// The plain way writes them one row and one word after another.
    #[test]
    fn panels_have_the_same_bytes_as_the_plain_way_writes() {
        for dtype in DType::ALL.into_iter().filter(|dtype| Layout::of(*dtype).is_some()) {
            // One block, an odd number of them, a row as models have it.
            for blocks in [1, 2, 3, 8, 9] {
                let dim = blocks * dtype.block_len();
                let row_bytes = dtype.row_bytes(dim).unwrap();
                let len = Layout::of(dtype).unwrap().panel_bytes(dim).unwrap();
                // Rows end where the allocation does, at an odd address.
                let all = bytes(dim as u64 + 7, OUTS * row_bytes + 1);
                let rows = &all[1..];
                let mut want = vec![0; len];
                panels::pack(dtype, rows, dim, &mut want);
                for isa in
                    Isa::ALL.into_iter().filter(|isa| *isa >= Isa::Avx2 && isa.is_available())
                {
                    let mut panel = vec![0xa5; len];
                    assert!(pack(isa, dtype, rows, dim, &mut panel));
                    assert!(panel == want, "{dtype:?} {dim} {isa:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_whole_panel_is_left_to_the_plain_way() {
        let (dim, mut panel) = (64, vec![7; 16 * 64]);
        let rows = vec![1; 17 * 68];
        for (dtype, n) in [(DType::Q8_0, 15 * 68), (DType::Q8_0, 17 * 68), (DType::F16, 16 * 128)] {
            for isa in Isa::ALL {
                assert!(!pack(isa, dtype, &rows[..n.min(rows.len())], dim, &mut panel));
            }
        }
        assert!(!pack(Isa::Portable, DType::Q8_0, &rows[..16 * 68], dim, &mut panel));
        assert!(panel.iter().all(|byte| *byte == 7));
    }
}
