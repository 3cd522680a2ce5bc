//! Launches of `linear.cu`.

use super::Grid;
use crate::abi::LinearParams;
use crate::{Format, Kernel};

/// The forms of a product, which give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 8 rows x 16 features a block.
    Few,
    /// 32 x 16.
    Some,
    /// 64 x 64.
    Mid,
    /// 128 x 128, or 64 x 128.
    Many,
}

/// Features below which tiles of 64 make too few blocks for a card.
const FEW_FEATURES: u32 = 4096;

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Few, Self::Some, Self::Mid, Self::Many];

    /// The one that should be fastest for so many rows: bits do not depend on it.
    pub fn pick(n_row: u32, n_out: u32) -> Self {
        match n_row {
            0..=8 => Self::Few,
            9..=64 if n_out < FEW_FEATURES => Self::Some,
            // Below, the last tile of rows would be mostly empty, or the blocks too few.
            192.. if n_out >= 1024 => Self::Many,
            _ => Self::Mid,
        }
    }
}

/// Bytes of a stage of columns: 64 of a row of x in two bytes, and of weights in theirs; 128 for four bits.
pub(super) fn stage_bytes(format: Format, features: u32, rows: u32) -> u32 {
    match format {
        Format::Bf16 => features * 128 + rows * 128,
        Format::Fp8 | Format::Int8 => features * 64 + rows * 128,
        Format::Int4G32 | Format::Int4G128 => features * 64 + rows * 256,
    }
}

/// Shared memory of a tiled form: its stages, in whose place its sums come in the end.
pub(super) fn tile_bytes(format: Format, features: u32, rows: u32, n_stage: u32) -> u32 {
    (n_stage * stage_bytes(format, features, rows)).max(rows * (features + 4) * 4)
}

/// The form for the number of rows.
pub fn linear(params: &LinearParams, format: Format) -> (Kernel, Grid) {
    launch(params, format, Form::pick(params.n_row, params.w.n_out))
}

/// A form of one's own choice.
pub fn launch(params: &LinearParams, format: Format, form: Form) -> (Kernel, Grid) {
    let kernel = match (form, format) {
        (Form::Few, Format::Bf16) => Kernel::LinearBf16Few,
        (Form::Few, Format::Fp8) => Kernel::LinearFp8Few,
        (Form::Few, Format::Int8) => Kernel::LinearInt8Few,
        (Form::Few, Format::Int4G32) => Kernel::LinearInt4G32Few,
        (Form::Few, Format::Int4G128) => Kernel::LinearInt4G128Few,
        (Form::Some, Format::Bf16) => Kernel::LinearBf16Some,
        (Form::Mid, Format::Bf16) => Kernel::LinearBf16Mid,
        (Form::Some, Format::Fp8) => Kernel::LinearFp8Some,
        (Form::Mid, Format::Fp8) => Kernel::LinearFp8Mid,
        (Form::Some, Format::Int8) => Kernel::LinearInt8Some,
        (Form::Mid, Format::Int8) => Kernel::LinearInt8Mid,
        (Form::Some, Format::Int4G32) => Kernel::LinearInt4G32Some,
        (Form::Mid, Format::Int4G32) => Kernel::LinearInt4G32Mid,
        (Form::Some, Format::Int4G128) => Kernel::LinearInt4G128Some,
        (Form::Mid, Format::Int4G128) => Kernel::LinearInt4G128Mid,
        (Form::Many, Format::Bf16) => Kernel::LinearBf16Many,
        (Form::Many, Format::Fp8) => Kernel::LinearFp8Many,
        (Form::Many, Format::Int8) => Kernel::LinearInt8Many,
        (Form::Many, Format::Int4G32) => Kernel::LinearInt4G32Many,
        (Form::Many, Format::Int4G128) => Kernel::LinearInt4G128Many,
    };
    let grouped = matches!(format, Format::Int8 | Format::Int4G32);
    let four_bits = matches!(format, Format::Int4G32 | Format::Int4G128);
    // Tile, threads, stages: as the constants of the source say.
    let (features, rows, threads, n_stage) = match form {
        Form::Few => (16, 8, 256, 0),
        Form::Some => (16, 32, 256, 0),
        Form::Mid => (64, 64, 128, if four_bits { 3 } else { 4 }),
        Form::Many => (128, if grouped { 64 } else { 128 }, 256, if four_bits { 2 } else { 3 }),
    };
    let shared_bytes = if n_stage == 0 { 0 } else { tile_bytes(format, features, rows, n_stage) };
    let blocks = [params.w.n_out.div_ceil(features), params.n_row.div_ceil(rows), 1];
    (kernel, Grid { blocks, threads, shared_bytes })
}
