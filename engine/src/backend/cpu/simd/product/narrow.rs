//! Products in f32 of bf16 matrices in twelve bits a number: panels are widened unit after unit.
//!
//! The same sums as of the matrix as it is stored, so the same bits.

#![allow(clippy::needless_range_loop, reason = "what zips call is not always inlined")]

use std::mem::MaybeUninit;

use super::Product;
use super::chains::Sixteen;
use super::many::{BLOCK, FEW, OUTS, Part, Widened};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::narrow::Narrow;
use crate::backend::cpu::simd::narrow::wide::{VECTORS, WidePanel, Widens};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::simd::{LANES, LaneSums, Portable, prefetch};
use crate::quant::narrow::{ROW_BYTES, STEP, VECTOR};

/// How many units ahead numbers are asked for, while few inputs pass.
const LATER_UNITS: usize = 3;

/// The first `outs` outputs of a product; `p.w` does not matter.
///
/// # Safety
/// As [`product`](super::product); `narrow` has as many outputs.
pub(in super::super) unsafe fn product_narrow(
    isa: Isa,
    p: &Product,
    narrow: &Narrow<'_>,
    outs: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2(p, narrow, outs),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512(p, narrow, outs),
            _ => panels::<Portable, 2, 2>(p, narrow, outs),
        }
    }
}

/// # Safety
/// As [`product_narrow`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(p: &Product, narrow: &Narrow<'_>, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { panels::<Avx2, 4, 3>(p, narrow, outs) }
}

/// # Safety
/// As [`product_narrow`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(p: &Product, narrow: &Narrow<'_>, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { panels::<Avx512, 4, 4>(p, narrow, outs) }
}

/// # Safety
/// As [`product_narrow`]; the processor has `L`'s instruction set.
#[inline(always)]
unsafe fn panels<L: Widens, const R: usize, const C: usize>(
    p: &Product,
    narrow: &Narrow<'_>,
    outs: usize,
) {
    for row in (0..p.rows).step_by(BLOCK) {
        let n = (p.rows - row).min(BLOCK);
        let part = |out| Part { p, row, n, out, outs: (outs - out).min(OUTS) };
        let turns = L::IS_TWO && p.rows > FEW;
        // SAFETY: the caller's promise.
        unsafe {
            if turns {
                part(0).turn_inputs::<L>();
            }
            for index in 0..outs.div_ceil(OUTS) {
                let part = part(index * OUTS);
                let units = narrow.wide_panel::<L>(index);
                let mut panel = Panel { narrow, index, units, asks: row == 0 };
                if turns {
                    part.chains::<L, _>(&mut panel);
                    continue;
                }
                match n {
                    1 => part.units::<L, 1, R, C>(&mut panel),
                    2 => part.units::<L, 2, R, C>(&mut panel),
                    3 => part.units::<L, 3, R, C>(&mut panel),
                    4 => part.units::<L, 4, R, C>(&mut panel),
                    _ => part.units::<L, 0, R, C>(&mut panel),
                }
            }
        }
    }
}

/// A panel, and what comes after.
struct Panel<'a, L: Widens> {
    narrow: &'a Narrow<'a>,
    index: usize,
    units: WidePanel<'a, L>,
    /// Whether weights come from memory: those further on are asked for.
    asks: bool,
}

impl<L: Widens> Panel<'_, L> {
    /// Asks for a row's numbers some units after unit `unit`.
    #[inline(always)]
    fn ask(&self, unit: usize, units: usize, row: usize) {
        let later = self.narrow.later(self.index, unit, units).wrapping_add(row * ROW_BYTES);
        for line in 0..ROW_BYTES / VECTOR {
            prefetch(later.wrapping_add(line * VECTOR));
        }
    }
}

impl<L: Widens> Sixteen<L> for Panel<'_, L> {
    #[inline(always)]
    unsafe fn widen(&mut self, (k, _): (usize, usize), to: (*mut f32, usize)) {
        // SAFETY: the caller's promise; numbers are a unit's.
        unsafe { self.units.widen(k / STEP, 0..OUTS, to) }
    }

    #[inline(always)]
    fn ask_after(&self, (k, n): (usize, usize), row: usize) {
        if self.asks {
            let units = n / STEP;
            for unit in k / STEP..k / STEP + units {
                self.ask(unit, units, row);
            }
        }
    }
}

impl Part<'_> {
    /// Sixteen outputs of all inputs, unit after unit. With up to `IN_REGISTERS` inputs, as many as there are then, numbers
    /// are multiplied where they are made; 0: in the first-level cache.
    ///
    /// # Safety
    /// As [`product_narrow`]; these are the panel's outputs.
    #[inline(always)]
    unsafe fn units<L: Widens, const IN_REGISTERS: usize, const R: usize, const C: usize>(
        &self,
        panel: &mut Panel<'_, L>,
    ) {
        let (dim, mut widened) = (self.p.dim, MaybeUninit::<Widened>::uninit());
        #[allow(
            clippy::large_stack_arrays,
            reason = "64 KiB that are not written before they are used"
        )]
        let mut room = [const { MaybeUninit::<LaneSums>::uninit() }; BLOCK];
        // SAFETY: the caller's promise; sums are written before they are read, and numbers of whole units.
        unsafe {
            let (w, sums) = (widened.as_mut_ptr().cast::<Row>(), self.zeros(&mut room));
            for k in (0..dim).step_by(STEP) {
                let (unit, n) = (k / STEP, (dim - k).min(STEP));
                for r in (0..OUTS).step_by(R) {
                    if panel.asks {
                        for r in r..r + R {
                            panel.ask(unit, LATER_UNITS, r);
                        }
                    }
                    if IN_REGISTERS == 0 || n < STEP {
                        panel.units.widen(unit, r..r + R, (w.cast(), ROW));
                        self.multiply::<L, R, C>(w, sums, r..r + R, (k, n));
                        continue;
                    }
                    for r in r..r + R {
                        if let Some(numbers) = panel.units.numbers(unit, r) {
                            self.add_row::<L, IN_REGISTERS>(&numbers, sums, r, k);
                        } else {
                            panel.units.widen(unit, r..r + 1, (w.cast(), ROW));
                            self.multiply::<L, 1, C>(w, sums, r..r + 1, (k, n));
                        }
                    }
                }
            }
            self.store::<L>(sums);
        }
    }

    /// Adds the products of 128 numbers of row `r` from number `k` on with all inputs, of which there are `N`.
    ///
    /// # Safety
    /// As [`Part::units`]; sums are there.
    #[inline(always)]
    unsafe fn add_row<L: Widens, const N: usize>(
        &self,
        numbers: &[L::V; VECTORS],
        sums: *mut LaneSums,
        r: usize,
        k: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.input(0).add(k);
            let mut all = [L::splat(0.0); N];
            for c in 0..N {
                all[c] = L::load((*sums.add(c)).0[r].as_ptr());
            }
            for i in 0..VECTORS {
                for c in 0..N {
                    let x = L::load(x.add(c * self.p.x_stride + i * LANES));
                    all[c] = L::fma(numbers[i], x, all[c]);
                }
            }
            for c in 0..N {
                L::store((*sums.add(c)).0[r].as_mut_ptr(), all[c]);
            }
        }
    }
}

/// Numbers from one widened row to the next.
const ROW: usize = super::many::STEP;
/// A widened row.
type Row = [f32; ROW];
