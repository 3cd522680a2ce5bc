//! Launches of `route.cu`.

use super::Grid;
use crate::Kernel;
use crate::abi::{RouteLogitsParams, RouteParams};

const THREADS: u32 = 128;
const WARPS: u32 = THREADS / 32;
/// From here on a warp takes two experts and eight rows: 256 experts make 256 blocks of 64 rows, enough for every card.
const MANY_ROWS: u32 = 64;

/// Few rows spread over as many blocks as there can be; many share what they read.
pub fn route_logits(params: &RouteLogitsParams, gate_is_f32: bool) -> (Kernel, Grid) {
    let is_many = params.n_row >= MANY_ROWS;
    let kernel = match (gate_is_f32, is_many) {
        (false, false) => Kernel::RouteLogitsBf16,
        (false, true) => Kernel::RouteLogitsBf16Many,
        (true, false) => Kernel::RouteLogitsF32,
        (true, true) => Kernel::RouteLogitsF32Many,
    };
    let (experts, rows) = if is_many { (2, 8) } else { (1, 4) };
    let blocks = [params.n_expert.div_ceil(WARPS * experts), params.n_row.div_ceil(rows), 1];
    (kernel, Grid { blocks, threads: THREADS, shared_bytes: 0 })
}

/// A warp a row.
pub fn route(params: &RouteParams) -> (Kernel, Grid) {
    let place = params.n_expert + params.n_expert / 32;
    let row_bytes = (2 * place + 2 * params.n_group + params.n_chosen) * size_of::<f32>() as u32;
    let grid = Grid::flat(params.n_row.div_ceil(WARPS), THREADS);
    (Kernel::Route, Grid { shared_bytes: WARPS * row_bytes, ..grid })
}
