//! Sixty-four bytes as one AVX-512 register, with VNNI.

use std::arch::x86_64::{
    __m512, __m512i, _mm_cvtsi32_si128, _mm512_add_epi32, _mm512_and_si512, _mm512_castsi512_ps,
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_sll_epi16, _mm512_srl_epi16, _mm512_sub_ps,
};

use super::Ints;
use crate::backend::cpu::simd::{Avx512, ROUNDING, Vectors};

// SAFETY of every block here: the caller runs on a processor with these sets and hands valid pointers.
impl Ints for Avx512 {
    type Bytes = __m512i;

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(at.cast::<__m512i>()) }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        // SAFETY: see the impl. Pairs of bytes are shifted; the mask takes away what crossed.
        unsafe {
            let v = match right {
                0 => v,
                1.. => _mm512_srl_epi16(v, _mm_cvtsi32_si128(right)),
                _ => _mm512_sll_epi16(v, _mm_cvtsi32_si128(-right)),
            };
            _mm512_and_si512(v, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe { Self::dot(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { Self::fma(a, b, c) }
    }
}

impl Avx512 {
    /// Sixteen i32 within 2^22 as f32, exactly, by two additions. While tiles multiply, the second port for 512 bits takes
    /// additions, but neither conversions nor products.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn load_small_ints(at: *const i32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_set1_epi32(ROUNDING.to_bits() as i32);
            let bits = _mm512_add_epi32(bits, _mm512_loadu_si512(at.cast::<__m512i>()));
            _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(ROUNDING))
        }
    }
}
