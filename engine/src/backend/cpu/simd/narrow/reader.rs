//! A panel's numbers in registers.

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_set1_epi16, _mm512_shuffle_epi8,
    _mm512_srli_epi16, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
};

use std::ops::Range;

use super::Narrow;
use crate::quant::narrow::{REST, ROW_BYTES, STEP, Stray, TABLE_BYTES, UNIT_BYTES, VECTOR};
use crate::quant::panels::OUTS;

impl<'a> Narrow<'a> {
    /// Panel number `index` of these.
    ///
    /// # Safety
    /// There is one, and the processor has AVX-512 BW.
    #[inline(always)]
    pub(in super::super) unsafe fn panel(&self, index: usize) -> PanelReader<'a> {
        // SAFETY: the caller's promise: a table and whole units.
        unsafe {
            let at = self.at.add(index * self.panel_bytes);
            PanelReader {
                table: _mm512_loadu_si512(at.cast::<__m512i>()),
                units: at.add(TABLE_BYTES),
                strays: self.strays.of(self.first + index),
            }
        }
    }
}

/// A panel as it is read, unit after unit.
pub(in super::super) struct PanelReader<'a> {
    /// The exponent bits of every code, twice.
    table: __m512i,
    units: *const u8,
    /// Those of units not read yet, and of others before.
    strays: &'a [Stray],
}

impl PanelReader<'_> {
    /// The numbers of row `row` in unit `unit`, but for strays: four times 32.
    ///
    /// # Safety
    /// They are inside, and the processor has AVX-512 BW.
    #[inline(always)]
    pub(in super::super) unsafe fn row(&self, unit: usize, row: usize) -> [__m512i; STEP / 32] {
        // SAFETY: the caller's promise.
        unsafe { numbers(self.units.add(unit * UNIT_BYTES + row * ROW_BYTES), self.table) }
    }

    /// The next stray, if it lies before place `end` of the panel; it counts as read.
    #[inline(always)]
    pub(super) fn stray_before(&mut self, end: usize) -> Option<Stray> {
        let (stray, rest) = self.strays.split_first()?;
        if stray.at as usize >= end {
            return None;
        }
        self.strays = rest;
        Some(*stray)
    }

    /// Puts the strays of some rows of a unit into their numbers; `to(row, k)` is the place of number `k` of row `row`. Units
    /// come in order.
    ///
    /// # Safety
    /// All places of these rows are valid.
    #[inline(always)]
    pub(in super::super) unsafe fn put_strays(
        &mut self,
        unit: usize,
        rows: Range<usize>,
        to: impl Fn(usize, usize) -> *mut u16,
    ) {
        let end = (unit + 1) * OUTS * STEP;
        while let Some((stray, rest)) = self.strays.split_first()
            && (stray.at as usize) < end
        {
            let (at, row, k) = stray.place();
            if at == unit && rows.contains(&row) {
                // SAFETY: the caller's promise.
                unsafe { to(row, k).write(stray.bits) }
            }
            self.strays = rest;
        }
    }
}

/// The 128 numbers of a row of a unit, but for strays: four times 32.
///
/// # Safety
/// Its three vectors are there, and the processor has AVX-512 BW.
#[inline(always)]
pub(super) unsafe fn numbers(at: *const u8, table: __m512i) -> [__m512i; STEP / 32] {
    // SAFETY: the caller's promise.
    unsafe {
        let vector = |i: usize| at.wrapping_add(i * VECTOR).cast::<__m512i>();
        let (first, second) = (_mm512_loadu_si512(vector(0)), _mm512_loadu_si512(vector(1)));
        let codes = _mm512_loadu_si512(vector(2));
        [
            number(first, codes, table),
            number(turned(first), _mm512_srli_epi16::<4>(codes), table),
            number(second, _mm512_srli_epi16::<8>(codes), table),
            number(turned(second), _mm512_srli_epi16::<12>(codes), table),
        ]
    }
}

/// Sign and mantissa with the exponent of the lowest four bits of a code; the fifth chooses between equals.
///
/// # Safety
/// As [`numbers`].
#[inline(always)]
unsafe fn number(rest: __m512i, codes: __m512i, table: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let exponents = _mm512_permutexvar_epi16(codes, table);
        // (rest & REST) | exponents.
        _mm512_ternarylogic_epi32::<0xea>(rest, _mm512_set1_epi16(REST as i16), exponents)
    }
}

/// The two bytes of every word the other way round.
///
/// # Safety
/// The processor has AVX-512 BW.
#[inline(always)]
pub(super) unsafe fn turned(v: __m512i) -> __m512i {
    const ORDER: [u8; VECTOR] = {
        let (mut order, mut i) = ([0; VECTOR], 0);
        while i < VECTOR {
            order[i] = (i as u8 % 16) ^ 1;
            i += 1;
        }
        order
    };
    // SAFETY: the caller's promise; a constant of 64 bytes.
    unsafe { _mm512_shuffle_epi8(v, _mm512_loadu_si512(ORDER.as_ptr().cast::<__m512i>())) }
}

/// Thirty-two numbers into their place.
///
/// # Safety
/// The place is valid, and the processor has AVX-512.
#[inline(always)]
pub(in super::super) unsafe fn put(to: *mut u16, numbers: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_si512(to.cast::<__m512i>(), numbers) }
}
