//! Blocks multiplied where they lie, for few inputs: sixteen rows of a matrix are read side by side. The same groups in the
//! same order as from panels, so the same bits.
//!
//! With AVX-512. Elsewhere, and for more inputs, rows are packed, panel by panel.

mod staged;
mod turned;

use super::formats::{Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::pack::Sixteen;
use super::tile::Asks;
use super::{PanelProduct, TILE_ROWS};
use crate::quant::DType;
use crate::quant::panels::OUTS;

/// Inputs up to which this is faster than packing.
const ROWS_MAX: usize = 2 * TILE_ROWS;

/// As many whole panels' outputs of a product on a matrix of `rows` as are computed here; says how many.
///
/// # Safety
/// As [`super::product_of_rows`] on a processor with AVX-512; `room` is a panel's.
pub(super) unsafe fn product(
    p: &PanelProduct,
    rows: &[u8],
    row_bytes: usize,
    asks: Asks,
    room: &mut [u8],
) -> usize {
    let in_registers = matches!(p.dtype, DType::Q8_0 | DType::Q4_0);
    // Where there are tiles, they take sixteen.
    let most = if asks == Asks::Twice && !in_registers { ROWS_MAX - 1 } else { ROWS_MAX };
    if !(1..=most).contains(&p.rows) {
        return 0;
    }
    let panels = p.outs.min(rows.len() / row_bytes.max(1)) / OUTS;
    let all = All { p, rows: rows.as_ptr(), row_bytes, panels };
    let is_one_tile = p.rows <= TILE_ROWS;
    // SAFETY: the caller's promise; whole panels are inside.
    unsafe {
        match p.dtype {
            DType::Q8_0 if is_one_tile => turned::all::<Q8_0>(&all, asks),
            DType::Q4_0 if is_one_tile => turned::all::<Q4_0>(&all, asks),
            DType::Q8_0 => staged::all::<Q8_0>(&all, asks, room),
            DType::Q4_0 => staged::all::<Q4_0>(&all, asks, room),
            DType::Q5_0 => staged::all::<Q5_0>(&all, asks, room),
            DType::Q5_1 => staged::all::<Q5_1>(&all, asks, room),
            DType::Q4K => staged::all::<Q4K>(&all, asks, room),
            DType::Q5K => staged::all::<Q5K>(&all, asks, room),
            DType::Q6K => staged::all::<Q6K>(&all, asks, room),
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => return 0,
        }
    }
    panels * OUTS
}

/// A product's whole panels.
struct All<'a> {
    p: &'a PanelProduct,
    /// The matrix's first row.
    rows: *const u8,
    row_bytes: usize,
    panels: usize,
}

impl All<'_> {
    /// The rows of panel number `panel`. The sixteen after them are neighbours in memory.
    fn sixteen(&self, panel: usize) -> Sixteen {
        let at = self.rows.wrapping_add(panel * OUTS * self.row_bytes);
        let is_last = panel + 1 == self.panels && self.p.outs == self.panels * OUTS;
        let next = if is_last { self.p.next } else { at.wrapping_add(OUTS * self.row_bytes) };
        Sixteen { at, row_bytes: self.row_bytes, next }
    }
}
