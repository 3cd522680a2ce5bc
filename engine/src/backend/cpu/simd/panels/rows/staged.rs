//! Blocks of any format, for one tile of inputs or two: a few blocks of sixteen rows become units of a panel in the
//! first-level cache, all inputs pass them, and the next take their place.

use super::super::pack::{Blocks, Sixteen};
use super::super::tile::Asks;
use super::super::tiles::{Eights, InRegisters, Inputs, Tiles, add_group};
use super::super::{
    LINE, PanelProduct, TILE_ROWS, for_each, rows_of_tile, with_rows, with_tile_rows,
};
use super::{All, ROWS_MAX};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::ints::turns::Turns;
use crate::backend::cpu::simd::{Avx2, LANES, LaneSums, prefetch};
use crate::quant::panels::OUTS;

/// Groups that are made at once: all of the largest unit.
const GROUPS: usize = 8;

/// # Safety
/// As [`super::product`]; there are sixteen rows of `B`'s blocks for each panel, and `room` is one's.
#[inline(always)]
pub(super) unsafe fn all<T: StagedTiles, B: Blocks>(all: &All<'_>, room: &mut [u8]) {
    let p = all.p;
    let units = B::LAYOUT.units(p.dim);
    assert!(room.len() >= units * B::LAYOUT.unit_bytes(), "no room for a panel");
    let at_once = GROUPS / B::LAYOUT.groups;
    for panel in 0..all.panels {
        let rows = all.sixteen(panel);
        let mut sums = LaneSums::ZERO;
        for first in (0..units).step_by(at_once) {
            let n = at_once.min(units - first);
            let units = Units { rows, to: room.as_mut_ptr(), first, n };
            // SAFETY: the caller's promise.
            unsafe {
                units.make::<T::Turns, B>();
                units.multiply::<T, B>(p, &mut sums, all.asks);
            }
        }
        for (row, sums) in sums.0.iter().take(p.rows).enumerate() {
            // SAFETY: the caller's promise: sixteen outputs of each input.
            unsafe {
                let y = p.y.add(row * p.y_stride + panel * OUTS);
                std::ptr::copy_nonoverlapping(sums.as_ptr(), y, LANES);
            }
        }
    }
}

/// Some units of sixteen rows of a matrix.
pub(super) struct Units {
    rows: Sixteen,
    /// Where they are made.
    to: *mut u8,
    /// The first of them, in the rows.
    first: usize,
    /// How many.
    n: usize,
}

impl Units {
    /// Makes them.
    ///
    /// # Safety
    /// As [`all`].
    #[inline(always)]
    unsafe fn make<L: Turns, B: Blocks>(&self) {
        let per_unit = B::PER_UNIT;
        // The last unit may have fewer.
        let end = ((self.first + self.n) * per_unit).min(self.rows.row_bytes / B::BYTES);
        // SAFETY: the caller's promise.
        unsafe { self.rows.pack_blocks::<L, B>(self.first * per_unit..end, self.to) }
    }

    /// Adds their products with all inputs to `sums`, a vector for each.
    ///
    /// # Safety
    /// As [`all`].
    #[inline(always)]
    unsafe fn multiply<T: StagedTiles, B: Blocks>(
        &self,
        p: &PanelProduct,
        sums: &mut LaneSums,
        asks: Asks,
    ) {
        for tile in 0..p.rows.div_ceil(T::MOST) {
            let (row, n) = rows_of_tile(p.rows, tile, T::MOST);
            // SAFETY: the caller's promise.
            unsafe {
                let x = p.x.add(row * p.x_stride + self.first * B::LAYOUT.groups);
                let sums = sums.0.as_mut_ptr().add(row);
                let asks = if tile == 0 { asks } else { Asks::Not };
                let t = Tile { x, x_stride: p.x_stride, sums, asks };
                T::add::<B>(&t, self, n);
            }
        }
    }

    /// Asks for what the next units are made of, a share with each group. The second-level cache has it.
    #[inline(always)]
    fn ask<B: Blocks>(&self, unit: usize, group: usize) {
        let (bytes, groups) = (B::PER_UNIT * B::BYTES, B::LAYOUT.groups);
        let next = (self.first + unit) * bytes + bytes * GROUPS / groups;
        for row in group * OUTS / groups..(group + 1) * OUTS / groups {
            let at = self.rows.at.wrapping_add(next + row * self.rows.row_bytes);
            for byte in (0..bytes).step_by(LINE) {
                prefetch(at.wrapping_add(byte));
            }
        }
    }
}

/// A few inputs from some unit on, and their sums.
pub(super) struct Tile {
    x: *const Group,
    x_stride: usize,
    sums: *mut [f32; LANES],
    asks: Asks,
}

/// Tiles that multiply units in the cache.
pub(super) trait StagedTiles: Tiles {
    /// What makes them.
    type Turns: Turns;
    /// Adds the products of `units` with `n` inputs.
    ///
    /// # Safety
    /// As [`all`]; there are as many inputs and sums.
    unsafe fn add<B: Blocks>(t: &Tile, units: &Units, n: usize);
}

impl<L: Turns, const MOST: usize> StagedTiles for InRegisters<L, MOST> {
    type Turns = L;

    #[inline(always)]
    unsafe fn add<B: Blocks>(t: &Tile, units: &Units, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { with_tile_rows!(MOST, n, C => t.add::<L, B, C>(units)) }
    }
}

impl StagedTiles for Eights {
    type Turns = Avx2;

    #[inline(always)]
    unsafe fn add<B: Blocks>(t: &Tile, units: &Units, n: usize) {
        let layout = B::LAYOUT;
        const { assert!(Self::MOST == ROWS_MAX && ROWS_MAX <= LANES) };
        // SAFETY: the caller's promise; one tile has all inputs.
        unsafe {
            let sums = &mut *t.sums.cast::<LaneSums>();
            for unit in 0..units.n {
                let head = units.to.add(unit * layout.unit_bytes());
                for group in 0..layout.groups {
                    if t.asks == Asks::Once {
                        units.ask::<B>(unit, group);
                    }
                    let at = t.x.add(unit * layout.groups + group);
                    add_group::<B>(head, group, Inputs { at, stride: t.x_stride, n }, sums);
                }
            }
        }
    }
}

impl Tile {
    /// Adds the products of `units`.
    ///
    /// # Safety
    /// As [`all`]; there are `C` inputs and sums.
    #[inline(always)]
    unsafe fn add<L: Ints, B: Blocks, const C: usize>(&self, units: &Units) {
        let layout = B::LAYOUT;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [L::splat(0.0); C];
            for_each!(ROW < C, 8, {
                sums[ROW] = L::load(self.sums.add(ROW).cast());
            });
            for unit in 0..units.n {
                let head = units.to.add(unit * layout.unit_bytes());
                let x = self.x.add(unit * layout.groups);
                for group in 0..layout.groups {
                    if self.asks == Asks::Once {
                        units.ask::<B>(unit, group);
                    }
                    let numbers = head.add(layout.head_bytes + group * layout.group_bytes);
                    let weights = B::read::<L>(head, group, numbers);
                    B::add::<L, C>(&mut sums, &weights, x.add(group), self.x_stride);
                }
            }
            for_each!(ROW < C, 8, {
                L::store(self.sums.add(ROW).cast(), sums[ROW]);
            });
        }
    }
}
