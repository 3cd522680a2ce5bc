//! Blocks that are a panel's groups, for one tile of inputs: they become its vectors in registers.

use super::super::formats::{Panel, Q4_0, Q8_0, Scaled};
use super::super::pack::Sixteen;
use super::super::tile::Asks;
use super::super::{LINE, PanelProduct, TILE_ROWS, for_each};
use super::All;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Avx512, Lanes, prefetch, prefetch_far};
use crate::quant::panels::{GROUP, OUTS};

/// How far ahead in each row the first-level cache is asked for what the second has; where it has few requests at a time
/// (`Asks::Twice`), these would cost more than they give.
const NEAR_BYTES: usize = 384;

/// A format whose blocks are groups.
///
/// # Safety
/// As [`Panel`]; `at` is the same block of sixteen rows, `row_bytes` apart.
pub(super) trait Turned: Panel {
    /// Bytes of a block.
    const BYTES: usize = Self::DTYPE.block_bytes();
    /// A block of sixteen rows.
    unsafe fn read_rows(at: *const u8, row_bytes: usize) -> Self::Group<Avx512>;
}

impl Turned for Q8_0 {
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

impl Turned for Q4_0 {
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

/// # Safety
/// As [`super::product`]; there are sixteen rows of `B`'s blocks for each panel, and a tile's inputs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn all<B: Turned>(all: &All<'_>, asks: Asks) {
    for panel in 0..all.panels {
        let t = Tile { p: all.p, rows: all.sixteen(panel), asks, panel };
        // SAFETY: the caller's promise.
        unsafe {
            match all.p.rows {
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

/// Sixteen rows of a matrix with a few inputs.
struct Tile<'a> {
    p: &'a PanelProduct,
    rows: Sixteen,
    asks: Asks,
    panel: usize,
}

impl Tile<'_> {
    /// # Safety
    /// As [`super::product`]; there are `C` inputs.
    #[inline(always)]
    unsafe fn run<B: Turned, const C: usize>(&self) {
        let (p, groups) = (self.p, self.p.dim / GROUP);
        let Sixteen { at, row_bytes, next } = self.rows;
        // SAFETY: the caller's promise: whole groups of weights and of inputs.
        unsafe {
            let mut sums = [Avx512::splat(0.0); C];
            for group in 0..groups {
                for byte in (0..OUTS * B::BYTES).step_by(LINE) {
                    prefetch_far(next.wrapping_add(group * OUTS * B::BYTES + byte));
                }
                if self.asks == Asks::Once {
                    // A line of a row is asked for as often as is needed, in turns.
                    let every = LINE / B::BYTES;
                    for row in (group % every..OUTS).step_by(every) {
                        let near = group * B::BYTES + row * row_bytes + NEAR_BYTES;
                        prefetch(at.wrapping_add(near));
                    }
                }
                let weights = B::read_rows(at.add(group * B::BYTES), row_bytes);
                B::add::<Avx512, C>(&mut sums, &weights, p.x.add(group), p.x_stride);
            }
            if !groups.is_multiple_of(2) {
                // Panels have whole units: a group of zeros, which changes the sign of a zero.
                let zero = Avx512::splat(0.0);
                for_each!(ROW < C, 8, {
                    sums[ROW] = Avx512::fused(zero, zero, sums[ROW]);
                });
            }
            for_each!(ROW < C, 8, {
                let y = p.y.add(ROW * p.y_stride + self.panel * OUTS);
                Avx512::store(y, sums[ROW]);
            });
        }
    }
}
