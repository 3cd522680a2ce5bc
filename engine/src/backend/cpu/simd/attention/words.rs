//! Vectors of sixteen words: turned round, rounded to bf16, put side by side.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512i, _mm512_castsi256_si512, _mm512_cvtepu16_epi32,
    _mm512_cvtneps_pbh, _mm512_cvtpbh_ps, _mm512_inserti64x4, _mm512_or_si512,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_sub_ps,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::arch::x86_64::{_mm256_storeu_si256, _mm512_loadu_ps};
use std::mem;

use super::super::rows::Rows;

/// Rows of a tile, and words of a row.
pub(in super::super) const SIDE: usize = 16;

/// Turns sixteen rows of sixteen words round.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in super::super) fn transpose(r: &mut [__m512i; SIDE]) {
    let mut a = [_mm512_setzero_si512(); SIDE];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // Quarter `q` of `r[4 i + j]` is column `4 q + j` of rows `4 i` to `4 i + 3`.
    for j in 0..4 {
        let even = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]);
        let even_below = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
        let odd_below = _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]);
        a[j] = _mm512_shuffle_i32x4::<0x88>(even, even_below);
        a[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even, even_below);
        a[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd, odd_below);
        a[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_below);
    }
    *r = a;
}

/// Sixteen numbers as bf16, to the nearest, ties to even.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
pub(in super::super) fn rounded(x: __m512) -> __m256i {
    // SAFETY: the same bits.
    unsafe { mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
}

/// Sixteen numbers as pairs of bf16: value and remainder.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
pub(in super::super) fn split(x: __m512) -> (__m256i, __m256i) {
    let value = _mm512_cvtneps_pbh(x);
    let rest = _mm512_cvtneps_pbh(_mm512_sub_ps(x, _mm512_cvtpbh_ps(value)));
    // SAFETY: the same bits.
    unsafe {
        (mem::transmute::<__m256bh, __m256i>(value), mem::transmute::<__m256bh, __m256i>(rest))
    }
}

/// 32 numbers of up to sixteen rows as words of neighbouring ones, sixteen rows' words side by side: values and remainders.
/// Missing rows are zero.
///
/// # Safety
/// 32 numbers are valid at each of `rows`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
pub(in super::super) unsafe fn split_and_turn(
    rows: impl Iterator<Item = *const f32>,
) -> [[__m512i; SIDE]; 2] {
    let mut halves = [[_mm512_setzero_si512(); SIDE]; 2];
    let [values, rests] = &mut halves;
    for ((row, value), rest) in rows.zip(values.iter_mut()).zip(rests.iter_mut()) {
        // SAFETY: the caller's promise.
        let (first, second) =
            unsafe { (split(_mm512_loadu_ps(row)), split(_mm512_loadu_ps(row.add(SIDE)))) };
        (*value, *rest) = (both(first.0, second.0), both(first.1, second.1));
    }
    transpose(values);
    transpose(rests);
    halves
}

/// Sixteen bf16 numbers and sixteen more.
#[target_feature(enable = "avx512f")]
#[inline]
fn both(first: __m256i, second: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// Words of two rows' numbers, the first row's in the lower half.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in super::super) fn pair(first: __m256i, second: __m256i) -> __m512i {
    let second = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second));
    _mm512_or_si512(_mm512_cvtepu16_epi32(first), second)
}

/// Rows of f32 as pairs of bf16, value and remainder, back to back: rows are whole vectors.
///
/// # Panics
/// When there is no room, or rows are no whole vectors of f32: a bug of the caller.
pub(in super::super::super) fn split_rows(from: Rows<'_>, (to, rests): (&mut [u16], &mut [u16])) {
    let (dim, at) = (from.dim(), from.f32_at());
    assert!(dim.is_multiple_of(SIDE), "rows of {dim}");
    assert!(to.len() >= from.n() * dim && rests.len() >= from.n() * dim, "no room");
    let rows = to.chunks_mut(dim).zip(rests.chunks_mut(dim)).take(from.n());
    for (i, (to, rests)) in rows.enumerate() {
        // SAFETY: asked for where the processor has tiles, and AVX-512 with them; lengths checked above.
        unsafe { split_row(at.0.cast::<u8>().add(i * at.1).cast(), to, rests) }
    }
}

/// # Safety
/// The processor has AVX-512 BF16; `from` has as many numbers as `to` and `rests`, whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn split_row(from: *const f32, to: &mut [u16], rests: &mut [u16]) {
    let vectors = to.as_chunks_mut::<SIDE>().0.iter_mut().zip(rests.as_chunks_mut::<SIDE>().0);
    for (i, (to, rest)) in vectors.enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let pair = split(_mm512_loadu_ps(from.add(i * SIDE)));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), pair.0);
            _mm256_storeu_si256(rest.as_mut_ptr().cast(), pair.1);
        }
    }
}
