//! Products of bf16 matrices that are kept in twelve bits a number (`crate::quant::narrow`).
//!
//! A unit's numbers are made in registers, four vectors of 32 out of three. `vdpbf16ps` takes them there, strays put in by
//! masks; for tiles they go to a thread's first-level cache in the order that tiles of plain bf16 matrices are read, and
//! strays are put in there; for products in f32 they go there widened. From then on everything is as in those products, number
//! after number, so the bits are the same.

#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
pub(super) mod pairs;
#[cfg(target_arch = "x86_64")]
mod reader;
pub(super) mod wide;

use std::ops::Range;

use super::prefetch_far;
use crate::backend::cpu::{Isa, Weight};
use crate::quant::narrow::{
    self, ROW_BYTES, Stray, Strays, TABLE_BYTES, UNIT_BYTES, VECTOR, units,
};
use crate::quant::panels::OUTS;
#[cfg(target_arch = "x86_64")]
pub(super) use reader::{PanelReader, put};

/// [`narrow::pack`] as fast as `isa` can; the same bytes.
pub(in super::super) fn pack_on(
    isa: Isa,
    rows: &[u8],
    dim: usize,
    panel: &mut [u8],
    strays: &mut Vec<Stray>,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => pack::pack_avx2(rows, dim, panel, strays),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => {
            pack::pack_avx512(rows, dim, panel, strays);
        }
        _ => narrow::pack(rows, dim, panel, strays),
    }
}

/// How far ahead of tiles their weights are asked for: two units, 6 KiB, of each panel that is read.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "read by products of x86-64"))]
const FAR_BYTES: usize = 2 * UNIT_BYTES;

/// Some panels of a matrix, and what is read after them.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "read by products of x86-64"))]
pub(super) struct Narrow<'a> {
    /// The first panel.
    at: *const u8,
    panel_bytes: usize,
    /// Length of every row.
    dim: usize,
    /// Its number in the matrix.
    first: usize,
    strays: &'a Strays,
    /// How many are read.
    n: usize,
    /// What is read after the last, as far as is known; asked for, and never read.
    next: *const u8,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "read by products of x86-64"))]
impl<'a> Narrow<'a> {
    /// The panels that have `n_out` outputs from `first` on, which begins one; `None` where the matrix is kept otherwise.
    pub(super) fn new(
        weight: &'a Weight,
        first: usize,
        n_out: usize,
        next: *const u8,
    ) -> Option<Self> {
        let strays = weight.narrow.as_ref()?;
        Some(Self {
            at: weight.place_of(first),
            panel_bytes: weight.panel_bytes(),
            dim: weight.dim,
            first: first / OUTS,
            strays,
            n: n_out.div_ceil(OUTS),
            next,
        })
    }

    /// Byte `at` of panel `index`, which may be beyond its end, where every `stride`th panel is read side by side with others.
    #[inline(always)]
    fn ahead(&self, index: usize, at: usize, stride: usize) -> *const u8 {
        if at < self.panel_bytes {
            return self.at.wrapping_add(index * self.panel_bytes + at);
        }
        let (index, at) = (index + stride, at - self.panel_bytes);
        match index.checked_sub(self.n) {
            None => self.at.wrapping_add(index * self.panel_bytes + at),
            Some(index) => self.next.wrapping_add(index * self.panel_bytes + at),
        }
    }

    /// What is read `units` units after a unit.
    #[inline(always)]
    pub(super) fn later(&self, index: usize, unit: usize, units: usize) -> *const u8 {
        self.ahead(index, TABLE_BYTES + (unit + units) * UNIT_BYTES, 1)
    }

    /// Asks for a share of a unit, row `row`'s, that is read later.
    #[inline(always)]
    pub(super) fn ask(&self, index: usize, unit: usize, row: usize, stride: usize) {
        let at = TABLE_BYTES + unit * UNIT_BYTES + row * ROW_BYTES + FAR_BYTES;
        let at = self.ahead(index, at, stride);
        for line in 0..ROW_BYTES / VECTOR {
            prefetch_far(at.wrapping_add(line * VECTOR));
        }
    }

    /// Asks for share `part` of `of` of unit `unit` of some panels.
    pub(super) fn ask_share(&self, panels: Range<usize>, unit: usize, (part, of): (usize, usize)) {
        const LINES: usize = UNIT_BYTES / VECTOR;
        let n = panels.len() * LINES;
        for line in n * part / of..n * (part + 1) / of {
            let unit = (panels.start + line / LINES) * self.panel_bytes + unit * UNIT_BYTES;
            prefetch_far(self.at.wrapping_add(unit + TABLE_BYTES + line % LINES * VECTOR));
        }
    }

    /// Units of a row.
    pub(super) fn units(&self) -> usize {
        units(self.dim)
    }
}
