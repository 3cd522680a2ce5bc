//! Attention over tiles of 64 keys: scores, a running softmax, the weighted sum. One thread's share.
//!
//! The running softmax (Milakov and Gimelshein 2018) keeps the largest score so far, the sum of exponentials and the
//! unnormalised output. Tiles are the cache's pages, from position 0 up: the order of every sum is a function of the
//! row's position.

use super::product::{Product, add_weighted, product};
use super::{Matrix, row};
use crate::backend::cpu::Isa;
use crate::step::PAGE_TOKENS;

/// A query's running softmax.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Running {
    max: f32,
    sum: f32,
}

impl Running {
    /// Nothing seen yet.
    pub(in super::super) const START: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes the scores of one tile: `scores` become weights, `out` is rescaled to the new largest score.
    fn take(&mut self, isa: Isa, scores: &mut [f32], out: &mut [f32]) {
        let max = scores.iter().copied().fold(self.max, f32::max);
        if max > self.max {
            let scale = (self.max - max).exp();
            self.sum *= scale;
            for o in out {
                *o *= scale;
            }
            self.max = max;
        }
        self.sum += row::exp_in_place(isa, scores, max);
    }

    /// Divides by the sum: the softmax is complete.
    pub(in super::super) fn finish(self, out: &mut [f32]) {
        for o in out {
            *o /= self.sum;
        }
    }
}

/// Keys and values of one tile, all f32: `keys [64, key_stride]`, `values [64, value_stride]`; the two may overlap.
#[derive(Clone, Copy)]
pub(in super::super) struct Tile<'a> {
    pub(in super::super) keys: &'a [f32],
    /// Width of a key.
    pub(in super::super) key_dim: usize,
    pub(in super::super) key_stride: usize,
    pub(in super::super) values: &'a [f32],
    pub(in super::super) value_stride: usize,
    pub(in super::super) value_dim: usize,
    /// Keys of this tile that the query may see, 1 to 64.
    pub(in super::super) n_key: usize,
}

/// Scores of `n_query` queries, back to back, with all keys of a tile: `scores [n_query, 64]`.
pub(in super::super) fn score(
    isa: Isa,
    tile: &Tile<'_>,
    queries: &[f32],
    n_query: usize,
    scores: &mut [f32],
) {
    assert!(tile.keys.len() >= (tile.n_key - 1) * tile.key_stride + tile.key_dim);
    assert!(tile.key_stride >= tile.key_dim && queries.len() >= n_query * tile.key_dim);
    assert!(scores.len() >= n_query * PAGE_TOKENS);
    let p = Product {
        w: Matrix::f32(tile.keys.as_ptr(), tile.key_stride * size_of::<f32>()),
        dim: tile.key_dim,
        x: queries.as_ptr(),
        x_stride: tile.key_dim,
        rows: n_query,
        y: scores.as_mut_ptr(),
        y_stride: PAGE_TOKENS,
    };
    // SAFETY: lengths checked above; this thread alone has `scores`; `isa` was checked when the backend was made.
    unsafe { product(isa, &p, 0..tile.n_key) }
}

/// One query's share of a tile: its scores (scaled here) go through the running softmax onto `out [value_dim]`.
pub(in super::super) fn accumulate(
    isa: Isa,
    tile: &Tile<'_>,
    scale: f32,
    scores: &mut [f32],
    running: &mut Running,
    out: &mut [f32],
) {
    let scores = &mut scores[..tile.n_key];
    for score in scores.iter_mut() {
        *score *= scale;
    }
    running.take(isa, scores, out);
    let out = &mut out[..tile.value_dim];
    assert!(tile.values.len() >= (tile.n_key - 1) * tile.value_stride + tile.value_dim);
    let rows = Matrix::f32(tile.values.as_ptr(), tile.value_stride * size_of::<f32>());
    // SAFETY: the rows are inside `values`, as checked above; `isa` was checked when the backend was made.
    unsafe { add_weighted(isa, out, scores, &rows) }
}
