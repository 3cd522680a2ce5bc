//! Launches of `rope.cu` and `cache_store.cu`.

use super::Grid;
use crate::Kernel;
use crate::abi::{CacheStoreHeadsParams, CacheStoreParams, RopeParams};

const THREADS: u32 = 128;

/// Four pairs a thread where the widths allow it, else one.
pub fn rope(params: &RopeParams) -> (Kernel, Grid) {
    let (n, r) = (params.qk_nope_head_dim, params.qk_rope_head_dim);
    let is_wide = n.is_multiple_of(8) && r.is_multiple_of(8) && params.q_stride.is_multiple_of(8);
    let (kernel, pairs) = if is_wide { (Kernel::RopeWide, 4) } else { (Kernel::Rope, 1) };
    let threads = params.n_head * (r / 2 / pairs);
    let blocks = [params.n_row, threads.div_ceil(THREADS), 1];
    (kernel, Grid { blocks, threads: THREADS, shared_bytes: 0 })
}

/// One block a row.
pub fn cache_store(params: &CacheStoreParams) -> (Kernel, Grid) {
    (Kernel::CacheStore, Grid::flat(params.n_row, THREADS))
}

/// One block a row.
pub fn cache_store_heads(params: &CacheStoreHeadsParams) -> (Kernel, Grid) {
    (Kernel::CacheStoreHeads, Grid::flat(params.n_row, THREADS))
}
