//! Sixteen lanes as one AVX-512 register.

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _mm_add_ps, _mm_add_ss, _mm_cmpneq_epi8_mask,
    _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehl_ps, _mm_or_si128, _mm_set1_epi8,
    _mm_shuffle_ps, _mm256_add_ps, _mm256_and_si256, _mm256_castps256_ps128, _mm256_cvtepi8_epi16,
    _mm256_extractf128_ps, _mm256_loadu_si256, _mm256_set1_epi16, _mm256_slli_epi16, _mm512_add_ps,
    _mm512_and_si512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps512_ps256,
    _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_extractf32x8_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_cvtph_ps, _mm512_mask_storeu_ps, _mm512_maskz_set1_epi32,
    _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setr_epi32, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_slli_epi32,
    _mm512_srl_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpacklo_pd,
};

use super::attention::words::transpose;
use super::{E4M3, LANES, Lanes, Vectors};

/// AVX-512 F, BW, DQ, VL.
pub(in super::super) struct Avx512;

// SAFETY of every block here: the caller runs on a processor with these sets and hands valid pointers.
impl Vectors for Avx512 {
    type V = __m512;
    type I = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(at, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u16) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast::<__m256i>())) }
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

// SAFETY of every block here: as above.
impl Lanes for Avx512 {
    type Lower = Self;
    type Upper = Self;

    #[inline(always)]
    unsafe fn store_first(at: *mut f32, v: Self::V, n: usize) {
        // SAFETY: see the impl; lanes that the mask leaves out are not touched.
        unsafe { _mm512_mask_storeu_ps(at, (0xffff_u32 >> (LANES - n.min(LANES))) as u16, v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Self::V {
        // SAFETY: see the impl. A bf16 is the upper half of its f32.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast::<__m256i>()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3(at: *const u8) -> Self::V {
        // SAFETY: see the impl. As f16 with the same bits of exponent and mantissa, a number is 2^-8 of itself, subnormals too.
        unsafe {
            let bytes = _mm_loadu_si128(at.cast::<__m128i>());
            let is_number =
                _mm_cmpneq_epi8_mask(_mm_or_si128(bytes, _mm_set1_epi8(-128)), _mm_set1_epi8(-1));
            let words = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
            let halves = _mm256_and_si256(words, _mm256_set1_epi16(E4M3));
            _mm512_mask_cvtph_ps(_mm512_set1_ps(f32::NAN), is_number, halves)
        }
    }

    #[inline(always)]
    unsafe fn bits(v: Self::I, shift: u32, mask: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let shifted = _mm512_srl_epi32(v, _mm_cvtsi32_si128(shift as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi32(mask))
        }
    }

    #[inline(always)]
    unsafe fn join(high: Self::I, low: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(_mm512_slli_epi32::<4>(high), low) }
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_maskz_set1_epi32(bits as u16, 1) }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(v: &mut [Self::V; LANES]) {
        // SAFETY: see the impl; both are sixteen vectors of 64 bytes.
        unsafe { transpose(&mut *std::ptr::from_mut(v).cast::<[__m512i; LANES]>()) }
    }

    #[inline(always)]
    unsafe fn sum_each(v: &[Self::V; LANES]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        // SAFETY: see the impl.
        unsafe { Self::store(sums.as_mut_ptr(), Self::sum_all(v)) }
        sums
    }
}

impl Avx512 {
    /// [`Lanes::sum_each`]: number `i` is the sum of vector `i`.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn sum_all(v: &[__m512; 16]) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            // Halves added, of two vectors at a time; then quarters of two such, and so on: always the upper onto the lower.
            let (mut eight, mut four) = ([v[0]; 8], [v[0]; 4]);
            for (i, sums) in eight.iter_mut().enumerate() {
                let (a, b) = (v[2 * i], v[2 * i + 1]);
                let (lower, upper) =
                    (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
                *sums = _mm512_add_ps(lower, upper);
            }
            for (i, sums) in four.iter_mut().enumerate() {
                let (a, b) = (eight[2 * i], eight[2 * i + 1]);
                let (lower, upper) =
                    (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                *sums = _mm512_add_ps(lower, upper);
            }
            // Each quarter of `four[i]` is of vector `4 * i` and on. Pairs of a quarter of two of them side by side.
            let mut two = [v[0]; 2];
            for (i, sums) in two.iter_mut().enumerate() {
                let (a, b) = (_mm512_castps_pd(four[2 * i]), _mm512_castps_pd(four[2 * i + 1]));
                let (lower, upper) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                *sums = _mm512_add_ps(_mm512_castpd_ps(lower), _mm512_castpd_ps(upper));
            }
            let [a, b] = two;
            let (lower, upper) = (_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
            // Number `j` of quarter `i` is of vector `4 * j + i`.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_ps(order, _mm512_add_ps(lower, upper))
        }
    }
}
