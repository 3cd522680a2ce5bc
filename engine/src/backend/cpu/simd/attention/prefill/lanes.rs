//! Vector code between two products: sums to pairs, weights to words, outputs to rows.

use std::arch::x86_64::{
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_div_ps, _mm512_load_ps, _mm512_mul_ps,
    _mm512_setzero_si512, _mm512_store_ps, _mm512_store_si512, _mm512_storeu_si512,
};

use super::super::tiles::{Lane16, STEP, Tile, put, row};
use super::super::words::{SIDE, pair, split, transpose};
use super::KEY_STEPS;
use crate::step::PAGE_TOKENS;

/// Two tiles of sums side by side as one of values and one of remainders.
///
/// # Safety
/// The processor has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
pub(super) unsafe fn split_halves(values: &mut Tile, rests: &mut Tile, sums: &[Tile; 2]) {
    // SAFETY: tiles have sixteen rows.
    unsafe {
        for i in 0..SIDE {
            for (half, sums) in sums.iter().enumerate() {
                let (value, rest) = split(_mm512_castsi512_ps(row(sums, i)));
                put(values, i, half, value);
                put(rests, i, half, rest);
            }
        }
    }
}

/// Softmax weights, a key a row, as words of neighbouring keys: values, then remainders.
///
/// # Safety
/// As [`split_halves`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
pub(super) unsafe fn pair_weights(scores: &[Tile], weights: &mut [Tile]) {
    let (values, rests) = weights.split_at_mut(KEY_STEPS);
    // SAFETY: tiles have sixteen rows, and those are aligned.
    unsafe {
        for first in (0..PAGE_TOKENS).step_by(2) {
            let tile = &scores[first / SIDE];
            let even = split(_mm512_castsi512_ps(row(tile, first % SIDE)));
            let odd = split(_mm512_castsi512_ps(row(tile, first % SIDE + 1)));
            let (step, to) = (first / STEP, first % STEP / 2);
            let value = values[step].0[to].as_mut_ptr();
            _mm512_store_si512(value.cast(), pair(even.0, odd.0));
            let rest = rests[step].0[to].as_mut_ptr();
            _mm512_store_si512(rest.cast(), pair(even.1, odd.1));
        }
    }
}

/// `tile[row][lane] *= factors[lane]`.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scale_lanes(tiles: &mut [Tile], factors: &Lane16) {
    // SAFETY: rows are aligned.
    unsafe {
        let factors = _mm512_load_ps(factors.0.as_ptr());
        for row in tiles.iter_mut().flat_map(|tile| &mut tile.0) {
            let at: *mut f32 = row.as_mut_ptr().cast();
            _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), factors));
        }
    }
}

/// Sixteen numbers of up to sixteen rows, divided by the rows' sums: `out [row, stride]`.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn divided(tile: &Tile, sums: &Lane16, out: &mut [f32], stride: usize) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    // SAFETY: rows are aligned, and `out` is looked at before it is written.
    unsafe {
        let sums = _mm512_load_ps(sums.0.as_ptr());
        for (i, to) in rows.iter_mut().enumerate() {
            *to = _mm512_castps_si512(_mm512_div_ps(_mm512_castsi512_ps(row(tile, i)), sums));
        }
        transpose(&mut rows);
        for (numbers, out) in rows.into_iter().zip(out.chunks_mut(stride)) {
            if let Some(out) = out.first_chunk_mut::<SIDE>() {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), numbers);
            }
        }
    }
}
