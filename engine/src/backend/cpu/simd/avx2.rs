//! Sixteen lanes as two AVX registers, with FMA.

use std::arch::x86_64::{
    __m128i, __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehl_ps,
    _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_cvtepu16_epi32, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::Lanes;

/// AVX2 and FMA.
pub(in super::super) struct Avx2;

// SAFETY of every block here: the caller runs on a processor with AVX2 and FMA and hands valid pointers.
impl Lanes for Avx2 {
    type V = (__m256, __m256);

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
