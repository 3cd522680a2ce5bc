//! Products of matrices in panels with inputs in whole numbers.
//!
//! An output is one lane and one chain of sums, group after group of 32 numbers: `sum = dot * (w_scale * x_scale) + sum`,
//! `dot` exact. So it has the same bits in any tile, batch and thread, and on every instruction set.

#[cfg(target_arch = "x86_64")]
mod amx;
mod formats;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod rows;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;
pub(in super::super) mod unpack;

use super::Portable;
use super::groups::Group;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use crate::backend::cpu::Isa;
use crate::backend::cpu::aligned::Aligned;
pub(super) use crate::backend::cpu::aligned::LINE;
use crate::backend::cpu::pool::Exclusive;
use crate::quant::DType;
use crate::quant::panels::{self, GROUP, Layout, OUTS};
use formats::{Panel, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use tile::{Asks, tile};
#[cfg(target_arch = "x86_64")]
use tiles::{Eights, InRegisters, Tiles};

/// Runs a block for every index below a constant up to four, eight or sixteen, each time as code of its own: the compiler leaves
/// loops of this size as loops, and arrays that they index in memory.
macro_rules! for_each {
    ($i:ident < $n:ident, 4, $body:block) => {
        for_each!(@ $i, $n, $body, 0 1 2 3);
    };
    ($i:ident < $n:ident, 8, $body:block) => {
        for_each!(@ $i, $n, $body, 0 1 2 3 4 5 6 7);
    };
    ($i:ident < $n:ident, 16, $body:block) => {
        for_each!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    };
    (@ $i:ident, $n:ident, $body:block, $($index:literal)*) => {
        $(if $index < $n {
            const $i: usize = $index;
            $body
        })*
    };
}

pub(super) use for_each;

/// Runs a block that has a tile's rows, up to four or eight, as a constant: code of its own for each. A panic for other numbers
/// would cost every tile registers (6 % of one row's speed).
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($rows:expr, 4, $c:ident => $body:expr) => {
        with_rows!(@ $rows, $c, $body, 1 2 3 4)
    };
    ($rows:expr, 8, $c:ident => $body:expr) => {
        with_rows!(@ $rows, $c, $body, 1 2 3 4 5 6 7 8)
    };
    (@ $rows:expr, $c:ident, $body:expr, $($n:literal)*) => {
        match $rows {
            $($n => {
                const $c: usize = $n;
                $body
            })*
            rows => debug_assert!(false, "a tile of {rows} rows"),
        }
    };
}

/// [`with_rows`] of a tile of up to `$most` rows, [`TILE_ROWS`] or [`TILE_ROWS_AVX2`].
#[cfg(target_arch = "x86_64")]
macro_rules! with_tile_rows {
    ($most:ident, $rows:expr, $c:ident => $body:expr) => {
        if $most == TILE_ROWS {
            with_rows!($rows, 8, $c => $body)
        } else {
            with_rows!($rows, 4, $c => $body)
        }
    };
}

#[cfg(target_arch = "x86_64")]
use {with_rows, with_tile_rows};

/// [`panels::pack`] as fast as `isa` can; the same bytes.
pub(in super::super) fn pack_on(isa: Isa, dtype: DType, rows: &[u8], dim: usize, panel: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if pack::pack(isa, dtype, rows, dim, panel) {
        return;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    panels::pack(dtype, rows, dim, panel);
}

/// `y[row, out] = sum_k w[out, k] * x[row, k]` for some panels and all rows.
///
/// Raw pointers, because threads write disjoint columns of the same `y`.
#[derive(Clone, Copy)]
pub(super) struct PanelProduct {
    /// The first panel.
    pub(super) panels: *const u8,
    /// What is read after the last panel, as far as is known; asked for while the last are multiplied. Never read.
    pub(super) next: *const u8,
    /// How numbers are stored.
    pub(super) dtype: DType,
    /// Outputs; the last panel may have fewer than sixteen.
    pub(super) outs: usize,
    /// Length of every sum.
    pub(super) dim: usize,
    /// First input; inputs are `x_stride` groups apart.
    pub(super) x: *const Group,
    /// Groups from one input to the next.
    pub(super) x_stride: usize,
    /// Inputs.
    pub(super) rows: usize,
    /// First output; outputs of one input are contiguous.
    pub(super) y: *mut f32,
    /// Numbers from one input's outputs to the next's.
    pub(super) y_stride: usize,
}

impl PanelProduct {
    fn panels(&self) -> usize {
        self.outs.div_ceil(OUTS)
    }
}

/// For each thread two halves, a panel of a matrix that is packed as it is read and what tiles multiply, or inputs turned round.
#[derive(Debug, Default)]
pub(in super::super) struct Rooms {
    bytes: Aligned<u8>,
    /// Bytes of a thread.
    each: usize,
}

/// Bytes that tiles multiply at once: eight groups of two panels, a byte a number.
const TILES_BYTES: usize = 2 * 8 * GROUP * OUTS;

impl Rooms {
    /// Room for rows of up to `dim` numbers on `isa`, in any format where inputs become whole numbers.
    pub(in super::super) fn new((isa, whole): (Isa, bool), threads: usize, dim: usize) -> Self {
        let each = room_bytes((isa, whole), dim);
        Self { bytes: Aligned::zeros(threads * each), each }
    }

    /// Bytes that [`Rooms::new`] takes.
    pub(in super::super) fn bytes(kind: (Isa, bool), threads: usize, dim: usize) -> u64 {
        Aligned::<u8>::bytes(threads * room_bytes(kind, dim))
    }

    /// The room of each of `threads` threads, and its bytes.
    pub(super) fn each(&mut self, threads: usize) -> (Exclusive<u8>, usize) {
        assert!(self.bytes.len() >= threads * self.each, "rooms for fewer than {threads} threads");
        (Exclusive::new(&mut self.bytes), self.each)
    }
}

/// Whole lines for the longest panel of rows of `dim` numbers, and as many again for what tiles multiply; or for inputs.
fn room_bytes((isa, whole): (Isa, bool), dim: usize) -> usize {
    let turned = super::product::turned_bytes(isa, dim).next_multiple_of(2 * LINE);
    if !whole {
        return turned;
    }
    let layouts = DType::ALL.into_iter().filter_map(Layout::of);
    // Every format's units, whatever rows they are for.
    let dim = dim.next_multiple_of(8 * GROUP);
    let bytes = layouts.filter_map(|layout| layout.panel_bytes(dim)).max();
    let panels = 2 * bytes.unwrap_or(0).max(TILES_BYTES).next_multiple_of(LINE);
    panels.max(turned)
}

/// Runs a product on a matrix of `rows`, back to back, in place or, where that is not faster, from a panel at a time that
/// is packed into `room`. The same bits as [`product`] on its panels.
///
/// # Safety
/// As [`product`], the panels left out.
pub(super) unsafe fn product_of_rows(isa: Isa, p: &PanelProduct, rows: &[u8], room: &mut [u8]) {
    if p.rows == 0 {
        return;
    }
    let Some(row_bytes) = p.dtype.row_bytes(p.dim) else { return };
    let Some(panel_bytes) = Layout::of(p.dtype).and_then(|layout| layout.panel_bytes(p.dim)) else {
        return;
    };
    let (packed, room) = room.split_at_mut(room.len() / 2);
    let packed = &mut packed[..panel_bytes];
    #[cfg(target_arch = "x86_64")]
    let in_place = if isa >= Isa::Avx2 {
        // SAFETY: the caller's promise.
        unsafe { rows::product(p, rows, row_bytes, isa, packed) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let in_place = 0;
    let rest = &rows[in_place * row_bytes..];
    for (i, rows) in (in_place / OUTS..).zip(rest.chunks((OUTS * row_bytes).max(1))) {
        pack_on(isa, p.dtype, rows, p.dim, packed);
        let outs = (p.outs - i * OUTS).min(OUTS);
        // SAFETY: one panel of the product, now in `room`.
        unsafe {
            let y = p.y.add(i * OUTS);
            product(isa, &PanelProduct { panels: packed.as_ptr(), outs, y, ..*p }, room);
        }
    }
}

/// Rows of a block: their inputs stay in the second-level cache while all panels of a task pass.
const ROWS: usize = 64;

/// Runs a product on `isa`.
///
/// # Safety
/// All pointers cover their shapes, inputs also the last unit's groups, no other thread touches the outputs, the
/// processor has `isa`, and `room` is half of one of [`Rooms`] for rows this long.
pub(super) unsafe fn product(isa: Isa, p: &PanelProduct, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.dtype {
            DType::Q8_0 => on::<Q8_0>(isa, p, room),
            DType::Q4_0 => on::<Q4_0>(isa, p, room),
            DType::Q5_0 => on::<Q5_0>(isa, p, room),
            DType::Q5_1 => on::<Q5_1>(isa, p, room),
            DType::Q4K => on::<Q4K>(isa, p, room),
            DType::Q5K => on::<Q5K>(isa, p, room),
            DType::Q6K => on::<Q6K>(isa, p, room),
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => {}
        }
    }
}

/// # Safety
/// As [`product`]; the panels are `P`'s.
unsafe fn on<P: Panel>(isa: Isa, p: &PanelProduct, room: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<P>(p, Asks::of(isa)),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx_vnni::<P>(p, Asks::of(isa)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => avx512::<P>(p, Asks::of(isa)),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                assert!(room.len() >= TILES_BYTES, "no room for tiles");
                let done = amx::product::<P>(p, room.as_mut_ptr());
                if done < p.rows {
                    let (x, y) = (p.x.add(done * p.x_stride), p.y.add(done * p.y_stride));
                    let rest = PanelProduct { x, y, rows: p.rows - done, ..*p };
                    avx512::<P>(&rest, Asks::of(isa));
                }
            }
            _ => portable::<P>(p),
        }
    }
}

/// # Safety
/// As [`product`].
unsafe fn portable<P: Panel>(p: &PanelProduct) {
    // SAFETY: the caller's promise.
    unsafe {
        for panel in 0..p.panels() {
            for row in 0..p.rows {
                tile::<Portable, P, 1>(p, panel, row, Asks::Not);
            }
        }
    }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<P: Panel>(p: &PanelProduct, asks: Asks) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<Eights, P>(p, asks) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn avx_vnni<P: Panel>(p: &PanelProduct, asks: Asks) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<InRegisters<Avx2<true>, TILE_ROWS_AVX2>, P>(p, asks) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<P: Panel>(p: &PanelProduct, asks: Asks) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<InRegisters<Avx512, TILE_ROWS>, P>(p, asks) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn blocks<T: Tiles, P: Panel>(p: &PanelProduct, asks: Asks) {
    for first in (0..p.rows).step_by(ROWS) {
        let rows = (p.rows - first).min(ROWS);
        for panel in 0..p.panels() {
            for i in 0..rows.div_ceil(T::MOST) {
                let (row, n) = rows_of_tile(rows, i, T::MOST);
                let row = first + row;
                // The first to come reads from memory, others from the cache.
                let asks = if first == 0 && i == 0 { asks } else { Asks::Not };
                // SAFETY: the caller's promise.
                unsafe { T::tile::<P>(p, panel, row, n, asks) }
            }
        }
    }
}

/// Rows of a tile: as many sums and products as there are registers for, beside weights.
#[cfg(target_arch = "x86_64")]
const TILE_ROWS: usize = 8;

/// The same where there are sixteen registers of half the width.
#[cfg(target_arch = "x86_64")]
const TILE_ROWS_AVX2: usize = 4;

/// First row and rows of tile number `tile` of those of `most` rows that `rows` are cut into, as even as can be: nine are five and
/// four.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rows_of_tile(rows: usize, tile: usize, most: usize) -> (usize, usize) {
    let tiles = rows.div_ceil(most);
    let first = rows * tile / tiles;
    (first, rows * (tile + 1) / tiles - first)
}

#[cfg(test)]
mod tests;
