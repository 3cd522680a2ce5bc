//! Multi-head latent attention of one layer (DeepSeek-V2 paper, section 2.1).
//!
//! All rows make their query and store their latent; then rows in decode form attend in the latent space, where the
//! key half of `kv_b_proj` is folded into the query and the value half applied to the result, and rows in prompt
//! form attend head by head over keys and values expanded from the latents. Both read the same cache.

use super::DeepSeek;
use super::weights::{Attention, Query};
use crate::backend::{Backend, HeadSide};
use crate::error::Result;
use crate::model::record::Recorder;
use crate::step::Step;

/// The latent norms' epsilon: the reference uses it whatever `rms_norm_eps` says.
const LATENT_NORM_EPS: f32 = 1e-6;

/// From the normed stream `y` to `delta`, storing the step's latents.
pub(super) fn attention<B: Backend>(
    net: &mut DeepSeek<B>,
    backend: &mut B,
    layer: usize,
    step: &Step,
    recorder: Option<&mut Recorder>,
) -> Result<()> {
    let weights = &net.weights.layers[layer].attention;
    let (s, cache, shape, plan) = (&mut net.scratch, &mut net.latent[layer], &net.shape, &net.plan);
    let rows = step.n_row();
    let n_decode = step.n_decode_row();
    let kv_b = weights.kv_b.as_ref();

    queries(backend, s, weights, rows);
    backend.rope(&mut s.q, &net.rope, shape, plan);
    backend.linear(&mut s.kv, &s.y, &weights.kv_a, rows);
    backend.cache_store(cache, &s.kv, &weights.kv_norm, LATENT_NORM_EPS, &net.rope, shape, plan);

    if n_decode > 0 {
        backend.head_linear(&mut s.q_latent, &s.q, kv_b, HeadSide::Key, shape, 0..n_decode);
        backend.mla_decode(&mut s.o_latent, &s.q_latent, &s.q, cache, shape, plan);
        backend.head_linear(&mut s.heads, &s.o_latent, kv_b, HeadSide::Value, shape, 0..n_decode);
    }
    if n_decode < rows {
        backend.mla_prefill(&mut s.heads, &s.q, cache, kv_b, shape, plan);
    }
    backend.linear(&mut s.delta, &s.heads, &weights.o, rows);
    match recorder {
        Some(recorder) => record(net, backend, layer, step, recorder),
        None => Ok(()),
    }
}

fn queries<B: Backend>(
    backend: &mut B,
    s: &mut super::Scratch<B>,
    weights: &Attention<B>,
    rows: usize,
) {
    match &weights.query {
        Query::Full(q) => backend.linear(&mut s.q, &s.y, q, rows),
        Query::LowRank { a, norm, b } => {
            backend.linear(&mut s.q_a, &s.y, a, rows);
            backend.rms_norm(&mut s.q_a_norm, &s.q_a, norm, LATENT_NORM_EPS, rows);
            backend.linear(&mut s.q, &s.q_a_norm, b, rows);
        }
    }
}

/// Copies the heads' outputs, attention's output and the latents as they stand in the cache.
fn record<B: Backend>(
    net: &DeepSeek<B>,
    backend: &B,
    layer: usize,
    step: &Step,
    recorder: &mut Recorder,
) -> Result<()> {
    let (s, shape, rows) = (&net.scratch, &net.shape, step.n_row());
    let width = shape.latent_dim();
    let mut row = vec![0.0; width];
    for slot in &step.slots {
        backend.read_latent(&net.latent[layer], *slot, &mut row)?;
        let (c_kv, k_pe) = row.split_at(shape.kv_lora_rank);
        recorder.append(&format!("mla.{layer}.c_kv"), c_kv.len(), c_kv);
        recorder.append(&format!("mla.{layer}.k_rope"), k_pe.len(), k_pe);
    }
    let heads = shape.n_head * shape.v_head_dim;
    recorder.take(backend, &format!("mla.{layer}.heads_out"), &s.heads, heads, rows)?;
    recorder.take(backend, &format!("attn.{layer}"), &s.delta, net.hidden_size, rows)
}
