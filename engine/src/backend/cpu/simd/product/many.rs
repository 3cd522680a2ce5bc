//! Products of matrices that are widened to f32, each weight once for up to 64 inputs.
//!
//! Numbers of some rows are widened into the first-level cache and multiplied there with all inputs, some rows by some inputs
//! at once; sums wait for the next numbers. An output is the chain of sums that [`tile`](super::super::tile) makes of it: the same
//! bits with any number of inputs. Why so: docs/decisions/0015, *Without AMX*.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::Product;
use crate::backend::cpu::simd::panels::for_each;
use crate::backend::cpu::simd::{LANES, Lanes, Matrix, Stored, load_tail, prefetch};

/// Rows that are widened side by side.
const OUTS: usize = LANES;
/// Numbers of each.
const STEP: usize = 256;
/// Inputs that they are widened for; up to some 3,000 numbers wide those stay in a second-level cache of 1 MiB while a task's
/// rows pass.
const BLOCK: usize = 64;
/// Vectors of a row whose products are code of their own.
const SIDE: usize = 4;

/// Up to so many inputs rows are read one after another, as they come fastest from memory; with more they come in turns.
const FEW: usize = 16;
/// Numbers of each row then: more requests at a time stand in each other's way.
const STEP_FEW: usize = 64;
/// What is asked for then lies so many bytes behind the same numbers of the next rows: where rows are short those come too soon.
const BESIDE: usize = 1 << 12;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Some rows' numbers, widened; vectors of them lie in one cache line each.
#[repr(align(64))]
struct Widened([[f32; STEP]; OUTS]);

/// The first `outs` outputs of a product, `R` of them with `C` inputs at a time.
///
/// # Safety
/// As [`super::product`].
#[inline(always)]
pub(super) unsafe fn many<L: Lanes, S: Stored, const R: usize, const C: usize>(
    p: &Product,
    outs: usize,
) {
    for row in (0..p.rows).step_by(BLOCK) {
        for out in (0..outs).step_by(OUTS) {
            let n = (p.rows - row).min(BLOCK);
            let part = Part { p, row, n, out, outs: (outs - out).min(OUTS) };
            // SAFETY: the caller's promise.
            unsafe { part.run::<L, S, R, C>() }
        }
    }
}

/// Some outputs of some inputs.
struct Part<'a> {
    p: &'a Product,
    /// The first input.
    row: usize,
    /// Inputs.
    n: usize,
    /// The first output.
    out: usize,
    /// Outputs.
    outs: usize,
}

impl Part<'_> {
    /// # Safety
    /// As [`many`].
    #[inline(always)]
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(&self) {
        let (dim, row_bytes) = (self.p.dim, self.p.w.row_bytes);
        let bytes = |step: usize| step * row_bytes / dim.max(1);
        let (few_bytes, step_bytes) = (bytes(STEP_FEW), bytes(STEP));
        let mut widened = MaybeUninit::<Widened>::uninit();
        let mut sums = [const { MaybeUninit::<[L::V; OUTS]>::uninit() }; BLOCK];
        // SAFETY: the caller's promise; sums are written before they are read, and numbers up to the next multiple of sixteen.
        unsafe {
            for sums in &mut sums[..self.n] {
                sums.write([L::splat(0.0); OUTS]);
            }
            let w = (&raw mut (*widened.as_mut_ptr()).0).cast::<[f32; STEP]>();
            let sums: *mut [L::V; OUTS] = sums.as_mut_ptr().cast();
            if self.n <= FEW {
                for r in (0..self.outs).step_by(R) {
                    for k in (0..dim).step_by(STEP_FEW) {
                        for r in (r + R..r + 2 * R).filter(|_| self.row == 0) {
                            self.ask(r, k / STEP_FEW * few_bytes + BESIDE, few_bytes);
                        }
                        self.step::<L, S, R, C>(w, sums, r..r + R, (k, (dim - k).min(STEP_FEW)));
                    }
                }
            } else {
                for k in (0..dim).step_by(STEP) {
                    for r in (0..OUTS).filter(|_| self.row == 0) {
                        if k + STEP < dim {
                            self.ask(r, (k / STEP + 1) * step_bytes, step_bytes);
                        } else {
                            self.ask(r + OUTS, 0, step_bytes);
                        }
                    }
                    let rows = 0..self.outs.next_multiple_of(R);
                    self.step::<L, S, R, C>(w, sums, rows, (k, (dim - k).min(STEP)));
                }
            }
            for c in 0..self.n {
                let sums = L::sum_each(&*sums.add(c));
                let y = self.p.y.add((self.row + c) * self.p.y_stride + self.out);
                std::ptr::copy_nonoverlapping(sums.as_ptr(), y, self.outs);
            }
        }
    }

    /// Asks for `n` bytes from byte `from` of a row on, which need not be there.
    #[inline(always)]
    fn ask(&self, r: usize, from: usize, n: usize) {
        let Matrix { at, row_bytes, first, .. } = self.p.w;
        let at = at.wrapping_add((first + self.out + r) * row_bytes + from);
        for line in (0..n).step_by(LINE) {
            prefetch(at.wrapping_add(line));
        }
    }

    /// The products of numbers `k..k + n` of some rows with all inputs.
    ///
    /// # Safety
    /// As [`many`].
    #[inline(always)]
    unsafe fn step<L: Lanes, S: Stored, const R: usize, const C: usize>(
        &self,
        w: *mut [f32; STEP],
        sums: *mut [L::V; OUTS],
        rows: Range<usize>,
        (k, n): (usize, usize),
    ) {
        // SAFETY: the caller's promise. Where there are fewer than sixteen rows the last stands for the others.
        unsafe {
            for r in rows.clone() {
                let row = S::row(&self.p.w, self.out + r.min(self.outs - 1));
                S::widen::<L>(row, k, n, w.add(r).cast());
            }
            let mut c = 0;
            while c + C <= self.n {
                self.add::<L, R, C>(w, sums, (rows.clone(), c), (k, n));
                c += C;
            }
            match self.n - c {
                1 => self.add::<L, R, 1>(w, sums, (rows, c), (k, n)),
                2 if C > 2 => self.add::<L, R, 2>(w, sums, (rows, c), (k, n)),
                3 if C > 3 => self.add::<L, R, 3>(w, sums, (rows, c), (k, n)),
                _ => {}
            }
        }
    }

    /// Adds the products of numbers `k..k + n` of some rows with inputs `c..c + C`.
    ///
    /// # Safety
    /// As [`many`].
    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const C: usize>(
        &self,
        w: *const [f32; STEP],
        sums: *mut [L::V; OUTS],
        (rows, c): (Range<usize>, usize),
        (k, n): (usize, usize),
    ) {
        let stride = self.p.x_stride;
        // SAFETY: the caller's promise; sums and widened numbers are there.
        unsafe {
            let x = self.p.x.add((self.row + c) * stride + k);
            for r in rows.step_by(R) {
                tile::<L, R, C>(w.add(r), (x, stride), sums.add(c).cast::<L::V>().add(r), n);
            }
        }
    }
}

/// `sums[c][r] += sum_k w[r][k] * x[c][k]` over `n` numbers, lane by lane.
///
/// # Safety
/// Inputs have as many, `stride` apart, rows up to the next multiple of sixteen; the processor has `L`'s instruction set.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const C: usize>(
    w: *const [f32; STEP],
    (x, stride): (*const f32, usize),
    to: *mut L::V,
    n: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[L::splat(0.0); C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = *to.add(c * OUTS + r);
            }
        }
        let mut k = 0;
        while k + SIDE * LANES <= n {
            for_each!(I < SIDE, 4, {
                let mut inputs = [L::splat(0.0); C];
                for (c, input) in inputs.iter_mut().enumerate() {
                    *input = L::load(x.add(c * stride + k + I * LANES));
                }
                add::<L, R, C>(&mut sums, w, k + I * LANES, &inputs);
            });
            k += SIDE * LANES;
        }
        while k < n {
            let mut inputs = [L::splat(0.0); C];
            for (c, input) in inputs.iter_mut().enumerate() {
                let x = x.add(c * stride + k);
                *input = if k + LANES <= n { L::load(x) } else { load_tail::<L>(x, n - k) };
            }
            add::<L, R, C>(&mut sums, w, k, &inputs);
            k += LANES;
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                *to.add(c * OUTS + r) = *sum;
            }
        }
    }
}

/// Adds the products of sixteen numbers of rows, from number `k` on, with as many of inputs.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add<L: Lanes, const R: usize, const C: usize>(
    sums: &mut [[L::V; C]; R],
    w: *const [f32; STEP],
    k: usize,
    inputs: &[L::V; C],
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = L::load(w.add(r).cast::<f32>().add(k));
            for (sum, input) in sums.iter_mut().zip(inputs) {
                *sum = L::fma(weights, *input, *sum);
            }
        }
    }
}
