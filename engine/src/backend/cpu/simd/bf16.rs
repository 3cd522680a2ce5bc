//! bf16 matrices as stored: widened, or multiplied as they are with inputs as bf16 numbers.

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::DType;

/// Little-endian bf16.
pub(in super::super) struct Bf16;

impl Stored for Bf16 {
    type Row = *const u8;
    const DTYPE: DType = DType::Bf16;

    #[inline(always)]
    unsafe fn row(matrix: &Matrix, index: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { matrix.row(index) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(row.add(at * 2).cast()) }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: *const u8, at: usize, n: usize) -> L::V {
        let mut lanes = [0u16; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; bytes are copied, so alignment does not matter.
        unsafe {
            std::ptr::copy_nonoverlapping(row.add(at * 2), lanes.as_mut_ptr().cast(), n * 2);
            L::load_bf16(lanes.as_ptr())
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    //! Inputs as bf16 numbers, for `vdpbf16ps`.

    use std::arch::x86_64::{
        __m256bh, __m256i, __m512bh, __m512i, _mm256_storeu_si256, _mm512_cvtneps_pbh,
        _mm512_cvtpbh_ps, _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_sub_ps,
    };
    use std::mem::transmute;

    use super::super::LANES;

    /// Weights of one `vdpbf16ps`.
    const STEP: usize = 32;

    /// One row into values and, unless `lo` is empty, remainders, zero beyond its end. Numbers below 2^-126 count as zero,
    /// as they do in `vdpbf16ps` itself.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16; `hi` is `x.len()` rounded up to a multiple of 32, and `lo` as many or empty.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(in super::super) unsafe fn split_avx512(x: &[f32], hi: &mut [u16], lo: &mut [u16]) {
        assert!(hi.len() == x.len().next_multiple_of(STEP));
        assert!(lo.is_empty() || lo.len() == hi.len());
        let mut k = 0;
        while k < hi.len() {
            let left = x.len().saturating_sub(k).min(LANES);
            let mask = if left == LANES { u16::MAX } else { (1 << left) - 1 };
            // SAFETY: masked lanes are not read, and both outputs have a multiple of 32 places.
            unsafe {
                let value = _mm512_maskz_loadu_ps(mask, x.as_ptr().wrapping_add(k));
                let rounded = _mm512_cvtneps_pbh(value);
                let number = transmute::<__m256bh, __m256i>(rounded);
                _mm256_storeu_si256(hi.as_mut_ptr().add(k).cast(), number);
                if !lo.is_empty() {
                    let rest = _mm512_cvtneps_pbh(_mm512_sub_ps(value, _mm512_cvtpbh_ps(rounded)));
                    let number = transmute::<__m256bh, __m256i>(rest);
                    _mm256_storeu_si256(lo.as_mut_ptr().add(k).cast(), number);
                }
            }
            k += LANES;
        }
    }

    /// Thirty-two numbers.
    ///
    /// # Safety
    /// They are valid, and the processor has AVX-512.
    #[inline(always)]
    pub(in super::super) unsafe fn numbers(at: *const u16) -> __m512bh {
        // SAFETY: the caller's promise.
        unsafe { transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
    }
}
#[cfg(target_arch = "x86_64")]
pub(super) use pairs::{numbers, split_avx512};
