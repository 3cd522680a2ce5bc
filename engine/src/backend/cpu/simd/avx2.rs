//! Sixteen lanes as two AVX registers, with FMA.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_cvtsi32_si128, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_epi32,
    _mm256_add_ps, _mm256_and_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmpeq_epi16, _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srl_epi32, _mm256_srlv_epi32,
    _mm256_storeu_ps,
};

use super::{E4M3, Lanes};

/// AVX2, FMA and F16C; with AVX-VNNI where `VNNI` says so, for whole numbers.
pub(in super::super) struct Avx2<const VNNI: bool = false>;

// SAFETY of every block here: the caller runs on a processor with AVX2, FMA and F16C and hands valid pointers.
impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type V = (__m256, __m256);
    type I = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(at, v.0);
            _mm256_storeu_ps(at.add(8), v.1);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Self::V {
        // SAFETY: see the impl. A bf16 is the upper half of its f32.
        unsafe {
            let widen = |at: *const u16| {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast::<__m128i>()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            };
            (widen(at), widen(at.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u16) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            let widen = |at: *const u16| _mm256_cvtph_ps(_mm_loadu_si128(at.cast::<__m128i>()));
            (widen(at), widen(at.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3(at: *const u8) -> Self::V {
        // SAFETY: see the impl. As f16 with the same bits of exponent and mantissa, a number is 2^-8 of itself, subnormals too.
        unsafe {
            let bytes = _mm_loadu_si128(at.cast::<__m128i>());
            let words = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
            let size = _mm256_set1_epi16(E4M3 & i16::MAX);
            // All bits set is NaN.
            let is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(words, size), size);
            let halves = _mm256_and_si256(words, _mm256_set1_epi16(E4M3));
            let halves = _mm256_or_si256(halves, is_nan);
            let (low, high) =
                (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self::I {
        // SAFETY: see the impl. Eight bytes each are read.
        unsafe {
            let widen = |at: *const u8| _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast::<__m128i>()));
            (widen(at), widen(at.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> Self::I {
        // SAFETY: see the impl. Eight bytes each are read.
        unsafe {
            let widen = |at: *const u8| _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast::<__m128i>()));
            (widen(at), widen(at.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn bits(v: Self::I, shift: u32, mask: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi32(mask));
            let bits = |v| _mm256_and_si256(_mm256_srl_epi32(v, shift), mask);
            (bits(v.0), bits(v.1))
        }
    }

    #[inline(always)]
    unsafe fn join(high: Self::I, low: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let join = |high, low| _mm256_or_si256(_mm256_slli_epi32::<4>(high), low);
            (join(high.0, low.0), join(high.1, low.1))
        }
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let (bits, one) = (_mm256_set1_epi32(bits as i32), _mm256_set1_epi32(1));
            let spread = |places| _mm256_and_si256(_mm256_srlv_epi32(bits, places), one);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            (spread(low), spread(_mm256_add_epi32(low, _mm256_set1_epi32(8))))
        }
    }

    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let eight = _mm256_add_ps(v.0, v.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
