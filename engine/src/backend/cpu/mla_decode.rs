//! Absorbed attention over the paged latent cache.
//!
//! Bytes: each latent row once for a group of heads, `(c + r) * 4`. FLOPs: `2 * H * (2c + r)` a key. A task is a row
//! and a group of heads: their queries and outputs (8 x 1,088 numbers for V3) stay in the first-level cache while the
//! keys pass.

use super::simd::attention::{Running, Tile, accumulate, score};
use super::{Cpu, Plan};
use crate::backend::{MlaShape, ScratchShape};
use crate::step::PAGE_TOKENS;

/// Heads that share one pass over the keys.
const GROUP: usize = 8;

/// A thread's queries and scores.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[GROUP, c + r]`: `q_latent` and `q_pe` side by side, as the cache has its rows.
    queries: Vec<f32>,
    /// `[GROUP, 64]`.
    scores: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(shape: &ScratchShape) -> Self {
        Self {
            queries: vec![0.0; GROUP * shape.mla.latent_dim()],
            scores: vec![0.0; GROUP * PAGE_TOKENS],
        }
    }

    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        (GROUP * (shape.mla.latent_dim() + PAGE_TOKENS) * size_of::<f32>()) as u64
    }
}

/// See [`crate::backend::Backend::mla_decode`].
pub(super) fn mla_decode(
    cpu: &mut Cpu,
    o_latent: &mut [f32],
    q_latent: &[f32],
    q: &[f32],
    cache: &[f32],
    shape: &MlaShape,
    plan: &Plan,
) {
    let (heads, latent) = (shape.n_head, shape.kv_lora_rank);
    let groups = heads.div_ceil(GROUP);
    let isa = cpu.isa;
    let heads_of = |task: usize| {
        let first = task / groups * heads;
        first + task % groups * GROUP..first + ((task % groups + 1) * GROUP).min(heads)
    };
    let part = |task: usize| heads_of(task).start * latent..heads_of(task).end * latent;
    let n_key: usize = plan.positions[..plan.n_decode_row].iter().map(|p| *p as usize + 1).sum();
    let work = n_key * heads * (2 * latent + shape.qk_rope_head_dim);
    cpu.pool.run_parts(
        work,
        o_latent,
        &mut cpu.threads,
        plan.n_decode_row * groups,
        part,
        |task, out, scratch| {
            let Scratch { queries, scores } = &mut scratch.mla;
            let row = task / groups;
            let n_query = heads_of(task).len();
            gather_queries(queries, heads_of(task), q_latent, q, shape);
            out.fill(0.0);
            let mut running = [Running::START; GROUP];
            let n_key = plan.positions[row] as usize + 1;
            for (i, page) in plan.pages_of(plan.sequence[row] as usize).iter().enumerate() {
                if i * PAGE_TOKENS >= n_key {
                    break;
                }
                let keys = &cache[page.0 as usize * PAGE_TOKENS * shape.latent_dim()..];
                let tile = Tile {
                    keys: &keys[..PAGE_TOKENS * shape.latent_dim()],
                    key_dim: shape.latent_dim(),
                    values: keys,
                    value_stride: shape.latent_dim(),
                    value_dim: latent,
                    n_key: (n_key - i * PAGE_TOKENS).min(PAGE_TOKENS),
                };
                score(isa, &tile, queries, n_query, scores);
                let each =
                    out.chunks_mut(latent).zip(scores.chunks_mut(PAGE_TOKENS)).zip(&mut running);
                for ((out, scores), running) in each {
                    accumulate(isa, &tile, shape.softmax_scale, scores, running, out);
                }
            }
            out.chunks_mut(latent).zip(&running).for_each(|(out, running)| running.finish(out));
        },
    );
}

/// Puts each head's `[q_latent, q_pe]` side by side.
fn gather_queries(
    queries: &mut [f32],
    heads: std::ops::Range<usize>,
    q_latent: &[f32],
    q: &[f32],
    shape: &MlaShape,
) {
    let latent = shape.kv_lora_rank;
    for (head, query) in heads.zip(queries.chunks_mut(shape.latent_dim())) {
        let q_pe =
            &q[head * shape.qk_head_dim() + shape.qk_nope_head_dim..][..shape.qk_rope_head_dim];
        query[..latent].copy_from_slice(&q_latent[head * latent..][..latent]);
        query[latent..].copy_from_slice(q_pe);
    }
}
