//! Sixty-four bytes as one AVX-512 register, with VNNI.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm_cvtsi32_si128, _mm_insert_epi32, _mm_loadu_si128, _mm_setr_epi8,
    _mm_setzero_si128, _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_castsi512_ps, _mm512_cvtepi32_epi16,
    _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_inserti32x4, _mm512_loadu_si512,
    _mm512_mullo_epi32, _mm512_or_si512, _mm512_permutex2var_epi64, _mm512_permutexvar_epi32,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_sll_epi16, _mm512_slli_epi32,
    _mm512_srl_epi16, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_epi8, _mm512_sub_ps,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::Ints;
use crate::backend::cpu::simd::{Avx512, Lanes, ROUNDING};

// SAFETY of every block here: the caller runs on a processor with these sets and hands valid pointers.
impl Ints for Avx512 {
    type Bytes = __m512i;

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(at.cast::<__m512i>()) }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        // SAFETY: see the impl. Pairs of bytes are shifted; the mask takes away what crossed.
        unsafe {
            let v = match right {
                0 => v,
                1.. => _mm512_srl_epi16(v, _mm_cvtsi32_si128(right)),
                _ => _mm512_sll_epi16(v, _mm_cvtsi32_si128(-right)),
            };
            _mm512_and_si512(v, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: see the impl.
        unsafe { Self::dot(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { Self::fma(a, b, c) }
    }
}

impl Avx512 {
    /// `v - less` in every byte.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn byte_minus(v: __m512i, less: u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_sub_epi8(v, _mm512_set1_epi8(less as i8)) }
    }

    /// Sixty-four bytes.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn store_bytes(at: *mut u8, v: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(at.cast::<__m512i>(), v) }
    }

    /// Sixteen i32 within 2^22 as f32, exactly, by two additions. While tiles multiply, the second port for 512 bits takes
    /// additions, but neither conversions nor products.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn load_small_ints(at: *const i32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_set1_epi32(ROUNDING.to_bits() as i32);
            let bits = _mm512_add_epi32(bits, _mm512_loadu_si512(at.cast::<__m512i>()));
            _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(ROUNDING))
        }
    }

    /// Sixteen halves, little endian, `stride` bytes apart, widened. Two bytes after each are read, too.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn load_halves_apart(at: *const u8, stride: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(Self::load_words(at, stride))) }
    }

    /// Sixteen words, `stride` bytes apart: one after another, in less time than a gather takes.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn load_words(at: *const u8, stride: usize) -> __m512i {
        // SAFETY: the caller's promise.
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

    /// The upper half of every word in its lower.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn upper_halves(v: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_srli_epi32::<16>(v) }
    }

    /// The lower halves of sixteen words, 32 bytes.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn store_lower_halves(at: *mut u8, v: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(at.cast::<__m256i>(), _mm512_cvtepi32_epi16(v)) }
    }

    /// The bits of every word in another order: bit `4 j + b` becomes bit `j` of byte `b`.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn bits_by_four(v: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let mut all = _mm512_setzero_si512();
            // From the last byte on, so that each moves those before it up.
            for at in [3, 2, 1, 0] {
                // Every fourth bit of the word, closed up to pairs, to fours, to a byte.
                let one = Self::bits(v, at, 0x1111_1111);
                let two = _mm512_or_si512(one, _mm512_srli_epi32::<3>(one));
                let two = Self::bits(two, 0, 0x0303_0303);
                let four = _mm512_or_si512(two, _mm512_srli_epi32::<6>(two));
                let four = Self::bits(four, 0, 0x000f_000f);
                let byte = _mm512_or_si512(four, _mm512_srli_epi32::<12>(four));
                let byte = Self::bits(byte, 0, 0xff);
                all = _mm512_or_si512(_mm512_slli_epi32::<8>(all), byte);
            }
            all
        }
    }

    /// The first bytes of all words, then the second, the third, the fourth.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn bytes_apart(v: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            // In each quarter first, then words of quarters.
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let quarters = _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(order));
            let words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(words, quarters)
        }
    }

    /// Quarters of sixteen bytes of both in turn: `a0 b0 a1 b1`, and `a2 b2 a3 b3`.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn quarters_in_turn(a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, second, b)]
        }
    }

    /// Sixteen bytes of sixteen rows, `stride` bytes apart, turned: bytes `4 i` to `4 i + 3` of all rows are vector `i`.
    ///
    /// # Safety
    /// As [`Ints`].
    #[inline(always)]
    pub(in super::super) unsafe fn load_turned(at: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: the caller's promise.
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
