//! Launches of `experts.cu`.

use super::Grid;
use super::linear::tile_bytes;
use crate::abi::{
    ExpertsCombineParams, ExpertsDispatchParams, ExpertsDownParams, ExpertsGateUpParams,
};
use crate::{Format, Kernel};

/// Warps of the sort; each has counts of its own.
const DISPATCH_WARPS: u32 = 16;
/// Pairs an expert has in the mean from which tiles of 64 are worth it.
const MANY_PAIRS: u32 = 5;

/// The two sizes of tiles, which give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 8 pairs of one expert.
    Few,
    /// 64 of them.
    Mid,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Few, Self::Mid];

    /// The faster one, if rows choose evenly. Up to 8 rows no expert has more pairs than that.
    pub fn pick(n_row: u32, n_chosen: u32, n_expert: u32) -> Self {
        if n_row <= 8 || n_row * n_chosen < MANY_PAIRS * n_expert { Self::Few } else { Self::Mid }
    }

    /// Pairs of a tile.
    pub fn tile_pairs(self) -> u32 {
        match self {
            Self::Few => 8,
            Self::Mid => 64,
        }
    }

    /// Most tiles that so many pairs can make: each expert's last may be partly filled.
    pub fn n_tile_max(self, n_pair: u32, n_expert: u32) -> u32 {
        n_pair.min(n_pair / self.tile_pairs() + n_expert)
    }
}

/// One block; the number of experts is bounded by its shared memory, at 99 KB some 1400.
pub fn dispatch(params: &ExpertsDispatchParams) -> (Kernel, Grid) {
    let shared_bytes = 4 * ((DISPATCH_WARPS + 2) * params.n_expert + 2);
    let threads = 32 * DISPATCH_WARPS;
    (Kernel::ExpertsDispatch, Grid { blocks: [1, 1, 1], threads, shared_bytes })
}

fn grid(format: Format, form: Form, n_out: u32, sides: u32, n_tile: u32) -> Grid {
    let n_stage = if matches!(format, Format::Int4G32 | Format::Int4G128) { 2 } else { 3 };
    let (features, threads, shared_bytes) = match form {
        Form::Few => (16, 256, 0),
        Form::Mid => (64 / sides, 128, tile_bytes(format, 64, 64, n_stage)),
    };
    Grid { blocks: [n_out.div_ceil(features), n_tile, 1], threads, shared_bytes }
}

/// Gate and up of every tile.
pub fn gate_up(params: &ExpertsGateUpParams, format: Format, form: Form) -> (Kernel, Grid) {
    let kernel = match (form, format) {
        (Form::Few, Format::Bf16) => Kernel::ExpertsGateUpBf16Few,
        (Form::Few, Format::Fp8) => Kernel::ExpertsGateUpFp8Few,
        (Form::Few, Format::Int8) => Kernel::ExpertsGateUpInt8Few,
        (Form::Few, Format::Int4G32) => Kernel::ExpertsGateUpInt4G32Few,
        (Form::Few, Format::Int4G128) => Kernel::ExpertsGateUpInt4G128Few,
        (Form::Mid, Format::Bf16) => Kernel::ExpertsGateUpBf16Mid,
        (Form::Mid, Format::Fp8) => Kernel::ExpertsGateUpFp8Mid,
        (Form::Mid, Format::Int8) => Kernel::ExpertsGateUpInt8Mid,
        (Form::Mid, Format::Int4G32) => Kernel::ExpertsGateUpInt4G32Mid,
        (Form::Mid, Format::Int4G128) => Kernel::ExpertsGateUpInt4G128Mid,
    };
    (kernel, grid(format, form, params.gate.n_out, 2, params.n_tile_max))
}

/// Down of every tile.
pub fn down(params: &ExpertsDownParams, format: Format, form: Form) -> (Kernel, Grid) {
    let kernel = match (form, format) {
        (Form::Few, Format::Bf16) => Kernel::ExpertsDownBf16Few,
        (Form::Few, Format::Fp8) => Kernel::ExpertsDownFp8Few,
        (Form::Few, Format::Int8) => Kernel::ExpertsDownInt8Few,
        (Form::Few, Format::Int4G32) => Kernel::ExpertsDownInt4G32Few,
        (Form::Few, Format::Int4G128) => Kernel::ExpertsDownInt4G128Few,
        (Form::Mid, Format::Bf16) => Kernel::ExpertsDownBf16Mid,
        (Form::Mid, Format::Fp8) => Kernel::ExpertsDownFp8Mid,
        (Form::Mid, Format::Int8) => Kernel::ExpertsDownInt8Mid,
        (Form::Mid, Format::Int4G32) => Kernel::ExpertsDownInt4G32Mid,
        (Form::Mid, Format::Int4G128) => Kernel::ExpertsDownInt4G128Mid,
    };
    (kernel, grid(format, form, params.down.n_out, 1, params.n_tile_max))
}

/// One block a row.
pub fn combine(params: &ExpertsCombineParams) -> (Kernel, Grid) {
    (Kernel::ExpertsCombine, Grid::flat(params.n_row, 256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_never_more_than_there_is_room_for() {
        // Every expert with one pair too many for its last tile.
        for form in Form::ALL {
            for n_expert in [1, 2, 7] {
                for per_expert in [0, 1, 8, 9, 64, 65, 129] {
                    let tiles = n_expert * u32::div_ceil(per_expert, form.tile_pairs());
                    assert!(tiles <= form.n_tile_max(n_expert * per_expert, n_expert));
                }
            }
        }
    }
}
