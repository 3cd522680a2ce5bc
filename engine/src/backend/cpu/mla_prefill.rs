//! Multi-head attention of prompt rows: keys and values are expanded from the cached latents, tile by tile.
//!
//! A task is one head of one sequence. For each page of 64 latents it expands the head's keys and values once
//! (`2 * 64 * (n + v) * c` FLOPs) and lets all rows of the chunk pass (`2 * (n + r + v)` a row and key). The score
//! matrix exists for one tile and a few rows at a time.
//!
//! Without tiles everything is a product with a matrix turned round, whose sums run over lanes of their own (`simd/turned.rs`):
//! latents with both halves of `kv_b`, turned once a task; queries with a page's keys, turned once a page; weights with values, which
//! lie that way.

mod halves;

use super::aligned::Aligned;
use super::pool::Block;
use super::simd::LANES;
#[cfg(target_arch = "x86_64")]
use super::simd::attention::prefill;
use super::simd::attention::{Running, accumulate};
use super::simd::rows::Rows;
use super::simd::turned::{product, turn};
use super::{Cpu, Isa, Latents, Plan, Weight, latents, mla_decode};
use crate::backend::{KvB, MlaShape, ScratchShape};
#[cfg(target_arch = "x86_64")]
use crate::quant::DType;
use crate::step::PAGE_TOKENS;
use halves::{OfHead, TURNED, turned_rows, widened_rows};
#[cfg(target_arch = "x86_64")]
use halves::{rows_of, turned_rows_of};

/// Rows that see a page together without tiles: their scores stay in the first-level cache.
const ROWS: usize = 32;

/// One thread's tile.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[n + r, 64]`: a page's keys turned round.
    keys: Aligned<f32>,
    /// `[64, n]`: the part of them that is expanded, before it is turned.
    expanded: Aligned<f32>,
    /// `[64, v]`.
    values: Aligned<f32>,
    /// `[ROWS, 64]`.
    scores: Aligned<f32>,
    /// `[rows]`: the rows' softmaxes.
    running: Vec<Running>,
    /// `[rows, v]`: the rows' unnormalised outputs.
    out: Aligned<f32>,
    /// `[c, n]`: one head's key half, turned round.
    w_uk: Aligned<f32>,
    /// `[c, v]`: its value half, turned round.
    w_uv: Aligned<f32>,
    /// `[TURNED, max(n, c)]`: rows as they are stored.
    stored: Aligned<f32>,
    /// `[64, c + r]`: a page of latents widened.
    latents: Aligned<f32>,
    page: latents::PageRoom,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Tiles>,
}

/// What tiles take instead of the f32 buffers.
#[cfg(target_arch = "x86_64")]
struct Tiles {
    room: prefill::Room,
    /// `[n + v, c]`: one head's halves as bf16, where they are not stored like that.
    halves: Aligned<u16>,
}

/// Sizes of a head, where tiles take it.
#[cfg(target_arch = "x86_64")]
fn tiled_head(cpu: &Cpu, mla: &MlaShape) -> Option<prefill::Head> {
    let head = prefill::Head {
        nope: mla.qk_nope_head_dim,
        rope: mla.qk_rope_head_dim,
        value: mla.v_head_dim,
        latent: mla.kv_lora_rank,
    };
    (mla_decode::has_tiles(cpu, mla) && head.fits()).then_some(head)
}

#[cfg(target_arch = "x86_64")]
impl Tiles {
    fn new(cpu: &Cpu, shape: &ScratchShape) -> Option<Self> {
        let head = tiled_head(cpu, &shape.mla)?;
        let halves = Aligned::zeros(Self::halves_len(head));
        Some(Self { room: prefill::Room::new(head, shape.step_rows_max), halves })
    }

    fn halves_len(head: prefill::Head) -> usize {
        (head.nope + head.value) * head.latent
    }

    fn bytes(cpu: &Cpu, shape: &ScratchShape) -> u64 {
        tiled_head(cpu, &shape.mla).map_or(0, |head| {
            prefill::Room::bytes(head, shape.step_rows_max) + 2 * Self::halves_len(head) as u64
        })
    }
}

/// Numbers of a scratch's f32 buffers.
fn sizes(shape: &ScratchShape) -> [usize; 9] {
    let (mla, rows) = (&shape.mla, shape.step_rows_max);
    let (n, v, c) = (mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank);
    [
        PAGE_TOKENS * mla.qk_head_dim(),
        PAGE_TOKENS * n,
        PAGE_TOKENS * v,
        ROWS * PAGE_TOKENS,
        rows * v,
        c * n,
        c * v,
        TURNED * n.max(c),
        PAGE_TOKENS * mla.latent_dim(),
    ]
}

impl Scratch {
    pub(super) fn new(cpu: &Cpu, shape: &ScratchShape) -> Self {
        let [keys, expanded, values, scores, out, w_uk, w_uv, stored, latents] =
            sizes(shape).map(Aligned::zeros);
        Self {
            keys,
            expanded,
            values,
            scores,
            running: vec![Running::START; shape.step_rows_max],
            out,
            w_uk,
            w_uv,
            stored,
            latents,
            page: latents::PageRoom::new(
                cpu.cache,
                &shape.mla,
                mla_decode::has_tiles(cpu, &shape.mla),
            ),
            #[cfg(target_arch = "x86_64")]
            tiles: Tiles::new(cpu, shape),
        }
    }

    pub(super) fn bytes(cpu: &Cpu, shape: &ScratchShape) -> u64 {
        let mla = &shape.mla;
        let floats = sizes(shape).iter().sum::<usize>() * size_of::<f32>();
        let running = shape.step_rows_max * size_of::<Running>();
        #[cfg(target_arch = "x86_64")]
        let tiles = Tiles::bytes(cpu, shape);
        #[cfg(not(target_arch = "x86_64"))]
        let tiles = 0;
        (floats + running) as u64
            + latents::PageRoom::bytes(cpu.cache, mla, mla_decode::has_tiles(cpu, mla))
            + tiles
    }
}

/// What all tasks read.
struct Work<'a> {
    isa: Isa,
    q: &'a [f32],
    cache: &'a Latents,
    kv_b: KvB<&'a Weight>,
    shape: &'a MlaShape,
    plan: &'a Plan,
}

/// See [`crate::backend::Backend::mla_prefill`].
pub(super) fn mla_prefill(
    cpu: &mut Cpu,
    o: &mut [f32],
    q: &[f32],
    cache: &Latents,
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
        let Self { plan, shape, .. } = *self;
        let rows = plan.row_start[sequence] as usize..plan.row_start[sequence + 1] as usize;
        let n_row = rows.len();
        #[cfg(target_arch = "x86_64")]
        if self.takes_tiles(scratch) {
            self.head_on_tiles(scratch, sequence, head);
            return &scratch.out[..n_row * shape.v_head_dim];
        }
        let last = plan.positions[rows.end - 1] as usize;
        scratch.running[..n_row].fill(Running::START);
        scratch.out[..n_row * shape.v_head_dim].fill(0.0);
        self.take_weights(scratch, head);
        for (i, page) in plan.pages_of(sequence).iter().enumerate() {
            let start = i * PAGE_TOKENS;
            if start > last {
                break;
            }
            let n_key = (last + 1 - start).min(PAGE_TOKENS);
            self.expand(scratch, page.0 as usize, head, n_key);
            self.pass(scratch, rows.start, head, start, n_row);
        }
        let out = scratch.out.chunks_mut(shape.v_head_dim);
        for (out, running) in out.zip(&scratch.running[..n_row]) {
            running.finish(self.isa, out);
        }
        &scratch.out[..n_row * shape.v_head_dim]
    }

    /// One head's halves of `kv_b`, turned round and widened.
    fn take_weights(&self, scratch: &mut Scratch, head: usize) {
        let Self { isa, shape, .. } = *self;
        let Scratch { w_uk, w_uv, stored, .. } = scratch;
        let OfHead { key, key_is_turned, value } = OfHead::new(self.kv_b, shape, head);
        if key_is_turned {
            widened_rows(isa, key, w_uk);
        } else {
            turned_rows(isa, key, w_uk, stored);
        }
        turned_rows(isa, value, w_uv, stored);
    }

    /// Lets the rows of a chunk pass over the keys and values of the page whose first key is number `start`.
    fn pass(&self, scratch: &mut Scratch, first: usize, head: usize, start: usize, n_row: usize) {
        let Self { isa, plan, shape, .. } = *self;
        let (width, qk) = (shape.v_head_dim, shape.qk_head_dim());
        let Scratch { keys, values, scores, running, out, .. } = scratch;
        let n_key_of = |row: usize| {
            (plan.positions[first + row] as usize + 1).saturating_sub(start).min(PAGE_TOKENS)
        };
        let keys = Rows::f32(keys, qk, PAGE_TOKENS);
        // Positions ascend: whoever is behind a row that sees a key sees it too.
        let mut row = (0..n_row).take_while(|row| n_key_of(*row) == 0).count();
        while row < n_row {
            let n = ROWS.min(n_row - row);
            let n_key = n_key_of(row + n - 1);
            let query = &self.q[((first + row) * shape.n_head + head) * qk..];
            let query = Rows::strided(query, n, (qk, shape.n_head * qk));
            // Whole vectors: what the last has beyond the keys may be anything, and is not looked at.
            product(isa, (scores, PAGE_TOKENS), query, keys, n_key.next_multiple_of(LANES));
            let values = Rows::f32(values, n_key, width);
            let seen = |i: usize| n_key_of(row + i);
            let (running, out) = (&mut running[row..row + n], &mut out[row * width..]);
            accumulate(isa, values, shape.softmax_scale, scores, seen, running, out);
            row += n;
        }
    }

    /// One page's keys and values of one head.
    fn expand(&self, scratch: &mut Scratch, page: usize, head: usize, n_key: usize) {
        let Self { isa, shape, .. } = *self;
        let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let Scratch { keys, expanded, values, w_uk, w_uv, latents, page: room, .. } = scratch;
        let rows = self.cache.page(isa, page, n_key, room).in_f32(isa, latents);
        product(isa, (expanded, n), rows, Rows::f32(w_uk, c, n), n);
        product(isa, (values, v), rows, Rows::f32(w_uv, c, v), v);
        turn(isa, Rows::f32(expanded, n_key, n), keys, PAGE_TOKENS);
        let k_pe = rows.columns(shape.k_pe_start(head), shape.qk_rope_head_dim);
        turn(isa, k_pe, &mut keys[n * PAGE_TOKENS..], PAGE_TOKENS);
    }
}

#[cfg(target_arch = "x86_64")]
impl Work<'_> {
    /// Whether tiles take this: weights that bf16 holds, or that were rounded further than bf16 rounds.
    fn takes_tiles(&self, scratch: &Scratch) -> bool {
        let is_rounded =
            |weight: &Weight| weight.dtype == DType::Bf16 || weight.dtype.block_len() > 1;
        scratch.tiles.is_some()
            && match self.kv_b {
                KvB::Whole(whole) => is_rounded(whole),
                KvB::Apart { key, value } | KvB::Halves { key, value } => {
                    is_rounded(key) && is_rounded(value)
                }
            }
    }

    /// [`Work::head`] on tiles.
    fn head_on_tiles(&self, scratch: &mut Scratch, sequence: usize, head: usize) {
        let Self { plan, shape, .. } = *self;
        let Scratch { tiles: Some(tiles), out, stored, page: room, .. } = scratch else {
            return;
        };
        let (n, v, latent) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let rows = plan.row_start[sequence] as usize..plan.row_start[sequence + 1] as usize;
        let positions = &plan.positions[rows.clone()];
        let (to_key, to_value) = tiles.halves.split_at_mut(n * latent);
        let OfHead { key, key_is_turned, value } = OfHead::new(self.kv_b, shape, head);
        let w_uk = if key_is_turned {
            turned_rows_of(key, to_key, stored)
        } else {
            rows_of(key, to_key, stored)
        };
        let w_uv = rows_of(value, to_value, stored);
        let qk = shape.qk_head_dim();
        let queries = &self.q[(rows.start * shape.n_head + head) * qk..];
        tiles.room.begin(w_uk, (queries, shape.n_head * qk), positions);
        let n_key = positions.last().map_or(0, |last| *last as usize + 1);
        for (i, page) in plan.pages_of(sequence).iter().enumerate() {
            let start = i * PAGE_TOKENS;
            if start >= n_key {
                break;
            }
            let n = (n_key - start).min(PAGE_TOKENS);
            let latents = self.cache.halves(self.isa, page.0 as usize, n, room);
            tiles.room.page(latents, w_uv, start, shape.softmax_scale);
        }
        tiles.room.end(&mut out[..rows.len() * v]);
    }
}

#[cfg(test)]
mod tests;
