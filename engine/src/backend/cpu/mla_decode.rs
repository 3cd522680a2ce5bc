//! Absorbed attention over the paged latent cache.
//!
//! Bytes: each latent row once for a group of heads. FLOPs: `2 * H * (2c + r)` a key. A context is cut into spans of whole
//! pages, at most eight and by the row's position alone; each is a softmax of its own, and they are merged in order. Where
//! there are fewer rows and groups of heads than threads want, spans are tasks of their own; elsewhere one task has all
//! spans of a row and group. Both do the same sums.

use std::ops::Range;

use super::aligned::Aligned;
use super::simd::attention::{After, Running, accumulate, score};
use super::simd::rows::Rows;
use super::{Cpu, Isa, Latents, Plan, latents};
use crate::backend::{MlaShape, ScratchShape};
use crate::step::PAGE_TOKENS;

#[cfg(target_arch = "x86_64")]
use super::simd::attention::decode;

/// Heads of a task without tiles: pages of keys are read once for all of them.
const GROUP: usize = GROUP_MAX;

/// Heads of these that share one pass over a page: their queries and outputs stay in the first-level cache.
const PASS: usize = 8;

/// Pages of a span, at least: what is merged is as much as is read of three or four pages.
const SPAN_PAGES: usize = 4;

/// Spans of a context, at most.
const SPANS: usize = 8;

/// Pages of each span of a context of `n_key`.
fn span_pages(n_key: usize) -> usize {
    n_key.div_ceil(PAGE_TOKENS).div_ceil(SPANS).max(SPAN_PAGES)
}

/// A thread's queries and scores, and a span's result before it is merged.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[GROUP, c + r]`: `q_latent` and `q_pe` side by side, as the cache has its rows.
    queries: Aligned<f32>,
    /// `[GROUP, 64]`.
    scores: Aligned<f32>,
    /// `[64]`: one head's scores against rotary keys of its own.
    own: Aligned<f32>,
    /// `[GROUP, c]`.
    span: Aligned<f32>,
    page: latents::PageRoom,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<decode::Room>,
}

/// Numbers of one query as `queries` has it.
fn query_dim(shape: &MlaShape) -> usize {
    shape.kv_lora_rank + shape.qk_rope_head_dim
}

/// Whether tiles take such latents, kept as `cpu` keeps them.
pub(super) fn has_tiles(cpu: &Cpu, shape: &MlaShape) -> bool {
    #[cfg(target_arch = "x86_64")]
    let fits = shape.n_k_pe == 1 && decode::fits(shape.kv_lora_rank, shape.latent_dim());
    #[cfg(not(target_arch = "x86_64"))]
    let fits = false;
    fits && cpu.isa == Isa::Amx && cpu.activations != super::Activations::F32
}

/// Heads of a task.
fn group(has_tiles: bool) -> usize {
    #[cfg(target_arch = "x86_64")]
    if has_tiles {
        return decode::HEADS;
    }
    let _ = has_tiles;
    GROUP
}

impl Scratch {
    pub(super) fn new(cpu: &Cpu, shape: &ScratchShape) -> Self {
        let (mla, has_tiles) = (&shape.mla, has_tiles(cpu, &shape.mla));
        let heads = group(has_tiles);
        Self {
            queries: Aligned::zeros(heads * query_dim(mla)),
            scores: Aligned::zeros(heads * PAGE_TOKENS),
            own: Aligned::zeros(PAGE_TOKENS),
            span: Aligned::zeros(heads * mla.kv_lora_rank),
            page: latents::PageRoom::new(cpu.cache, mla, has_tiles),
            #[cfg(target_arch = "x86_64")]
            tiles: has_tiles.then(|| decode::Room::new(mla.kv_lora_rank, mla.latent_dim())),
        }
    }

    pub(super) fn bytes(cpu: &Cpu, shape: &ScratchShape) -> u64 {
        let (mla, has_tiles) = (&shape.mla, has_tiles(cpu, &shape.mla));
        let each = query_dim(mla) + PAGE_TOKENS + mla.kv_lora_rank;
        let floats = ((group(has_tiles) * each + PAGE_TOKENS) * size_of::<f32>()) as u64;
        #[cfg(target_arch = "x86_64")]
        let tiles =
            if has_tiles { decode::Room::bytes(mla.kv_lora_rank, mla.latent_dim()) } else { 0 };
        #[cfg(not(target_arch = "x86_64"))]
        let tiles = 0;
        floats + tiles + latents::PageRoom::bytes(cpu.cache, mla, has_tiles)
    }
}

/// Numbers of a span's result: outputs of a group of heads, then their softmaxes' two numbers each.
fn result_len(shape: &MlaShape, group: usize) -> usize {
    group * (shape.kv_lora_rank + 2)
}

/// Rows times groups of heads below which spans are tasks of their own: threads would have nothing to do.
fn few(threads: usize) -> usize {
    if threads == 1 { 0 } else { 2 * threads }
}

/// Results of spans that are tasks of their own.
pub(super) fn spans_len(cpu: &Cpu, shape: &MlaShape) -> usize {
    few(cpu.threads()) * SPANS * result_len(shape, group(has_tiles(cpu, shape)))
}

/// What all tasks read.
struct Work<'a> {
    isa: Isa,
    q_latent: &'a [f32],
    q: &'a [f32],
    cache: &'a Latents,
    shape: &'a MlaShape,
    plan: &'a Plan,
    /// Heads of a task.
    group: usize,
}

/// See [`crate::backend::Backend::mla_decode`].
pub(super) fn mla_decode(
    cpu: &mut Cpu,
    o_latent: &mut [f32],
    q_latent: &[f32],
    q: &[f32],
    cache: &Latents,
    shape: &MlaShape,
    plan: &Plan,
) {
    let group = group(has_tiles(cpu, shape));
    let work = Work { isa: cpu.isa, q_latent, q, cache, shape, plan, group };
    if plan.n_decode_row * work.groups() < few(cpu.threads()) {
        work.by_span(cpu, o_latent);
    } else {
        work.by_row(cpu, o_latent);
    }
}

impl Work<'_> {
    /// Groups of heads.
    fn groups(&self) -> usize {
        self.shape.n_head.div_ceil(self.group)
    }

    /// Keys that a row sees.
    fn n_key(&self, row: usize) -> usize {
        self.plan.positions[row] as usize + 1
    }

    /// Row and heads of task `task`, a group of heads of a row.
    fn of(&self, task: usize) -> (usize, Range<usize>) {
        let first = task % self.groups() * self.group;
        (task / self.groups(), first..(first + self.group).min(self.shape.n_head))
    }

    /// Where a task's outputs are.
    fn part(&self, task: usize) -> Range<usize> {
        let ((row, heads), latent) = (self.of(task), self.shape.kv_lora_rank);
        let first = row * self.shape.n_head;
        (first + heads.start) * latent..(first + heads.end) * latent
    }

    /// Multiplications of all rows.
    fn work(&self) -> usize {
        let keys: usize = (0..self.plan.n_decode_row).map(|row| self.n_key(row)).sum();
        keys * self.shape.n_head * (self.shape.kv_lora_rank + query_dim(self.shape))
    }

    /// A task for each row and group of heads.
    fn by_row(&self, cpu: &mut Cpu, o_latent: &mut [f32]) {
        let n_task = self.plan.n_decode_row * self.groups();
        let part = |task: usize| self.part(task);
        cpu.pool.run_parts(
            self.work(),
            o_latent,
            &mut cpu.threads,
            n_task,
            part,
            |task, out, s| {
                let ((row, heads), latent) = (self.of(task), self.shape.kv_lora_rank);
                let mut running = [Running::START; GROUP_MAX];
                let running = &mut running[..heads.len()];
                let mut span = std::mem::take(&mut s.mla.span);
                self.span(&mut s.mla, row, heads.clone(), 0, running, out);
                for index in 1..SPANS {
                    let mut others = [Running::START; GROUP_MAX];
                    let others = &mut others[..heads.len()];
                    if !self.span(&mut s.mla, row, heads.clone(), index, others, &mut span) {
                        break;
                    }
                    let each = running.iter_mut().zip(out.chunks_mut(latent));
                    for ((running, out), (other, from)) in
                        each.zip(others.iter().zip(span.chunks(latent)))
                    {
                        running.merge(out, *other, from);
                    }
                }
                s.mla.span = span;
                out.chunks_mut(latent)
                    .zip(running)
                    .for_each(|(out, running)| running.finish(self.isa, out));
            },
        );
    }

    /// A task for each row, group of heads and span; then their results merged, in order.
    fn by_span(&self, cpu: &mut Cpu, o_latent: &mut [f32]) {
        let (latent, len) = (self.shape.kv_lora_rank, result_len(self.shape, self.group));
        let n_task = self.plan.n_decode_row * self.groups();
        let results = &mut cpu.spans[..n_task * SPANS * len];
        let part = |task: usize| task * len..(task + 1) * len;
        let all = n_task * SPANS;
        cpu.pool.run_parts(self.work(), results, &mut cpu.threads, all, part, |task, to, s| {
            let (row, heads) = self.of(task / SPANS);
            let mut running = [Running::START; GROUP_MAX];
            let running = &mut running[..heads.len()];
            let (out, ends) = to.split_at_mut(self.group * latent);
            self.span(&mut s.mla, row, heads, task % SPANS, running, out);
            for (end, running) in ends.as_chunks_mut::<2>().0.iter_mut().zip(running) {
                *end = [running.max, running.sum];
            }
        });
        let results = &*results;
        let part = |task: usize| self.part(task);
        let work = self.plan.n_decode_row * SPANS * len;
        cpu.pool.run_parts(work, o_latent, &mut cpu.threads, n_task, part, |task, out, _| {
            let (row, _) = self.of(task);
            let n_span = self.n_key(row).div_ceil(span_pages(self.n_key(row)) * PAGE_TOKENS);
            for (head, out) in out.chunks_mut(latent).enumerate() {
                let result = |span: usize| {
                    let result = &results[(task * SPANS + span) * len..][..len];
                    let end = self.group * latent + 2 * head;
                    let running = Running { max: result[end], sum: result[end + 1] };
                    (running, &result[head * latent..(head + 1) * latent])
                };
                let (mut running, first) = result(0);
                out.copy_from_slice(first);
                for (other, from) in (1..n_span).map(result) {
                    running.merge(out, other, from);
                }
                running.finish(self.isa, out);
            }
        });
    }

    /// Span number `index` of a row's context for some heads: softmaxes and unnormalised outputs `[head, c]`. Whether there is
    /// such a span.
    fn span(
        &self,
        s: &mut Scratch,
        row: usize,
        heads: Range<usize>,
        index: usize,
        running: &mut [Running],
        out: &mut [f32],
    ) -> bool {
        let n_key = self.n_key(row);
        let pages = self.plan.pages_of(self.plan.sequence[row] as usize);
        let per_span = span_pages(n_key);
        let (first, end) = (index * per_span, n_key.div_ceil(PAGE_TOKENS));
        if first >= end {
            return false;
        }
        let at = row * self.shape.n_head;
        let heads = at + heads.start..at + heads.end;
        gather_queries(&mut s.queries, heads.clone(), self.q_latent, self.q, self.shape);
        let span = first..(first + per_span).min(end);
        let keys_of = |page: usize| (n_key - page * PAGE_TOKENS).min(PAGE_TOKENS);
        let after = |page: usize| {
            let next = Some(page + 1).filter(|next| span.contains(next));
            next.map(|next| self.cache.page_bytes(pages[next].0 as usize)).unwrap_or_default()
        };
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &mut s.tiles {
            tiles.begin(&s.queries, heads.len());
            for page in span.clone() {
                let (number, n) = (pages[page].0 as usize, keys_of(page));
                let keys = self.cache.halves(self.isa, number, n, &mut s.page);
                tiles.page(keys, self.shape.softmax_scale, after(page));
            }
            tiles.end(running, out);
            return true;
        }
        let latent = self.shape.kv_lora_rank;
        let out = &mut out[..heads.len() * latent];
        out.fill(0.0);
        let key_dim = if self.shape.n_k_pe == 1 { query_dim(self.shape) } else { latent };
        for page in span.clone() {
            let rows =
                self.cache.page(self.isa, pages[page].0 as usize, keys_of(page), &mut s.page);
            // Scores and sums of each pass.
            let mut after = After::new(after(page), 2 * heads.len().div_ceil(PASS));
            let keys = rows.columns(0, key_dim);
            for first in (0..heads.len()).step_by(PASS) {
                after.ask();
                let (queries, scores) =
                    (&s.queries[first * key_dim..], &mut s.scores[first * PAGE_TOKENS..]);
                let n = (heads.len() - first).min(PASS);
                score(self.isa, keys, (queries, key_dim), n, scores);
            }
            if self.shape.n_k_pe > 1 {
                self.add_own_scores(rows, heads.clone(), &mut s.own, &mut s.scores);
            }
            let values = rows.columns(0, latent);
            let scale = self.shape.softmax_scale;
            let running = running.chunks_mut(PASS).zip(out.chunks_mut(PASS * latent));
            for ((running, out), scores) in running.zip(s.scores.chunks_mut(PASS * PAGE_TOKENS)) {
                after.ask();
                accumulate(self.isa, values, scale, scores, |_| values.n(), running, out);
            }
        }
        true
    }

    /// Adds to the scores of the latents what each head's own rotary keys give.
    fn add_own_scores(
        &self,
        rows: Rows<'_>,
        heads: Range<usize>,
        own: &mut [f32],
        scores: &mut [f32],
    ) {
        let shape = self.shape;
        for (at, scores) in heads.zip(scores.chunks_mut(PAGE_TOKENS)) {
            let keys = rows.columns(shape.k_pe_start(at % shape.n_head), shape.qk_rope_head_dim);
            let q_pe = &self.q[at * shape.qk_head_dim() + shape.qk_nope_head_dim..];
            score(self.isa, keys, (q_pe, keys.dim()), 1, own);
            scores.iter_mut().zip(&*own).take(rows.n()).for_each(|(score, own)| *score += own);
        }
    }
}

/// Heads of the largest group.
const GROUP_MAX: usize = 16;

/// Puts each head's `[q_latent, q_pe]` side by side, as a cache row has its key; `q_latent` alone where heads have
/// rotary keys of their own.
fn gather_queries(
    queries: &mut [f32],
    heads: Range<usize>,
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
mod tests;
