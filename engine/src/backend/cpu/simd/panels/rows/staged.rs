//! Blocks of any format, for one tile of inputs or two: a few blocks of sixteen rows become units of a panel in the
//! first-level cache, all inputs pass them, and the next take their place.

use super::super::pack::{Blocks, Sixteen};
use super::super::tile::Asks;
use super::super::{LINE, PanelProduct, TILE_ROWS, for_each, rows_of_tile, with_rows};
use super::{All, ROWS_MAX};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::{Avx512, LANES, Lanes, prefetch};
use crate::quant::panels::OUTS;

/// Groups that are made at once: all of the largest unit.
const GROUPS: usize = 8;

/// # Safety
/// As [`super::product`]; there are sixteen rows of `B`'s blocks for each panel, and `room` is one's.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn all<B: Blocks>(all: &All<'_>, asks: Asks, room: &mut [u8]) {
    let p = all.p;
    let units = B::LAYOUT.units(p.dim);
    assert!(room.len() >= units * B::LAYOUT.unit_bytes(), "no room for a panel");
    let at_once = GROUPS / B::LAYOUT.groups;
    for panel in 0..all.panels {
        let rows = all.sixteen(panel);
        let mut sums = [0.0; ROWS_MAX * LANES];
        for first in (0..units).step_by(at_once) {
            let n = at_once.min(units - first);
            let units = Units { rows, to: room.as_mut_ptr(), first, n };
            // SAFETY: the caller's promise.
            unsafe {
                units.make::<B>();
                units.multiply::<B>(p, &mut sums, asks);
            }
        }
        for (row, sums) in sums.chunks_exact(LANES).take(p.rows).enumerate() {
            // SAFETY: the caller's promise: sixteen outputs of each input.
            unsafe {
                let y = p.y.add(row * p.y_stride + panel * OUTS);
                Avx512::store(y, Avx512::load(sums.as_ptr()));
            }
        }
    }
}

/// Some units of sixteen rows of a matrix.
struct Units {
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
    unsafe fn make<B: Blocks>(&self) {
        let per_unit = B::PER_UNIT;
        // The last unit may have fewer.
        let end = ((self.first + self.n) * per_unit).min(self.rows.row_bytes / B::BYTES);
        // SAFETY: the caller's promise.
        unsafe { self.rows.pack_blocks::<B>(self.first * per_unit..end, self.to) }
    }

    /// Adds their products with all inputs to `sums`, a vector for each.
    ///
    /// # Safety
    /// As [`all`].
    #[inline(always)]
    unsafe fn multiply<B: Blocks>(
        &self,
        p: &PanelProduct,
        sums: &mut [f32; ROWS_MAX * LANES],
        asks: Asks,
    ) {
        for tile in 0..p.rows.div_ceil(TILE_ROWS) {
            let (row, n) = rows_of_tile(p.rows, tile, TILE_ROWS);
            // SAFETY: the caller's promise.
            unsafe {
                let x = p.x.add(row * p.x_stride + self.first * B::LAYOUT.groups);
                let sums = sums.as_mut_ptr().add(row * LANES);
                let asks = if tile == 0 { asks } else { Asks::Not };
                let t = Tile { x, x_stride: p.x_stride, sums, asks };
                with_rows!(n, 8, C => t.add::<B, C>(self));
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
struct Tile {
    x: *const Group,
    x_stride: usize,
    sums: *mut f32,
    asks: Asks,
}

impl Tile {
    /// Adds the products of `units`.
    ///
    /// # Safety
    /// As [`all`]; there are `C` inputs and sums.
    #[inline(always)]
    unsafe fn add<B: Blocks, const C: usize>(&self, units: &Units) {
        let layout = B::LAYOUT;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [Avx512::splat(0.0); C];
            for_each!(ROW < C, 8, {
                sums[ROW] = Avx512::load(self.sums.add(ROW * LANES));
            });
            for unit in 0..units.n {
                let head = units.to.add(unit * layout.unit_bytes());
                let x = self.x.add(unit * layout.groups);
                for group in 0..layout.groups {
                    if self.asks == Asks::Once {
                        units.ask::<B>(unit, group);
                    }
                    let numbers = head.add(layout.head_bytes + group * layout.group_bytes);
                    let weights = B::read::<Avx512>(head, group, numbers);
                    B::add::<Avx512, C>(&mut sums, &weights, x.add(group), self.x_stride);
                }
            }
            for_each!(ROW < C, 8, {
                Avx512::store(self.sums.add(ROW * LANES), sums[ROW]);
            });
        }
    }
}
