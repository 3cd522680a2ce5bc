//! Multi-head attention of prompt rows: keys and values are expanded from the cached latents, tile by tile.
//!
//! A task is one head of one sequence. For each page of 64 latents it expands the head's keys and values once
//! (`2 * 64 * (n + v) * c` FLOPs) and lets all rows of the chunk pass (`2 * (n + r + v)` a row and key). The score
//! matrix exists for one tile and one row at a time. A key half that is stored by itself, turned round, is turned back
//! and widened once a task.

use super::pool::Block;
use super::simd::attention::{Running, Tile, accumulate, score};
use super::simd::multiply::{strided_dot_f32, strided_dot_rows};
use super::{Cpu, Plan, Weight};
use crate::backend::{KvB, MlaShape, ScratchShape};
use crate::step::PAGE_TOKENS;

/// One thread's tile.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[64, n + r]`.
    keys: Vec<f32>,
    /// `[64, v]`.
    values: Vec<f32>,
    /// `[64]`.
    scores: Vec<f32>,
    /// `[rows]`: the rows' softmaxes.
    running: Vec<Running>,
    /// `[rows, v]`: the rows' unnormalised outputs.
    out: Vec<f32>,
    /// `[n, c]`: one head's key half.
    w_uk: Vec<f32>,
    /// `[n]`: one row of it as it is stored.
    stored: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(shape: &ScratchShape) -> Self {
        Self {
            keys: vec![0.0; PAGE_TOKENS * shape.mla.qk_head_dim()],
            values: vec![0.0; PAGE_TOKENS * shape.mla.v_head_dim],
            scores: vec![0.0; PAGE_TOKENS],
            running: vec![Running::START; shape.step_rows_max],
            out: vec![0.0; shape.step_rows_max * shape.mla.v_head_dim],
            w_uk: vec![0.0; shape.mla.qk_nope_head_dim * shape.mla.kv_lora_rank],
            stored: vec![0.0; shape.mla.qk_nope_head_dim],
        }
    }

    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        let tile =
            PAGE_TOKENS * (shape.mla.qk_head_dim() + shape.mla.v_head_dim + 1) * size_of::<f32>();
        let rows =
            shape.step_rows_max * (size_of::<Running>() + shape.mla.v_head_dim * size_of::<f32>());
        let turned = shape.mla.qk_nope_head_dim * (shape.mla.kv_lora_rank + 1) * size_of::<f32>();
        (tile + rows + turned) as u64
    }
}

/// What all tasks read.
struct Work<'a> {
    isa: super::Isa,
    q: &'a [f32],
    cache: &'a [f32],
    kv_b: KvB<&'a Weight>,
    shape: &'a MlaShape,
    plan: &'a Plan,
}

/// See [`crate::backend::Backend::mla_prefill`].
pub(super) fn mla_prefill(
    cpu: &mut Cpu,
    o: &mut [f32],
    q: &[f32],
    cache: &[f32],
    kv_b: KvB<&Weight>,
    shape: &MlaShape,
    plan: &Plan,
) {
    let (heads, width) = (shape.n_head, shape.v_head_dim);
    let work = Work { isa: cpu.isa, q, cache, kv_b, shape, plan };
    let n_task = (plan.n_seq() - plan.n_decode) * heads;
    let sequence_of = |task: usize| plan.n_decode + task / heads;
    let block = |task: usize| {
        let rows = &plan.row_start[sequence_of(task)..];
        Block { rows: rows[0] as usize..rows[1] as usize, column: task % heads * width }
    };
    cpu.pool.run_blocks(
        o,
        (heads * width, width),
        &mut cpu.threads,
        n_task,
        block,
        |task, scratch| work.head(&mut scratch.prefill, sequence_of(task), task % heads),
    );
}

impl Work<'_> {
    /// All rows of one sequence for one head, `[rows, v]`.
    fn head<'s>(&self, scratch: &'s mut Scratch, sequence: usize, head: usize) -> &'s [f32] {
        let Self { isa, plan, shape, .. } = *self;
        let first = plan.row_start[sequence] as usize;
        let n_row = plan.row_start[sequence + 1] as usize - first;
        let last = plan.positions[first + n_row - 1] as usize;
        let (width, qk) = (shape.v_head_dim, shape.qk_head_dim());
        scratch.running[..n_row].fill(Running::START);
        scratch.out[..n_row * width].fill(0.0);
        if let KvB::Halves { key, .. } = self.kv_b {
            turn(scratch, key, head * shape.kv_lora_rank);
        }
        for (i, page) in plan.pages_of(sequence).iter().enumerate() {
            let start = i * PAGE_TOKENS;
            if start > last {
                break;
            }
            self.expand(scratch, page.0 as usize, head, (last + 1 - start).min(PAGE_TOKENS));
            let Scratch { keys, values, scores, running, out, .. } = scratch;
            for row in 0..n_row {
                let position = plan.positions[first + row] as usize;
                if position < start {
                    continue;
                }
                let tile = Tile {
                    keys,
                    key_dim: qk,
                    key_stride: qk,
                    values,
                    value_stride: width,
                    value_dim: width,
                    n_key: (position + 1 - start).min(PAGE_TOKENS),
                };
                let query = &self.q[((first + row) * shape.n_head + head) * qk..][..qk];
                score(isa, &tile, query, 1, scores);
                let out = &mut out[row * width..(row + 1) * width];
                accumulate(isa, &tile, shape.softmax_scale, scores, &mut running[row], out);
            }
        }
        for (out, running) in scratch.out.chunks_mut(width).zip(&scratch.running[..n_row]) {
            running.finish(out);
        }
        &scratch.out[..n_row * width]
    }

    /// One page's keys and values of one head.
    fn expand(&self, scratch: &mut Scratch, page: usize, head: usize, n_key: usize) {
        let Self { isa, kv_b, shape, .. } = *self;
        let (n, v, latent) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.latent_dim());
        let rows = &self.cache[page * PAGE_TOKENS * latent..][..n_key * latent];
        let Scratch { keys, values, w_uk, .. } = scratch;
        let (qk, k_pe) = (shape.qk_head_dim(), shape.k_pe_start(head));
        let mut expand_keys =
            |weight, first| strided_dot_rows(isa, keys, qk, n, rows, latent, n_key, weight, first);
        let (weight, first) = match kv_b {
            KvB::Whole(whole) => {
                expand_keys(whole, head * (n + v));
                (whole, head * (n + v) + n)
            }
            KvB::Apart { key, value } => {
                expand_keys(key, head * qk);
                (value, head * v)
            }
            KvB::Halves { value, .. } => {
                strided_dot_f32(isa, keys, qk, rows, latent, n_key, w_uk, shape.kv_lora_rank);
                (value, head * v)
            }
        };
        strided_dot_rows(isa, values, v, v, rows, latent, n_key, weight, first);
        for (key, row) in keys.chunks_mut(qk).zip(rows.chunks(latent)) {
            key[n..].copy_from_slice(&row[k_pe..k_pe + shape.qk_rope_head_dim]);
        }
    }
}

/// One head's key half, `[c, n]` from row `first`, turned round and widened.
fn turn(scratch: &mut Scratch, key: &Weight, first: usize) {
    let Scratch { w_uk, stored, .. } = scratch;
    let latent = w_uk.len() / stored.len();
    for c in 0..latent {
        key.row(first + c, stored);
        for (n, x) in stored.iter().enumerate() {
            w_uk[n * latent + c] = *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::MlaShape;
    use crate::backend::cpu::testing::{
        EVEN, Matrix, ODD, OWN_KEYS, Sequence, TestKvB, Way, assert_close, assert_same_bits,
        attend, backend_for, cache, kv_b_forms, step, ways,
    };
    use crate::quant::DType;

    fn queries(sequences: &[Sequence], shape: &MlaShape) -> Vec<f32> {
        sequences.iter().flat_map(|s| s.inputs(3, shape.n_head * shape.qk_head_dim())).collect()
    }

    /// The first `n_decode` sequences are another operation's: their outputs must stay 9.
    fn run(
        way: Way,
        threads: usize,
        sequences: &[Sequence],
        n_decode: usize,
        shape: &MlaShape,
        kv_b: &TestKvB,
    ) -> Vec<f32> {
        let step = step(sequences, n_decode);
        let (mut cpu, mut plan) = backend_for(way, threads, *shape);
        cpu.begin(&mut plan, &step).unwrap();
        let q = cpu.vector(&queries(sequences, shape)).unwrap();
        let cache = cpu.vector(&cache(sequences, &step, shape)).unwrap();
        let len = step.n_row() * shape.n_head * shape.v_head_dim;
        let mut o = cpu.vector(&vec![9.0; len]).unwrap();
        cpu.mla_prefill(&mut o, &q, &cache, kv_b.stored(), shape, &plan);
        o.clone()
    }

    fn oracle(sequence: Sequence, shape: &MlaShape, kv_b: &Matrix) -> Vec<f64> {
        let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let latents: Vec<f64> = sequence.latents(shape).into_iter().map(f64::from).collect();
        let q = queries(&[sequence], shape);
        let mut out = vec![0.0; sequence.rows * shape.n_head * v];
        for head in 0..shape.n_head {
            let expand = |from: usize, n: usize| -> Vec<Vec<f64>> {
                let first = head * (shape.qk_nope_head_dim + v) + from;
                let row = |l: &[f64]| (0..n).map(|i| kv_b.dot(first + i, &l[..c]).value).collect();
                latents.chunks(shape.latent_dim()).map(row).collect()
            };
            let (keys, values) = (expand(0, n), expand(n, v));
            for row in 0..sequence.rows {
                let at = row * shape.n_head + head;
                let query = &q[at * shape.qk_head_dim()..(at + 1) * shape.qk_head_dim()];
                let score = |u: usize| -> f64 {
                    let r = shape.qk_rope_head_dim;
                    let own = if shape.n_k_pe == 1 { 0 } else { head * r };
                    let k_pe = &latents[u * shape.latent_dim() + c + own..][..r];
                    let key = keys[u].iter().chain(k_pe);
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum();
                    dot * f64::from(shape.softmax_scale)
                };
                let scores: Vec<f64> = (0..=sequence.before + row).map(score).collect();
                let o = attend(&scores, |u, i| values[u][i], v);
                out[at * v..(at + 1) * v].copy_from_slice(&o);
            }
        }
        out
    }

    fn sequence(id: u64, before: usize, rows: usize) -> Sequence {
        Sequence { id, before, rows }
    }

    #[test]
    fn chunks_around_pages_agree_with_the_oracle() {
        let mut forms = kv_b_forms(8);
        forms.push((OWN_KEYS, DType::F32, TestKvB::whole(8, DType::F32, &OWN_KEYS)));
        for (shape, _, kv_b) in forms {
            let sequences = [
                sequence(1, 5, 2),
                sequence(2, 0, 1),
                sequence(3, 0, 3),
                sequence(4, 60, 13),
                sequence(5, 200, 17),
            ];
            let decoded = 2 * shape.n_head * shape.v_head_dim;
            let want: Vec<f64> =
                sequences[1..].iter().flat_map(|s| oracle(*s, &shape, &kv_b.whole)).collect();
            for way in ways() {
                let got = run(way, 2, &sequences, 1, &shape, &kv_b);
                assert!(got[..decoded].iter().all(|o| *o == 9.0));
                // Keys and values are sums of about 65 products, off by 1e-5 of their size of up to 20; scores of
                // those, scaled, decide weights.
                assert_close(&got[decoded..], &want, |_| 1e-4);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_however_the_prompt_is_cut_and_whatever_is_beside_it() {
        let forms = [
            (ODD, TestKvB::whole(8, DType::Bf16, &ODD)),
            (EVEN, TestKvB::whole(8, DType::Bf16, &EVEN)),
            (EVEN, TestKvB::halves(8, DType::Q8_0, &EVEN)),
            (OWN_KEYS, TestKvB::whole(8, DType::Bf16, &OWN_KEYS)),
        ];
        for (shape, kv_b) in forms {
            let width = shape.n_head * shape.v_head_dim;
            for way in ways() {
                let whole = run(way, 1, &[sequence(1, 130, 33)], 0, &shape, &kv_b);
                for (threads, cut) in [(1, 1), (2, 2), (3, 7), (2, 32)] {
                    let mut before = 0;
                    while before < 33 {
                        let rows = cut.min(33 - before);
                        let beside = [sequence(2, 3, 2), sequence(1, 130 + before, rows)];
                        let got = run(way, threads, &beside, 0, &shape, &kv_b);
                        let want = &whole[before * width..(before + rows) * width];
                        assert_same_bits(&got[2 * width..], want);
                        before += rows;
                    }
                }
            }
        }
    }
}
