//! Launches of `mla_prefill.cu`.

use super::Grid;
use super::linear::{Form, tile_bytes};
use crate::abi::{MlaExpandParams, MlaPrefillParams};
use crate::{Format, Kernel};

/// Rows of a tile: one sequence's, side by side.
pub const TILE_ROWS: usize = 64;
/// Tokens of a step of the kernel's loop.
const TOKENS: u32 = 32;

/// Keys and values for the number of tokens. Head and side are the grid's z.
pub fn expand(params: &MlaExpandParams) -> (Kernel, Grid) {
    let features = params.qk_nope_head_dim.min(params.v_head_dim);
    let is_wide = params.n_token >= 192 && features >= 128;
    launch_expand(params, if is_wide { Form::Many } else { Form::Mid })
}

/// A form of one's own choice; the two for fewer rows are one here.
pub fn launch_expand(params: &MlaExpandParams, form: Form) -> (Kernel, Grid) {
    let (kernel, size, threads) = match form {
        Form::Few | Form::Some | Form::Mid => (Kernel::MlaExpandMid, 64, 128),
        Form::Many => (Kernel::MlaExpandMany, 128, 256),
    };
    let features = params.qk_nope_head_dim.max(params.v_head_dim);
    let blocks = [features.div_ceil(size), params.n_token.div_ceil(size), 2 * params.n_head];
    (kernel, Grid { blocks, threads, shared_bytes: tile_bytes(Format::Bf16, size, size, 3) })
}

/// Attention by the variant that is wide enough; `None` where a head is wider than all of them.
pub fn prefill(params: &MlaPrefillParams) -> Option<(Kernel, Grid)> {
    let (kernel, key, value, queries) = match (params.k_head_stride, params.v_head_stride) {
        (..=64, ..=64) => (Kernel::MlaPrefill64, 64, 64, 0),
        (..=192, ..=128) => (Kernel::MlaPrefill192, 192, 128, 0),
        (..=256, ..=256) => (Kernel::MlaPrefill256, 256, 256, TILE_ROWS as u32),
        _ => return None,
    };
    let shared_bytes = 2 * (2 * TOKENS * (key + 8 + value + 8) + queries * (key + 8));
    Some((kernel, Grid { blocks: [params.n_tile, params.n_head, 1], threads: 128, shared_bytes }))
}
