//! Multi-head attention of one head of a prompt's rows over pages of bf16 latents, on AMX tiles.
//!
//! Everything is laid out so that softmaxes run with rows as lanes and nothing but weights is ever turned in the inner
//! loops. For a page of 64 keys: `K [key, n] = c_kv w_uk^T`, a key a row as scores want their left side; `V^T [v, key] =
//! w_uv c_kv^T`, as the weighted sum wants its left side. Then for each 32 rows `S^T [key, row] = K q^T` and
//! `O^T [v, row] += V^T P^T`. Latents and weights of the expansion are bf16; keys, values, queries and softmax weights are
//! pairs. With 128 + 64 and 128 numbers a head that is 1,024 products of 16 x 16 x 32 to expand a page, and 240 for 32 rows.

mod expand;
mod lanes;

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_cmpgt_epi32_mask, _mm512_loadu_si512, _mm512_set1_epi32,
};

use super::super::rows::Rows;
use super::softmax::Softmaxes;
use super::tiles;
use super::tiles::{
    ROW_BYTES, STEP, Tile, add, add_four, configure, load, release, split_and_turn, store, turn,
    zero,
};
use super::words::SIDE;
use crate::backend::cpu::latents::Halves;
use crate::step::PAGE_TOKENS;
use lanes::{divided, pair_weights, scale_lanes};

/// Tiles of a page's keys.
const KEY_TILES: usize = PAGE_TOKENS / SIDE;
/// Steps of a page's keys in the weighted sum.
const KEY_STEPS: usize = PAGE_TOKENS / STEP;

/// Sizes of one head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super::super) struct Head {
    /// `n`.
    pub(in super::super::super) nope: usize,
    /// `r`.
    pub(in super::super::super) rope: usize,
    /// `v`.
    pub(in super::super::super) value: usize,
    /// `c`.
    pub(in super::super::super) latent: usize,
}

impl Head {
    /// Whether all of it fills whole tiles.
    pub(in super::super::super) fn fits(self) -> bool {
        let Self { nope, rope, value, latent } = self;
        let steps = [nope, rope, latent].iter().all(|n| n.is_multiple_of(STEP));
        steps && value.is_multiple_of(2 * SIDE) && nope > 0 && value > 0
    }

    fn key(self) -> usize {
        self.nope + self.rope
    }

    /// Tiles of each part, for up to `rows` rows.
    fn sizes(self, rows: usize) -> [usize; 8] {
        let row_tiles = rows.next_multiple_of(2 * SIDE) / SIDE;
        [
            self.nope / SIDE * (self.latent / STEP),
            2 * KEY_TILES * (self.latent / STEP),
            2 * KEY_TILES * (self.key() / STEP),
            2 * KEY_STEPS * (self.value / SIDE),
            2 * row_tiles * (self.key() / STEP),
            row_tiles * (self.value / SIDE),
            2 * KEY_TILES,
            2 * 2 * KEY_STEPS,
        ]
    }
}

/// One thread's tiles.
#[derive(Debug)]
pub(in super::super::super) struct Room {
    head: Head,
    /// `[n / 16, c / 32]`: `w_uk`, words of neighbouring latents' weights by keys' numbers.
    expand: Vec<Tile>,
    /// `[2, 4, c / 32]`: latents' values and remainders, words of neighbouring numbers by keys.
    latents: Vec<Tile>,
    /// `[2, 4, (n + r) / 32]`: keys' values and remainders, a key a row.
    keys: Vec<Tile>,
    /// `[2, v / 16, 2]`: values turned round, a number a row, keys side by side.
    values: Vec<Tile>,
    /// `[2, R / 16, (n + r) / 32]`: queries, words of neighbouring numbers by rows.
    queries: Vec<Tile>,
    /// `[R / 16, v / 16]`: outputs turned round.
    out: Vec<Tile>,
    /// `[2, 4]`: scores of 32 rows, a key a row.
    scores: Vec<Tile>,
    /// `[2, 2, 2]`: their weights, words of neighbouring keys by rows: rows' halves, then values and remainders, then steps.
    weights: Vec<Tile>,
    /// `[R / 16]`.
    softmaxes: Vec<Softmaxes>,
    /// `[R]`: keys that each row sees, those before the page included.
    seen: Vec<i32>,
}

impl Room {
    /// Room for `rows` rows of such heads.
    pub(in super::super::super) fn new(head: Head, rows: usize) -> Self {
        let [expand, latents, keys, values, queries, out, scores, weights] =
            head.sizes(rows).map(|n| vec![Tile::ZERO; n]);
        let padded = rows.next_multiple_of(2 * SIDE);
        Self {
            head,
            expand,
            latents,
            keys,
            values,
            queries,
            out,
            scores,
            weights,
            softmaxes: vec![Softmaxes::START; padded / SIDE],
            seen: vec![0; padded],
        }
    }

    /// Bytes of [`Room::new`].
    pub(in super::super::super) fn bytes(head: Head, rows: usize) -> u64 {
        let (tiles, padded) =
            (head.sizes(rows).iter().sum::<usize>(), rows.next_multiple_of(2 * SIDE));
        (tiles * size_of::<Tile>()
            + padded / SIDE * size_of::<Softmaxes>()
            + padded * size_of::<i32>()) as u64
    }

    /// Takes a head's `w_uk [n, c]`, its rows' queries `[row, n + r]`, `stride` numbers apart, and their positions.
    pub(in super::super::super) fn begin(
        &mut self,
        w_uk: Rows<'_>,
        (queries, stride): (&[f32], usize),
        positions: &[u32],
    ) {
        let (head, n_row) = (self.head, positions.len());
        let key = head.key();
        assert!((w_uk.n(), w_uk.dim()) == (head.nope, head.latent), "a head of another shape");
        assert!(n_row > 0 && n_row <= self.seen.len(), "{n_row} rows");
        assert!(stride >= key && queries.len() >= (n_row - 1) * stride + key, "queries");
        let steps = head.latent / STEP;
        let (at, row_bytes) = w_uk.bf16_at();
        for (i, tile) in self.expand.iter_mut().enumerate() {
            let first = i / steps * SIDE * row_bytes + i % steps * ROW_BYTES;
            // SAFETY: a room is made where the processor has tiles, and AVX-512 with them; sixteen rows from a multiple
            // of sixteen below `n`, 64 bytes from a multiple of 64 below `2 c`.
            unsafe { turn(tile, at.cast::<u8>().add(first), row_bytes, SIDE) }
        }
        let steps = key / STEP;
        let half = self.queries.len() / 2;
        let (values, rests) = self.queries.split_at_mut(half);
        for (i, pair) in values.iter_mut().zip(rests).enumerate() {
            let row = i / steps * SIDE;
            if row >= n_row.next_multiple_of(2 * SIDE) {
                break;
            }
            let n = n_row.saturating_sub(row).min(SIDE);
            // Rows that are not there are zero, and not read.
            let from = if n == 0 { 0 } else { row * stride + i % steps * STEP };
            // SAFETY: as above; `n` rows of 32 numbers are inside.
            unsafe { split_and_turn(pair, queries.as_ptr().add(from), stride, n) }
        }
        self.seen.fill(0);
        for (seen, position) in self.seen.iter_mut().zip(positions) {
            *seen = *position as i32 + 1;
        }
        self.out.fill(Tile::ZERO);
        self.softmaxes.fill(Softmaxes::START);
    }

    /// Lets a page pass whose first key is number `start`: `latents [key, c + r]`, of which the last `r` are the rotary key;
    /// `w_uv [v, c]`.
    pub(in super::super::super) fn page(
        &mut self,
        page: Halves<'_>,
        w_uv: Rows<'_>,
        start: usize,
        scale: f32,
    ) {
        let (head, latents) = (self.head, page.rows);
        for rows in page.rests.into_iter().chain([latents]) {
            let shape = (rows.dim(), rows.n());
            let wanted = (head.latent + head.rope, latents.n());
            assert!(shape == wanted && latents.n() <= PAGE_TOKENS, "a page of another shape");
        }
        assert!((w_uv.n(), w_uv.dim()) == (head.value, head.latent), "a head of another shape");
        // SAFETY: as in `begin`; shapes checked here.
        unsafe {
            configure();
            self.turn_latents(latents, 0);
            if let Some(rests) = page.rests {
                self.turn_latents(rests, 1);
            }
            self.expand_keys(page);
            self.expand_values(w_uv, latents.n(), page.rests.is_some());
            for both in 0..self.softmaxes.len() / 2 {
                // Positions ascend, and rows that are not there see nothing.
                let rows = &self.seen[both * 2 * SIDE..(both + 1) * 2 * SIDE];
                let seen = rows.iter().copied().max().unwrap_or(0) - start as i32;
                if seen > 0 {
                    self.rows(both, start as i32, (seen as usize).min(latents.n()), scale);
                }
            }
            release!();
        }
    }

    /// Divides by the sums: `out [row, v]`.
    pub(in super::super::super) fn end(&self, out: &mut [f32]) {
        let (value, n_row) = (self.head.value, out.len() / self.head.value);
        assert!(n_row <= self.seen.len(), "{n_row} rows");
        let tiles = self.out.chunks(value / SIDE).zip(&self.softmaxes);
        for ((tiles, softmaxes), out) in tiles.zip(out.chunks_mut(SIDE * value)) {
            for (i, tile) in tiles.iter().enumerate() {
                // SAFETY: the processor has AVX-512.
                unsafe { divided(tile, softmaxes.sums(), &mut out[i * SIDE..], value) }
            }
        }
    }

    /// Rows `both * 32` to `both * 32 + 31` over the page's first `n_key` keys.
    ///
    /// # Safety
    /// Tiles are configured, and keys and values are this page's.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    unsafe fn rows(&mut self, both: usize, start: i32, n_key: usize, scale: f32) {
        // SAFETY: the caller's promise; two tiles of rows.
        unsafe {
            self.score(both, n_key);
            for half in 0..2 {
                let tile = 2 * both + half;
                let seen = _mm512_loadu_si512(self.seen.as_ptr().add(tile * SIDE).cast());
                let seen = _mm512_add_epi32(seen, _mm512_set1_epi32(-start));
                let sees =
                    |key: usize| _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(key as i32));
                let scores = &mut self.scores[half * KEY_TILES..(half + 1) * KEY_TILES];
                let scaled = self.softmaxes[tile].take(scores, n_key, scale, sees);
                if let Some(factors) = scaled {
                    let n_tile = self.head.value / SIDE;
                    scale_lanes(&mut self.out[tile * n_tile..(tile + 1) * n_tile], &factors);
                }
                let weights = &mut self.weights[half * 2 * KEY_STEPS..(half + 1) * 2 * KEY_STEPS];
                pair_weights(&self.scores[half * KEY_TILES..(half + 1) * KEY_TILES], weights);
            }
            self.sum(both, n_key.div_ceil(STEP));
        }
    }

    /// `S^T` of 32 rows: values with values, with remainders, remainders with values.
    ///
    /// # Safety
    /// As [`Room::rows`].
    unsafe fn score(&mut self, both: usize, n_key: usize) {
        let steps = self.head.key() / STEP;
        let (keys, key_rests) = self.keys.split_at(KEY_TILES * steps);
        let (queries, query_rests) = self.queries.split_at(self.queries.len() / 2);
        let left = 2 * both * steps;
        let right = left + steps;
        // SAFETY: the caller's promise.
        unsafe {
            for upper in (0..n_key.div_ceil(SIDE)).step_by(2) {
                let (first, second) = (upper * steps, (upper + 1) * steps);
                zero!("tmm0" "tmm1" "tmm2" "tmm3");
                for k in 0..steps {
                    load!("tmm4", &raw const keys[first + k]);
                    load!("tmm5", &raw const keys[second + k]);
                    load!("tmm6", &raw const query_rests[left + k]);
                    load!("tmm7", &raw const query_rests[right + k]);
                    add_four!();
                    load!("tmm6", &raw const queries[left + k]);
                    load!("tmm7", &raw const queries[right + k]);
                    add_four!();
                    load!("tmm4", &raw const key_rests[first + k]);
                    load!("tmm5", &raw const key_rests[second + k]);
                    add_four!();
                }
                store!("tmm0", &raw mut self.scores[upper]);
                store!("tmm1", &raw mut self.scores[KEY_TILES + upper]);
                store!("tmm2", &raw mut self.scores[upper + 1]);
                store!("tmm3", &raw mut self.scores[KEY_TILES + upper + 1]);
            }
        }
    }

    /// `O^T += V^T P^T` of 32 rows.
    ///
    /// # Safety
    /// As [`Room::rows`].
    unsafe fn sum(&mut self, both: usize, steps: usize) {
        let n_tile = self.head.value / SIDE;
        let (values, value_rests) = self.values.split_at(KEY_STEPS * n_tile);
        let (left, right) = self.weights.split_at(2 * KEY_STEPS);
        let out = &mut self.out[2 * both * n_tile..2 * (both + 1) * n_tile];
        // SAFETY: the caller's promise.
        unsafe {
            for upper in (0..n_tile).step_by(2) {
                load!("tmm0", &raw const out[upper]);
                load!("tmm1", &raw const out[n_tile + upper]);
                load!("tmm2", &raw const out[upper + 1]);
                load!("tmm3", &raw const out[n_tile + upper + 1]);
                for k in 0..steps {
                    let (first, second) = (upper * KEY_STEPS + k, (upper + 1) * KEY_STEPS + k);
                    load!("tmm4", &raw const values[first]);
                    load!("tmm5", &raw const values[second]);
                    load!("tmm6", &raw const left[KEY_STEPS + k]);
                    load!("tmm7", &raw const right[KEY_STEPS + k]);
                    add_four!();
                    load!("tmm6", &raw const left[k]);
                    load!("tmm7", &raw const right[k]);
                    add_four!();
                    load!("tmm4", &raw const value_rests[first]);
                    load!("tmm5", &raw const value_rests[second]);
                    add_four!();
                }
                store!("tmm0", &raw mut out[upper]);
                store!("tmm1", &raw mut out[n_tile + upper]);
                store!("tmm2", &raw mut out[upper + 1]);
                store!("tmm3", &raw mut out[n_tile + upper + 1]);
            }
        }
    }
}
