//! Launches of the kernels that go through rows with a thread for a vector: `embed.cu`, `swiglu.cu`, `gather_rows.cu`,
//! `page_copy.cu`.

use super::Grid;
use crate::Kernel;
use crate::abi::{EmbedParams, GatherRowsParams, PageCopyParams, SwigluParams};

const THREADS: u32 = 256;

/// A thread for every vector of every row; a row's stretches are the grid's y.
fn cover(rows: u32, vectors: u32) -> Grid {
    let blocks = [rows, vectors.div_ceil(THREADS), 1];
    Grid { blocks, threads: THREADS, shared_bytes: 0 }
}

/// Four numbers a thread.
pub fn embed(params: &EmbedParams) -> (Kernel, Grid) {
    (Kernel::Embed, cover(params.n_row, params.dim.div_ceil(8) * 2))
}

/// Eight numbers a thread.
pub fn swiglu(params: &SwigluParams) -> (Kernel, Grid) {
    (Kernel::Swiglu, cover(params.n_row, params.dim.div_ceil(8)))
}

/// Four numbers a thread.
pub fn gather_rows(params: &GatherRowsParams, from_f32: bool, to_f32: bool) -> (Kernel, Grid) {
    let kernel = match (from_f32, to_f32) {
        (false, false) => Kernel::GatherBf16ToBf16,
        (false, true) => Kernel::GatherBf16ToF32,
        (true, false) => Kernel::GatherF32ToBf16,
        (true, true) => Kernel::GatherF32ToF32,
    };
    (kernel, cover(params.n_out, params.dim.div_ceil(8) * 2))
}

/// 16 bytes a thread.
pub fn page_copy(params: &PageCopyParams) -> (Kernel, Grid) {
    (Kernel::PageCopy, cover(params.n_copy, params.page_bytes / 16))
}
