//! Panels on AMX tiles, for many inputs: the same whole numbers, the same sums, the same bits.
//!
//! A panel's numbers are decoded once to signed bytes: a group is then eight rows of 64 bytes, what `tdpbssd` takes as its
//! right tile, four numbers of sixteen outputs a row. The left tile is a group of up to sixteen inputs as they lie. Their
//! product, sixteen inputs by sixteen outputs in whole numbers, goes through memory into vector registers, where
//! factors are applied as without tiles. Products of the next groups run meanwhile. Intel 64 and IA-32 Architectures
//! Software Developer's Manual, volume 2, `TDPBSSD`.

use std::arch::asm;

use super::formats::{Panel, layout};
use super::{PanelProduct, for_each};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Avx512, Lanes};
use crate::quant::panels::{GROUP, OUTS, VECTOR};

/// Inputs of a tile.
pub(super) const ROWS: usize = 16;
/// Inputs that pass while a panel is decoded; they stay in the second-level cache while all panels of a task pass.
const BLOCK: usize = 8 * ROWS;
/// Bytes of a decoded group.
const GROUP_BYTES: usize = 8 * VECTOR;
/// Groups whose products are in flight.
const AHEAD: usize = 4;

/// Bytes of a decoded panel of rows of `dim` numbers, filled up as every format fills them.
pub(super) fn room_bytes(dim: usize) -> usize {
    dim.next_multiple_of(8 * GROUP) / GROUP * GROUP_BYTES
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 to 3 are sums, 4 and 5 groups of sixteen inputs, 6 and 7 groups of a panel.
///
/// # Safety
/// The processor has tiles, and the process may use them.
unsafe fn configure() {
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].copy_from_slice(&[64, 64, 64, 64, GROUP as u16, GROUP as u16, 64, 64]);
    config.rows[..8].copy_from_slice(&[16, 16, 16, 16, 16, 16, 8, 8]);
    // SAFETY: 64 bytes that `ldtilecfg` takes; tiles are no state the compiler knows of.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack)) }
}

/// Products of whole numbers, sixteen inputs by sixteen outputs.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Dots(
    #[allow(dead_code, reason = "written by tiles and read through a pointer")] [[i32; OUTS]; ROWS],
);

/// A product's sum tile, from the group at `x` (rows `x_bytes` apart) and the decoded one at `w`, stored at `to`.
macro_rules! multiply {
    ($sum:literal, $inputs:literal, $weights:literal, $x:expr, $x_bytes:expr, $w:expr, $to:expr) => {
        asm!(
            concat!("tilezero ", $sum),
            concat!("tileloadd ", $inputs, ", [{x} + {x_bytes}]"),
            concat!("tileloadd ", $weights, ", [{w} + {w_bytes}]"),
            concat!("tdpbssd ", $sum, ", ", $inputs, ", ", $weights),
            concat!("tilestored [{to} + {w_bytes}], ", $sum),
            x = in(reg) $x,
            x_bytes = in(reg) $x_bytes,
            w = in(reg) $w,
            w_bytes = in(reg) VECTOR,
            to = in(reg) $to,
            options(nostack)
        )
    };
}

/// A product's first rows, as many as fill tiles; says how many.
///
/// # Safety
/// As [`super::product`] on [`crate::backend::cpu::Isa::Amx`]; `room` is valid for [`room_bytes`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn product<P: Panel>(p: &PanelProduct, room: *mut u8) -> usize {
    let rows = p.rows / ROWS * ROWS;
    if !P::HAS_TILES || rows == 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe {
        configure();
        for first in (0..rows).step_by(BLOCK) {
            for panel in 0..p.panels() {
                decode::<P>(p, panel, room);
                for row in (first..(first + BLOCK).min(rows)).step_by(ROWS) {
                    tile::<P>(p, panel, row, room);
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
    rows
}

/// Where a unit's group lies.
///
/// # Safety
/// The group is inside.
#[inline(always)]
unsafe fn place<P: Panel>(p: &PanelProduct, panel: usize, group: usize) -> (*const u8, usize) {
    let layout = layout::<P>();
    let unit = panel * layout.units(p.dim) + group / layout.groups;
    // SAFETY: the caller's promise.
    (unsafe { p.panels.add(unit * layout.unit_bytes()) }, group % layout.groups)
}

/// Group number `group` of a panel.
///
/// # Safety
/// The group is inside.
#[inline(always)]
unsafe fn read<P: Panel>(p: &PanelProduct, panel: usize, group: usize) -> P::Group<Avx512> {
    let layout = layout::<P>();
    // SAFETY: the caller's promise.
    unsafe {
        let (unit, group) = place::<P>(p, panel, group);
        P::read::<Avx512>(unit, group, unit.add(layout.head_bytes + group * layout.group_bytes))
    }
}

/// Groups of a row, filled up to whole units.
#[inline(always)]
fn groups<P: Panel>(p: &PanelProduct) -> usize {
    layout::<P>().units(p.dim) * layout::<P>().groups
}

/// A panel's numbers as signed bytes.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn decode<P: Panel>(p: &PanelProduct, panel: usize, room: *mut u8) {
    for group in 0..groups::<P>(p) {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = read::<P>(p, panel, group);
            let numbers = P::numbers::<Avx512>(&weights);
            for (i, numbers) in numbers.iter().enumerate() {
                let signed = Avx512::byte_minus(*numbers, P::MINUS);
                Avx512::store_bytes(room.add(group * GROUP_BYTES + i * VECTOR), signed);
            }
        }
    }
}

/// Sixteen outputs of sixteen inputs.
///
/// # Safety
/// As [`product`]; tiles are configured and the panel is decoded.
#[inline(always)]
unsafe fn tile<P: Panel>(p: &PanelProduct, panel: usize, row: usize, room: *const u8) {
    let (groups, x_bytes) = (groups::<P>(p), p.x_stride * size_of::<Group>());
    // SAFETY: the caller's promise; groups are whole units, an even number.
    unsafe {
        let x = p.x.add(row * p.x_stride);
        let mut dots = [[const { std::mem::MaybeUninit::<Dots>::uninit() }; AHEAD]; 2];
        let mut sums = [Avx512::splat(0.0); ROWS];
        let mut begun = 0;
        begin(x, x_bytes, room, 0, groups.min(AHEAD), &mut dots[0]);
        while begun < groups {
            let (next, turn) = (begun + AHEAD, begun / AHEAD % 2);
            if next < groups {
                begin(x, x_bytes, room, next, groups.min(next + AHEAD), &mut dots[1 - turn]);
            }
            for group in begun..groups.min(next) {
                let weights = read::<P>(p, panel, group);
                let dots = dots[turn][group - begun].as_ptr().cast::<[i32; OUTS]>();
                let x = x.add(group);
                for_each!(ROW < ROWS, {
                    let dot = Avx512::load_ints(dots.add(ROW).cast());
                    sums[ROW] =
                        P::finish::<Avx512>(sums[ROW], dot, &weights, &*x.add(ROW * p.x_stride));
                });
            }
            begun = next;
        }
        let outs = p.outs - panel * OUTS;
        for_each!(ROW < ROWS, {
            let y = p.y.add((row + ROW) * p.y_stride + panel * OUTS);
            Avx512::store_first(y, sums[ROW], outs);
        });
    }
}

/// Starts the products of groups `first..end`, at most [`AHEAD`].
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn begin(
    x: *const Group,
    x_bytes: usize,
    room: *const u8,
    first: usize,
    end: usize,
    dots: &mut [std::mem::MaybeUninit<Dots>; AHEAD],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |group: usize| (x.add(group), room.add(group * GROUP_BYTES));
        let to = |i: usize| dots.as_ptr().cast_mut().cast::<Dots>().add(i);
        let (x, w) = at(first);
        multiply!("tmm0", "tmm4", "tmm6", x, x_bytes, w, to(0));
        if first + 1 < end {
            let (x, w) = at(first + 1);
            multiply!("tmm1", "tmm5", "tmm7", x, x_bytes, w, to(1));
        }
        if first + 2 < end {
            let (x, w) = at(first + 2);
            multiply!("tmm2", "tmm4", "tmm6", x, x_bytes, w, to(2));
        }
        if first + 3 < end {
            let (x, w) = at(first + 3);
            multiply!("tmm3", "tmm5", "tmm7", x, x_bytes, w, to(3));
        }
    }
}
