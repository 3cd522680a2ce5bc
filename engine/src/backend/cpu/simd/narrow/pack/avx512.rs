//! Rows of units by AVX-512.

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_cmpeq_epi16_mask, _mm512_cmpgt_epu16_mask,
    _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_maskz_loadu_epi16, _mm512_or_si512,
    _mm512_set1_epi16, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_srli_epi16,
    _mm512_storeu_si512, _mm512_sub_epi16,
};

use super::{Found, Packs, WORDS};
use crate::backend::cpu::simd::narrow::reader::turned;
use crate::quant::narrow::{REST, STEP, VECTOR, ZERO};

/// See [`Packs`].
pub(super) struct Avx512;

impl Packs for Avx512 {
    #[inline(always)]
    unsafe fn part(at: *const i16, n: usize, largest: u16, to: *mut u8) -> Found {
        // SAFETY: the caller's promise; masked numbers are not read.
        unsafe {
            let zero = _mm512_setzero_si512();
            let (mut vectors, mut found) = ([zero; 3], [0; STEP / WORDS]);
            for quarter in 0..STEP / WORDS {
                let n = n.saturating_sub(quarter * WORDS).min(WORDS);
                let from = at.wrapping_add(quarter * WORDS);
                let numbers = if n == WORDS {
                    _mm512_loadu_si512(from.cast::<__m512i>())
                } else {
                    _mm512_maskz_loadu_epi16((1u32 << n) - 1, from)
                };
                let exponents = _mm512_and_si512(_mm512_srli_epi16::<7>(numbers), word(0xff));
                // Below zero is far above any code.
                let codes = _mm512_sub_epi16(word(largest), exponents);
                let is_none = _mm512_cmpgt_epu16_mask(codes, word(ZERO - 1));
                let is_zero = _mm512_cmpeq_epi16_mask(exponents, zero);
                found[quarter] = is_none & !is_zero;
                let codes = _mm512_mask_blend_epi16(is_none | is_zero, codes, word(ZERO));
                let rest = _mm512_and_si512(numbers, word(REST));
                let rest = if quarter % 2 == 0 { rest } else { turned(rest) };
                vectors[quarter / 2] = _mm512_or_si512(vectors[quarter / 2], rest);
                let codes = match quarter {
                    0 => codes,
                    1 => _mm512_slli_epi16::<4>(codes),
                    2 => _mm512_slli_epi16::<8>(codes),
                    _ => _mm512_slli_epi16::<12>(codes),
                };
                vectors[2] = _mm512_or_si512(vectors[2], codes);
            }
            for (i, vector) in vectors.into_iter().enumerate() {
                _mm512_storeu_si512(to.add(i * VECTOR).cast::<__m512i>(), vector);
            }
            found
        }
    }
}

/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn word(bits: u16) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_epi16(bits as i16) }
}
