//! Attention over tiles of 64 keys: scores, a running softmax, the weighted sum. One thread's share.
//!
//! The running softmax (Milakov and Gimelshein 2018) keeps the largest score so far, the sum of exponentials and the
//! unnormalised output. Tiles are the cache's pages, from position 0 up: the order of every sum is a function of the
//! row's position.

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod decode;
#[cfg(target_arch = "x86_64")]
pub(in super::super) mod prefill;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
pub(in super::super) mod words;

use std::ops::Range;

use super::prefetch_far;
use super::product::{Product, Reading, product};
use super::row;
use super::rows::Rows;
use super::sums::{Sums, sums};
use crate::backend::cpu::Isa;
use crate::step::PAGE_TOKENS;

/// What is read after a page: asked for a piece at a time between the steps of the page's own work, so that both go on. A
/// page's rows are too far apart for the processor to see a pattern.
pub(in super::super) struct After<'a> {
    bytes: &'a [u8],
    /// Bytes of a piece.
    each: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl<'a> After<'a> {
    /// For a page whose work has so many steps.
    pub(in super::super) fn new(bytes: &'a [u8], steps: usize) -> Self {
        Self { bytes, each: bytes.len().div_ceil(steps).next_multiple_of(LINE) }
    }

    #[inline(always)]
    pub(in super::super) fn ask(&mut self) {
        let (piece, rest) = self.bytes.split_at(self.each.min(self.bytes.len()));
        piece.chunks(LINE).for_each(|line| prefetch_far(line.as_ptr()));
        self.bytes = rest;
    }
}

/// A query's running softmax.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Running {
    pub(in super::super) max: f32,
    pub(in super::super) sum: f32,
}

impl Running {
    /// Nothing seen yet. The lowest number, not minus infinity: the difference of two of these would be none.
    pub(in super::super) const START: Self = Self { max: f32::MIN, sum: 0.0 };

    /// Takes the scores of one tile: `scores`, scaled here, become weights, `out` is rescaled to the new largest score.
    fn take(&mut self, isa: Isa, scale: f32, scores: &mut [f32], out: &mut [f32]) {
        let max = row::scale_in_place(isa, scores, scale, self.max);
        if max > self.max {
            let factor = (self.max - max).exp();
            self.sum *= factor;
            row::scale_in_place(isa, out, factor, 0.0);
            self.max = max;
        }
        self.sum += row::exp_in_place(isa, scores, max);
    }

    /// Adds another softmax over other keys, `from` its unnormalised output.
    pub(in super::super) fn merge(&mut self, out: &mut [f32], other: Self, from: &[f32]) {
        let max = self.max.max(other.max);
        let (own, others) = ((self.max - max).exp(), (other.max - max).exp());
        *self = Self { max, sum: self.sum * own + other.sum * others };
        for (out, from) in out.iter_mut().zip(from) {
            *out = *out * own + from * others;
        }
    }

    /// Divides by the sum: the softmax is complete.
    pub(in super::super) fn finish(self, isa: Isa, out: &mut [f32]) {
        row::divide_in_place(isa, out, self.sum);
    }
}

/// Scores of `n_query` queries, a stride apart, with all `keys` of a tile: `scores [n_query, 64]`.
pub(in super::super) fn score(
    isa: Isa,
    keys: Rows<'_>,
    (queries, stride): (&[f32], usize),
    n_query: usize,
    scores: &mut [f32],
) {
    assert!(n_query == 0 || queries.len() >= (n_query - 1) * stride + keys.dim());
    assert!(keys.n() <= PAGE_TOKENS && scores.len() >= n_query * PAGE_TOKENS);
    let p = Product {
        w: keys.matrix(),
        dim: keys.dim(),
        x: queries.as_ptr(),
        x_stride: stride,
        rows: n_query,
        y: scores.as_mut_ptr(),
        y_stride: PAGE_TOKENS,
        room: std::ptr::null_mut(),
    };
    // SAFETY: lengths checked above; this thread alone has `scores`; `isa` was checked when the backend was made.
    unsafe { product(isa, &p, keys.n(), Reading::InRegisters) }
}

/// Queries' share of a tile: their scores `[query, 64]` (scaled here) go through the running softmaxes onto
/// `out [query, value.dim()]`. Query `i` sees the first `seen(i)` keys, no fewer than the query before it. What it does not see it
/// is not multiplied with: that may be no number.
pub(in super::super) fn accumulate(
    isa: Isa,
    values: Rows<'_>,
    scale: f32,
    scores: &mut [f32],
    seen: impl Fn(usize) -> usize,
    running: &mut [Running],
    out: &mut [f32],
) {
    let dim = values.dim();
    let n = running.len();
    assert!(scores.len() >= n * PAGE_TOKENS && out.len() >= n * dim);
    let each = running.iter_mut().zip(scores.chunks_mut(PAGE_TOKENS)).zip(out.chunks_mut(dim));
    for (i, ((running, scores), out)) in each.enumerate() {
        running.take(isa, scale, &mut scores[..seen(i)], out);
    }
    let add = |queries: Range<usize>, keys: Range<usize>, out: &mut [f32]| {
        let rows = values.part(keys.clone());
        assert!(rows.n() == keys.len() && keys.end <= PAGE_TOKENS, "keys outside");
        let p = Sums {
            rows: rows.matrix(),
            n: rows.n(),
            dim,
            adds: true,
            a: scores[queries.start * PAGE_TOKENS + keys.start..].as_ptr(),
            a_stride: PAGE_TOKENS,
            y: out[queries.start * dim..].as_mut_ptr(),
            y_stride: dim,
        };
        // SAFETY: lengths checked above; this thread alone has `out`; `isa` was checked when the backend was made.
        unsafe { sums(isa, &p, queries.len()) }
    };
    // What all see together, then what each sees besides: every sum in the order of keys.
    let mut first = 0;
    while first < n {
        let end = (first + TOGETHER).min(n);
        let common = seen(first);
        add(first..end, 0..common, out);
        for query in (first..end).filter(|query| seen(*query) > common) {
            add(query..query + 1, common..seen(query), out);
        }
        first = end;
    }
}

/// Queries whose sums run together: few see keys on the diagonal that others of theirs do not.
const TOGETHER: usize = 4;
