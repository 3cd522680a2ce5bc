//! Absorbed attention of up to sixteen heads of one row over pages of bf16 latents, on AMX tiles.
//!
//! A page is read as it lies for scores, keys times queries, and with neighbouring rows side by side for the weighted sum,
//! weights times values. Queries and weights are pairs: what the cache keeps in bf16 is all that is rounded. For 64 keys of
//! 512 + 64 numbers that is 272 products of 16 x 16 x 32, sixteen cycles each.

use std::arch::x86_64::{
    __m512i, _mm512_load_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutex2var_epi64,
    _mm512_set1_ps, _mm512_setr_epi64, _mm512_setzero_si512, _mm512_store_ps, _mm512_store_si512,
    _mm512_storeu_si512, _mm512_unpackhi_epi16, _mm512_unpacklo_epi16,
};
use std::arch::x86_64::{_mm512_add_ps, _mm512_castsi512_ps};

use super::super::rows::Rows;
use super::After;
use super::Running;
use super::softmax::Softmaxes;
use super::tiles::{
    Lane16, ROW_BYTES, STEP, Tile, add, configure, load, put, release, row, split_and_turn, store,
    zero,
};
use super::words::{SIDE, split, transpose};
use crate::backend::cpu::latents::Halves;
use crate::step::PAGE_TOKENS;

/// Heads that share a pass over the keys.
pub(in super::super::super) const HEADS: usize = SIDE;

/// Tiles of a page's keys.
const KEY_TILES: usize = PAGE_TOKENS / SIDE;
/// Steps of a page's keys in the weighted sum.
const KEY_STEPS: usize = PAGE_TOKENS / STEP;

/// One thread's tiles.
#[derive(Debug)]
pub(in super::super::super) struct Room {
    /// `[2, dim / 32]`: queries' values, then remainders; words of neighbouring numbers by heads.
    queries: Vec<Tile>,
    /// `[2, 2, c / 16]`: keys' values, then remainders; of either, neighbouring keys' numbers side by side. Of 32 columns the first tile has those that the unpacking of
    /// lower halves gives: four of each eight.
    values: Vec<Tile>,
    /// Scores, a key a row.
    scores: Vec<Tile>,
    /// `[2, 2]`: weights' values and remainders, a head a row.
    weights: Vec<Tile>,
    /// `[c / 16]`: outputs, a head a row; columns as in `values`.
    out: Vec<Tile>,
    softmaxes: Softmaxes,
}

/// Whether a latent of `latent` numbers in rows of `dim` fills whole tiles.
pub(in super::super::super) fn fits(latent: usize, dim: usize) -> bool {
    latent.is_multiple_of(STEP) && dim.is_multiple_of(STEP) && latent <= dim
}

/// Tiles of each part.
fn sizes(latent: usize, dim: usize) -> [usize; 5] {
    [2 * dim / STEP, 2 * KEY_STEPS * latent / SIDE, 2 * KEY_TILES, 2 * KEY_STEPS, latent / SIDE]
}

impl Room {
    /// Room for latents of `latent` numbers in rows of `dim`.
    pub(in super::super::super) fn new(latent: usize, dim: usize) -> Self {
        let [queries, values, scores, weights, out] =
            sizes(latent, dim).map(|n| vec![Tile::ZERO; n]);
        Self { queries, values, scores, weights, out, softmaxes: Softmaxes::START }
    }

    /// Bytes of [`Room::new`].
    pub(in super::super::super) fn bytes(latent: usize, dim: usize) -> u64 {
        (sizes(latent, dim).iter().sum::<usize>() * size_of::<Tile>()) as u64
    }

    /// Takes the queries of up to sixteen heads, `[head, dim]`; nothing is seen yet.
    pub(in super::super::super) fn begin(&mut self, queries: &[f32], n_head: usize) {
        let dim = self.dim();
        assert!(n_head <= HEADS && queries.len() >= n_head * dim, "queries of another shape");
        let (values, rests) = self.queries.split_at_mut(dim / STEP);
        for (step, pair) in values.iter_mut().zip(rests).enumerate() {
            // SAFETY: a room is made where the processor has tiles, and AVX-512 with them; `n_head` rows are inside.
            unsafe { split_and_turn(pair, queries.as_ptr().add(step * STEP), dim, n_head) }
        }
        self.out.fill(Tile::ZERO);
        self.softmaxes = Softmaxes::START;
    }

    /// Lets a page of keys pass, and meanwhile asks for what is read after it.
    pub(in super::super::super) fn page(&mut self, page: Halves<'_>, scale: f32, after: &[u8]) {
        let keys = page.rows;
        for rows in page.rests.into_iter().chain([keys]) {
            let shape = (rows.dim(), rows.n());
            assert!(shape == (self.dim(), keys.n()) && keys.n() <= PAGE_TOKENS, "another page");
        }
        // SAFETY: as in `begin`; the page's rows are as wide as the queries.
        unsafe {
            configure();
            // Steps of scores, of keys that are paired, and of sums: most of them, so that all is asked for.
            let steps = KEY_TILES / 2 * (self.dim() / STEP) + PAGE_TOKENS / 2;
            let mut after = After::new(after, steps);
            self.score(page, &mut after);
            let n_key = keys.n();
            let scaled =
                self.softmaxes.take(&mut self.scores[..KEY_TILES], n_key, scale, |_| u16::MAX);
            if let Some(factors) = scaled {
                self.scale(&factors);
            }
            self.turn_weights();
            self.pair_values(keys, 0, &mut after);
            if let Some(rests) = page.rests {
                self.pair_values(rests, KEY_STEPS, &mut after);
            }
            self.sum(n_key.div_ceil(STEP), page.rests.is_some(), &mut after);
            release!();
        }
    }

    /// The heads' unnormalised outputs `[head, c]`, and their softmaxes.
    pub(in super::super::super) fn end(&self, running: &mut [Running], out: &mut [f32]) {
        let latent = self.out.len() * SIDE;
        let heads = running.iter_mut().zip(out.chunks_exact_mut(latent));
        for (head, (running, out)) in heads.enumerate().take(HEADS) {
            *running = self.softmaxes.running(head);
            // SAFETY: as in `begin`.
            unsafe { self.unpair(head, out) }
        }
    }

    /// A head's outputs in their order: tiles `2 b` and `2 b + 1` have four of each eight columns by turns.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn unpair(&self, head: usize, out: &mut [f32]) {
        let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        let pairs = self.out.as_chunks::<2>().0;
        for (pair, out) in pairs.iter().zip(out.as_chunks_mut::<{ 2 * SIDE }>().0) {
            // SAFETY: a tile has sixteen rows, `out` room for two of them.
            unsafe {
                let (even, odd) = (row(&pair[0], head), row(&pair[1], head));
                let at: *mut __m512i = out.as_mut_ptr().cast();
                _mm512_storeu_si512(at, _mm512_permutex2var_epi64(even, first, odd));
                _mm512_storeu_si512(at.add(1), _mm512_permutex2var_epi64(even, second, odd));
            }
        }
    }

    fn dim(&self) -> usize {
        self.queries.len() / 2 * STEP
    }

    /// Scores of all keys, a key a row; values' and remainders' chains apart, so that four run side by side.
    ///
    /// # Safety
    /// Tiles are configured, and the page's 64 rows are as wide as the queries.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn score(&mut self, page: Halves<'_>, after: &mut After<'_>) {
        let keys = page.rows;
        let ((at, stride), rests_at) = (keys.bf16_at(), page.rests.map(|rests| rests.bf16_at().0));
        let (values, rests) = self.queries.split_at(self.queries.len() / 2);
        let (sums, rest_sums) = self.scores.split_at_mut(KEY_TILES);
        // SAFETY: the caller's promise.
        unsafe {
            for first in (0..keys.n().div_ceil(SIDE)).step_by(2) {
                zero!("tmm0" "tmm1" "tmm2" "tmm3");
                let upper = at.cast::<u8>().wrapping_add(first * SIDE * stride);
                let lower = upper.wrapping_add(SIDE * stride);
                for (step, (value, rest)) in values.iter().zip(rests).enumerate() {
                    after.ask();
                    load!("tmm4", upper.wrapping_add(step * ROW_BYTES), stride);
                    load!("tmm5", lower.wrapping_add(step * ROW_BYTES), stride);
                    load!("tmm6", value);
                    load!("tmm7", rest);
                    add!("tmm0", "tmm4", "tmm6");
                    add!("tmm1", "tmm5", "tmm6");
                    add!("tmm2", "tmm4", "tmm7");
                    add!("tmm3", "tmm5", "tmm7");
                    if let Some(at) = rests_at {
                        let at =
                            at.cast::<u8>().wrapping_add(first * SIDE * stride + step * ROW_BYTES);
                        load!("tmm4", at, stride);
                        load!("tmm5", at.wrapping_add(SIDE * stride), stride);
                        add!("tmm2", "tmm4", "tmm6");
                        add!("tmm3", "tmm5", "tmm6");
                    }
                }
                store!("tmm0", &raw mut sums[first]);
                store!("tmm1", &raw mut sums[first + 1]);
                store!("tmm2", &raw mut rest_sums[first]);
                store!("tmm3", &raw mut rest_sums[first + 1]);
            }
            for (sum, rest) in sums.iter_mut().zip(rest_sums).take(keys.n().div_ceil(SIDE)) {
                for i in 0..SIDE {
                    let both = _mm512_add_ps(
                        _mm512_castsi512_ps(row(sum, i)),
                        _mm512_castsi512_ps(row(rest, i)),
                    );
                    _mm512_store_ps(sum.0[i].as_mut_ptr().cast(), both);
                }
            }
        }
    }

    /// Weights from keys by heads to heads by keys, as pairs.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn turn_weights(&mut self) {
        let (values, rests) = self.weights.split_at_mut(KEY_STEPS);
        // SAFETY: tiles have sixteen rows.
        unsafe {
            for (i, tile) in self.scores[..KEY_TILES].iter().enumerate() {
                let mut rows = [_mm512_setzero_si512(); SIDE];
                for (key, to) in rows.iter_mut().enumerate() {
                    *to = row(tile, key);
                }
                transpose(&mut rows);
                for (head, weights) in rows.into_iter().enumerate() {
                    let (value, rest) = split(_mm512_castsi512_ps(weights));
                    put(&mut values[i / 2], head, i % 2, value);
                    put(&mut rests[i / 2], head, i % 2, rest);
                }
            }
        }
    }

    /// Puts neighbouring keys' numbers side by side; keys that nobody sees become zero, whatever their memory holds.
    ///
    /// # Safety
    /// As [`Room::score`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_values(&mut self, keys: Rows<'_>, first_step: usize, after: &mut After<'_>) {
        let (at, stride) = keys.bf16_at();
        let (n_key, tiles) = (keys.n(), self.out.len());
        for first in (0..n_key.next_multiple_of(STEP)).step_by(2) {
            after.ask();
            let step = &mut self.values[(first_step + first / STEP) * tiles..][..tiles];
            let (row, upper) = (first % STEP / 2, at.cast::<u8>().wrapping_add(first * stride));
            for (block, pair) in step.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let from = upper.wrapping_add(block * ROW_BYTES);
                let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                // SAFETY: rows that are seen are valid; a tile's rows are aligned.
                unsafe {
                    if first < n_key {
                        even = _mm512_loadu_si512(from.cast());
                    }
                    if first + 1 < n_key {
                        odd = _mm512_loadu_si512(from.wrapping_add(stride).cast());
                    }
                    let mut put = |tile: usize, words: __m512i| {
                        _mm512_store_si512(pair[tile].0[row].as_mut_ptr().cast(), words);
                    };
                    put(0, _mm512_unpacklo_epi16(even, odd));
                    put(1, _mm512_unpackhi_epi16(even, odd));
                }
            }
        }
    }

    /// `out[head] *= factors[head]`.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn scale(&mut self, factors: &Lane16) {
        for tile in &mut self.out {
            for (row, factor) in tile.0.iter_mut().zip(&factors.0) {
                let at: *mut f32 = row.as_mut_ptr().cast();
                // SAFETY: rows are aligned.
                unsafe {
                    _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), _mm512_set1_ps(*factor)));
                }
            }
        }
    }

    /// Adds weights times values of the first steps of keys.
    ///
    /// # Safety
    /// Tiles are configured.
    unsafe fn sum(&mut self, steps: usize, has_rests: bool, after: &mut After<'_>) {
        let tiles = self.out.len();
        let (upper, lower) = self.values.split_at(tiles);
        let (lower, rests) = lower.split_at(tiles);
        let weights = &self.weights;
        // SAFETY: the caller's promise.
        unsafe {
            load!("tmm2", &raw const weights[0]);
            load!("tmm3", &raw const weights[KEY_STEPS]);
            load!("tmm4", &raw const weights[1]);
            load!("tmm5", &raw const weights[KEY_STEPS + 1]);
            for (i, out) in self.out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                after.ask();
                load!("tmm0", &raw const out[0]);
                load!("tmm1", &raw const out[1]);
                load!("tmm6", &raw const upper[2 * i]);
                load!("tmm7", &raw const upper[2 * i + 1]);
                add!("tmm0", "tmm2", "tmm6");
                add!("tmm1", "tmm2", "tmm7");
                add!("tmm0", "tmm3", "tmm6");
                add!("tmm1", "tmm3", "tmm7");
                if steps > 1 {
                    load!("tmm6", &raw const lower[2 * i]);
                    load!("tmm7", &raw const lower[2 * i + 1]);
                    add!("tmm0", "tmm4", "tmm6");
                    add!("tmm1", "tmm4", "tmm7");
                    add!("tmm0", "tmm5", "tmm6");
                    add!("tmm1", "tmm5", "tmm7");
                }
                if has_rests {
                    load!("tmm6", &raw const rests[2 * i]);
                    load!("tmm7", &raw const rests[2 * i + 1]);
                    add!("tmm0", "tmm2", "tmm6");
                    add!("tmm1", "tmm2", "tmm7");
                    if steps > 1 {
                        load!("tmm6", &raw const rests[tiles + 2 * i]);
                        load!("tmm7", &raw const rests[tiles + 2 * i + 1]);
                        add!("tmm0", "tmm4", "tmm6");
                        add!("tmm1", "tmm4", "tmm7");
                    }
                }
                store!("tmm0", &raw mut out[0]);
                store!("tmm1", &raw mut out[1]);
            }
        }
    }
}
