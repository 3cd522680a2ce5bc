//! What the tiles of `product.cuh` move.

use super::measure::{Traffic, sectors};
use crate::Format;

impl Traffic {
    /// The same so many times.
    pub(super) fn times(self, n: usize) -> Self {
        let n = n as u64;
        Self {
            memory_bytes: n * self.memory_bytes,
            read_bytes: n * self.read_bytes,
            write_bytes: n * self.write_bytes,
            flops: n * self.flops,
            is_mma: self.is_mma,
        }
    }

    /// One after the other.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            read_bytes: self.read_bytes + other.read_bytes,
            write_bytes: self.write_bytes + other.write_bytes,
            flops: self.flops + other.flops,
            is_mma: self.is_mma || other.is_mma,
        }
    }
}

/// How a kernel cuts a product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// Features of a block.
    pub(super) features: usize,
    /// Rows of a block.
    pub(super) rows: usize,
    /// Warps that each read the scales of the same 16 features.
    pub(super) readers: usize,
}

/// 8 rows: one warp reads a segment's scales.
pub(super) const FEW: Tile = Tile { features: 16, rows: 8, readers: 1 };
/// 32 rows.
pub(super) const SOME: Tile = Tile { rows: 32, ..FEW };
/// Two warps side by side over the rows.
pub(super) const MID: Tile = Tile { features: 64, rows: 64, readers: 2 };

/// The same for many rows.
pub(super) fn many(format: Format) -> Tile {
    let grouped = matches!(format, Format::Int8 | Format::Int4G32);
    Tile { features: 128, rows: if grouped { 64 } else { 128 }, readers: 2 }
}

/// Bytes of the plane of quants, and of the plane of scales.
pub(super) fn weight_bytes(format: Format, n_out: usize, n_in: usize) -> (usize, usize) {
    let even = n_in.next_multiple_of(128);
    match format {
        Format::Bf16 => (n_out * even * 2, 0),
        Format::Fp8 => (n_out * even, n_out.div_ceil(128) * n_in.div_ceil(128) * 4),
        Format::Int8 => (n_out * even, n_out * n_in.div_ceil(128) * 8),
        Format::Int4G32 => (n_out * even / 2, n_out * n_in.div_ceil(128) * 8),
        Format::Int4G128 => (n_out * even / 2, n_out * n_in.div_ceil(128) * 2),
    }
}

/// What a warp reads for the scales of 16 features and 128 columns: one number, or two requests for eight features each.
fn scale_request(format: Format) -> u64 {
    match format {
        Format::Bf16 => 0,
        Format::Fp8 => sectors(4),
        Format::Int8 | Format::Int4G32 => 2 * sectors(64),
        Format::Int4G128 => 2 * sectors(16),
    }
}

/// `y = W x` of whole tiles: `y` in numbers of `y_bytes`.
pub(super) fn product(
    format: Format,
    tile: Tile,
    [n_row, n_in, n_out]: [usize; 3],
    y_bytes: usize,
) -> Traffic {
    let (quants, scales) = weight_bytes(format, n_out, n_in);
    let (row_tiles, feature_tiles) = (n_row.div_ceil(tile.rows), n_out.div_ceil(tile.features));
    let scale_requests = row_tiles * n_out.div_ceil(16) * n_in.div_ceil(128) * tile.readers;
    let (x, y) = (n_row * n_in * 2, n_row * n_out * y_bytes);
    Traffic {
        memory_bytes: (quants + scales + x + y) as u64,
        read_bytes: (row_tiles * quants + feature_tiles * x) as u64
            + scale_requests as u64 * scale_request(format),
        write_bytes: y as u64,
        flops: 2 * (n_row * n_in * n_out) as u64,
        is_mma: true,
    }
}
