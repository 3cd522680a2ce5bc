//! How a panel is multiplied with a few inputs on each instruction set: in registers, or eight outputs at a time.

use std::mem::MaybeUninit;

use super::formats::Panel;
use super::tile::{Ahead, Asks, FAR_BYTES, ask, tile};
use super::{PanelProduct, TILE_ROWS, TILE_ROWS_AVX2, with_rows, with_tile_rows};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Avx2, Eight, LANES, LaneSums, Lanes, Vectors};
use crate::quant::panels::OUTS;

/// A way to multiply.
///
/// # Safety
/// As [`super::product`]; the processor has what it needs.
pub(super) trait Tiles {
    /// Rows of a tile.
    const MOST: usize;
    /// Panel number `panel` with `n` inputs from `row`, at most [`Tiles::MOST`]. Weights further on are asked for as `asks` says.
    unsafe fn tile<P: Panel>(p: &PanelProduct, panel: usize, row: usize, n: usize, asks: Asks);
}

/// Sums of up to `MOST` inputs stay in registers.
pub(super) struct InRegisters<L, const MOST: usize>(std::marker::PhantomData<L>);

impl<L: Ints + Lanes, const MOST: usize> Tiles for InRegisters<L, MOST> {
    const MOST: usize = MOST;

    #[inline(always)]
    unsafe fn tile<P: Panel>(p: &PanelProduct, panel: usize, row: usize, n: usize, asks: Asks) {
        const { assert!(MOST == TILE_ROWS || MOST == TILE_ROWS_AVX2) };
        // SAFETY: the caller's promise.
        unsafe { with_tile_rows!(MOST, n, C => tile::<L, P, C>(p, panel, row, asks)) }
    }
}

/// AVX2 has sixteen registers of eight lanes: a group's numbers of eight outputs take half of them, and inputs pass one after
/// another, a loop, whose sums are in memory.
pub(super) struct Eights;

impl Tiles for Eights {
    const MOST: usize = LANES;

    #[inline(always)]
    unsafe fn tile<P: Panel>(p: &PanelProduct, panel: usize, row: usize, n: usize, asks: Asks) {
        let layout = P::LAYOUT;
        let (units, unit_bytes) = (layout.units(p.dim), layout.unit_bytes());
        let ahead = Ahead::of::<P>(p);
        let mut sums = LaneSums::ZERO;
        // SAFETY: the caller's promise: whole units of weights and of inputs.
        unsafe {
            let at = p.panels.add(panel * units * unit_bytes);
            let x = p.x.add(row * p.x_stride);
            for unit in 0..units {
                let (x, unit) = (x.add(unit * layout.groups), at.add(unit * unit_bytes));
                let later =
                    (ahead.of_place(unit, asks.near_bytes()), ahead.of_place(unit, FAR_BYTES));
                for group in 0..layout.groups {
                    if asks != Asks::Not {
                        ask(asks, layout, later, group);
                    }
                    let x = Inputs { at: x.add(group), stride: p.x_stride, n };
                    add_group::<P>(unit, group, x, &mut sums);
                }
            }
            let outs = (p.outs - panel * OUTS).min(OUTS);
            for (i, sums) in sums.0.iter().enumerate().take(n) {
                let y = p.y.add((row + i) * p.y_stride + panel * OUTS);
                std::ptr::copy_nonoverlapping(sums.as_ptr(), y, outs);
            }
        }
    }
}

/// A group of `n` inputs, `stride` groups apart.
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    pub(super) at: *const Group,
    pub(super) stride: usize,
    pub(super) n: usize,
}

/// Adds group number `group` of a unit.
///
/// # Safety
/// As [`Tiles::tile`]; the group lies inside, and so do inputs, at most [`Eights`]' rows.
#[inline(always)]
pub(super) unsafe fn add_group<P: Panel>(
    unit: *const u8,
    group: usize,
    x: Inputs,
    sums: &mut LaneSums,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if P::BITS == 4 {
            return add_fours::<P>(unit, group, x, sums);
        }
        add_eight::<Eight<0>, P>(unit, group, x, sums);
        add_eight::<Eight<8>, P>(unit, group, x, sums);
    }
}

/// # Safety
/// As [`add_group`].
#[inline(always)]
unsafe fn add_eight<L: Ints, P: Panel>(
    unit: *const u8,
    group: usize,
    x: Inputs,
    sums: &mut LaneSums,
) {
    let layout = P::LAYOUT;
    // SAFETY: the caller's promise.
    unsafe {
        let numbers = unit.add(layout.head_bytes + group * layout.group_bytes);
        let weights = P::read::<L>(unit, group, numbers);
        let (mut at, mut to) = (x.at, sums.0.as_mut_ptr().cast::<f32>());
        for _ in 0..x.n {
            let mut sum = [L::load(to)];
            P::add::<L, 1>(&mut sum, &weights, at, 0);
            L::store(to, sum[0]);
            (at, to) = (at.wrapping_add(x.stride), to.wrapping_add(LANES));
        }
    }
}

/// Sixteen outputs.
type Wide = Avx2<false>;

/// The same where all of a group's sums fit sixteen bits: four of its eight vectors of sixteen outputs are in registers, so that
/// four inputs are spread once for all outputs. Sums of the first four vectors wait in memory.
///
/// # Safety
/// As [`add_group`]; numbers have four bits.
#[inline(always)]
unsafe fn add_fours<P: Panel>(unit: *const u8, group: usize, x: Inputs, sums: &mut LaneSums) {
    let layout = P::LAYOUT;
    let mut pairs = MaybeUninit::<[<Wide as Vectors>::I; Eights::MOST]>::uninit();
    let pairs = pairs.as_mut_ptr().cast::<<Wide as Vectors>::I>();
    // SAFETY: the caller's promise. Numbers are read twice, or all of them would be kept in memory from the first reading on.
    unsafe {
        let numbers = unit.add(layout.head_bytes + group * layout.group_bytes);
        let weights = P::read::<Wide>(unit, group, numbers);
        let [a, b, c, d, ..] = *P::numbers::<Wide>(&weights);
        let mut at = x.at;
        for i in 0..x.n {
            let first = (&raw const (*at).q).cast::<[i8; 4]>();
            pairs.add(i).write(Wide::pairs_of_four(&[a, b, c, d], first));
            at = at.wrapping_add(x.stride);
        }
        let weights = P::read::<Wide>(unit, group, numbers);
        let [.., a, b, c, d] = *P::numbers::<Wide>(&weights);
        let (mut at, mut to) = (x.at, sums.0.as_mut_ptr().cast::<f32>());
        for i in 0..x.n {
            let second = (&raw const (*at).q).cast::<[i8; 4]>().add(4);
            let begin = Wide::splat_int(P::begin::<Wide>(&*at));
            let second = Wide::pairs_of_four(&[a, b, c, d], second);
            let dot = Wide::to_f32(Wide::add_two_pairs(begin, *pairs.add(i), second));
            Wide::store(to, P::finish::<Wide>(Wide::load(to), dot, &weights, &*at));
            (at, to) = (at.wrapping_add(x.stride), to.wrapping_add(LANES));
        }
    }
}
