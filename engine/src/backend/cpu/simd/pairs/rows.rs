//! Sixteen rows of a matrix, 128 numbers of each at a time.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_setzero_si512,
};

use super::{FOUR, Panels, STEP, VECTORS, WIDTH};
use crate::backend::cpu::simd::panels::{LINE, for_each};
use crate::backend::cpu::simd::{Matrix, prefetch};
use crate::quant::panels::OUTS;

/// 128 numbers of each of four rows.
pub(in super::super) type Numbers = [[__m512i; VECTORS]; FOUR];

/// Sixteen rows. Units and rows are read in order.
///
/// # Safety
/// Of all methods: the processor has AVX-512 BW, and what is read is inside.
pub(in super::super) trait Rows {
    /// Whether they come fastest one after another, not in turns.
    const BY_ROWS: bool;
    /// Asks for what is read later, when numbers `128 * unit` on of four rows are.
    unsafe fn ask(&self, unit: usize, row: usize);
    /// Numbers `128 * unit` on of four rows from `row` on, which have as many: four times 32 each.
    unsafe fn read(&mut self, unit: usize, row: usize) -> Numbers;
    /// The same of rows that have only `n` more; what comes after their last 32 may be anything.
    unsafe fn read_some(&mut self, unit: usize, row: usize, n: usize) -> Numbers;
    /// Whether a row's numbers of a unit have a factor, by which their products are multiplied when they are summed.
    const HAS_FACTORS: bool = false;
    /// Those of four rows from `row` on; not asked for where there are none.
    unsafe fn factors(&self, _unit: usize, _row: usize) -> [__m512; FOUR] {
        unreachable!("rows without factors")
    }
}

/// Rows as they lie in the file.
pub(in super::super) struct PlainRows<'a> {
    w: &'a Matrix,
    outs: usize,
}

impl<'a> PlainRows<'a> {
    /// The first `outs` rows of a matrix.
    pub(in super::super) fn new(w: &'a Matrix, outs: usize) -> Self {
        Self { w, outs }
    }
}

impl Panels for PlainRows<'_> {
    type Rows = Plain;

    #[inline(always)]
    unsafe fn rows(&self, index: usize) -> Plain {
        // SAFETY: the caller's promise.
        unsafe { Plain(Lying::new(self.w, index * OUTS, self.outs)) }
    }
}

/// How far ahead of the next four rows' same numbers: those are not there yet when rows are short.
const BESIDE: usize = 1 << 10;

/// Where sixteen rows of numbers of so many bytes are in a file; there may be fewer, and then the last stands for those that
/// are not there.
pub(in super::super) struct Lying<const BYTES: usize> {
    at: *const u8,
    row_bytes: usize,
    last: usize,
}

impl<const BYTES: usize> Lying<BYTES> {
    /// Those from `first` on, of the first `outs` of a matrix.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    pub(in super::super) unsafe fn new(w: &Matrix, first: usize, outs: usize) -> Self {
        // SAFETY: the caller's promise.
        let at = unsafe { w.row(first) };
        Self { at, row_bytes: w.row_bytes, last: (outs - 1 - first).min(OUTS - 1) }
    }

    /// Row `row`, or the one that stands for it.
    #[inline(always)]
    pub(in super::super) fn row(&self, row: usize) -> usize {
        row.min(self.last)
    }

    /// Where a row's unit begins.
    #[inline(always)]
    pub(in super::super) fn place(&self, unit: usize, row: usize) -> *const u8 {
        self.at.wrapping_add(self.row(row) * self.row_bytes + unit * STEP * BYTES)
    }

    /// See [`Rows::ask`].
    #[inline(always)]
    pub(in super::super) fn ask(&self, unit: usize, row: usize) {
        let later = self.place(unit, row).wrapping_add(FOUR * self.row_bytes + BESIDE);
        for row in 0..FOUR {
            for line in 0..STEP * BYTES / LINE {
                prefetch(later.wrapping_add(row * self.row_bytes + line * LINE));
            }
        }
    }
}

/// Sixteen rows of bf16 numbers.
pub(in super::super) struct Plain(Lying<2>);

impl Rows for Plain {
    const BY_ROWS: bool = true;

    #[inline(always)]
    unsafe fn ask(&self, unit: usize, row: usize) {
        self.0.ask(unit, row);
    }

    #[inline(always)]
    unsafe fn read(&mut self, unit: usize, row: usize) -> Numbers {
        // SAFETY: the caller's promise.
        unsafe {
            let mut numbers = [[_mm512_setzero_si512(); VECTORS]; FOUR];
            for_each!(R < FOUR, 4, {
                let at = self.0.place(unit, row + R).cast::<__m512i>();
                for_each!(I < VECTORS, 4, {
                    numbers[R][I] = _mm512_loadu_si512(at.wrapping_add(I));
                });
            });
            numbers
        }
    }

    #[inline(always)]
    unsafe fn read_some(&mut self, unit: usize, row: usize, n: usize) -> Numbers {
        // SAFETY: the caller's promise; numbers that the mask leaves out are not read.
        unsafe {
            let mut numbers = [[_mm512_setzero_si512(); VECTORS]; FOUR];
            for (r, numbers) in numbers.iter_mut().enumerate() {
                let at = self.0.place(unit, row + r).cast::<i16>();
                for (i, numbers) in numbers.iter_mut().enumerate() {
                    let left = n.saturating_sub(i * WIDTH).min(WIDTH);
                    let mask = ((1u64 << left) - 1) as u32;
                    *numbers = _mm512_maskz_loadu_epi16(mask, at.wrapping_add(i * WIDTH));
                }
            }
            numbers
        }
    }
}
