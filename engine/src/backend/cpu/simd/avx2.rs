//! Sixteen lanes as two AVX registers, or eight of them as one, with FMA.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_cvtsi32_si128, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_epi32,
    _mm256_add_ps, _mm256_and_si256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmpeq_epi16, _mm256_cvtepi8_epi16,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_or_si256, _mm256_permute2f128_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_shuffle_ps, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srl_epi32,
    _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps,
    _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

use super::{E4M3, LANES, Lanes, Vectors};

/// AVX2, FMA and F16C; with AVX-VNNI where `VNNI` says so, for whole numbers.
pub(in super::super) struct Avx2<const VNNI: bool = false>;

/// Eight of sixteen lanes, from lane `FIRST` on: 0 or 8. Pointers are to all sixteen.
pub(in super::super) struct Eight<const FIRST: usize>;

// SAFETY of every block here: the caller runs on a processor with AVX2, FMA and F16C and hands valid pointers.
impl<const FIRST: usize> Vectors for Eight<FIRST> {
    type V = __m256;
    type I = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(at.add(FIRST)) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_ps(at.add(FIRST), v) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u16) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.add(FIRST).cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self::I {
        // SAFETY: see the impl. Eight bytes are read.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(FIRST).cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> Self::I {
        // SAFETY: see the impl. Eight bytes are read.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(FIRST).cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
}

// SAFETY of every block here: as above.
impl<const VNNI: bool> Vectors for Avx2<VNNI> {
    type V = (__m256, __m256);
    type I = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::splat(x), Eight::<8>::splat(x)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::load(at), Eight::<8>::load(at)) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: see the impl.
        unsafe {
            Eight::<0>::store(at, v.0);
            Eight::<8>::store(at, v.1);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u16) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::load_f16(at), Eight::<8>::load_f16(at)) }
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::load_u8(at), Eight::<8>::load_u8(at)) }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::load_i8(at), Eight::<8>::load_i8(at)) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::to_f32(v.0), Eight::<8>::to_f32(v.1)) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::mul(a.0, b.0), Eight::<8>::mul(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { (Eight::<0>::fma(a.0, b.0, c.0), Eight::<8>::fma(a.1, b.1, c.1)) }
    }
}

// SAFETY of every block here: as above.
impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type Lower = Eight<0>;
    type Upper = Eight<8>;
    const IS_TWO: bool = true;

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
    unsafe fn load_e4m3(at: *const u8) -> Self::V {
        // SAFETY: see the impl. As f16 with the same bits of exponent and mantissa, a number is 2^-8 of itself, subnormals too.
        unsafe {
            let bytes = _mm_loadu_si128(at.cast::<__m128i>());
            let words = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
            let size = _mm256_set1_epi16(E4M3 & i16::MAX);
            // All bits set is NaN.
            let is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(words, size), size);
            let halves = _mm256_and_si256(words, _mm256_set1_epi16(E4M3));
            let halves = _mm256_or_si256(halves, is_nan);
            let (low, high) =
                (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn bits(v: Self::I, shift: u32, mask: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi32(mask));
            let bits = |v| _mm256_and_si256(_mm256_srl_epi32(v, shift), mask);
            (bits(v.0), bits(v.1))
        }
    }

    #[inline(always)]
    unsafe fn join(high: Self::I, low: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let join = |high, low| _mm256_or_si256(_mm256_slli_epi32::<4>(high), low);
            (join(high.0, low.0), join(high.1, low.1))
        }
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let (bits, one) = (_mm256_set1_epi32(bits as i32), _mm256_set1_epi32(1));
            let spread = |places| _mm256_and_si256(_mm256_srlv_epi32(bits, places), one);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            (spread(low), spread(_mm256_add_epi32(low, _mm256_set1_epi32(8))))
        }
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

    #[inline(always)]
    unsafe fn sum_each(v: &[Self::V; LANES]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        // SAFETY: see the impl.
        unsafe {
            for half in 0..2 {
                let mut eight = [v[0].0; 8];
                for (i, eight) in eight.iter_mut().enumerate() {
                    let v = v[8 * half + i];
                    *eight = _mm256_add_ps(v.0, v.1);
                }
                _mm256_storeu_ps(sums.as_mut_ptr().add(8 * half), sum_eight(&eight));
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn transpose(v: &mut [Self::V; LANES]) {
        // SAFETY: see the impl.
        unsafe {
            let (mut quarters, from) = ([[v[0].0; 8]; 4], *v);
            for i in 0..8 {
                (quarters[0][i], quarters[1][i]) = from[i];
                (quarters[2][i], quarters[3][i]) = from[8 + i];
            }
            let [a, b, c, d] = quarters;
            let (a, b, c, d) = (transpose_8(&a), transpose_8(&b), transpose_8(&c), transpose_8(&d));
            for i in 0..8 {
                v[i] = (a[i], c[i]);
                v[8 + i] = (b[i], d[i]);
            }
        }
    }
}

/// Number `i` is the sum of vector `i`: always the upper half onto the lower.
#[inline(always)]
unsafe fn sum_eight(v: &[__m256; 8]) -> __m256 {
    // SAFETY: no memory is touched.
    unsafe {
        let mut four = [v[0]; 4];
        for (i, sums) in four.iter_mut().enumerate() {
            let (a, b) = (v[2 * i], v[2 * i + 1]);
            let (lower, upper) =
                (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            *sums = _mm256_add_ps(lower, upper);
        }
        // Each half of `four[i]` is of vector `2 i` and the next. Pairs of a half of two of them side by side.
        let mut two = [v[0]; 2];
        for (i, sums) in two.iter_mut().enumerate() {
            let (a, b) = (_mm256_castps_pd(four[2 * i]), _mm256_castps_pd(four[2 * i + 1]));
            let (lower, upper) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            *sums = _mm256_add_ps(_mm256_castpd_ps(lower), _mm256_castpd_ps(upper));
        }
        let [a, b] = two;
        let (lower, upper) = (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
        // Number `j` of half `i` is of vector `2 j + i`.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_permutevar8x32_ps(_mm256_add_ps(lower, upper), order)
    }
}

/// Lane `i` of vector `j` and lane `j` of vector `i` change places.
#[inline(always)]
unsafe fn transpose_8(v: &[__m256; 8]) -> [__m256; 8] {
    // SAFETY: no memory is touched.
    unsafe {
        // Lanes of two rows in turn, of four, then halves.
        let (mut two, mut four, mut all) = (*v, *v, *v);
        for i in 0..4 {
            two[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
            two[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
        }
        for i in 0..2 {
            for j in 0..2 {
                let (a, b) = (two[4 * i + j], two[4 * i + 2 + j]);
                four[4 * i + 2 * j] = _mm256_shuffle_ps::<0x44>(a, b);
                four[4 * i + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(a, b);
            }
        }
        for i in 0..4 {
            all[i] = _mm256_permute2f128_ps::<0x20>(four[i], four[4 + i]);
            all[4 + i] = _mm256_permute2f128_ps::<0x31>(four[i], four[4 + i]);
        }
        all
    }
}
