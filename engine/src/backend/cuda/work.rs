//! Scratch of the operations that need some, made once for the largest step.

use hadal_kernels::geometry::{experts, mla_decode};

use super::device::{Device, Memory};
use super::{ROW_NUMBERS, bug};
use crate::backend::{MlaShape, ScratchShape};
use crate::error::Result;

/// What parts of split contexts, and expanded keys and values, may take at a time. Longer lists of rows, and more heads,
/// go in turns; a turn is large enough to fill any card.
const TURN_BYTES: usize = 128 << 20;

/// Scratch.
pub(super) struct Work {
    pub(super) decode: Decode,
    pub(super) prefill: Prefill,
    pub(super) experts: Experts,
}

/// Parts of split contexts.
pub(super) struct Decode {
    pub(super) part: Memory,
    pub(super) lse: Memory,
    pub(super) n_split_max: usize,
    /// Rows of a turn.
    pub(super) rows: usize,
}

/// Expanded keys and values.
pub(super) struct Prefill {
    pub(super) memory: Memory,
    /// Numbers of a head's key and value.
    pub(super) key: usize,
    pub(super) value: usize,
    /// Tokens that there is room for, of one head.
    pub(super) tokens: usize,
}

/// Sorted pairs of rows and experts.
pub(super) struct Experts {
    pub(super) pair: Memory,
    pub(super) expert_start: Memory,
    pub(super) tile: Memory,
    pub(super) h: Memory,
    pub(super) out: Memory,
    pairs: usize,
    h_bytes: usize,
    out_bytes: usize,
}

impl Experts {
    /// Holds a step to what there is room for.
    pub(super) fn check(&self, pairs: usize, m: usize, d: usize) -> Result<()> {
        let fits = pairs <= self.pairs
            && pairs * m.next_multiple_of(ROW_NUMBERS) * 2 <= self.h_bytes
            && pairs * d.next_multiple_of(ROW_NUMBERS) * 2 <= self.out_bytes;
        if fits { Ok(()) } else { Err(bug("experts", &format!("no room for {pairs} pairs"))) }
    }
}

impl Work {
    pub(super) fn new(device: &Device, shape: &ScratchShape) -> Result<Self> {
        let rows = shape.step_rows_max.max(shape.sequences_max);
        Ok(Self {
            decode: decode(device, shape, rows)?,
            prefill: prefill(device, shape)?,
            experts: pairs(device, shape, rows)?,
        })
    }
}

fn decode(device: &Device, shape: &ScratchShape, rows: usize) -> Result<Decode> {
    let n_split_max = mla_decode::n_split_max(shape.context_tokens_max.max(1));
    let lse_row = shape.mla.n_head * n_split_max * 4;
    let part_row = lse_row * shape.mla.kv_lora_rank.next_multiple_of(8);
    let rows = (TURN_BYTES / part_row.max(1)).clamp(1, rows.max(1));
    Ok(Decode {
        part: device.room(rows * part_row)?,
        lse: device.room(rows * lse_row)?,
        n_split_max,
        rows,
    })
}

/// Numbers of a head's expanded key and value.
fn widths(mla: &MlaShape) -> (usize, usize) {
    (mla.qk_head_dim().next_multiple_of(16), mla.v_head_dim.next_multiple_of(16))
}

fn prefill(device: &Device, shape: &ScratchShape) -> Result<Prefill> {
    let (key, value) = widths(&shape.mla);
    let token = (key + value) * 2;
    // All heads of every token that a step can have at most, or as many as a turn takes; one head of one context at least.
    let tokens_max = shape.sequences_max.min(shape.step_rows_max) * shape.context_tokens_max;
    let most = tokens_max.saturating_mul(shape.mla.n_head);
    let tokens = (TURN_BYTES / token).min(most).max(shape.context_tokens_max);
    Ok(Prefill { memory: device.room(tokens * token + 256)?, key, value, tokens })
}

fn pairs(device: &Device, shape: &ScratchShape, rows: usize) -> Result<Experts> {
    let (chosen, n_expert) = (shape.num_experts_per_tok, shape.n_routed_experts);
    let pairs = rows * chosen;
    let most = experts::Form::ALL.map(|form| form.n_tile_max(pairs as u32, n_expert as u32));
    let n_tile = most.into_iter().max().unwrap_or(0) as usize;
    let h_bytes = pairs * shape.moe_intermediate_size.next_multiple_of(ROW_NUMBERS) * 2;
    let out_bytes = pairs * shape.hidden_size.next_multiple_of(ROW_NUMBERS) * 2;
    Ok(Experts {
        pair: device.room(4 * pairs)?,
        expert_start: device.room(4 * (n_expert + 1))?,
        tile: device.room(8 * n_tile)?,
        h: device.zeros(h_bytes)?,
        out: device.zeros(out_bytes)?,
        pairs,
        h_bytes,
        out_bytes,
    })
}
