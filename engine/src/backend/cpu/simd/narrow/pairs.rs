//! `vdpbf16ps` on matrices in twelve bits a number: the sums of plain rows, in their order.

use std::arch::x86_64::{__m512i, _mm512_mask_set1_epi16};

use super::reader::PanelReader;
use super::{Narrow, Stray};
use crate::backend::cpu::simd::pairs::{FOUR, Numbers, Panels, Rows, VECTORS, WIDTH, product};
use crate::backend::cpu::simd::panels::for_each;
use crate::backend::cpu::simd::prefetch;
use crate::backend::cpu::simd::product::{Pairs, Product};
use crate::quant::narrow::{ROW_BYTES, STEP, VECTOR};
use crate::quant::panels::OUTS;

/// All outputs of a product, `outs` of them from the first panel on; `p.w` does not matter.
///
/// # Safety
/// As `product::product_pairs`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in super::super) unsafe fn product_narrow(
    p: &Product,
    x: &Pairs,
    narrow: &Narrow<'_>,
    outs: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { product(p, x, narrow, outs) }
}

impl<'a> Panels for Narrow<'a> {
    type Rows = NarrowRows<'a>;

    #[inline(always)]
    unsafe fn rows(&self, index: usize) -> NarrowRows<'a> {
        // SAFETY: the caller's promise.
        unsafe { NarrowRows { narrow: *self, index, reader: self.panel(index) } }
    }
}

/// How many units ahead numbers are asked for: 9 KiB, a fifth of the first-level cache, into which they come at once.
const LATER_UNITS: usize = 3;

/// A panel's rows.
pub(in super::super) struct NarrowRows<'a> {
    narrow: Narrow<'a>,
    index: usize,
    reader: PanelReader<'a>,
}

impl Rows for NarrowRows<'_> {
    const BY_ROWS: bool = false;

    #[inline(always)]
    unsafe fn ask(&self, unit: usize, row: usize) {
        let later = self.narrow.later(self.index, unit, LATER_UNITS).wrapping_add(row * ROW_BYTES);
        for line in 0..FOUR * ROW_BYTES / VECTOR {
            prefetch(later.wrapping_add(line * VECTOR));
        }
    }

    #[inline(always)]
    unsafe fn read(&mut self, unit: usize, row: usize) -> Numbers {
        // SAFETY: the caller's promise.
        unsafe {
            let mut numbers = [
                self.reader.row(unit, row),
                self.reader.row(unit, row + 1),
                self.reader.row(unit, row + 2),
                self.reader.row(unit, row + 3),
            ];
            let first = (unit * OUTS + row) * STEP;
            for_each!(R < FOUR, 4, {
                while let Some(stray) = self.reader.stray_before(first + (R + 1) * STEP) {
                    put_stray(&mut numbers[R], stray, first + R * STEP);
                }
            });
            numbers
        }
    }

    #[inline(always)]
    unsafe fn read_some(&mut self, unit: usize, row: usize, _: usize) -> Numbers {
        // SAFETY: the caller's promise; rows are filled up.
        unsafe { self.read(unit, row) }
    }
}

/// Puts a stray into its number, in registers: a place in memory would cost all rows what few have.
///
/// # Safety
/// The stray is one of the 128 numbers from place `first` on; the processor has AVX-512 BW.
#[inline(always)]
unsafe fn put_stray(numbers: &mut [__m512i; VECTORS], stray: Stray, first: usize) {
    let k = stray.at as usize - first;
    let masks = 1u128 << (k % STEP);
    for_each!(I < VECTORS, 4, {
        let mask = (masks >> (I * WIDTH)) as u32;
        // SAFETY: the caller's promise.
        unsafe { numbers[I] = _mm512_mask_set1_epi16(numbers[I], mask, stray.bits as i16) }
    });
}
