//! Numbers of twelve bits, widened to f32: for products in f32.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use super::Narrow;
use crate::backend::cpu::simd::{LANES, Lanes, Portable};
use crate::quant::bf16;
use crate::quant::narrow::{ROW_BYTES, STEP, Stray, TABLE_BYTES, UNIT_BYTES, number};
use crate::quant::panels::OUTS;

/// Vectors of a row of a unit.
pub(in super::super) const VECTORS: usize = STEP / LANES;

/// Widens rows of units.
///
/// # Safety
/// Every method needs the processor to have the instruction set, and pointers to be valid for what is read.
pub(in super::super) trait Widens: Lanes {
    /// A panel's table as numbers are looked up in it.
    type Table: Copy;

    /// The table at the beginning of a panel.
    unsafe fn table(at: *const u8) -> Self::Table;

    /// The 128 numbers of a row of a unit, strays left out.
    unsafe fn numbers(at: *const u8, table: Self::Table) -> [Self::V; VECTORS];
}

impl Widens for Portable {
    /// Where it lies.
    type Table = *const u8;

    #[inline(always)]
    unsafe fn table(at: *const u8) -> *const u8 {
        at
    }

    #[inline(always)]
    unsafe fn numbers(at: *const u8, table: *const u8) -> [Self::V; VECTORS] {
        // SAFETY: the caller's promise; a table and three vectors.
        unsafe {
            let table = std::slice::from_raw_parts(table, TABLE_BYTES);
            let part = std::slice::from_raw_parts(at, ROW_BYTES);
            let mut numbers = [[0.0; LANES]; VECTORS];
            for (k, to) in numbers.as_flattened_mut().iter_mut().enumerate() {
                *to = bf16::to_f32(number(part, table, k));
            }
            numbers
        }
    }
}

/// A panel as it is widened, unit after unit, and of each row after row.
pub(in super::super) struct WidePanel<'a, L: Widens> {
    table: L::Table,
    units: *const u8,
    /// Those that were not reached yet.
    strays: &'a [Stray],
}

impl<'a> Narrow<'a> {
    /// Panel number `index` of these.
    ///
    /// # Safety
    /// There is one, and the processor has `L`'s instruction set.
    #[inline(always)]
    pub(in super::super) unsafe fn wide_panel<L: Widens>(&self, index: usize) -> WidePanel<'a, L> {
        // SAFETY: the caller's promise: a table and whole units.
        unsafe {
            let at = self.at.add(index * self.panel_bytes);
            let strays = self.strays.of(self.first + index);
            WidePanel { table: L::table(at), units: at.add(TABLE_BYTES), strays }
        }
    }
}

impl<L: Widens> WidePanel<'_, L> {
    /// The 128 numbers of a row of unit `unit` in registers; `None` where one of them is a stray. Rows come in order.
    ///
    /// # Safety
    /// They are inside, and the processor has `L`'s instruction set.
    #[inline(always)]
    pub(in super::super) unsafe fn numbers(
        &self,
        unit: usize,
        row: usize,
    ) -> Option<[L::V; VECTORS]> {
        let end = (unit * OUTS + row + 1) * STEP;
        if let Some(stray) = self.strays.first()
            && (stray.at as usize) < end
        {
            return None;
        }
        // SAFETY: the caller's promise.
        Some(unsafe { L::numbers(self.place(unit, row), self.table) })
    }

    /// The 128 numbers of some rows of unit `unit`; of row `r` `r * stride` numbers behind `to`. Rows come in order.
    ///
    /// # Safety
    /// They are inside, there is room for them, and the processor has `L`'s instruction set.
    #[inline(always)]
    pub(in super::super) unsafe fn widen(
        &mut self,
        unit: usize,
        rows: Range<usize>,
        (to, stride): (*mut f32, usize),
    ) {
        let end = (unit * OUTS + rows.end) * STEP;
        // SAFETY: the caller's promise.
        unsafe {
            for row in rows {
                let numbers = L::numbers(self.place(unit, row), self.table);
                for (i, numbers) in numbers.into_iter().enumerate() {
                    L::store(to.add(row * stride + i * LANES), numbers);
                }
            }
            while let Some((stray, rest)) = self.strays.split_first()
                && (stray.at as usize) < end
            {
                let (_, row, k) = stray.place();
                to.add(row * stride + k).write(bf16::to_f32(stray.bits));
                self.strays = rest;
            }
        }
    }

    /// Where a row of a unit begins.
    #[inline(always)]
    fn place(&self, unit: usize, row: usize) -> *const u8 {
        self.units.wrapping_add(unit * UNIT_BYTES + row * ROW_BYTES)
    }
}
