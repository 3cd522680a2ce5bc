//! Attention of one layer: latents as DeepSeek has them, but without norms, and a rotary key for each head.
//!
//! A head's rotary key is a rotated function of the latent, so absorption does not reach it: it is expanded when its
//! row is stored, and the cache row is `[latent, k_pe of every head]`. The rest of a key, and values, are expanded from
//! the latent (prompt form) or folded into the query and the result (decode form), as there.

use super::Mini;
use crate::backend::{Backend, HeadSide, KvB};
use crate::error::Result;
use crate::model::record::Recorder;
use crate::step::Step;

/// From the normed stream `y` to `delta`, storing the step's latents and rotary keys.
pub(super) fn attention<B: Backend>(
    net: &mut Mini<B>,
    backend: &mut B,
    layer: usize,
    step: &Step,
    recorder: Option<&mut Recorder>,
) -> Result<()> {
    let w = &net.weights.layers[layer].attention;
    let (s, cache, shape, plan) = (&mut net.scratch, &mut net.latent[layer], &net.shape, &net.plan);
    let (rows, n_decode) = (step.n_row(), step.n_decode_row());
    let kv_b = KvB::Apart { key: &w.k_up, value: &w.v_up };

    backend.linear(&mut s.q_a, &s.y, &w.q_down, rows);
    backend.linear(&mut s.q, &s.q_a, &w.q_up, rows);
    backend.rope(&mut s.q, &net.rope, shape, plan);
    backend.linear(&mut s.kv, &s.y, &w.kv_down, rows);
    // Whole keys, of which the cache takes the rotary part.
    backend.linear(&mut s.k, &s.kv, &w.k_up, rows);
    backend.rope(&mut s.k, &net.rope, shape, plan);
    backend.cache_store_heads(cache, &s.kv, &s.k, shape, plan);

    if n_decode > 0 {
        let decoding = 0..n_decode;
        backend.head_linear(&mut s.q_latent, &s.q, kv_b, HeadSide::Key, shape, decoding.clone());
        backend.mla_decode(&mut s.o_latent, &s.q_latent, &s.q, cache, shape, plan);
        backend.head_linear(&mut s.heads, &s.o_latent, kv_b, HeadSide::Value, shape, decoding);
    }
    if n_decode < rows {
        backend.mla_prefill(&mut s.heads, &s.q, cache, kv_b, shape, plan);
    }
    backend.linear(&mut s.delta, &s.heads, &w.o, rows);
    match recorder {
        Some(recorder) => {
            recorder.take(backend, &format!("attn.{layer}"), &s.delta, net.hidden_size, rows)
        }
        None => Ok(()),
    }
}
