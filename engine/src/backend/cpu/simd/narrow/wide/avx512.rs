//! Numbers of twelve bits by AVX-512: the same as for `vdpbf16ps`, widened.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_setzero_ps, _mm512_slli_epi32,
};

use super::super::reader::numbers;
use super::{VECTORS, Widens};
use crate::backend::cpu::simd::Avx512;

// SAFETY of every block here: the caller's promise.
impl Widens for Avx512 {
    /// The exponent bits of every code, twice.
    type Table = __m512i;

    #[inline(always)]
    unsafe fn table(at: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(at.cast::<__m512i>()) }
    }

    #[inline(always)]
    unsafe fn numbers(at: *const u8, table: __m512i) -> [__m512; VECTORS] {
        // SAFETY: see the impl. A bf16 is the upper half of its f32.
        unsafe {
            let mut all = [_mm512_setzero_ps(); VECTORS];
            for (i, words) in numbers(at, table).into_iter().enumerate() {
                let first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words));
                let second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(words));
                all[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(first));
                all[2 * i + 1] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(second));
            }
            all
        }
    }
}
