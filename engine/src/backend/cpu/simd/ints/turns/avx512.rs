//! The same with AVX-512.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm_cvtsi32_si128, _mm_insert_epi32, _mm_loadu_si128, _mm_setr_epi8,
    _mm_setzero_si128, _mm256_storeu_si256, _mm512_broadcast_i32x4, _mm512_castsi128_si512,
    _mm512_cvtepi32_epi16, _mm512_cvtph_ps, _mm512_inserti32x4, _mm512_permutex2var_epi64,
    _mm512_permutexvar_epi32, _mm512_set1_epi8, _mm512_setr_epi32, _mm512_setr_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_sub_epi8,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::Turns;
use crate::backend::cpu::simd::Avx512;

// SAFETY of every block here: the caller runs on a processor with these sets and hands valid pointers.
impl Turns for Avx512 {
    #[inline(always)]
    unsafe fn byte_minus(v: __m512i, less: u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_epi8(v, _mm512_set1_epi8(less as i8)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(at: *mut u8, v: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_si512(at.cast::<__m512i>(), v) }
    }

    #[inline(always)]
    unsafe fn load_halves_apart(at: *const u8, stride: usize) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(Self::load_words(at, stride))) }
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8, stride: usize) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            let mut quarters = [_mm_setzero_si128(); 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                let at = at.add(4 * i * stride);
                let word = |at: *const u8| at.cast::<i32>().read_unaligned();
                let one = _mm_cvtsi32_si128(word(at));
                let two = _mm_insert_epi32::<1>(one, word(at.add(stride)));
                let three = _mm_insert_epi32::<2>(two, word(at.add(2 * stride)));
                *quarter = _mm_insert_epi32::<3>(three, word(at.add(3 * stride)));
            }
            let [a, b, c, d] = quarters;
            let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, c), d)
        }
    }

    #[inline(always)]
    unsafe fn store_lower_halves(at: *mut u8, v: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(at.cast::<__m256i>(), _mm512_cvtepi32_epi16(v)) }
    }

    #[inline(always)]
    unsafe fn bytes_apart(v: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            // In each quarter first, then words of quarters.
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let quarters = _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(order));
            let words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(words, quarters)
        }
    }

    #[inline(always)]
    unsafe fn quarters_in_turn(a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: see the impl.
        unsafe {
            let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, second, b)]
        }
    }

    #[inline(always)]
    unsafe fn load_turned(at: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: see the impl.
        unsafe {
            // Rows `i`, `i + 4`, `i + 8`, `i + 12` beside each other, then four by four words in each quarter.
            let mut rows = [_mm512_setzero_si512(); 4];
            for (i, rows) in rows.iter_mut().enumerate() {
                let at = at.add(i * stride);
                let first = _mm512_castsi128_si512(_mm_loadu_si128(at.cast()));
                let two =
                    _mm512_inserti32x4::<1>(first, _mm_loadu_si128(at.add(4 * stride).cast()));
                let three =
                    _mm512_inserti32x4::<2>(two, _mm_loadu_si128(at.add(8 * stride).cast()));
                *rows = _mm512_inserti32x4::<3>(three, _mm_loadu_si128(at.add(12 * stride).cast()));
            }
            let low = _mm512_unpacklo_epi32(rows[0], rows[1]);
            let high = _mm512_unpackhi_epi32(rows[0], rows[1]);
            let low_2 = _mm512_unpacklo_epi32(rows[2], rows[3]);
            let high_2 = _mm512_unpackhi_epi32(rows[2], rows[3]);
            [
                _mm512_unpacklo_epi64(low, low_2),
                _mm512_unpackhi_epi64(low, low_2),
                _mm512_unpacklo_epi64(high, high_2),
                _mm512_unpackhi_epi64(high, high_2),
            ]
        }
    }
}
