//! Blocks multiplied where they lie, for few inputs: sixteen rows of a matrix are turned into a panel's vectors in
//! registers, group after group. The same groups in the same order as from panels, so the same bits.
//!
//! For `Q8_0` and `Q4_0`, whose groups are single blocks, with AVX-512. Others are packed, panel by panel.

use super::formats::{Panel, Q4_0, Q8_0, Scaled};
use super::tile::Asks;
use super::{LINE, PanelProduct, TILE_ROWS, for_each};
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Avx512, Lanes, prefetch, prefetch_far};
use crate::quant::DType;
use crate::quant::panels::{GROUP, OUTS};

/// Inputs up to which this is faster than packing.
const ROWS_MAX: usize = 2 * TILE_ROWS;

/// How far ahead in each row the first-level cache is asked for what the second has; where it has few requests at a time
/// (`Asks::Twice`), these would cost more than they give.
const NEAR_BYTES: usize = 384;

/// A format whose blocks are groups.
///
/// # Safety
/// As [`Panel`]; `at` is the same block of sixteen rows, `row_bytes` apart.
trait Blocks: Panel {
    /// Bytes of a block.
    const BYTES: usize;
    /// A block of sixteen rows.
    unsafe fn read_rows(at: *const u8, row_bytes: usize) -> Self::Group<Avx512>;
}

impl Blocks for Q8_0 {
    const BYTES: usize = 2 + GROUP;

    #[inline(always)]
    unsafe fn read_rows(at: *const u8, row_bytes: usize) -> Scaled<Avx512> {
        // SAFETY: the caller's promise.
        unsafe {
            let (scale, at) = (Avx512::load_halves_apart(at, row_bytes), at.add(2));
            let first = Avx512::load_turned(at, row_bytes);
            let second = Avx512::load_turned(at.add(GROUP / 2), row_bytes);
            let mut numbers = [first[0]; 8];
            for i in 0..4 {
                // The sign bit turned, as in panels.
                numbers[i] = Avx512::byte_minus(first[i], 128);
                numbers[i + 4] = Avx512::byte_minus(second[i], 128);
            }
            Scaled { numbers, scale }
        }
    }
}

impl Blocks for Q4_0 {
    const BYTES: usize = 2 + GROUP / 2;

    #[inline(always)]
    unsafe fn read_rows(at: *const u8, row_bytes: usize) -> Scaled<Avx512> {
        // SAFETY: the caller's promise.
        unsafe {
            let both = Avx512::load_turned(at.add(2), row_bytes);
            let mut numbers = [both[0]; 8];
            for i in 0..4 {
                numbers[i] = Avx512::byte_bits(both[i], 0, 15);
                numbers[i + 4] = Avx512::byte_bits(both[i], 4, 15);
            }
            Scaled { numbers, scale: Avx512::load_halves_apart(at, row_bytes) }
        }
    }
}

/// As many whole panels' outputs of a product on a matrix of `rows` as are computed here; says how many.
///
/// # Safety
/// As [`super::product_of_rows`] on a processor with AVX-512.
pub(super) unsafe fn product(p: &PanelProduct, rows: &[u8], row_bytes: usize, asks: Asks) -> usize {
    // Sixteen rows are reached by 32-bit offsets.
    if p.rows > ROWS_MAX || row_bytes > (i32::MAX as usize) / OUTS {
        return 0;
    }
    let panels = p.outs.min(rows.len() / row_bytes.max(1)) / OUTS;
    // SAFETY: the caller's promise; whole panels are inside.
    unsafe {
        match p.dtype {
            DType::Q8_0 => all::<Q8_0>(p, rows.as_ptr(), row_bytes, panels, asks),
            DType::Q4_0 => all::<Q4_0>(p, rows.as_ptr(), row_bytes, panels, asks),
            _ => return 0,
        }
    }
    panels * OUTS
}

/// # Safety
/// As [`product`]; there are sixteen rows of `B`'s blocks for each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn all<B: Blocks>(
    p: &PanelProduct,
    rows: *const u8,
    row_bytes: usize,
    panels: usize,
    asks: Asks,
) {
    let tiles = p.rows.div_ceil(TILE_ROWS);
    for panel in 0..panels {
        for i in 0..tiles {
            let (row, end) = (p.rows * i / tiles, p.rows * (i + 1) / tiles);
            // SAFETY: the caller's promise.
            unsafe {
                let at = rows.add(panel * OUTS * row_bytes);
                // The sixteen rows after these are asked for meanwhile: all of them are neighbours in memory.
                let is_last = panel + 1 == panels && p.outs == panels * OUTS;
                let next = if is_last { p.next } else { at.wrapping_add(OUTS * row_bytes) };
                let asks = if i == 0 { asks } else { Asks::Not };
                let t = Tile { p, at, next, row_bytes, asks, panel, row };
                match end - row {
                    1 => t.run::<B, 1>(),
                    2 => t.run::<B, 2>(),
                    3 => t.run::<B, 3>(),
                    4 => t.run::<B, 4>(),
                    5 => t.run::<B, 5>(),
                    6 => t.run::<B, 6>(),
                    7 => t.run::<B, 7>(),
                    _ => t.run::<B, TILE_ROWS>(),
                }
            }
        }
    }
}

/// Sixteen rows of a matrix with a few inputs.
struct Tile<'a> {
    p: &'a PanelProduct,
    /// The first row's first block.
    at: *const u8,
    /// What is read after these rows.
    next: *const u8,
    row_bytes: usize,
    asks: Asks,
    panel: usize,
    /// The first input.
    row: usize,
}

impl Tile<'_> {
    /// # Safety
    /// As [`product`]; there are `C` inputs.
    #[inline(always)]
    unsafe fn run<B: Blocks, const C: usize>(&self) {
        let (p, groups) = (self.p, self.p.dim / GROUP);
        // SAFETY: the caller's promise: whole groups of weights and of inputs.
        unsafe {
            let x = p.x.add(self.row * p.x_stride);
            let mut sums = [Avx512::splat(0.0); C];
            for group in 0..groups {
                for byte in (0..OUTS * B::BYTES).step_by(LINE) {
                    prefetch_far(self.next.wrapping_add(group * OUTS * B::BYTES + byte));
                }
                if self.asks == Asks::Once {
                    for row in 0..OUTS {
                        let at = group * B::BYTES + row * self.row_bytes + NEAR_BYTES;
                        prefetch(self.at.wrapping_add(at));
                    }
                }
                let weights = B::read_rows(self.at.add(group * B::BYTES), self.row_bytes);
                B::add::<Avx512, C>(&mut sums, &weights, x.add(group), p.x_stride);
            }
            if !groups.is_multiple_of(2) {
                // Panels have whole units: a group of zeros, which changes the sign of a zero.
                let zero = Avx512::splat(0.0);
                for_each!(ROW < C, 8, {
                    sums[ROW] = Avx512::fused(zero, zero, sums[ROW]);
                });
            }
            for_each!(ROW < C, 8, {
                let y = p.y.add((self.row + ROW) * p.y_stride + self.panel * OUTS);
                Avx512::store(y, sums[ROW]);
            });
        }
    }
}
