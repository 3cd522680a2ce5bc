//! Blocks multiplied where they lie, for few inputs: sixteen rows of a matrix are read side by side. The same groups in the
//! same order as from panels, so the same bits.
//!
//! With AVX2 or more. Elsewhere, and for more inputs, rows are packed, panel by panel.

mod staged;
mod turned;

use super::formats::{Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::pack::{Blocks, Sixteen};
use super::tile::Asks;
use super::tiles::{Eights, InRegisters};
use super::{PanelProduct, TILE_ROWS, TILE_ROWS_AVX2};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::quant::DType;
use crate::quant::panels::OUTS;

/// Inputs up to which this is faster than packing.
const ROWS_MAX: usize = 2 * TILE_ROWS;

/// As many whole panels' outputs of a product on a matrix of `rows` as are computed here; says how many.
///
/// # Safety
/// As [`super::product_of_rows`] on a processor with `isa`, AVX2 or more; `room` is a panel's.
pub(super) unsafe fn product(
    p: &PanelProduct,
    rows: &[u8],
    row_bytes: usize,
    isa: Isa,
    room: &mut [u8],
) -> usize {
    let asks = Asks::of(isa);
    let in_registers = matches!(p.dtype, DType::Q8_0 | DType::Q4_0);
    // Where there are tiles, they take sixteen.
    let most = if asks == Asks::Twice && !in_registers { ROWS_MAX - 1 } else { ROWS_MAX };
    if !(1..=most).contains(&p.rows) {
        return 0;
    }
    let panels = p.outs.min(rows.len() / row_bytes.max(1)) / OUTS;
    let all = All { p, rows: rows.as_ptr(), row_bytes, panels, asks };
    // Only AVX-512's registers hold a block of sixteen rows beside a tile.
    let is_one_tile = isa >= Isa::Avx512Vnni && p.rows <= TILE_ROWS;
    // SAFETY: the caller's promise; whole panels are inside.
    unsafe {
        match p.dtype {
            DType::Q8_0 if is_one_tile => turned::all::<Q8_0>(&all),
            DType::Q4_0 if is_one_tile => turned::all::<Q4_0>(&all),
            DType::Q8_0 => staged::<Q8_0>(isa, &all, room),
            DType::Q4_0 => staged::<Q4_0>(isa, &all, room),
            DType::Q5_0 => staged::<Q5_0>(isa, &all, room),
            DType::Q5_1 => staged::<Q5_1>(isa, &all, room),
            DType::Q4K => staged::<Q4K>(isa, &all, room),
            DType::Q5K => staged::<Q5K>(isa, &all, room),
            DType::Q6K => staged::<Q6K>(isa, &all, room),
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
    asks: Asks,
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

/// [`staged::all`] on `isa`.
///
/// # Safety
/// As [`product`]; there are sixteen rows of `B`'s blocks for each panel.
unsafe fn staged<B: Blocks>(isa: Isa, all: &All<'_>, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            Isa::Portable => {}
            Isa::Avx2 => avx2::<B>(all, room),
            Isa::AvxVnni => avx_vnni::<B>(all, room),
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512::<B>(all, room),
        }
    }
}

/// # Safety
/// As [`staged`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<B: Blocks>(all: &All<'_>, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { staged::all::<Eights, B>(all, room) }
}

/// # Safety
/// As [`staged`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn avx_vnni<B: Blocks>(all: &All<'_>, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { staged::all::<InRegisters<Avx2<true>, TILE_ROWS_AVX2>, B>(all, room) }
}

/// # Safety
/// As [`staged`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<B: Blocks>(all: &All<'_>, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { staged::all::<InRegisters<Avx512, TILE_ROWS>, B>(all, room) }
}
