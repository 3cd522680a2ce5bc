//! Absorbed attention over the paged latent cache.
//!
//! Bytes: each latent row once for a group of heads, `(c + r) * 4`. FLOPs: `2 * H * (2c + r)` a key. A task is a row
//! and a group of heads: their queries and outputs (8 x 1,088 numbers for V3) stay in the first-level cache while the
//! keys pass.

use super::simd::attention::{Running, Tile, accumulate, score};
use super::{Cpu, Isa, Plan};
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
    /// `[64]`: one head's scores against rotary keys of its own.
    own: Vec<f32>,
}

/// Numbers of one query as `queries` has it.
fn query_dim(shape: &MlaShape) -> usize {
    shape.kv_lora_rank + shape.qk_rope_head_dim
}

impl Scratch {
    pub(super) fn new(shape: &ScratchShape) -> Self {
        Self {
            queries: vec![0.0; GROUP * query_dim(&shape.mla)],
            scores: vec![0.0; GROUP * PAGE_TOKENS],
            own: vec![0.0; PAGE_TOKENS],
        }
    }

    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        ((GROUP * (query_dim(&shape.mla) + PAGE_TOKENS) + PAGE_TOKENS) * size_of::<f32>()) as u64
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
            let Scratch { queries, scores, own } = &mut scratch.mla;
            let row = task / groups;
            let n_query = heads_of(task).len();
            gather_queries(queries, heads_of(task), q_latent, q, shape);
            let key_dim = if shape.n_k_pe == 1 { query_dim(shape) } else { latent };
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
                    key_dim,
                    key_stride: shape.latent_dim(),
                    values: keys,
                    value_stride: shape.latent_dim(),
                    value_dim: latent,
                    n_key: (n_key - i * PAGE_TOKENS).min(PAGE_TOKENS),
                };
                score(isa, &tile, queries, n_query, scores);
                if shape.n_k_pe > 1 {
                    add_own_scores(isa, &tile, heads_of(task), q, shape, (own, scores));
                }
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

/// Adds to the scores of the latents what each head's own rotary keys give.
fn add_own_scores(
    isa: Isa,
    tile: &Tile<'_>,
    heads: std::ops::Range<usize>,
    q: &[f32],
    shape: &MlaShape,
    (own, scores): (&mut [f32], &mut [f32]),
) {
    for (at, scores) in heads.zip(scores.chunks_mut(PAGE_TOKENS)) {
        let keys = &tile.keys[shape.k_pe_start(at % shape.n_head)..];
        let tile = Tile { keys, key_dim: shape.qk_rope_head_dim, ..*tile };
        let q_pe = &q[at * shape.qk_head_dim() + shape.qk_nope_head_dim..][..tile.key_dim];
        score(isa, &tile, q_pe, 1, own);
        scores.iter_mut().zip(&*own).take(tile.n_key).for_each(|(score, own)| *score += own);
    }
}

/// Puts each head's `[q_latent, q_pe]` side by side, as a cache row has its key; `q_latent` alone where heads have
/// rotary keys of their own.
fn gather_queries(
    queries: &mut [f32],
    heads: std::ops::Range<usize>,
    q_latent: &[f32],
    q: &[f32],
    shape: &MlaShape,
) {
    let latent = shape.kv_lora_rank;
    if shape.n_k_pe > 1 {
        let q_latent = &q_latent[heads.start * latent..heads.end * latent];
        return queries[..q_latent.len()].copy_from_slice(q_latent);
    }
    for (head, query) in heads.zip(queries.chunks_mut(query_dim(shape))) {
        let q_pe =
            &q[head * shape.qk_head_dim() + shape.qk_nope_head_dim..][..shape.qk_rope_head_dim];
        query[..latent].copy_from_slice(&q_latent[head * latent..][..latent]);
        query[latent..].copy_from_slice(q_pe);
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::MlaShape;
    use crate::backend::cpu::testing::{
        EVEN, ODD, OWN_KEYS, Sequence, Way, assert_close, assert_same_bits, attend, backend_for,
        cache, step, ways,
    };

    fn inputs(sequences: &[Sequence], shape: &MlaShape) -> (Vec<f32>, Vec<f32>) {
        let latent = shape.n_head * shape.kv_lora_rank;
        let of = |kind, width| sequences.iter().flat_map(move |s| s.inputs(kind, width)).collect();
        (of(1, latent), of(2, shape.n_head * shape.qk_head_dim()))
    }

    fn run(way: Way, threads: usize, sequences: &[Sequence], shape: &MlaShape) -> Vec<f32> {
        let step = step(sequences, sequences.len());
        let (mut cpu, mut plan) = backend_for(way, threads, *shape);
        cpu.begin(&mut plan, &step).unwrap();
        let (q_latent, q) = inputs(sequences, shape);
        let (q_latent, q) = (cpu.vector(&q_latent).unwrap(), cpu.vector(&q).unwrap());
        let cache = cpu.vector(&cache(sequences, &step, shape)).unwrap();
        let mut o = cpu.alloc(step.n_row() * shape.n_head * shape.kv_lora_rank).unwrap();
        cpu.mla_decode(&mut o, &q_latent, &q, &cache, shape, &plan);
        o.clone()
    }

    fn oracle(sequence: Sequence, shape: &MlaShape) -> Vec<f64> {
        let (c, width) = (shape.kv_lora_rank, shape.latent_dim());
        let latents = sequence.latents(shape);
        let (q_latent, q) = inputs(&[sequence], shape);
        let mut out = Vec::new();
        for (row, head) in (0..sequence.rows).flat_map(|r| (0..shape.n_head).map(move |h| (r, h))) {
            let at = row * shape.n_head + head;
            let q_pe = &q[at * shape.qk_head_dim() + shape.qk_nope_head_dim..];
            let r = shape.qk_rope_head_dim;
            let query: Vec<f32> = [&q_latent[at * c..(at + 1) * c], &q_pe[..r]].concat();
            let own = if shape.n_k_pe == 1 { 0 } else { head * r };
            let score = |row: &[f32]| -> f64 {
                let key = row[..c].iter().chain(&row[c + own..c + own + r]);
                let dot: f64 =
                    query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                dot * f64::from(shape.softmax_scale)
            };
            let seen = sequence.before + row + 1;
            let scores: Vec<f64> = latents.chunks(width).take(seen).map(score).collect();
            out.extend(attend(&scores, |u, i| f64::from(latents[u * width + i]), c));
        }
        out
    }

    fn sequence(id: u64, before: usize, rows: usize) -> Sequence {
        Sequence { id, before, rows }
    }

    #[test]
    fn contexts_around_pages_and_splits_agree_with_the_oracle() {
        for shape in [ODD, EVEN, OWN_KEYS] {
            let sequences = [0, 1, 62, 63, 64, 127, 511, 512, 513, 1100]
                .map(|before| sequence(before as u64, before, 1));
            let want: Vec<f64> = sequences.iter().flat_map(|s| oracle(*s, &shape)).collect();
            for way in ways() {
                let got = run(way, 2, &sequences, &shape);
                // Scores up to 10 of 80 terms: off by 1e-6, and weights by as much; values are below 1.
                assert_close(&got, &want, |_| 4e-6);
            }
        }
    }

    #[test]
    fn a_replayed_answer_of_many_rows_agrees_with_the_oracle() {
        let sequences = [sequence(1, 60, 9), sequence(2, 510, 4)];
        let want: Vec<f64> = sequences.iter().flat_map(|s| oracle(*s, &ODD)).collect();
        for way in ways() {
            assert_close(&run(way, 2, &sequences, &ODD), &want, |_| 4e-6);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
        for shape in [EVEN, OWN_KEYS] {
            same_bits(&shape);
        }
    }

    fn same_bits(shape: &MlaShape) {
        let sequences = [3, 64, 700, 1500, 2100].map(|before| sequence(before as u64, before, 1));
        for way in ways() {
            let alone: Vec<f32> =
                sequences.iter().flat_map(|s| run(way, 1, &[*s], shape)).collect();
            for threads in 1..=3 {
                assert_same_bits(&run(way, threads, &sequences, shape), &alone);
                let last = run(way, threads, &sequences[4..], shape);
                assert_same_bits(&last, &alone[alone.len() - last.len()..]);
            }
            // The same rows as one replayed run of a sequence.
            let run_of = |before, rows| run(way, 3, &[sequence(9, before, rows)], shape);
            let replayed = run_of(0, 6);
            for row in 0..6 {
                // Latents of a sequence are drawn in order, so a shorter one is the beginning of a longer one.
                let got = run_of(row, 1);
                assert_same_bits(&got, &replayed[row * got.len()..(row + 1) * got.len()]);
            }
        }
    }
}
