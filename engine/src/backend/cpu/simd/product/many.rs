//! Products of matrices that are widened to f32, each weight once for up to 64 inputs.
//!
//! Numbers of some rows are widened into the first-level
//! cache and multiplied there with all inputs, some rows by some inputs at once; sums wait for the next numbers; with more than sixteen
//! inputs where lanes are two registers it is [`chains`](super::chains) that multiplies. An output is the chain of sums that [`tile`](super::super::tile) makes of it: the same bits with any number of inputs. Why so:
//! docs/decisions/0015, *Without AMX*.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::chains::Sixteen;
use super::{Product, Way};
use crate::backend::cpu::simd::panels::{LINE, for_each};
use crate::backend::cpu::simd::{
    LANES, LaneSums, Lanes, Matrix, Stored, Vectors, load_tail, prefetch,
};

/// Rows that are widened side by side.
pub(super) const OUTS: usize = LANES;
/// Numbers of each.
pub(super) const STEP: usize = 256;
/// Inputs that they are widened for; up to some 3,000 numbers wide those stay in a second-level cache of 1 MiB while a task's
/// rows pass.
pub(super) const BLOCK: usize = 64;
/// Vectors of a row whose products are code of their own.
const SIDE: usize = 4;

/// Up to so many inputs rows are read one after another, as they come fastest from memory; with more they come in turns.
pub(in super::super) const FEW: usize = 16;
const _: () = assert!(FEW <= BLOCK);

/// What is asked for then lies so many bytes behind the same numbers of the next rows: where rows are short those come too soon.
pub(super) const BESIDE: usize = 1 << 12;

/// Some rows' numbers, widened; at cache lines.
#[repr(C, align(64))]
pub(super) struct Widened([[f32; STEP]; OUTS]);

/// From one to sixteen inputs.
pub(super) struct Few;

impl Way for Few {
    #[inline(always)]
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize) {
        for out in (0..outs).step_by(OUTS) {
            let part = Part { p, row: 0, n: p.rows, out, outs: (outs - out).min(OUTS) };
            // SAFETY: the caller's promise.
            unsafe { part.few::<L, S, R, C>() }
        }
    }
}

/// More than those.
pub(super) struct Many;

impl Way for Many {
    #[inline(always)]
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize) {
        for row in (0..p.rows).step_by(BLOCK) {
            let n = (p.rows - row).min(BLOCK);
            let part = |out| Part { p, row, n, out, outs: (outs - out).min(OUTS) };
            if L::IS_TWO {
                // SAFETY: the caller's promise.
                unsafe { part(0).turn_inputs::<L>() }
            }
            for out in (0..outs).step_by(OUTS) {
                // SAFETY: the caller's promise.
                unsafe {
                    if L::IS_TWO {
                        let part = part(out);
                        part.chains::<L, _>(&mut Lying::<S>(&part, PhantomData));
                    } else {
                        part(out).many::<L, S, R, C>();
                    }
                }
            }
        }
    }
}

/// Rows of a matrix as it is stored.
struct Lying<'a, S>(&'a Part<'a>, PhantomData<S>);

impl<L: Lanes, S: Stored> Sixteen<L> for Lying<'_, S> {
    #[inline(always)]
    unsafe fn widen(&mut self, (k, n): (usize, usize), (to, stride): (*mut f32, usize)) {
        for r in 0..OUTS {
            // SAFETY: the caller's promise.
            unsafe {
                let row = S::row(&self.0.p.w, self.0.out + r.min(self.0.outs - 1));
                S::widen::<L>(row, k, n, to.add(r * stride));
            }
        }
    }

    #[inline(always)]
    fn ask_after(&self, numbers: (usize, usize), row: usize) {
        self.0.ask_after::<S>(numbers, row..row + 1);
    }
}

/// Some outputs of some inputs.
pub(super) struct Part<'a> {
    pub(super) p: &'a Product,
    /// The first input.
    pub(super) row: usize,
    /// Inputs.
    pub(super) n: usize,
    /// The first output.
    pub(super) out: usize,
    /// Outputs.
    pub(super) outs: usize,
}

impl Part<'_> {
    /// # Safety
    /// As [`Way::run`].
    #[inline(always)]
    unsafe fn few<L: Lanes, S: Stored, const R: usize, const C: usize>(&self) {
        const { assert!(S::ASKED <= STEP && S::ASKED.is_multiple_of(LANES)) };
        let (dim, mut widened) = (self.p.dim, MaybeUninit::<Widened>::uninit());
        let mut room = [const { MaybeUninit::<LaneSums>::uninit() }; FEW];
        // SAFETY: the caller's promise; sums are written before they are read, and numbers up to the next multiple of sixteen.
        unsafe {
            let (w, sums) = (widened.as_mut_ptr().cast::<[f32; STEP]>(), self.zeros(&mut room));
            for r in (0..self.outs).step_by(R) {
                for k in (0..dim).step_by(STEP) {
                    let end = dim.min(k + STEP);
                    for at in (k..end).step_by(S::ASKED) {
                        for r in r..r + R {
                            ask::<S>(self.place::<S>(r + R, at).wrapping_add(BESIDE), S::ASKED);
                        }
                        let n = (end - at).min(S::ASKED);
                        let to = w.cast::<f32>().wrapping_add(at - k).cast();
                        self.widen::<L, S>(to, r..r + R, (at, n));
                    }
                    self.multiply::<L, R, C>(w, sums, r..r + R, (k, end - k));
                }
            }
            self.store::<L>(sums);
        }
    }

    /// # Safety
    /// As [`Way::run`].
    #[inline(always)]
    unsafe fn many<L: Lanes, S: Stored, const R: usize, const C: usize>(&self) {
        let (dim, mut widened) = (self.p.dim, MaybeUninit::<Widened>::uninit());
        #[allow(
            clippy::large_stack_arrays,
            reason = "64 KiB that are not written before they are used"
        )]
        let mut room = [const { MaybeUninit::<LaneSums>::uninit() }; BLOCK];
        // SAFETY: as above.
        unsafe {
            let (w, sums) = (widened.as_mut_ptr().cast::<[f32; STEP]>(), self.zeros(&mut room));
            for k in (0..dim).step_by(STEP) {
                self.ask_after::<S>((k, STEP), 0..OUTS);
                let n = (dim - k).min(STEP);
                self.widen::<L, S>(w, 0..OUTS, (k, n));
                self.multiply::<L, R, C>(w, sums, 0..OUTS, (k, n));
            }
            self.store::<L>(sums);
        }
    }

    /// Asks for the `n` numbers of some rows that come after those at `k`, or of the next sixteen rows, when the first inputs pass.
    #[inline(always)]
    pub(super) fn ask_after<S: Stored>(&self, (k, n): (usize, usize), rows: Range<usize>) {
        if self.row > 0 {
            return;
        }
        for r in rows {
            let then = if k + n < self.p.dim { (r, k + n) } else { (r + OUTS, 0) };
            ask::<S>(self.place::<S>(then.0, then.1), n.min(self.p.dim - then.1));
        }
    }

    /// The first number of input `c`.
    #[inline(always)]
    pub(super) fn input(&self, c: usize) -> *const f32 {
        self.p.x.wrapping_add((self.row + c) * self.p.x_stride)
    }

    /// The first output of input `c`.
    #[inline(always)]
    pub(super) fn output(&self, c: usize) -> *mut f32 {
        self.p.y.wrapping_add((self.row + c) * self.p.y_stride + self.out)
    }

    /// Sums of every input, zero.
    #[inline(always)]
    pub(super) fn zeros(&self, room: &mut [MaybeUninit<LaneSums>]) -> *mut LaneSums {
        for sums in &mut room[..self.n] {
            sums.write(LaneSums::ZERO);
        }
        room.as_mut_ptr().cast()
    }

    /// Outputs from sums.
    ///
    /// # Safety
    /// As [`Way::run`]; there are sums of every input.
    #[inline(always)]
    pub(super) unsafe fn store<L: Lanes>(&self, sums: *const LaneSums) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..self.n {
                let mut all = [L::splat(0.0); OUTS];
                for (all, sum) in all.iter_mut().zip(&(*sums.add(c)).0) {
                    *all = L::load(sum.as_ptr());
                }
                let sums = L::sum_each(&all);
                std::ptr::copy_nonoverlapping(sums.as_ptr(), self.output(c), self.outs);
            }
        }
    }

    /// Where number `k` of a row is, or would be.
    #[inline(always)]
    pub(super) fn place<S: Stored>(&self, r: usize, k: usize) -> *const u8 {
        let Matrix { at, row_bytes, first, .. } = self.p.w;
        at.wrapping_add((first + self.out + r) * row_bytes + bytes::<S>(k))
    }

    /// Numbers `k..k + n` of some rows, widened; where there are fewer than sixteen rows the last stands for the others.
    ///
    /// # Safety
    /// As [`Way::run`]; every row has room for them, rounded up to a multiple of sixteen.
    #[inline(always)]
    unsafe fn widen<L: Lanes, S: Stored>(
        &self,
        w: *mut [f32; STEP],
        rows: Range<usize>,
        (k, n): (usize, usize),
    ) {
        for r in rows {
            // SAFETY: the caller's promise.
            unsafe {
                let row = S::row(&self.p.w, self.out + r.min(self.outs - 1));
                S::widen::<L>(row, k, n, w.add(r).cast());
            }
        }
    }

    /// Adds the products of numbers `k..k + n` of some rows with all inputs.
    ///
    /// # Safety
    /// As [`Way::run`]; they are widened.
    #[inline(always)]
    pub(super) unsafe fn multiply<L: Lanes, const R: usize, const C: usize>(
        &self,
        w: *const [f32; STEP],
        sums: *mut LaneSums,
        rows: Range<usize>,
        (k, n): (usize, usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe {
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
    /// As [`Way::run`].
    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const C: usize>(
        &self,
        w: *const [f32; STEP],
        sums: *mut LaneSums,
        (rows, c): (Range<usize>, usize),
        (k, n): (usize, usize),
    ) {
        let stride = self.p.x_stride;
        // SAFETY: the caller's promise; sums and widened numbers are there.
        unsafe {
            let x = self.input(c).add(k);
            for r in rows.step_by(R) {
                let (w, to) = (w.add(r), sums.add(c).cast::<[f32; LANES]>().add(r));
                tile::<L::Lower, R, C>(w, (x, stride), to, n);
                if L::IS_TWO {
                    tile::<L::Upper, R, C>(w, (x, stride), to, n);
                }
            }
        }
    }
}

/// Bytes of `n` numbers of a row.
#[inline(always)]
const fn bytes<S: Stored>(n: usize) -> usize {
    n * S::DTYPE.block_bytes() / S::DTYPE.block_len()
}

/// Asks for `n` numbers at a place.
#[inline(always)]
pub(super) fn ask<S: Stored>(at: *const u8, n: usize) {
    for line in (0..bytes::<S>(n)).step_by(LINE) {
        prefetch(at.wrapping_add(line));
    }
}

/// `sums[c][r] += sum_k w[r][k] * x[c][k]` over `n` numbers, lane by lane, of those lanes that `V` has.
///
/// # Safety
/// Inputs have as many, `stride` apart, rows up to the next multiple of sixteen; the processor has `V`'s instruction set.
#[allow(clippy::needless_range_loop, reason = "written as the tile whose bits it has")]
#[inline(always)]
unsafe fn tile<V: Vectors, const R: usize, const C: usize>(
    w: *const [f32; STEP],
    (x, stride): (*const f32, usize),
    to: *mut [f32; LANES],
    n: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for c in 0..C {
            for r in 0..R {
                sums[r][c] = V::load(to.add(c * OUTS + r).cast());
            }
        }
        let mut k = 0;
        while k + SIDE * LANES <= n {
            for_each!(I < SIDE, 4, {
                let mut inputs = [V::splat(0.0); C];
                for c in 0..C {
                    inputs[c] = V::load(x.add(c * stride + k + I * LANES));
                }
                for r in 0..R {
                    let weights = V::load(w.add(r).cast::<f32>().add(k + I * LANES));
                    for c in 0..C {
                        sums[r][c] = V::fma(weights, inputs[c], sums[r][c]);
                    }
                }
            });
            k += SIDE * LANES;
        }
        while k < n {
            let mut inputs = [V::splat(0.0); C];
            for c in 0..C {
                let x = x.add(c * stride + k);
                inputs[c] = if k + LANES <= n { V::load(x) } else { load_tail::<V>(x, n - k) };
            }
            for r in 0..R {
                let weights = V::load(w.add(r).cast::<f32>().add(k));
                for c in 0..C {
                    sums[r][c] = V::fma(weights, inputs[c], sums[r][c]);
                }
            }
            k += LANES;
        }
        for c in 0..C {
            for r in 0..R {
                V::store(to.add(c * OUTS + r).cast(), sums[r][c]);
            }
        }
    }
}
