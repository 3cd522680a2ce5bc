//! Sixteen running softmaxes side by side: lanes are queries, keys come one after the other.

use std::arch::x86_64::{
    __m512, _mm512_cmp_ps_mask, _mm512_load_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_store_ps, _mm512_sub_ps,
};
use std::arch::x86_64::{_CMP_NEQ_UQ, _mm512_add_ps, _mm512_fmadd_ps, _mm512_setzero_ps};

use super::super::row::exp_lanes;
use super::Running;
use super::tiles::{Lane16, Tile};
use super::words::SIDE;

/// Sixteen queries' largest scores and sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmaxes {
    max: Lane16,
    sum: Lane16,
}

impl Softmaxes {
    pub(super) const START: Self =
        Self { max: Lane16([Running::START.max; SIDE]), sum: Lane16([0.0; SIDE]) };

    /// Scores of up to 64 keys, a key a row, become weights, not yet divided by their sum; `sees(key)` has a bit for every
    /// lane that sees it. What the output so far is multiplied with, `None` when nothing changes.
    ///
    /// # Safety
    /// The processor has AVX-512; `tiles` hold `n_key` keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn take(
        &mut self,
        tiles: &mut [Tile],
        n_key: usize,
        scale: f32,
        sees: impl Fn(usize) -> u16,
    ) -> Option<Lane16> {
        let at = |tiles: &mut [Tile], key: usize| -> *mut f32 {
            tiles[key / SIDE].0[key % SIDE].as_mut_ptr().cast()
        };
        let (scale, unseen) = (_mm512_set1_ps(scale), _mm512_set1_ps(f32::NEG_INFINITY));
        // SAFETY: rows of tiles are aligned and have sixteen numbers.
        unsafe {
            let before = _mm512_load_ps(self.max.0.as_ptr());
            let mut max = before;
            for key in 0..n_key {
                let score = _mm512_mul_ps(_mm512_load_ps(at(tiles, key)), scale);
                let score = _mm512_mask_blend_ps(sees(key), unseen, score);
                _mm512_store_ps(at(tiles, key), score);
                // What is no number leaves the largest as it is, and shows in the sum.
                max = _mm512_max_ps(score, max);
            }
            // Four chains: a sum's order depends on the keys alone.
            let mut sums = [_mm512_setzero_ps(); 4];
            for key in 0..n_key {
                let weight = exp(_mm512_sub_ps(_mm512_load_ps(at(tiles, key)), max));
                _mm512_store_ps(at(tiles, key), weight);
                sums[key % 4] = _mm512_add_ps(sums[key % 4], weight);
            }
            for key in n_key..tiles.len() * SIDE {
                _mm512_store_ps(at(tiles, key), _mm512_setzero_ps());
            }
            let sum =
                _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
            let factor = exp(_mm512_sub_ps(before, max));
            let sum = _mm512_fmadd_ps(_mm512_load_ps(self.sum.0.as_ptr()), factor, sum);
            _mm512_store_ps(self.sum.0.as_mut_ptr(), sum);
            _mm512_store_ps(self.max.0.as_mut_ptr(), max);
            if _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(before, max) == 0 {
                return None;
            }
            let mut factors = Lane16([0.0; SIDE]);
            _mm512_store_ps(factors.0.as_mut_ptr(), factor);
            Some(factors)
        }
    }

    /// One lane's.
    pub(super) fn running(&self, lane: usize) -> Running {
        Running { max: self.max.0[lane], sum: self.sum.0[lane] }
    }

    /// All lanes' sums.
    pub(super) fn sums(&self) -> &Lane16 {
        &self.sum
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
#[inline]
fn exp(x: __m512) -> __m512 {
    let mut lanes = Lane16([0.0; SIDE]);
    // SAFETY: aligned, sixteen numbers.
    unsafe {
        _mm512_store_ps(lanes.0.as_mut_ptr(), x);
        exp_lanes(&mut lanes.0);
        _mm512_load_ps(lanes.0.as_ptr())
    }
}
