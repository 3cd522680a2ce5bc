//! `vdpbf16ps` on matrices whose numbers are bf16 or become that, sixteen rows at a time, with inputs as one bf16 number each or
//! two.
//!
//! Rows are read 128 numbers each, four rows at a time, and multiplied with one to three inputs at a time while they are in
//! registers; sums wait in the first-level cache for the next 128 numbers. Each output is one chain of sums, number after
//! number, values before remainders if there are any; where rows have factors, 128 numbers are such a chain, and its sum times
//! their factor is added to the output. The same bits with any number of inputs. Why so: docs/decisions/0015, *Without AMX*.

mod rows;

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};
use std::mem::{MaybeUninit, transmute};

use super::bf16::numbers;
use super::pair_rows::Parts;
use super::panels::for_each;
use super::product::{Pairs, Product};
use super::{Avx512, Lanes};
use crate::quant::narrow;
use crate::quant::panels::OUTS;
pub(super) use rows::{Lying, Numbers, PlainRows, Rows};

/// Numbers of a row that are read at once: a unit's of a matrix in twelve bits.
pub(super) const STEP: usize = narrow::STEP;
/// Numbers of one `vdpbf16ps`.
pub(super) const WIDTH: usize = 32;
/// The same of a row at once.
pub(super) const VECTORS: usize = STEP / WIDTH;

/// Matrix rows that are multiplied side by side.
pub(super) const FOUR: usize = 4;

/// Inputs of a block: their 128 numbers and all their sums fit the first-level cache beside each other.
const BLOCK: usize = 16;

/// Inputs that stay in the second-level cache while the panels of a task pass.
const ROWS: usize = 64;

/// Where a matrix's panels come from: sixteen rows each, of which the last may have fewer.
pub(super) trait Panels {
    /// A panel's rows as they are read.
    type Rows: Rows;
    /// Panel number `index`.
    ///
    /// # Safety
    /// There is one, and the processor has AVX-512 BW.
    unsafe fn rows(&self, index: usize) -> Self::Rows;
}

/// The first `outs` outputs of a product; `p.w` does not matter.
///
/// # Safety
/// As `product::product_pairs`; `panels` has as many outputs.
#[inline(always)]
pub(super) unsafe fn product<P: Panels>(p: &Product, x: &Pairs, panels: &P, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.parts {
            Parts::One => parts::<P, 1>(p, x, panels, outs),
            Parts::Two => parts::<P, 2>(p, x, panels, outs),
        }
    }
}

/// [`product`] with inputs of `N` parts.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn parts<P: Panels, const N: usize>(p: &Product, x: &Pairs, panels: &P, outs: usize) {
    for first in (0..p.rows).step_by(ROWS) {
        let end = (first + ROWS).min(p.rows);
        for panel in 0..outs.div_ceil(OUTS) {
            let y = Outputs { p, at: panel * OUTS, n: (outs - panel * OUTS).min(OUTS) };
            // SAFETY: the caller's promise.
            unsafe {
                for row in (first..end).step_by(BLOCK) {
                    let inputs = Block { row, n: (end - row).min(BLOCK), asks: row == 0 };
                    some::<_, N>(&mut panels.rows(panel), x, &inputs, &y);
                }
            }
        }
    }
}

/// Where a panel's outputs go.
struct Outputs<'a> {
    p: &'a Product,
    /// The first.
    at: usize,
    /// How many.
    n: usize,
}

impl Outputs<'_> {
    /// Stores the outputs of input `row`.
    ///
    /// # Safety
    /// They are inside, and the processor has AVX-512.
    #[inline(always)]
    unsafe fn store(&self, row: usize, sums: &[__m512; OUTS]) {
        // SAFETY: the caller's promise.
        unsafe {
            let y = self.p.y.add(row * self.p.y_stride + self.at);
            Avx512::store_first(y, Avx512::sum_all(sums), self.n);
        }
    }
}

/// Some inputs.
struct Block {
    /// The first.
    row: usize,
    n: usize,
    /// Whether weights come from memory: those further on are asked for.
    asks: bool,
}

/// Up to [`BLOCK`] inputs.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn some<R: Rows, const N: usize>(rows: &mut R, x: &Pairs, block: &Block, y: &Outputs<'_>) {
    let dim = y.p.dim;
    // SAFETY: the caller's promise.
    unsafe {
        let mut room = [MaybeUninit::<[__m512; OUTS]>::uninit(); BLOCK];
        let sums: *mut [__m512; OUTS] = room.as_mut_ptr().cast();
        for c in 0..block.n {
            sums.add(c).write([_mm512_setzero_ps(); OUTS]);
        }
        let sums = std::slice::from_raw_parts_mut(sums, block.n);
        let (units, fours) = (dim / STEP, OUTS / FOUR);
        for part in 0..units * fours {
            let (unit, first) = if R::BY_ROWS && block.asks {
                (part % units, part / units * FOUR)
            } else {
                (part / fours, part % fours * FOUR)
            };
            if block.asks {
                rows.ask(unit, first);
            }
            let w = words(rows.read(unit, first));
            let factors = factors(rows, unit, first);
            let at = block.row * x.stride + unit * STEP;
            add::<R, N>(sums, (&w, &factors), x, at, first);
        }
        if !dim.is_multiple_of(STEP) {
            let (unit, n) = (dim / STEP, dim % STEP);
            for first in (0..OUTS).step_by(FOUR) {
                let w = words(rows.read_some(unit, first, n));
                let factors = factors(rows, unit, first);
                for (c, sums) in sums.iter_mut().enumerate() {
                    let at = (block.row + c) * x.stride + unit * STEP;
                    for ((sum, w), factor) in sums[first..].iter_mut().zip(&w).zip(factors) {
                        *sum = if R::HAS_FACTORS {
                            let dot = tail::<N>(_mm512_setzero_ps(), w, x, (at, n));
                            _mm512_fmadd_ps(dot, factor, *sum)
                        } else {
                            tail::<N>(*sum, w, x, (at, n))
                        };
                    }
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            y.store(block.row + c, sums);
        }
    }
}

/// The factors of four rows, where they have any.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn factors<R: Rows>(rows: &R, unit: usize, first: usize) -> [__m512; FOUR] {
    // SAFETY: the caller's promise.
    unsafe { if R::HAS_FACTORS { rows.factors(unit, first) } else { [_mm512_setzero_ps(); FOUR] } }
}

/// 128 numbers of four rows, and the rows' factors.
type Four<'a> = (&'a [[__m512bh; VECTORS]; FOUR], &'a [__m512; FOUR]);

/// Adds the products of 128 numbers of four rows with all inputs, from number `at` of these on, to the sums of rows `first` on.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn add<R: Rows, const N: usize>(
    sums: &mut [[__m512; OUTS]],
    w: Four<'_>,
    x: &Pairs,
    at: usize,
    first: usize,
) {
    let (n, mut c) = (sums.len(), 0);
    // SAFETY: the caller's promise.
    unsafe {
        // By twos, and the last three at once: one alone would wait for its own sums.
        while c + 2 <= n && c + 3 != n {
            four::<R, 2, N>(sums, w, x, at + c * x.stride, (c, first));
            c += 2;
        }
        if c + 3 == n {
            four::<R, 3, N>(sums, w, x, at + c * x.stride, (c, first));
        } else if c < n {
            four::<R, 1, N>(sums, w, x, at + c * x.stride, (c, first));
        }
    }
}

/// Vectors of numbers as products take them.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn words(v: Numbers) -> [[__m512bh; VECTORS]; FOUR] {
    // SAFETY: both are 64 bytes that may be anything.
    unsafe { transmute::<Numbers, [[__m512bh; VECTORS]; FOUR]>(v) }
}

/// Adds the products of a row's last `n` numbers with an input's from number `at` on.
///
/// # Safety
/// The input has them, filled up with zeros to a multiple of 32.
#[inline(always)]
unsafe fn tail<const N: usize>(
    mut sum: __m512,
    w: &[__m512bh; VECTORS],
    x: &Pairs,
    (at, n): (usize, usize),
) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, w) in w.iter().enumerate().take(n.div_ceil(WIDTH)) {
            sum = _mm512_dpbf16_ps(sum, *w, numbers(x.hi.add(at + i * WIDTH)));
            if N == 2 {
                sum = _mm512_dpbf16_ps(sum, *w, numbers(x.lo.add(at + i * WIDTH)));
            }
        }
        sum
    }
}

/// 128 numbers of four rows with `C` inputs, whose sums are number `c` on, of rows `first` on.
///
/// # Safety
/// Inputs are valid from number `at` on; the processor has AVX-512 BF16.
#[inline(always)]
unsafe fn four<R: Rows, const C: usize, const N: usize>(
    all: &mut [[__m512; OUTS]],
    (w, factors): Four<'_>,
    x: &Pairs,
    at: usize,
    (c, first): (usize, usize),
) {
    // SAFETY: the caller's promise; sums are inside.
    unsafe {
        let to = all.as_mut_ptr().cast::<f32>().add((c * OUTS + first) * 16);
        let mut sums = [[_mm512_setzero_ps(); FOUR]; C];
        if !R::HAS_FACTORS {
            for_each!(I < C, 4, {
                for_each!(ROW < FOUR, 4, {
                    sums[I][ROW] = _mm512_loadu_ps(to.add((I * OUTS + ROW) * 16));
                });
            });
        }
        for_each!(K < VECTORS, 4, {
            for_each!(PART < N, 4, {
                let part = if PART == 0 { x.hi } else { x.lo };
                for_each!(I < C, 4, {
                    let x = numbers(part.add(at + I * x.stride + K * WIDTH));
                    for_each!(ROW < FOUR, 4, {
                        sums[I][ROW] = _mm512_dpbf16_ps(sums[I][ROW], w[ROW][K], x);
                    });
                });
            });
        });
        for_each!(I < C, 4, {
            for_each!(ROW < FOUR, 4, {
                let to = to.add((I * OUTS + ROW) * 16);
                if R::HAS_FACTORS {
                    let before = _mm512_loadu_ps(to);
                    sums[I][ROW] = _mm512_fmadd_ps(sums[I][ROW], factors[ROW], before);
                }
                _mm512_storeu_ps(to, sums[I][ROW]);
            });
        });
    }
}
