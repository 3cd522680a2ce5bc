//! One panel with a few inputs: sums stay in registers, and weights further on are asked for meanwhile.

use super::formats::{Panel, layout};
use super::{LINE, PanelProduct, for_each};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{prefetch, prefetch_far};
use crate::quant::panels::{Layout, OUTS};

/// How far ahead of a product its weights are asked for, from memory into the second-level cache: about what arrives while a
/// request is on its way, and more. The processor itself looks ahead within 4 KiB only.
const FAR_BYTES: usize = 8 << 10;

/// The same from there into the first-level cache, which has few requests at a time: enough for it, not for memory.
const NEAR_BYTES: usize = 12288;

/// A product's panels as they are read: one after another, and then what comes next.
struct Ahead {
    end: *const u8,
    next: *const u8,
}

impl Ahead {
    fn of<P: Panel>(p: &PanelProduct) -> Self {
        let panel_bytes = layout::<P>().units(p.dim) * layout::<P>().unit_bytes();
        Self { end: p.panels.wrapping_add(p.panels() * panel_bytes), next: p.next }
    }

    /// What is read `bytes` after `at`.
    #[inline(always)]
    fn of_place(&self, at: *const u8, bytes: usize) -> *const u8 {
        let at = at.wrapping_add(bytes);
        if at < self.end { at } else { self.next.wrapping_add(at.addr() - self.end.addr()) }
    }
}

/// Asks for group number `group`'s share of a unit that is near and of one that is far. All shares are equal, so that no
/// branch is needed; the last may reach into the unit after.
#[inline(always)]
fn ask(layout: Layout, (near, far): (*const u8, *const u8), group: usize) {
    let share = (layout.unit_bytes() / LINE).div_ceil(layout.groups);
    for line in 0..share {
        let byte = (group * share + line) * LINE;
        prefetch(near.wrapping_add(byte));
        let _ = far;
    }
}

/// One panel with `C` inputs from `row`. Where weights come from memory, those further on are asked for (`fetches`).
///
/// # Safety
/// As [`super::product`]; the tile lies inside.
#[inline(always)]
pub(super) unsafe fn tile<L: Ints, P: Panel, const C: usize>(
    p: &PanelProduct,
    panel: usize,
    row: usize,
    fetches: bool,
) {
    let layout = layout::<P>();
    let (units, unit_bytes) = (layout.units(p.dim), layout.unit_bytes());
    let ahead = Ahead::of::<P>(p);
    // SAFETY: the caller's promise: whole units of weights and of inputs.
    unsafe {
        let at = p.panels.add(panel * units * unit_bytes);
        let x = p.x.add(row * p.x_stride);
        let mut sums = [L::splat(0.0); C];
        for unit in 0..units {
            let (x, unit) = (x.add(unit * layout.groups), at.add(unit * unit_bytes));
            let later = (ahead.of_place(unit, NEAR_BYTES), ahead.of_place(unit, FAR_BYTES));
            let step = Step { x, x_stride: p.x_stride, unit, later };
            if layout.groups == 2 {
                // Not left to the compiler, which keeps a loop of two.
                step.add::<L, P, C>(&mut sums, 0, fetches);
                step.add::<L, P, C>(&mut sums, 1, fetches);
            } else {
                for group in 0..layout.groups {
                    step.add::<L, P, C>(&mut sums, group, fetches);
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
        fetches: bool,
    ) {
        let layout = layout::<P>();
        if fetches {
            ask(layout, self.later, group);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let numbers = self.unit.add(layout.head_bytes + group * layout.group_bytes);
            let weights = P::read::<L>(self.unit, group, numbers);
            P::add::<L, C>(sums, &weights, self.x.add(group), self.x_stride);
        }
    }
}
