//! Rows of units by AVX2.

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_andnot_si256, _mm256_blendv_epi8, _mm256_cmpeq_epi16,
    _mm256_cmpgt_epi16, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_packs_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi16, _mm256_setzero_si256,
    _mm256_slli_epi16, _mm256_srli_epi16, _mm256_storeu_si256, _mm256_sub_epi16,
};

use super::{Found, Packs, WORDS};
use crate::backend::cpu::simd::narrow::wide::avx2::turned;
use crate::quant::narrow::{REST, STEP, VECTOR, ZERO};

/// Numbers of a register, half of a vector.
const HALF: usize = WORDS / 2;

/// See [`Packs`].
pub(super) struct Avx2;

impl Packs for Avx2 {
    #[inline(always)]
    unsafe fn part(at: *const i16, n: usize, largest: u16, to: *mut u8) -> Found {
        let mut rest = [0i16; STEP];
        let mut from = at;
        if n < STEP {
            // SAFETY: the caller's promise.
            unsafe {
                std::ptr::copy_nonoverlapping(at.cast::<u8>(), rest.as_mut_ptr().cast(), 2 * n);
            }
            from = rest.as_ptr();
        }
        let mut found = [0; STEP / WORDS];
        // SAFETY: the caller's promise; all 128 numbers are there.
        unsafe {
            for half in 0..2 {
                let mut vectors = [_mm256_setzero_si256(); 3];
                for (quarter, found) in found.iter_mut().enumerate() {
                    let at = from.add(quarter * WORDS + half * HALF).cast::<__m256i>();
                    let (rest, codes, strays) = code(_mm256_loadu_si256(at), largest);
                    *found |= strays << (half * HALF);
                    let rest = if quarter % 2 == 0 { rest } else { turned(rest) };
                    vectors[quarter / 2] = _mm256_or_si256(vectors[quarter / 2], rest);
                    let codes = match quarter {
                        0 => codes,
                        1 => _mm256_slli_epi16::<4>(codes),
                        2 => _mm256_slli_epi16::<8>(codes),
                        _ => _mm256_slli_epi16::<12>(codes),
                    };
                    vectors[2] = _mm256_or_si256(vectors[2], codes);
                }
                for (i, vector) in vectors.into_iter().enumerate() {
                    let to = to.add(i * VECTOR + half * size_of::<__m256i>());
                    _mm256_storeu_si256(to.cast(), vector);
                }
            }
        }
        found
    }
}

/// Signs and mantissas of sixteen numbers, their codes, and which are strays.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn code(numbers: __m256i, largest: u16) -> (__m256i, __m256i, u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = _mm256_setzero_si256();
        let exponents = _mm256_and_si256(_mm256_srli_epi16::<7>(numbers), word(0xff));
        let codes = _mm256_sub_epi16(word(largest), exponents);
        let is_outside = _mm256_or_si256(
            _mm256_cmpgt_epi16(codes, word(ZERO - 1)),
            _mm256_cmpgt_epi16(zero, codes),
        );
        let is_zero = _mm256_cmpeq_epi16(exponents, zero);
        let strays = _mm256_andnot_si256(is_zero, is_outside);
        // A byte of each, in order, and zeros.
        let strays = _mm256_packs_epi16(strays, zero);
        let strays = _mm256_permute4x64_epi64::<0b1101_1000>(strays);
        let strays = _mm256_movemask_epi8(strays) as u32;
        let is_none = _mm256_or_si256(is_outside, is_zero);
        let codes = _mm256_blendv_epi8(codes, word(ZERO), is_none);
        (_mm256_and_si256(numbers, word(REST)), codes, strays)
    }
}

/// # Safety
/// As [`code`].
#[inline(always)]
unsafe fn word(bits: u16) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi16(bits as i16) }
}
