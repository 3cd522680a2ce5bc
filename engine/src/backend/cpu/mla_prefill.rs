//! Multi-head attention of prompt rows: keys and values are expanded from the cached latents, tile by tile.
//!
//! A task is one head of one sequence. For each page of 64 latents it expands the head's keys and values once
//! (`2 * 64 * (n + v) * c` FLOPs) and lets all rows of the chunk pass (`2 * (n + r + v)` a row and key). The score
//! matrix exists for one tile and a few rows at a time. A key half that is stored by itself, turned round, is turned back
//! once a task; halves in panels are unpacked.

use super::pool::Block;
use super::simd::attention::{Running, accumulate, score};
use super::simd::multiply::{strided_dot_f32, strided_dot_rows};
use super::simd::rows::Rows;
use super::{Cpu, Isa, Latents, Plan, Weight, latents, mla_decode};
use crate::backend::{KvB, MlaShape, ScratchShape};
use crate::quant::{DType, bf16};
use crate::step::PAGE_TOKENS;

#[cfg(target_arch = "x86_64")]
use super::simd::attention::prefill;
use super::simd::panels::unpack::{Way, unpack};

/// Rows that see a page together without tiles.
const ROWS: usize = 8;

/// One thread's tile.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[64, n + r]`.
    keys: Vec<f32>,
    /// `[64, v]`.
    values: Vec<f32>,
    /// `[ROWS, 64]`.
    scores: Vec<f32>,
    /// `[rows]`: the rows' softmaxes.
    running: Vec<Running>,
    /// `[rows, v]`: the rows' unnormalised outputs.
    out: Vec<f32>,
    /// `[n, c]`: one head's key half.
    w_uk: Vec<f32>,
    /// `[v, c]`: its value half, where that is in panels.
    w_uv: Vec<f32>,
    /// `[max(n, c)]`: one row as it is stored.
    stored: Vec<f32>,
    /// `[64, c + r]`: a page of latents widened.
    latents: Vec<f32>,
    page: latents::PageRoom,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Tiles>,
}

/// What tiles take instead of the f32 buffers.
#[cfg(target_arch = "x86_64")]
struct Tiles {
    room: prefill::Room,
    /// `[n + v, c]`: one head's halves as bf16, where they are not stored like that.
    halves: Vec<u16>,
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
        let halves = vec![0; Self::halves_len(head)];
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

impl Scratch {
    pub(super) fn new(cpu: &Cpu, shape: &ScratchShape) -> Self {
        let (mla, rows) = (&shape.mla, shape.step_rows_max);
        Self {
            keys: vec![0.0; PAGE_TOKENS * mla.qk_head_dim()],
            values: vec![0.0; PAGE_TOKENS * mla.v_head_dim],
            scores: vec![0.0; ROWS * PAGE_TOKENS],
            running: vec![Running::START; rows],
            out: vec![0.0; rows * mla.v_head_dim],
            w_uk: vec![0.0; mla.qk_nope_head_dim * mla.kv_lora_rank],
            w_uv: vec![0.0; mla.v_head_dim * mla.kv_lora_rank],
            stored: vec![0.0; mla.qk_nope_head_dim],
            latents: vec![0.0; PAGE_TOKENS * mla.latent_dim()],
            page: latents::PageRoom::new(cpu.cache, mla, mla_decode::has_tiles(cpu, mla)),
            #[cfg(target_arch = "x86_64")]
            tiles: Tiles::new(cpu, shape),
        }
    }

    pub(super) fn bytes(cpu: &Cpu, shape: &ScratchShape) -> u64 {
        let (mla, rows) = (&shape.mla, shape.step_rows_max);
        let tile = PAGE_TOKENS * (mla.qk_head_dim() + mla.v_head_dim + ROWS + mla.latent_dim());
        let halves =
            mla.qk_nope_head_dim * (mla.kv_lora_rank + 1) + mla.v_head_dim * mla.kv_lora_rank;
        let out = rows * (size_of::<Running>() + mla.v_head_dim * size_of::<f32>());
        #[cfg(target_arch = "x86_64")]
        let tiles = Tiles::bytes(cpu, shape);
        #[cfg(not(target_arch = "x86_64"))]
        let tiles = 0;
        ((tile + halves) * size_of::<f32>() + out) as u64
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
        if let KvB::Halves { key, value } = self.kv_b {
            self.turn_keys(scratch, key, head * shape.kv_lora_rank);
            if value.dtype.block_len() > 1 {
                self.widen_values(scratch, value, head * shape.v_head_dim);
            }
        }
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
            running.finish(out);
        }
        &scratch.out[..n_row * shape.v_head_dim]
    }

    /// One head's key half, `[c, n]` from row `first`, turned round and widened.
    fn turn_keys(&self, scratch: &mut Scratch, key: &Weight, first: usize) {
        let Scratch { w_uk, stored, .. } = scratch;
        let (latent, n) = (self.shape.kv_lora_rank, key.dim);
        if let Some(panels) = key.panels(first, latent) {
            return unpack(self.isa, key.dtype, panels, n, Way::Turned, w_uk);
        }
        for c in 0..latent {
            key.row(first + c, stored);
            for (n, x) in stored.iter().enumerate() {
                w_uk[n * latent + c] = *x;
            }
        }
    }

    /// One head's value half, `[v, c]` from row `first`, widened.
    fn widen_values(&self, scratch: &mut Scratch, value: &Weight, first: usize) {
        let (w_uv, v) = (&mut scratch.w_uv, self.shape.v_head_dim);
        if let Some(panels) = value.panels(first, v) {
            return unpack(self.isa, value.dtype, panels, value.dim, Way::Rows, w_uv);
        }
        for (i, to) in w_uv.chunks_mut(value.dim).enumerate() {
            value.row(first + i, to);
        }
    }

    /// Lets the rows of a chunk pass over the keys and values of the page whose first key is number `start`.
    fn pass(&self, scratch: &mut Scratch, first: usize, head: usize, start: usize, n_row: usize) {
        let Self { isa, plan, shape, .. } = *self;
        let (width, qk) = (shape.v_head_dim, shape.qk_head_dim());
        let Scratch { keys, values, scores, running, out, .. } = scratch;
        let n_key_of = |row: usize| {
            (plan.positions[first + row] as usize + 1).saturating_sub(start).min(PAGE_TOKENS)
        };
        let mut row = 0;
        while row < n_row {
            let n_key = n_key_of(row);
            // Positions ascend: whoever is behind a row that sees the whole page sees it too.
            let n = if n_key == PAGE_TOKENS { ROWS.min(n_row - row) } else { 1 };
            if n_key > 0 {
                let query = &self.q[((first + row) * shape.n_head + head) * qk..];
                let keys = Rows::f32(keys, n_key, qk);
                score(isa, keys, (query, shape.n_head * qk), n, scores);
                let values = Rows::f32(values, n_key, width);
                let (running, out) = (&mut running[row..row + n], &mut out[row * width..]);
                accumulate(isa, values, shape.softmax_scale, scores, running, out);
            }
            row += n;
        }
    }

    /// One page's keys and values of one head.
    fn expand(&self, scratch: &mut Scratch, page: usize, head: usize, n_key: usize) {
        let Self { isa, kv_b, shape, .. } = *self;
        let (n, v, latent) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.latent_dim());
        let Scratch { keys, values, w_uk, w_uv, latents, page: room, .. } = scratch;
        let cached = self.cache.page(isa, page, n_key, room);
        for (i, row) in latents.chunks_mut(latent).take(n_key).enumerate() {
            cached.widen(isa, i, row);
        }
        let rows = &latents[..n_key * latent];
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
        if matches!(kv_b, KvB::Halves { .. }) && weight.dtype.block_len() > 1 {
            strided_dot_f32(isa, values, v, rows, latent, n_key, w_uv, shape.kv_lora_rank);
        } else {
            strided_dot_rows(isa, values, v, v, rows, latent, n_key, weight, first);
        }
        for (key, row) in keys.chunks_mut(qk).zip(rows.chunks(latent)) {
            key[n..].copy_from_slice(&row[k_pe..k_pe + shape.qk_rope_head_dim]);
        }
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
        let Scratch { tiles: Some(tiles), out, stored, w_uv, page: room, .. } = scratch else {
            return;
        };
        let (n, v, latent) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let rows = plan.row_start[sequence] as usize..plan.row_start[sequence + 1] as usize;
        let positions = &plan.positions[rows.clone()];
        let (to_key, to_value) = tiles.halves.split_at_mut(n * latent);
        let (w_uk, w_uv) = match self.kv_b {
            KvB::Whole(whole) => {
                let first = head * (n + v);
                (
                    rows_of(whole, first, n, to_key, w_uv),
                    rows_of(whole, first + n, v, to_value, w_uv),
                )
            }
            KvB::Apart { key, value } => (
                rows_of(key, head * shape.qk_head_dim(), n, to_key, w_uv),
                rows_of(value, head * v, v, to_value, w_uv),
            ),
            KvB::Halves { key, value } => (
                turned_rows_of(key, head * latent, latent, to_key, stored),
                rows_of(value, head * v, v, to_value, w_uv),
            ),
        };
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

/// For tiles: rows `first..first + n` as bf16, where they lie, or rounded into `to`.
#[cfg(target_arch = "x86_64")]
fn rows_of<'a>(
    weight: &'a Weight,
    first: usize,
    n: usize,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let dim = weight.dim;
    if weight.dtype == DType::Bf16 {
        return Rows::of(&weight.bytes[first * weight.row_bytes..], n, dim, DType::Bf16);
    }
    match weight.panels(first, n) {
        Some(panels) => unpack(Isa::Amx, weight.dtype, panels, dim, Way::Rows, &mut to[..n * dim]),
        None => {
            for (i, to) in to.chunks_mut(dim).take(n).enumerate() {
                weight.row(first + i, &mut room[..dim]);
                to.iter_mut().zip(&*room).for_each(|(to, x)| *to = bf16::from_f32(*x));
            }
        }
    }
    Rows::bf16(to, n, dim)
}

/// For tiles: rows `first..first + c` of a key half, turned round.
#[cfg(target_arch = "x86_64")]
fn turned_rows_of<'a>(
    key: &Weight,
    first: usize,
    latent: usize,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let n = key.dim;
    match key.panels(first, latent) {
        Some(panels) => unpack(Isa::Amx, key.dtype, panels, n, Way::Turned, &mut to[..n * latent]),
        None => {
            for c in 0..latent {
                key.row(first + c, room);
                for (i, x) in room.iter().enumerate() {
                    to[i * latent + c] = bf16::from_f32(*x);
                }
            }
        }
    }
    Rows::bf16(to, n, latent)
}

#[cfg(test)]
mod tests;
