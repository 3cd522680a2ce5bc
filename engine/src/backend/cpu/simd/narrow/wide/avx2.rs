//! Numbers of twelve bits by AVX2: exponents are looked up as bytes.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_loadu_si256, _mm256_or_si256, _mm256_packus_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi16,
};

use super::{VECTORS, Widens};
use crate::backend::cpu::simd::Avx2;
use crate::quant::narrow::{REST, VECTOR};

/// Bytes of a register.
const HALF: usize = VECTOR / 2;

// SAFETY of every block here: the caller's promise.
impl<const VNNI: bool> Widens for Avx2<VNNI> {
    /// The exponent of every code as a byte, twice.
    type Table = __m256i;

    #[inline(always)]
    unsafe fn table(at: *const u8) -> __m256i {
        // SAFETY: see the impl. Both halves of a register hold one half of the bytes twice.
        unsafe {
            let exponents = _mm256_srli_epi16::<7>(_mm256_loadu_si256(at.cast::<__m256i>()));
            let bytes = _mm256_packus_epi16(exponents, exponents);
            let bytes = _mm256_permute4x64_epi64::<0b1000>(bytes);
            _mm256_broadcastsi128_si256(_mm256_castsi256_si128(bytes))
        }
    }

    #[inline(always)]
    unsafe fn numbers(at: *const u8, table: __m256i) -> [Self::V; VECTORS] {
        // SAFETY: see the impl.
        unsafe {
            let [first, second] = [half(at, table), half(at.add(HALF), table)];
            [first[0], second[0], first[1], second[1], first[2], second[2], first[3], second[3]]
        }
    }
}

/// Four times sixteen numbers of half of a row of a unit: those of the words from `at` on.
///
/// # Safety
/// As [`Widens`].
#[inline(always)]
unsafe fn half(at: *const u8, table: __m256i) -> [(__m256, __m256); 4] {
    // SAFETY: the caller's promise: half of three vectors.
    unsafe {
        let (first, second) = (in_turns(at), in_turns(at.add(VECTOR)));
        let (codes, nibbles) = (in_turns(at.add(2 * VECTOR)), _mm256_set1_epi8(15));
        let even = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibbles));
        let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibbles);
        let odd = _mm256_shuffle_epi8(table, odd);
        [
            widened(first, lower(even)),
            widened(turned(first), lower(odd)),
            widened(second, upper(even)),
            widened(turned(second), upper(odd)),
        ]
    }
}

/// Sixteen words, the middle quarters of which have changed places: halves of registers are widened by themselves.
///
/// # Safety
/// They are there, and the processor has AVX2.
#[inline(always)]
unsafe fn in_turns(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_loadu_si256(at.cast::<__m256i>())) }
}

/// The exponent bits of the lower bytes' exponents.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn lower(exponents: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_srli_epi16::<1>(_mm256_slli_epi16::<8>(exponents)) }
}

/// The same of the upper bytes'.
///
/// # Safety
/// As [`lower`].
#[inline(always)]
unsafe fn upper(exponents: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(_mm256_srli_epi16::<1>(exponents), _mm256_set1_epi16(!REST as i16)) }
}

/// The two bytes of every word the other way round.
///
/// # Safety
/// As [`lower`].
#[inline(always)]
pub(in super::super) unsafe fn turned(v: __m256i) -> __m256i {
    const ORDER: [u8; HALF] = {
        let (mut order, mut i) = ([0; HALF], 0);
        while i < HALF {
            order[i] = (i as u8 % 16) ^ 1;
            i += 1;
        }
        order
    };
    // SAFETY: the caller's promise; a constant of 32 bytes.
    unsafe { _mm256_shuffle_epi8(v, _mm256_loadu_si256(ORDER.as_ptr().cast::<__m256i>())) }
}

/// Sixteen numbers of the words of [`in_turns`], from signs and mantissas and exponent bits.
///
/// # Safety
/// As [`lower`].
#[inline(always)]
unsafe fn widened(rest: __m256i, exponents: __m256i) -> (__m256, __m256) {
    // SAFETY: the caller's promise. A bf16 is the upper half of its f32.
    unsafe {
        let rest = _mm256_and_si256(rest, _mm256_set1_epi16(REST as i16));
        let (numbers, zero) = (_mm256_or_si256(rest, exponents), _mm256_setzero_si256());
        let first = _mm256_unpacklo_epi16(zero, numbers);
        let second = _mm256_unpackhi_epi16(zero, numbers);
        (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
    }
}
