//! f16 matrices as stored, widened.

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::DType;

/// Little-endian IEEE half precision.
pub(in super::super) struct F16;

impl Stored for F16 {
    type Row = *const u8;
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    unsafe fn row(matrix: &Matrix, index: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { matrix.row(index) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(row.add(at * 2).cast()) }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: *const u8, at: usize, n: usize) -> L::V {
        let mut bits = [0u16; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; bytes are copied, so alignment does not matter.
        unsafe {
            std::ptr::copy_nonoverlapping(row.add(at * 2), bits.as_mut_ptr().cast(), n * 2);
            L::load_f16(bits.as_ptr())
        }
    }
}
