//! Sixty-four bytes as two AVX2 registers.
//!
//! `vpmaddubsw` adds two products of bytes into sixteen bits and cuts what does not fit. Two products of at most 127 * 127
//! fit (32,258); with weights up to 255 the upper bit, 128, goes alone (2 * 128 * 127 = 32,512). AVX-VNNI adds four of any size in
//! 32 bits: the same sums, an operation instead of three.

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_dpbusd_avx_epi32,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mullo_epi32,
    _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_sll_epi16,
    _mm256_srl_epi16,
};

use super::Ints;
use crate::backend::cpu::simd::{Avx2, Lanes};

// SAFETY of every block here: the caller runs on a processor with AVX2, FMA and F16C, and AVX-VNNI where `VNNI`, and hands valid
// pointers.
impl<const VNNI: bool> Ints for Avx2<VNNI> {
    type Bytes = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe {
            let at = at.cast::<__m256i>();
            (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        // SAFETY: see the impl. Pairs of bytes are shifted; the mask takes away what crossed.
        unsafe {
            let (mask, by) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(right.abs()));
            let v = match right {
                0 => v,
                1.. => (_mm256_srl_epi16(v.0, by), _mm256_srl_epi16(v.1, by)),
                _ => (_mm256_sll_epi16(v.0, by), _mm256_sll_epi16(v.1, by)),
            };
            (_mm256_and_si256(v.0, mask), _mm256_and_si256(v.1, mask))
        }
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { (_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            if VNNI {
                return (
                    _mm256_dpbusd_avx_epi32(sum.0, w.0, x),
                    _mm256_dpbusd_avx_epi32(sum.1, w.1, x),
                );
            }
            let one = _mm256_set1_epi16(1);
            let dot =
                |sum, w| _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), one));
            (dot(sum.0, w.0), dot(sum.1, w.1))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            if VNNI {
                return Self::dot(sum, w, x);
            }
            let lower = Self::byte_bits(w, 0, 0x7f);
            let upper = Self::byte_bits(w, 0, 0x80);
            Self::dot(Self::dot(sum, lower, x), upper, x)
        }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { Self::fma(a, b, c) }
    }
}
