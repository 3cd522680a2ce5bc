//! Sixty-four bytes as two AVX2 registers, or half of them as one.
//!
//! `vpmaddubsw` adds two products of bytes into sixteen bits and cuts what does not fit. With weights of four bits eight such
//! sums are within 2 * 8 * 15 * 127 = 30,480, so that they are added up there and widened once; of five bits four, of six two.
//! Weights of eight bits are multiplied as sizes, with inputs of their signs: 2 * 128 * 127 = 32,512 fits. AVX-VNNI adds four
//! products of any size in 32 bits: the same sums, an operation instead of three.

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mullo_epi32, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_sll_epi16, _mm256_srl_epi16,
    _mm256_xor_si256,
};

use super::{BYTES, Ints};
use crate::backend::cpu::simd::panels::for_each;
use crate::backend::cpu::simd::{Avx2, Eight, LANES, Vectors};

// SAFETY of every block here: the caller runs on a processor with AVX2, FMA and F16C and hands valid pointers.
impl<const FIRST: usize> Ints for Eight<FIRST> {
    type Bytes = __m256i;

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_si256(at.add(FIRST * (BYTES / LANES)).cast::<__m256i>()) }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        // SAFETY: see the impl. Pairs of bytes are shifted; the mask takes away what crossed.
        unsafe {
            let (mask, by) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(right.abs()));
            let v = match right {
                0 => v,
                1.. => _mm256_srl_epi16(v, by),
                _ => _mm256_sll_epi16(v, by),
            };
            _mm256_and_si256(v, mask)
        }
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe { add_pairs(sum, _mm256_maddubs_epi16(w, four(x))) }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl. The upper bit goes alone: 2 * 128 * 127 fits.
        unsafe {
            let sum = Self::dot(sum, Self::byte_bits(w, 0, 0x7f), x);
            Self::dot(sum, Self::byte_bits(w, 0, 0x80), x)
        }
    }

    const TAKES_SIGNS: bool = true;

    #[inline(always)]
    unsafe fn dots<const C: usize>(
        sums: &mut [Self::I; C],
        numbers: &[Self::Bytes],
        bits: u32,
        x: *const [i8; 4],
        stride: usize,
    ) {
        let n = numbers.len();
        // SAFETY: see the impl.
        unsafe {
            let mut pairs = [_mm256_setzero_si256(); C];
            let run = in_16_bits(bits);
            for_each!(STEP < n, 8, {
                for_each!(ROW < C, 8, {
                    let x = four(x.byte_add(ROW * stride).add(STEP));
                    let two = if bits == 8 {
                        signed_pairs(numbers[STEP], x)
                    } else {
                        _mm256_maddubs_epi16(numbers[STEP], x)
                    };
                    let begins = STEP.is_multiple_of(run);
                    pairs[ROW] = if begins { two } else { _mm256_add_epi16(pairs[ROW], two) };
                    if (STEP + 1).is_multiple_of(run) || STEP + 1 == n {
                        sums[ROW] = add_pairs(sums[ROW], pairs[ROW]);
                    }
                });
            });
        }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { Self::fma(a, b, c) }
    }
}

/// Sums of two products in sixteen bits, of four steps of eight outputs.
#[inline(always)]
unsafe fn pairs_of_eight(w: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
    // SAFETY: no memory is touched.
    unsafe {
        let (a, b) = (_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]));
        let (c, d) = (_mm256_maddubs_epi16(w[2], x[2]), _mm256_maddubs_epi16(w[3], x[3]));
        _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d))
    }
}

/// How many sums of two products of numbers of `bits` bits with 127 at most sixteen bits have room for.
#[inline(always)]
const fn in_16_bits(bits: u32) -> usize {
    match bits {
        4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    }
}

/// Four inputs in all lanes.
#[inline(always)]
unsafe fn four(x: *const [i8; 4]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// Products of numbers whose sign bit is turned with inputs, two of them added.
#[inline(always)]
unsafe fn signed_pairs(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: no memory is touched.
    unsafe {
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

/// `sum` and each lane's two sums of sixteen bits.
#[inline(always)]
unsafe fn add_pairs(sum: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: no memory is touched.
    unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

// SAFETY of every block here: as above; the processor has AVX-VNNI where `VNNI`.
impl<const VNNI: bool> Ints for Avx2<VNNI> {
    type Bytes = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::load_bytes(at), Eight::<8>::load_bytes(at)) }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe {
            (Eight::<0>::byte_bits(v.0, right, mask), Eight::<8>::byte_bits(v.1, right, mask))
        }
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::byte_or(a.0, b.0), Eight::<8>::byte_or(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::splat_int(x), Eight::<8>::splat_int(x)) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            if VNNI {
                let x = four(x);
                return (
                    _mm256_dpbusd_avx_epi32(sum.0, w.0, x),
                    _mm256_dpbusd_avx_epi32(sum.1, w.1, x),
                );
            }
            (Eight::<0>::dot(sum.0, w.0, x), Eight::<8>::dot(sum.1, w.1, x))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            if VNNI {
                return Self::dot(sum, w, x);
            }
            (Eight::<0>::dot_wide(sum.0, w.0, x), Eight::<8>::dot_wide(sum.1, w.1, x))
        }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::mul_int(a.0, b.0), Eight::<8>::mul_int(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { Self::fma(a, b, c) }
    }
}

impl Avx2 {
    /// `numbers . x` in sixteen bits of four vectors of numbers of four bits: two sums of two products a lane. Twice
    /// that fits.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn pairs_of_four(
        numbers: &[(__m256i, __m256i); 4],
        x: *const [i8; 4],
    ) -> (__m256i, __m256i) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = [four(x), four(x.add(1)), four(x.add(2)), four(x.add(3))];
            let [a, b, c, d] = *numbers;
            (pairs_of_eight([a.0, b.0, c.0, d.0], x), pairs_of_eight([a.1, b.1, c.1, d.1], x))
        }
    }

    /// `sum` and both sums of two products of each lane.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn add_two_pairs(
        sum: (__m256i, __m256i),
        a: (__m256i, __m256i),
        b: (__m256i, __m256i),
    ) -> (__m256i, __m256i) {
        // SAFETY: the caller's promise.
        unsafe {
            let both = (_mm256_add_epi16(a.0, b.0), _mm256_add_epi16(a.1, b.1));
            (add_pairs(sum.0, both.0), add_pairs(sum.1, both.1))
        }
    }
}
