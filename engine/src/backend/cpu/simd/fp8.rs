//! 8-bit float matrices as stored, widened and scaled in registers.

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::fp8::to_f32;

/// e4m3 with a factor for every block.
pub(in super::super) struct Fp8;

/// A row's bytes and the factors of its block row.
#[derive(Clone, Copy)]
pub(in super::super) struct Row {
    at: *const u8,
    scales: *const u8,
    column_shift: u32,
}

impl Stored for Fp8 {
    type Row = Row;

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
        // SAFETY: the caller's promise.
        unsafe { Self::load_tail::<L>(row, at, LANES) }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: Row, at: usize, n: usize) -> L::V {
        let mut bits = [0u8; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; they lie in one block, as its columns are a multiple of
        // sixteen, and its factor is inside.
        unsafe {
            std::ptr::copy_nonoverlapping(row.at.add(at), bits.as_mut_ptr(), n);
            let scale = row.scales.cast::<f32>().add(at >> row.column_shift).read_unaligned();
            L::load(bits.map(|bits| to_f32(bits) * scale).as_ptr())
        }
    }
}
