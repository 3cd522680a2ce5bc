//! Blocks that are a panel's groups, for one tile of inputs: they become its vectors in registers.

use super::super::formats::{Q4_0, Q8_0, Scaled};
use super::super::pack::{Block, Blocks, Sixteen};
use super::super::tile::Asks;
use super::super::{LINE, PanelProduct, for_each, with_rows};
use super::All;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::ints::turns::Turns;
use crate::backend::cpu::simd::{Avx512, Vectors, prefetch};
use crate::quant::panels::{GROUP, OUTS};

/// How far ahead in each row the first-level cache is asked for what the second has; where it has few requests at a time
/// (`Asks::Twice`), these would cost more than they give.
const NEAR_BYTES: usize = 384;

/// A format whose blocks are groups.
///
/// # Safety
/// As [`Blocks`].
pub(super) trait Turned: Blocks {
    /// A block of sixteen rows.
    unsafe fn read_rows(from: Block) -> Self::Group<Avx512>;
}

impl Turned for Q8_0 {
    #[inline(always)]
    unsafe fn read_rows(from: Block) -> Scaled<Avx512> {
        // SAFETY: the caller's promise.
        unsafe {
            let (first, second) = (from.turned::<Avx512>(2), from.turned::<Avx512>(2 + GROUP / 2));
            let mut numbers = [first[0]; 8];
            for i in 0..4 {
                // The sign bit turned, as in panels.
                numbers[i] = Avx512::byte_minus(first[i], 128);
                numbers[i + 4] = Avx512::byte_minus(second[i], 128);
            }
            Scaled { numbers, scale: from.factors::<Avx512>() }
        }
    }
}

impl Turned for Q4_0 {
    #[inline(always)]
    unsafe fn read_rows(from: Block) -> Scaled<Avx512> {
        // SAFETY: the caller's promise.
        unsafe {
            let both = from.turned::<Avx512>(2);
            let mut numbers = [both[0]; 8];
            for i in 0..4 {
                numbers[i] = Avx512::byte_bits(both[i], 0, 15);
                numbers[i + 4] = Avx512::byte_bits(both[i], 4, 15);
            }
            Scaled { numbers, scale: from.factors::<Avx512>() }
        }
    }
}

/// # Safety
/// As [`super::product`]; there are sixteen rows of `B`'s blocks for each panel, and a tile's inputs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn all<B: Turned>(all: &All<'_>) {
    for panel in 0..all.panels {
        let t = Tile { p: all.p, rows: all.sixteen(panel), asks: all.asks, panel };
        // SAFETY: the caller's promise.
        unsafe {
            with_rows!(all.p.rows, 8, C => t.run::<B, C>());
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
        // SAFETY: the caller's promise: whole groups of weights and of inputs.
        unsafe {
            let mut sums = [Avx512::splat(0.0); C];
            for group in 0..groups {
                let block = self.rows.block::<B>(group);
                block.ask::<B>(0, 1);
                if self.asks == Asks::Once {
                    // A line of a row is asked for as often as is needed, in turns.
                    let every = LINE / B::BYTES;
                    for row in (group % every..OUTS).step_by(every) {
                        let near = row * self.rows.row_bytes + NEAR_BYTES;
                        prefetch(block.at.wrapping_add(near));
                    }
                }
                let weights = B::read_rows(block);
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
