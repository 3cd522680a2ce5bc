//! Products with many inputs where sixteen lanes are two registers: outputs are lanes.
//!
//! A sum is sixteen chains, each of every sixteenth number, and a tree of them ([`tile`](super::super::tile)). Here one chain after
//! another runs for sixteen outputs side by side: six inputs by sixteen outputs are twelve registers of sums, which take a
//! number of each input and sixteen weights at a time, and the tree needs nothing across lanes. Inputs are turned round for that
//! once a task, weights once for up to 64 inputs. The same bits. Why so: docs/decisions/0020.

#![allow(clippy::needless_range_loop, reason = "what zips call is not always inlined")]

use std::mem::MaybeUninit;

use super::many::{BLOCK, OUTS, Part};
use crate::backend::cpu::simd::{LANES, LaneSums, Lanes, load_tail};
use crate::quant::narrow;

/// Numbers of a chain before the next chain's: those of sixteen outputs are an eighth of a first-level cache of 32 KiB, those of all
/// chains an eighth of a second-level one of 512 KiB.
const LONG: usize = 64;
/// Numbers of a row that are widened at once.
const STEP: usize = LONG * LANES;
/// Inputs side by side.
const INPUTS: usize = 6;

/// Sixteen rows' numbers of one chain, and a cache line: what is turned goes to all chains at once, and powers of two apart that
/// would be to one set of a cache.
type Chain = [[f32; OUTS]; LONG + 1];

/// Sixteen rows' numbers, turned round: `[chain, number of the chain, row]`; at cache lines.
#[repr(C, align(64))]
struct Turned([Chain; LANES]);

/// Numbers of a row that are widened before the next row's, for rows that are powers of two apart.
const WIDE: usize = narrow::STEP;

/// Sixteen rows' numbers, widened, and a cache line each, for the same reason.
#[repr(C, align(64))]
struct Widened([[f32; WIDE + LANES]; OUTS]);

/// Numbers from one turned input to the next: whole chains and a cache line, so that inputs fall into different sets.
const fn stride(dim: usize) -> usize {
    dim.next_multiple_of(LANES) + LANES
}

/// Room for as many inputs as are turned at once.
pub(super) const fn room_len(dim: usize) -> usize {
    BLOCK * stride(dim)
}

/// Inputs in tiles of nearly the same size: a few alone would wait for one another's sums.
#[derive(Clone, Copy)]
struct Tiles {
    /// Tiles.
    n: usize,
    /// Inputs of each.
    each: usize,
    /// So many of the first have one more.
    more: usize,
}

impl Tiles {
    fn of(n_input: usize) -> Self {
        let n = n_input.div_ceil(INPUTS);
        Self { n, each: n_input / n, more: n_input % n }
    }

    fn inputs(self, tile: usize) -> usize {
        self.each + usize::from(tile < self.more)
    }
}

/// Sixteen rows as they are widened, some numbers after others.
pub(super) trait Sixteen<L: Lanes> {
    /// Numbers `k..k + n` of every row, widened, up to the next multiple of sixteen; of row `r` `r * stride` numbers behind `to`. At most
    /// [`WIDE`] of them, from a multiple of as many on.
    ///
    /// # Safety
    /// They are there, there is room for them, and the processor has `L`'s instruction set.
    unsafe fn widen(&mut self, numbers: (usize, usize), to: (*mut f32, usize));

    /// Asks for what is widened after the `n` numbers at `k`, a row's share.
    fn ask_after(&self, numbers: (usize, usize), row: usize);
}

impl Part<'_> {
    /// Inputs turned round into the product's room, `STEP` numbers after `STEP` numbers: `[input, step, chain, number]`, with
    /// zeros where the last chains are shorter.
    ///
    /// # Safety
    /// As [`Way::run`](super::Way::run); the product has room.
    #[inline(always)]
    pub(super) unsafe fn turn_inputs<L: Lanes>(&self) {
        let dim = self.p.dim;
        for c in 0..self.n {
            for k in (0..dim).step_by(STEP) {
                let long = (dim - k).min(STEP).div_ceil(LANES);
                for i in (0..long).step_by(LANES) {
                    // SAFETY: the caller's promise; what is taken and put is inside.
                    unsafe {
                        let from = self.input(c).add(k + i * LANES);
                        let to = self.p.room.add(c * stride(dim) + k + i);
                        let left = dim - k - i * LANES;
                        if left >= LANES * LANES {
                            turn_block::<L>((from, LANES), (to, long));
                        } else {
                            turn_rest::<L>((from, left), (to, long), (long - i).min(LANES));
                        }
                    }
                }
            }
        }
    }

    /// Sixteen outputs of inputs that are turned round.
    ///
    /// # Safety
    /// As [`Part::turn_inputs`].
    #[inline(always)]
    pub(super) unsafe fn chains<L: Lanes, R: Sixteen<L>>(&self, rows: &mut R) {
        let (dim, tiles) = (self.p.dim, Tiles::of(self.n));
        let mut turned = MaybeUninit::<Turned>::uninit();
        #[allow(
            clippy::large_stack_arrays,
            reason = "64 KiB that are not written before they are used"
        )]
        let mut room = [const { MaybeUninit::<LaneSums>::uninit() }; BLOCK];
        // SAFETY: the caller's promise; sums are written before they are read, and as many numbers as are read.
        unsafe {
            let w = turned.as_mut_ptr().cast::<Chain>();
            let sums = room.as_mut_ptr().cast::<LaneSums>();
            for k in (0..dim).step_by(STEP) {
                let n = (dim - k).min(STEP);
                turn::<L, R>(rows, w, (k, n));
                for chain in 0..LANES {
                    rows.ask_after((k, STEP), chain);
                    let to = sums.cast::<[f32; OUTS]>().add(chain);
                    let w = w.add(chain).cast();
                    self.chain::<L>(w, (k, chain), (to, tiles), n.div_ceil(LANES));
                }
            }
            for c in 0..self.n {
                self.end::<L>(c, &*sums.add(c));
            }
        }
    }

    /// `long` numbers of a chain, from the step at `k` on, added to its sums of every input.
    ///
    /// # Safety
    /// As [`Part::chains`]; `w` are this chain's numbers.
    #[inline(always)]
    unsafe fn chain<L: Lanes>(
        &self,
        w: *const [f32; OUTS],
        (k, chain): (usize, usize),
        (to, tiles): (*mut [f32; OUTS], Tiles),
        long: usize,
    ) {
        let (stride, mut c) = (stride(self.p.dim), 0);
        for tile in 0..tiles.n {
            let n_c = tiles.inputs(tile);
            // SAFETY: the caller's promise.
            unsafe {
                let x = (self.p.room.add(c * stride + k + chain * long).cast_const(), stride);
                let to = (to.add(c * LANES), k > 0);
                match n_c {
                    6 => add::<L, 6>(w, x, to, long),
                    5 => add::<L, 5>(w, x, to, long),
                    4 => add::<L, 4>(w, x, to, long),
                    3 => add::<L, 3>(w, x, to, long),
                    2 => add::<L, 2>(w, x, to, long),
                    _ => add::<L, 1>(w, x, to, long),
                }
            }
            c += n_c;
        }
    }

    /// The outputs of an input, from its chains.
    ///
    /// # Safety
    /// As [`Part::chains`].
    #[inline(always)]
    unsafe fn end<L: Lanes>(&self, c: usize, chains: &LaneSums) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut v = [L::splat(0.0); LANES];
            for i in 0..LANES {
                v[i] = L::load(chains.0[i].as_ptr());
            }
            // The tree of `Lanes::sum`. A product with one is exact.
            let one = L::splat(1.0);
            let mut half = LANES / 2;
            while half > 0 {
                for i in 0..half {
                    v[i] = L::fma(v[i + half], one, v[i]);
                }
                half /= 2;
            }
            L::store_first(self.output(c), v[0], self.outs);
        }
    }
}

/// Numbers `k..k + n` of sixteen rows, widened and turned round.
///
/// # Safety
/// As [`Sixteen::widen`]; there is room for them.
#[inline(always)]
unsafe fn turn<L: Lanes, R: Sixteen<L>>(rows: &mut R, w: *mut Chain, (k, n): (usize, usize)) {
    let mut room = MaybeUninit::<Widened>::uninit();
    let wide = room.as_mut_ptr().cast::<f32>();
    // SAFETY: the caller's promise; numbers are widened up to the next multiple of sixteen before they are turned.
    unsafe {
        for at in (0..n).step_by(WIDE) {
            let n = (n - at).min(WIDE);
            rows.widen((k + at, n), (wide, WIDE + LANES));
            for i in (0..n).step_by(LANES) {
                let to = w.cast::<f32>().add((at + i) / LANES * OUTS);
                turn_block::<L>((wide.add(i), WIDE + LANES), (to, size_of::<Chain>() / 4));
            }
        }
    }
}

/// Sixteen rows of sixteen numbers, turned round; both are a stride apart.
///
/// # Safety
/// There are as many, and room.
#[inline(always)]
unsafe fn turn_block<L: Lanes>((from, row): (*const f32, usize), (to, column): (*mut f32, usize)) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut v = [L::load(from); LANES];
        for i in 1..LANES {
            v[i] = L::load(from.add(i * row));
        }
        L::transpose(&mut v);
        for i in 0..LANES {
            L::store(to.add(i * column), v[i]);
        }
    }
}

/// The same of `left` numbers that are back to back and zeros after them; `n` of each row that this makes are stored.
///
/// # Safety
/// As [`turn_block`].
#[inline(always)]
unsafe fn turn_rest<L: Lanes>(
    (from, left): (*const f32, usize),
    (to, column): (*mut f32, usize),
    n: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut v = [L::splat(0.0); LANES];
        for i in 0..left.div_ceil(LANES).min(LANES) {
            v[i] = load_tail::<L>(from.add(i * LANES), (left - i * LANES).min(LANES));
        }
        L::transpose(&mut v);
        for i in 0..LANES {
            L::store_first(to.add(i * column), v[i], n);
        }
    }
}

/// `sums[c][out] += sum_i w[i][out] * x[c][i]` for sixteen outputs and `C` inputs; inputs' sums are a [`LaneSums`] apart and
/// begin with zero where nothing is added to.
///
/// # Safety
/// Inputs have `long` numbers, `stride` apart, and the processor has `L`'s instruction set.
#[inline(always)]
unsafe fn add<L: Lanes, const C: usize>(
    w: *const [f32; OUTS],
    (x, stride): (*const f32, usize),
    (to, adds): (*mut [f32; OUTS], bool),
    long: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0.0); C];
        if adds {
            for c in 0..C {
                sums[c] = L::load(to.add(c * LANES).cast());
            }
        }
        for i in 0..long {
            let weights = L::load(w.add(i).cast());
            for c in 0..C {
                sums[c] = L::fma(weights, L::splat(*x.add(c * stride + i)), sums[c]);
            }
        }
        for c in 0..C {
            L::store(to.add(c * LANES).cast(), sums[c]);
        }
    }
}
