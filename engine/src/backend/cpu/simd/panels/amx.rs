//! Panels on AMX tiles, for many inputs: the same whole numbers, the same sums, the same bits.
//!
//! A panel's numbers are decoded once to signed bytes: a group is then eight rows of 64 bytes, what `tdpbssd` takes as its
//! right tile, four numbers of sixteen outputs a row. The left tile is a group of up to sixteen inputs as they lie. Their
//! product, sixteen inputs by sixteen outputs in whole numbers, goes through memory into vector registers, where factors are
//! applied as without tiles. Products of the next groups run meanwhile. Intel 64 and IA-32 Architectures Software
//! Developer's Manual, volume 2, `TDPBSSD`.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::formats::Panel;
use super::{LINE, PanelProduct, TILES_BYTES, for_each};
use crate::backend::cpu::simd::amx::configure_tiles;
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::turns::Turns;
use crate::backend::cpu::simd::{Avx512, LaneSums, Lanes, Vectors, prefetch_far};
use crate::quant::panels::{GROUP, OUTS, VECTOR};

/// Inputs of a tile.
const ROWS: usize = 16;
/// Bytes of a decoded group.
const GROUP_BYTES: usize = 8 * VECTOR;

// Eight groups of two panels, decoded, are 8 KiB, and so are eight groups of sixteen inputs. Both stay in the first-level
// cache while one passes the other, beside the panels as they lie, products in flight and sums; sixteen groups did not.
// Sums wait in memory in between, and 128 inputs in the second-level cache while all panels of a task pass.
const GROUPS: usize = 8;
const PANELS: usize = 2;
const BLOCK: usize = 8 * ROWS;

const _: () = assert!(PANELS * GROUPS * GROUP_BYTES == TILES_BYTES);

/// Tiles 0 to 3 are sums, 4 and 5 groups of sixteen inputs, 6 and 7 groups of a panel.
///
/// # Safety
/// The processor has tiles, and the process may use them.
unsafe fn configure() {
    let row_bytes = [64, 64, 64, 64, GROUP as u16, GROUP as u16, 64, 64];
    // SAFETY: the caller's promise.
    unsafe { configure_tiles(row_bytes, [16, 16, 16, 16, 16, 16, 8, 8]) }
}

/// Products of whole numbers, sixteen inputs by sixteen outputs.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Dots(
    #[allow(dead_code, reason = "written by tiles and read through a pointer")] [[i32; OUTS]; ROWS],
);

/// Some groups of a panel with sixteen inputs.
struct Chunk<'a> {
    p: &'a PanelProduct,
    panel: usize,
    /// The first input.
    x: *const Group,
    groups: Range<usize>,
    /// The groups' numbers, decoded.
    numbers: *const u8,
    /// Products in flight.
    ring: *mut Dots,
}

/// A product in a sum tile, from the group at `x` (rows `x_bytes` apart) and the decoded one at `w`.
macro_rules! multiply {
    ($sum:literal, $inputs:literal, $weights:literal, $x:expr, $x_bytes:expr, $w:expr) => {
        asm!(
            concat!("tilezero ", $sum),
            concat!("tileloadd ", $inputs, ", [{x} + {x_bytes}]"),
            concat!("tileloadd ", $weights, ", [{w} + {w_bytes}]"),
            concat!("tdpbssd ", $sum, ", ", $inputs, ", ", $weights),
            x = in(reg) $x,
            x_bytes = in(reg) $x_bytes,
            w = in(reg) $w,
            w_bytes = in(reg) VECTOR,
            options(nostack, readonly)
        )
    };
}

/// Stores a sum tile.
macro_rules! store {
    ($sum:literal, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {bytes}], ", $sum),
            to = in(reg) $to,
            bytes = in(reg) VECTOR,
            options(nostack)
        )
    };
}

/// A product's first rows, as many as fill tiles; says how many. Fewer are faster without: a tile's product takes the same
/// time for fewer inputs.
///
/// # Safety
/// As [`super::product`] on [`crate::backend::cpu::Isa::Amx`]; `room` is valid for [`TILES_BYTES`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn product<P: Panel>(p: &PanelProduct, room: *mut u8) -> usize {
    let rows = p.rows / ROWS * ROWS;
    if !P::HAS_TILES || rows == 0 {
        return 0;
    }
    let mut ring = [const { MaybeUninit::<Dots>::uninit() }; RING];
    let ring = ring.as_mut_ptr().cast::<Dots>();
    // SAFETY: the caller's promise.
    unsafe {
        configure();
        for first in (0..rows).step_by(BLOCK) {
            for panel in (0..p.panels()).step_by(PANELS) {
                let panels = panel..(panel + PANELS).min(p.panels());
                let block = Block { p, panels, rows: first..(first + BLOCK).min(rows), ring };
                block.run::<P>(room);
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
    rows
}

/// Groups of a row, filled up to whole units.
#[inline(always)]
fn groups<P: Panel>(p: &PanelProduct) -> usize {
    P::LAYOUT.units(p.dim) * P::LAYOUT.groups
}

/// Group number `group` of a panel.
///
/// # Safety
/// The group is inside.
#[inline(always)]
unsafe fn read<P: Panel>(p: &PanelProduct, panel: usize, group: usize) -> P::Group<Avx512> {
    let layout = P::LAYOUT;
    let unit = panel * layout.units(p.dim) + group / layout.groups;
    let group = group % layout.groups;
    // SAFETY: the caller's promise.
    unsafe {
        let unit = p.panels.add(unit * layout.unit_bytes());
        P::read::<Avx512>(unit, group, unit.add(layout.head_bytes + group * layout.group_bytes))
    }
}

/// Some rows, whole tiles, of at most [`PANELS`] panels.
struct Block<'a> {
    p: &'a PanelProduct,
    panels: Range<usize>,
    rows: Range<usize>,
    /// Products in flight.
    ring: *mut Dots,
}

impl Block<'_> {
    /// # Safety
    /// As [`product`]; tiles are configured.
    #[inline(always)]
    unsafe fn run<P: Panel>(&self, room: *mut u8) {
        let Self { p, panels, rows, ring } = self;
        let mut sums = [[LaneSums::ZERO; PANELS]; BLOCK / ROWS];
        let (n_group, is_first) = (groups::<P>(p), rows.start == 0);
        // SAFETY: the caller's promise; all parts lie inside.
        unsafe {
            for first in (0..n_group).step_by(GROUPS) {
                let groups = first..(first + GROUPS).min(n_group);
                for (panel, i) in panels.clone().zip(0..) {
                    let (groups, room) = (groups.clone(), room.add(i * GROUPS * GROUP_BYTES));
                    decode::<P>(p, panel, groups, room);
                }
                for (row, sums) in rows.clone().step_by(ROWS).zip(&mut sums) {
                    for ((panel, i), sums) in panels.clone().zip(0..).zip(sums) {
                        let (x, groups) = (p.x.add(row * p.x_stride), groups.clone());
                        let numbers = room.add(i * GROUPS * GROUP_BYTES);
                        let chunk = Chunk { p, panel, x, groups, numbers, ring: *ring };
                        // Meanwhile the next chunk comes from memory, if it was not here before.
                        if is_first && row == rows.start {
                            chunk.add_to::<P, true>(sums);
                        } else {
                            chunk.add_to::<P, false>(sums);
                        }
                    }
                }
            }
            for (row, sums) in rows.clone().step_by(ROWS).zip(&sums) {
                for (panel, LaneSums(sums)) in panels.clone().zip(sums) {
                    for (row, sums) in (row..).zip(sums) {
                        let y = p.y.add(row * p.y_stride + panel * OUTS);
                        Avx512::store_first(y, Avx512::load(sums.as_ptr()), p.outs - panel * OUTS);
                    }
                }
            }
        }
    }
}

/// Some of a panel's numbers as signed bytes.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn decode<P: Panel>(p: &PanelProduct, panel: usize, groups: Range<usize>, room: *mut u8) {
    for (group, i) in groups.zip(0..) {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = read::<P>(p, panel, group);
            for (numbers, vector) in P::numbers::<Avx512>(&weights).iter().zip(0..) {
                let signed = Avx512::byte_minus(*numbers, P::MINUS);
                Avx512::store_bytes(room.add(i * GROUP_BYTES + vector * VECTOR), signed);
            }
        }
    }
}

/// Products in flight: their 4 KiB have all different lower address bits, by which the processor tells a load from the
/// stores before it.
const RING: usize = 4;

impl Chunk<'_> {
    /// Adds the groups' products, in their order. A product begins three groups ahead and is stored one ahead: what is
    /// behind a store that waits for its product would soon wait, too.
    ///
    /// # Safety
    /// As [`product`]; tiles are configured.
    #[inline(always)]
    unsafe fn add_to<P: Panel, const FETCH: bool>(&self, LaneSums(memory): &mut LaneSums) {
        let Range { start, end } = self.groups;
        // SAFETY: the caller's promise; groups are inside.
        unsafe {
            let mut sums = [Avx512::splat(0.0); ROWS];
            for_each!(ROW < ROWS, 16, {
                sums[ROW] = Avx512::load(memory[ROW].as_ptr());
            });
            self.begin::<0>(start);
            self.begin::<1>(start + 1);
            self.begin::<2>(start + 2);
            self.store::<0>(start);
            for first in (start..end).step_by(RING) {
                for_each!(SLOT < RING, 8, {
                    let group = first + SLOT;
                    if group < end {
                        if FETCH {
                            self.ask::<P>(group);
                        }
                        self.begin::<{ (SLOT + 3) % RING }>(group + 3);
                        self.store::<{ (SLOT + 1) % RING }>(group + 1);
                        self.end::<P>(group, self.ring.add(SLOT).cast(), &mut sums);
                    }
                });
            }
            for_each!(ROW < ROWS, 16, {
                Avx512::store(memory[ROW].as_mut_ptr(), sums[ROW]);
            });
        }
    }

    /// Asks for the group a chunk further on: of this panel, of the next that comes in its place, or of what is read after
    /// all panels.
    #[inline(always)]
    fn ask<P: Panel>(&self, group: usize) {
        let (layout, n_group) = (P::LAYOUT, groups::<P>(self.p));
        let (mut panel, mut group) = (self.panel, group + GROUPS);
        if group >= n_group {
            (panel, group) = (panel + PANELS, group - n_group);
        }
        let left = panel.checked_sub(self.p.panels());
        let (panels, panel) = left.map_or((self.p.panels, panel), |panel| (self.p.next, panel));
        let unit = panel * layout.units(self.p.dim) + group / layout.groups;
        // Heads are few: a group's share of its unit, and the next line.
        let share = layout.unit_bytes().div_ceil(layout.groups);
        let at = panels.wrapping_add(unit * layout.unit_bytes() + group % layout.groups * share);
        for line in (0..share).step_by(LINE) {
            prefetch_far(at.wrapping_add(line));
        }
    }

    /// Begins a group's product in a sum tile, if there is such a group.
    ///
    /// # Safety
    /// As [`Chunk::add_to`].
    #[inline(always)]
    unsafe fn begin<const SLOT: usize>(&self, group: usize) {
        if group >= self.groups.end {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let (x, x_bytes) = (self.x.add(group), self.p.x_stride * size_of::<Group>());
            let w = self.numbers.add((group - self.groups.start) * GROUP_BYTES);
            match SLOT {
                0 => multiply!("tmm0", "tmm4", "tmm6", x, x_bytes, w),
                1 => multiply!("tmm1", "tmm5", "tmm7", x, x_bytes, w),
                2 => multiply!("tmm2", "tmm4", "tmm6", x, x_bytes, w),
                _ => multiply!("tmm3", "tmm5", "tmm7", x, x_bytes, w),
            }
        }
    }

    /// Stores a group's product.
    ///
    /// # Safety
    /// As [`Chunk::add_to`].
    #[inline(always)]
    unsafe fn store<const SLOT: usize>(&self, group: usize) {
        if group >= self.groups.end {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let to = self.ring.add(SLOT);
            match SLOT {
                0 => store!("tmm0", to),
                1 => store!("tmm1", to),
                2 => store!("tmm2", to),
                _ => store!("tmm3", to),
            }
        }
    }

    /// Applies factors to a group's product and adds it.
    ///
    /// # Safety
    /// As [`Chunk::add_to`].
    #[inline(always)]
    unsafe fn end<P: Panel>(
        &self,
        group: usize,
        dots: *const [i32; OUTS],
        sums: &mut [<Avx512 as Vectors>::V; ROWS],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = read::<P>(self.p, self.panel, group);
            let x = self.x.add(group);
            for_each!(ROW < ROWS, 16, {
                let (dot, x) =
                    (Avx512::load_small_ints(dots.add(ROW).cast()), x.add(ROW * self.p.x_stride));
                sums[ROW] = P::finish::<Avx512>(sums[ROW], dot, &weights, &*x);
            });
        }
    }
}
