//! One panel with a few inputs: sums stay in registers, and weights further on are asked for meanwhile.

use super::formats::Panel;
use super::{LINE, PanelProduct, for_each};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Lanes, prefetch, prefetch_far};
use crate::quant::panels::{Layout, OUTS};

/// How weights further on are asked for, while others are multiplied. The processor itself looks ahead within 4 KiB only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// They are in the cache.
    Not,
    /// From memory into the first-level cache at once.
    Once,
    /// Into the second-level cache, and later into the first, which has few requests at a time: enough for the second, not
    /// for memory.
    Twice,
}

impl Asks {
    /// What is faster there ([decision 0015](../../../../../../docs/decisions/0015-weights-asked-for-ahead.md)).
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of(isa: Isa) -> Self {
        if isa == Isa::Amx { Self::Twice } else { Self::Once }
    }

    /// How far ahead of a product the first-level cache is asked for: about what arrives while a request is on its way, and
    /// more.
    pub(super) fn near_bytes(self) -> usize {
        if self == Self::Once { 6 << 10 } else { 2 << 10 }
    }
}

/// The same for the second-level cache.
pub(super) const FAR_BYTES: usize = 8 << 10;

/// A product's panels as they are read: one after another, and then what comes next.
pub(super) struct Ahead {
    end: *const u8,
    next: *const u8,
}

impl Ahead {
    pub(super) fn of<P: Panel>(p: &PanelProduct) -> Self {
        let panel_bytes = P::LAYOUT.units(p.dim) * P::LAYOUT.unit_bytes();
        Self { end: p.panels.wrapping_add(p.panels() * panel_bytes), next: p.next }
    }

    /// What is read `bytes` after `at`.
    #[inline(always)]
    pub(super) fn of_place(&self, at: *const u8, bytes: usize) -> *const u8 {
        let at = at.wrapping_add(bytes);
        if at < self.end { at } else { self.next.wrapping_add(at.addr() - self.end.addr()) }
    }
}

/// Asks for group number `group`'s share of a unit that is near and of one that is far. All shares are equal, so that no
/// branch is needed; the last may reach into the unit after.
#[inline(always)]
pub(super) fn ask(asks: Asks, layout: Layout, (near, far): (*const u8, *const u8), group: usize) {
    let share = (layout.unit_bytes() / LINE).div_ceil(layout.groups);
    for line in 0..share {
        let byte = (group * share + line) * LINE;
        prefetch(near.wrapping_add(byte));
        if asks == Asks::Twice {
            prefetch_far(far.wrapping_add(byte));
        }
    }
}

/// One panel with `C` inputs from `row`. Weights further on are asked for as `asks` says.
///
/// # Safety
/// As [`super::product`]; the tile lies inside.
#[inline(always)]
pub(super) unsafe fn tile<L: Ints + Lanes, P: Panel, const C: usize>(
    p: &PanelProduct,
    panel: usize,
    row: usize,
    asks: Asks,
) {
    let layout = P::LAYOUT;
    let (units, unit_bytes) = (layout.units(p.dim), layout.unit_bytes());
    let ahead = Ahead::of::<P>(p);
    // SAFETY: the caller's promise: whole units of weights and of inputs.
    unsafe {
        let at = p.panels.add(panel * units * unit_bytes);
        let x = p.x.add(row * p.x_stride);
        let mut sums = [L::splat(0.0); C];
        for unit in 0..units {
            let (x, unit) = (x.add(unit * layout.groups), at.add(unit * unit_bytes));
            let later = (ahead.of_place(unit, asks.near_bytes()), ahead.of_place(unit, FAR_BYTES));
            let step = Step { x, x_stride: p.x_stride, unit, later };
            if layout.groups == 2 {
                // Not left to the compiler, which keeps a loop of two.
                step.add::<L, P, C>(&mut sums, 0, asks);
                step.add::<L, P, C>(&mut sums, 1, asks);
            } else {
                for group in 0..layout.groups {
                    step.add::<L, P, C>(&mut sums, group, asks);
                }
            }
        }
        let outs = p.outs - panel * OUTS;
        for_each!(ROW < C, 8, {
            let y = p.y.add((row + ROW) * p.y_stride + panel * OUTS);
            L::store_first(y, sums[ROW], outs);
        });
    }
}

/// A unit of weights, and its groups of inputs.
struct Step {
    x: *const Group,
    x_stride: usize,
    unit: *const u8,
    /// What is asked for meanwhile, near and far.
    later: (*const u8, *const u8),
}

impl Step {
    /// Adds group number `group`.
    ///
    /// # Safety
    /// As [`super::product`]; the group lies inside.
    #[inline(always)]
    unsafe fn add<L: Ints, P: Panel, const C: usize>(
        &self,
        sums: &mut [L::V; C],
        group: usize,
        asks: Asks,
    ) {
        let layout = P::LAYOUT;
        if asks != Asks::Not {
            ask(asks, layout, self.later, group);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let numbers = self.unit.add(layout.head_bytes + group * layout.group_bytes);
            let weights = P::read::<L>(self.unit, group, numbers);
            P::add::<L, C>(sums, &weights, self.x.add(group), self.x_stride);
        }
    }
}
