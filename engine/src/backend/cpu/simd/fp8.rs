//! 8-bit float matrices as stored, widened and scaled.

#[cfg(target_arch = "x86_64")]
pub(super) mod pairs;

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::DType;

/// e4m3 with a factor for every block.
pub(in super::super) struct Fp8;

/// A row's bytes and the factors of its block row.
#[derive(Clone, Copy)]
pub(in super::super) struct Row {
    at: *const u8,
    scales: *const u8,
    column_shift: u32,
}

impl Row {
    /// The factor of weight `at`, times the 2^8 that [`Lanes::load_e4m3`] leaves out: exact for factors below 2^120, and no
    /// matrix of numbers has others.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    unsafe fn scale(&self, at: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.scales.cast::<f32>().add(at >> self.column_shift).read_unaligned() * 256.0 }
    }
}

impl Stored for Fp8 {
    type Row = Row;
    const DTYPE: DType = DType::Fp8E4m3;
    const ASKED: usize = 256;

    #[inline(always)]
    unsafe fn row(matrix: &Matrix, index: usize) -> Row {
        let scales = &matrix.scales;
        let block = (matrix.first + index) >> scales.row_shift;
        // SAFETY: the caller's promise; a matrix has factors for all its rows.
        unsafe {
            Row {
                at: matrix.row(index),
                scales: scales.at.add(block * scales.per_row * size_of::<f32>()),
                column_shift: scales.column_shift,
            }
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: Row, at: usize) -> L::V {
        // SAFETY: the caller's promise; sixteen weights lie in one block.
        unsafe { L::mul(L::load_e4m3(row.at.add(at)), L::splat(row.scale(at))) }
    }

    #[inline(always)]
    unsafe fn widen<L: Lanes>(row: Row, at: usize, n: usize, to: *mut f32) {
        let (block, mut k) = (1 << row.column_shift, at);
        // SAFETY: the caller's promise; a block's weights have one factor.
        unsafe {
            while k < at + n {
                let end = (k / block * block + block).min(at + n);
                let scale = L::splat(row.scale(k));
                let whole = k + (end - k) / LANES * LANES;
                let to = to.wrapping_sub(at);
                while k < whole {
                    L::store(to.wrapping_add(k), L::mul(L::load_e4m3(row.at.add(k)), scale));
                    k += LANES;
                }
                if k < end {
                    L::store(to.wrapping_add(k), Self::load_tail::<L>(row, k, end - k));
                    k = end;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: Row, at: usize, n: usize) -> L::V {
        let mut bits = [0u8; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; they lie in one block, as its columns are a multiple of
        // sixteen, and its factor is inside.
        unsafe {
            std::ptr::copy_nonoverlapping(row.at.add(at), bits.as_mut_ptr(), n);
            L::mul(L::load_e4m3(bits.as_ptr()), L::splat(row.scale(at)))
        }
    }
}
