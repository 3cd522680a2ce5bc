//! `vdpbf16ps` on matrices in twelve bits a number: the sums of [`bf16::pairs_avx512`], in its order.

use std::arch::x86_64::{__m512, _mm512_dpbf16_ps, _mm512_setzero_ps};
use std::ops::Range;

use super::{Narrow, put};
use crate::backend::cpu::simd::bf16::{numbers, zero};
use crate::backend::cpu::simd::product::{Pairs, Product};
use crate::backend::cpu::simd::{Avx512, Lanes, Matrix, bf16};
use crate::quant::DType;
use crate::quant::narrow::STEP;
use crate::quant::panels::OUTS;

/// Weights of one `vdpbf16ps`.
const WIDTH: usize = 32;

/// Inputs up to which numbers are made anew for each tile, not once for all.
const ROWS_MAX: usize = 4;

/// All outputs of a product, `outs` of them from the first panel on; `p.w` does not matter. `room` has a panel's numbers,
/// where there are more than a few inputs.
///
/// # Safety
/// As `product::product_pairs`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in super::super) unsafe fn product(
    p: &Product,
    x: &Pairs,
    narrow: &Narrow<'_>,
    outs: usize,
    room: &mut [u8],
) {
    let row_bytes = narrow.units() * STEP * size_of::<u16>();
    let has_room = p.rows > ROWS_MAX && room.len() >= OUTS * row_bytes;
    for panel in 0..narrow.len() {
        let outs = panel * OUTS..((panel + 1) * OUTS).min(outs);
        // SAFETY: the caller's promise; the panel's rows are in `room`.
        unsafe {
            if has_room {
                whole(narrow, panel, room.as_mut_ptr().cast());
                let w = Matrix::rows(room.as_ptr(), row_bytes, DType::Bf16);
                let y = p.y.add(outs.start);
                bf16::pairs_avx512(&Product { w, y, ..*p }, x, 0..outs.len());
                continue;
            }
            let mut row = 0;
            while row < p.rows {
                row += match p.rows - row {
                    1 => tile::<16, 1>(p, x, narrow, outs.clone(), row),
                    2 => tile::<8, 2>(p, x, narrow, outs.clone(), row),
                    3 => tile::<4, 3>(p, x, narrow, outs.clone(), row),
                    _ => tile::<4, 4>(p, x, narrow, outs.clone(), row),
                };
            }
        }
    }
}

/// A panel's numbers, row after row.
///
/// # Safety
/// There is room for them, and the processor has AVX-512 BW.
#[inline(always)]
unsafe fn whole(narrow: &Narrow<'_>, panel: usize, to: *mut u16) {
    let len = narrow.units() * STEP;
    // SAFETY: the caller's promise.
    unsafe {
        let mut reader = narrow.panel(panel);
        for unit in 0..narrow.units() {
            let place = |row: usize, k: usize| to.add(row * len + unit * STEP + k);
            for row in 0..OUTS {
                narrow.ask(panel, unit, row, 1);
                for (i, numbers) in reader.row(unit, row).into_iter().enumerate() {
                    put(place(row, i * WIDTH), numbers);
                }
            }
            reader.put_strays(unit, 0..OUTS, place);
        }
    }
}

/// Some outputs of a panel with `C` inputs, `R` at a time; says how many inputs.
///
/// # Safety
/// As [`product`]; the tile lies inside.
#[inline(always)]
unsafe fn tile<const R: usize, const C: usize>(
    p: &Product,
    x: &Pairs,
    narrow: &Narrow<'_>,
    outs: Range<usize>,
    row: usize,
) -> usize {
    let panel = outs.start / OUTS;
    let mut part = [[0u16; STEP]; R];
    let room: *mut [u16; STEP] = part.as_mut_ptr();
    for first in (0..outs.len()).step_by(R) {
        // SAFETY: rows `first..first + R` are of the panel; inputs are valid up to a multiple of 32 numbers.
        unsafe {
            let mut reader = narrow.panel(panel);
            let mut sums: [[__m512; C]; R] = [[_mm512_setzero_ps(); C]; R];
            for unit in 0..narrow.units() {
                for r in 0..R {
                    if first == 0 {
                        // All of the unit, by the rows that come to it first.
                        (0..OUTS / R).for_each(|i| narrow.ask(panel, unit, r * (OUTS / R) + i, 1));
                    }
                    let to = room.add(r).cast::<u16>();
                    for (i, numbers) in reader.row(unit, first + r).into_iter().enumerate() {
                        put(to.add(i * WIDTH), numbers);
                    }
                }
                reader.put_strays(unit, first..first + R, |row, k| {
                    room.add(row - first).cast::<u16>().add(k)
                });
                for k in (unit * STEP..p.dim.min((unit + 1) * STEP)).step_by(WIDTH) {
                    let (mut hi, mut lo) = ([zero(); C], [zero(); C]);
                    for c in 0..C {
                        let at = (row + c) * x.stride + k;
                        hi[c] = numbers(x.hi.add(at));
                        lo[c] = numbers(x.lo.add(at));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let weights = numbers(room.add(r).cast::<u16>().add(k % STEP));
                        for c in 0..C {
                            sums[c] = _mm512_dpbf16_ps(sums[c], weights, hi[c]);
                            sums[c] = _mm512_dpbf16_ps(sums[c], weights, lo[c]);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate().take(outs.len() - first) {
                for (c, sum) in sums.iter().enumerate() {
                    *p.y.add((row + c) * p.y_stride + outs.start + first + r) = Avx512::sum(*sum);
                }
            }
        }
    }
    C
}
