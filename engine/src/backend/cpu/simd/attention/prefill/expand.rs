//! A page's keys and values out of its latents.

use std::arch::x86_64::{_mm512_loadu_si512, _mm512_setzero_si512, _mm512_store_si512};

use super::super::super::rows::Rows;
use super::super::tiles::{ROW_BYTES, STEP, Tile, add, add_four, load, store, turn, zero};
use super::super::words::SIDE;
use super::lanes::split_halves;
use super::{KEY_STEPS, KEY_TILES, Room};
use crate::backend::cpu::latents::Halves;

impl Room {
    /// Latents by words; keys that nobody sees become zero, whatever their memory holds.
    ///
    /// # Safety
    /// The page's rows are as wide as the head says.
    pub(super) unsafe fn turn_latents(&mut self, latents: Rows<'_>, half: usize) {
        let ((at, stride), steps) = (latents.bf16_at(), self.head.latent / STEP);
        let to = &mut self.latents[half * KEY_TILES * steps..(half + 1) * KEY_TILES * steps];
        for (i, tile) in to.iter_mut().enumerate() {
            let first = i / steps * SIDE;
            let n = latents.n().saturating_sub(first).min(SIDE);
            let from = at.cast::<u8>().wrapping_add(first * stride + i % steps * ROW_BYTES);
            // SAFETY: the caller's promise; `n` rows are seen.
            unsafe { turn(tile, from, stride, n) }
        }
    }

    /// `K`, as pairs, the rotary key behind it.
    ///
    /// # Safety
    /// Tiles are configured, and the page's 64 rows are as wide as the head says.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn expand_keys(&mut self, page: Halves<'_>) {
        let (latents, head) = (page.rows, self.head);
        let (at, stride) = latents.bf16_at();
        let rests_at: Option<*const u8> = page.rests.map(|rests| rests.bf16_at().0.cast());
        let (steps, per_key) = (head.latent / STEP, head.key() / STEP);
        let at: *const u8 = at.cast();
        let (values, rests) = self.keys.split_at_mut(KEY_TILES * per_key);
        // SAFETY: the caller's promise.
        unsafe {
            for upper in (0..latents.n().div_ceil(SIDE)).step_by(2) {
                let from = at.wrapping_add(upper * SIDE * stride);
                for (step, pair) in self.expand.chunks(2 * steps).enumerate() {
                    zero!("tmm0" "tmm1" "tmm2" "tmm3");
                    let (left, right) = pair.split_at(steps);
                    for (k, (left, right)) in left.iter().zip(right).enumerate() {
                        load!("tmm4", from.wrapping_add(k * ROW_BYTES), stride);
                        load!("tmm5", from.wrapping_add(SIDE * stride + k * ROW_BYTES), stride);
                        load!("tmm6", left);
                        load!("tmm7", right);
                        add_four!();
                        if let Some(at) = rests_at {
                            let from = at.wrapping_add(upper * SIDE * stride + k * ROW_BYTES);
                            load!("tmm4", from, stride);
                            load!("tmm5", from.wrapping_add(SIDE * stride), stride);
                            add_four!();
                        }
                    }
                    let upper = upper * per_key + step;
                    store_pairs((values, rests), [upper, upper + per_key]);
                }
            }
            for key in 0..latents.n() {
                let from = at.wrapping_add(key * stride + head.latent * 2);
                for step in 0..head.rope / STEP {
                    let to = key / SIDE * per_key + head.nope / STEP + step;
                    let numbers = _mm512_loadu_si512(from.wrapping_add(step * ROW_BYTES).cast());
                    let value = values[to].0[key % SIDE].as_mut_ptr();
                    _mm512_store_si512(value.cast(), numbers);
                    let numbers = rests_at.map_or(_mm512_setzero_si512(), |at| {
                        let from = key * stride + head.latent * 2 + step * ROW_BYTES;
                        _mm512_loadu_si512(at.wrapping_add(from).cast())
                    });
                    let rest = rests[to].0[key % SIDE].as_mut_ptr();
                    _mm512_store_si512(rest.cast(), numbers);
                }
            }
        }
    }

    /// `V^T`, as pairs.
    ///
    /// # Safety
    /// As [`Room::expand_keys`], for `w_uv`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn expand_values(&mut self, w_uv: Rows<'_>, n_key: usize, has_rests: bool) {
        let ((at, stride), head) = (w_uv.bf16_at(), self.head);
        let steps = head.latent / STEP;
        let (latents, latent_rests) = self.latents.split_at(KEY_TILES * steps);
        let (values, rests) = self.values.split_at_mut(KEY_STEPS * head.value / SIDE);
        // SAFETY: the caller's promise.
        unsafe {
            for upper in (0..head.value / SIDE).step_by(2) {
                let from = at.cast::<u8>().wrapping_add(upper * SIDE * stride);
                for step in 0..n_key.div_ceil(STEP) {
                    zero!("tmm0" "tmm1" "tmm2" "tmm3");
                    let first = 2 * step * steps;
                    for k in 0..steps {
                        let (left, right) = (&latents[first + k], &latents[first + steps + k]);
                        load!("tmm4", from.wrapping_add(k * ROW_BYTES), stride);
                        load!("tmm5", from.wrapping_add(SIDE * stride + k * ROW_BYTES), stride);
                        load!("tmm6", left);
                        load!("tmm7", right);
                        add_four!();
                        if has_rests {
                            load!("tmm6", &raw const latent_rests[first + k]);
                            load!("tmm7", &raw const latent_rests[first + steps + k]);
                            add_four!();
                        }
                    }
                    let upper = upper * KEY_STEPS + step;
                    store_pairs((values, rests), [upper, upper + KEY_STEPS]);
                }
            }
        }
    }
}

/// Writes the four sums as pairs: tiles 0 and 1 side by side into the first tile of either, 2 and 3 into the second.
///
/// # Safety
/// Tiles are configured, and the processor has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
unsafe fn store_pairs((values, rests): (&mut [Tile], &mut [Tile]), to: [usize; 2]) {
    let mut sums = [Tile::ZERO; 4];
    // SAFETY: the caller's promise.
    unsafe {
        store!("tmm0", &raw mut sums[0]);
        store!("tmm1", &raw mut sums[1]);
        store!("tmm2", &raw mut sums[2]);
        store!("tmm3", &raw mut sums[3]);
        for (to, sums) in to.into_iter().zip(sums.as_chunks::<2>().0) {
            split_halves(&mut values[to], &mut rests[to], sums);
        }
    }
}
