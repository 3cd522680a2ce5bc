//! f32 matrices as stored.

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::DType;

/// Little-endian f32.
pub(in super::super) struct F32;

impl Stored for F32 {
    type Row = *const u8;
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    unsafe fn row(matrix: &Matrix, index: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { matrix.row(index) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::load(row.add(at * 4).cast()) }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: *const u8, at: usize, n: usize) -> L::V {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; bytes are copied, so alignment does not matter.
        unsafe {
            std::ptr::copy_nonoverlapping(row.add(at * 4), lanes.as_mut_ptr().cast(), n * 4);
            L::load(lanes.as_ptr())
        }
    }
}
