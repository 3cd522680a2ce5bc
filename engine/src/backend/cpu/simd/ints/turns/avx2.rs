//! The same as two AVX2 registers, of rows 0 to 7 and of rows 8 to 15.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi32_si128, _mm_insert_epi32, _mm_loadu_si128, _mm_setr_epi8,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi128_si256, _mm256_castsi256_si128,
    _mm256_cvtph_ps, _mm256_extracti128_si256, _mm256_inserti128_si256, _mm256_packus_epi32,
    _mm256_permute2x128_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32,
    _mm256_set1_epi8, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_shuffle_epi8,
    _mm256_storeu_si256, _mm256_sub_epi8, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::Turns;
use crate::backend::cpu::simd::Avx2;

// SAFETY of every block here: the caller runs on a processor with AVX2, FMA and F16C and hands valid pointers.
impl<const VNNI: bool> Turns for Avx2<VNNI> {
    #[inline(always)]
    unsafe fn byte_minus(v: Self::I, less: u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let less = _mm256_set1_epi8(less as i8);
            (_mm256_sub_epi8(v.0, less), _mm256_sub_epi8(v.1, less))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(at: *mut u8, v: Self::I) {
        // SAFETY: see the impl.
        unsafe {
            let at = at.cast::<__m256i>();
            _mm256_storeu_si256(at, v.0);
            _mm256_storeu_si256(at.add(1), v.1);
        }
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8, stride: usize) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (eight_words(at, stride), eight_words(at.add(8 * stride), stride)) }
    }

    #[inline(always)]
    unsafe fn load_halves_apart(at: *const u8, stride: usize) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            let halves = lower_halves(Self::load_words(at, stride));
            let high = _mm256_extracti128_si256::<1>(halves);
            (_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn store_lower_halves(at: *mut u8, v: Self::I) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(at.cast::<__m256i>(), lower_halves(v)) }
    }

    #[inline(always)]
    unsafe fn bytes_apart(v: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            // In each quarter first, then quarters' words beside each other.
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let order = _mm256_broadcastsi128_si256(order);
            let words = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let first = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v.0, order), words);
            let second = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v.1, order), words);
            let even = _mm256_unpacklo_epi64(first, second);
            let odd = _mm256_unpackhi_epi64(first, second);
            halves_in_turn(even, odd)
        }
    }

    #[inline(always)]
    unsafe fn quarters_in_turn(a: Self::I, b: Self::I) -> [Self::I; 2] {
        // SAFETY: see the impl.
        unsafe { [halves_in_turn(a.0, b.0), halves_in_turn(a.1, b.1)] }
    }

    #[inline(always)]
    unsafe fn load_turned(at: *const u8, stride: usize) -> [Self::I; 4] {
        // SAFETY: see the impl.
        unsafe {
            let [a, b, c, d] = eight_turned(at, stride);
            let [e, f, g, h] = eight_turned(at.add(8 * stride), stride);
            [(a, e), (b, f), (c, g), (d, h)]
        }
    }
}

/// Eight words, `stride` bytes apart.
#[inline(always)]
unsafe fn eight_words(at: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let high = four_words(at.add(4 * stride), stride);
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four_words(at, stride)), high)
    }
}

#[inline(always)]
unsafe fn four_words(at: *const u8, stride: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let one = _mm_cvtsi32_si128(at.cast::<i32>().read_unaligned());
        let two = _mm_insert_epi32::<1>(one, at.add(stride).cast::<i32>().read_unaligned());
        let three = _mm_insert_epi32::<2>(two, at.add(2 * stride).cast::<i32>().read_unaligned());
        _mm_insert_epi32::<3>(three, at.add(3 * stride).cast::<i32>().read_unaligned())
    }
}

/// Sixteen bytes of eight rows, a word of each a vector.
#[inline(always)]
unsafe fn eight_turned(at: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        // Rows `i` and `i + 4` beside each other, then four by four words in each half.
        let (a, b) = (two_rows(at, stride), two_rows(at.add(stride), stride));
        let (c, d) = (two_rows(at.add(2 * stride), stride), two_rows(at.add(3 * stride), stride));
        let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (low_2, high_2) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(low, low_2),
            _mm256_unpackhi_epi64(low, low_2),
            _mm256_unpacklo_epi64(high, high_2),
            _mm256_unpackhi_epi64(high, high_2),
        ]
    }
}

#[inline(always)]
unsafe fn two_rows(at: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(at.cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(at.add(4 * stride).cast()))
    }
}

/// The lower halves of sixteen words.
#[inline(always)]
unsafe fn lower_halves(v: (__m256i, __m256i)) -> __m256i {
    // SAFETY: no memory is touched.
    unsafe {
        let mask = _mm256_set1_epi32(0xffff);
        let (first, second) = (_mm256_and_si256(v.0, mask), _mm256_and_si256(v.1, mask));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(first, second))
    }
}

/// The first sixteen bytes of both, and the second.
#[inline(always)]
unsafe fn halves_in_turn(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    // SAFETY: no memory is touched.
    unsafe { (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)) }
}
