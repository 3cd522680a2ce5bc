//! Rotation tables, with YaRN (`ARCHITECTURES` section 5; paper: Peng et al. 2023).
//!
//! Pair `j` of `r / 2` turns by `position * f_j`, whichever two channels it is made of. Tables are computed in f64 and
//! stored as f32, `[context, r / 2]` for cosine and sine, YaRN's factor on both included.

use std::f64::consts::TAU;

use crate::backend::{Backend, RopeTable};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::config::Yarn;
use crate::error::Result;
use crate::limits::Limits;

/// Tokens of one sequence under the limits.
pub(super) fn context(config: &ModelConfig, limits: &Limits) -> usize {
    config.max_position_embeddings.min(limits.context_tokens_max)
}

/// Bytes of both tables.
pub(super) fn bytes(config: &ModelConfig, limits: &Limits) -> u64 {
    (context(config, limits) * config.qk_rope_head_dim * size_of::<f32>()) as u64
}

/// Tables for every position of the context.
pub(super) fn table<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    limits: &Limits,
) -> Result<RopeTable<B::Buf>> {
    let factor = config.yarn.as_ref().map_or(1.0, rotation_factor);
    let [cos, sin] = turns(&frequencies(config), context(config, limits), factor);
    let (cos, sin) = (backend.vector(&cos)?, backend.vector(&sin)?);
    Ok(RopeTable { cos, sin, pairs: config.rope_pairs })
}

/// Positions whose turns are made of one far and many near ones.
const NEAR: usize = 256;

/// Cosines and sines of `position * frequency`, `[context, r / 2]` each, times `factor`.
///
/// A hundred thousand positions are millions of angles, a good part of a second if each cosine is a series of its own. So
/// angles are added, in f64: `cos(a + b) = cos a cos b - sin a sin b`. That is off by some 1e-16; the product of a late
/// position and its frequency by 1e-11, and an f32 by 6e-8.
fn turns(frequencies: &[f64], context: usize, factor: f64) -> [Vec<f32>; 2] {
    let at = |position: usize| -> Vec<(f64, f64)> {
        frequencies.iter().map(|w| (position as f64 * w).sin_cos()).collect()
    };
    let near: Vec<(f64, f64)> = (0..NEAR.min(context)).flat_map(at).collect();
    let len = context * frequencies.len();
    let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
    for first in (0..context).step_by(NEAR) {
        let far = at(first);
        let n = NEAR.min(context - first) * far.len();
        for ((near_sin, near_cos), (far_sin, far_cos)) in near[..n].iter().zip(far.iter().cycle()) {
            cos.push(((far_cos * near_cos - far_sin * near_sin) * factor) as f32);
            sin.push(((far_sin * near_cos + far_cos * near_sin) * factor) as f32);
        }
    }
    [cos, sin]
}

/// `(n + r)^-1/2`, times YaRN's factor on the softmax.
pub(super) fn softmax_scale(config: &ModelConfig) -> f32 {
    let plain = ((config.qk_nope_head_dim + config.qk_rope_head_dim) as f64).powf(-0.5);
    let factor = match config.yarn {
        Some(yarn) if yarn.mscale_all_dim != 0.0 => {
            mscale(yarn.factor, yarn.mscale_all_dim).powi(2)
        }
        _ => 1.0,
    };
    (plain * factor) as f32
}

/// `m(s, k) = 0.1 k ln s + 1` for `s > 1`, else 1.
fn mscale(factor: f64, k: f64) -> f64 {
    if factor > 1.0 { 0.1 * k * factor.ln() + 1.0 } else { 1.0 }
}

/// YaRN's factor on cosine and sine.
fn rotation_factor(yarn: &Yarn) -> f64 {
    if yarn.mscale != 0.0 && yarn.mscale_all_dim != 0.0 {
        mscale(yarn.factor, yarn.mscale) / mscale(yarn.factor, yarn.mscale_all_dim)
    } else {
        mscale(yarn.factor, 1.0)
    }
}

/// Turn of each pair per position, `[r / 2]`.
fn frequencies(config: &ModelConfig) -> Vec<f64> {
    let r = config.qk_rope_head_dim as f64;
    let base = config.rope_theta;
    let plain = (0..config.qk_rope_head_dim / 2).map(|j| base.powf(-2.0 * j as f64 / r));
    let Some(yarn) = config.yarn else { return plain.collect() };
    let pair_turning = |turns: f64| {
        r * (yarn.original_max_position_embeddings as f64 / (TAU * turns)).ln() / (2.0 * base.ln())
    };
    let low = pair_turning(yarn.beta_fast).floor().max(0.0);
    let high = pair_turning(yarn.beta_slow).ceil().min(r - 1.0);
    let width = if high == low { 0.001 } else { high - low };
    // Fast pairs keep their turn, slow ones are stretched by the factor, those between are blended.
    let blend = |(j, f): (usize, f64)| {
        let ramp = ((j as f64 - low) / width).clamp(0.0, 1.0);
        f * (ramp / yarn.factor + 1.0 - ramp)
    };
    plain.enumerate().map(blend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v3() -> Yarn {
        Yarn {
            factor: 40.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }
    }

    #[test]
    fn the_published_factors_of_v3_and_v2_lite() {
        assert!((mscale(40.0, 1.0) - 1.368_888).abs() < 1e-6);
        assert!((mscale(40.0, 0.707).powi(2) - 1.589_626).abs() < 1e-6);
        assert!((rotation_factor(&v3()) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn turns_are_those_of_each_angle_by_itself() {
        let frequencies = [1.0, 0.749, 0.03, 1e-4];
        let context = 70_000;
        let [cos, sin] = turns(&frequencies, context, 1.25);
        assert_eq!((cos.len(), sin.len()), (4 * context, 4 * context));
        // Every position near a seam, others here and there, the last one.
        let seams = (0..context).filter(|p| p % 97 == 0 || (p + 1) % NEAR <= 1 || p + 1 == context);
        for p in seams {
            for (j, w) in frequencies.iter().enumerate() {
                let angle = p as f64 * w;
                let (want_sin, want_cos) = angle.sin_cos();
                for (got, want) in [(cos[4 * p + j], want_cos), (sin[4 * p + j], want_sin)] {
                    // Half a step of an f32 below 1.25, and what an f64 leaves of so large an angle.
                    assert!((f64::from(got) - 1.25 * want).abs() < 6.1e-8, "{p} {w}");
                }
            }
        }
        for context in [0, 1, NEAR - 1, NEAR, NEAR + 1] {
            assert_eq!(turns(&frequencies, context, 1.0)[0].len(), 4 * context);
        }
    }

    #[test]
    fn without_both_mscales_the_rotation_carries_the_factor() {
        let yarn = Yarn { mscale_all_dim: 0.0, ..v3() };
        assert!((rotation_factor(&yarn) - 1.368_888).abs() < 1e-6);
    }
}
