//! Products over slices: the safe face of [`product`], with every length checked and the work spread over the pool.

use std::ops::Range;

use super::Matrix;
#[cfg(target_arch = "x86_64")]
use super::amx::Columns;
use super::groups::GroupRows;
use super::narrow::Narrow;
pub(in super::super) use super::pair_rows::{Order, PairRows, Parts, SplitForm};
use super::panels::PanelProduct;
pub(in super::super) use super::panels::Rooms;
use super::product::{FEW, Pairs, Product, Reading, product, product_narrow, turned_bytes, turns};
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::backend::cpu::topology::home;
use crate::backend::cpu::{Isa, Weight};
use crate::quant::DType;
use crate::quant::panels::OUTS as PANEL_OUTS;

/// Outputs of one task: enough work to pay for claiming it, few enough that all threads end together.
const OUTS: usize = 32;

/// The same for panels: as many as are in flight at once with one input.
const OUTS_PANELS: usize = 4 * PANEL_OUTS;

/// Outputs of one task where a matrix has at least as many inputs, or where they are turned round and there are tasks enough: that
/// is done again for each task, as inputs are read again.
pub(super) const OUTS_MANY: usize = 128;

/// Inputs of products, in the form the weights want.
#[derive(Clone, Copy)]
pub(in super::super) enum Inputs<'a> {
    /// f32 rows, back to back.
    Plain(&'a [f32]),
    /// As bf16 numbers, one or two each, for `vdpbf16ps`.
    Split(&'a PairRows),
    /// Whole numbers, for matrices in panels.
    Groups(&'a GroupRows),
}

/// Rows `start..end` of the inputs go through matrix `weight`.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Segment {
    /// Index among the matrices.
    pub(in super::super) weight: u32,
    /// First row.
    pub(in super::super) start: u32,
    /// One past the last row.
    pub(in super::super) end: u32,
}

impl Segment {
    /// Rows of it.
    pub(super) fn rows(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// `y[row] = W x[row]` for the rows of every segment; all matrices have one shape, `y` is `[row, n_out]`. Matrices that
/// take whole numbers and are no panels are packed into `rooms` as they are read.
///
/// # Panics
/// When a segment leaves inputs or outputs, a matrix does not take such inputs, or rooms are for shorter rows: a bug of the caller.
pub(in super::super) fn multiply(
    pool: &mut Pool,
    isa: Isa,
    y: &mut [f32],
    inputs: Inputs<'_>,
    weights: &[Weight],
    segments: &[Segment],
    rooms: &mut Rooms,
) {
    let Some(first) = weights.first() else { return };
    let (n_out, dim) = (first.n_out, first.dim);
    check(y.len() / n_out.max(1), inputs, weights, segments, (n_out, dim));
    let tasks = Tasks::of((isa, pool.threads()), &[inputs], segments, n_out);
    let y = Exclusive::new(y);
    let (rooms, room_bytes) = rooms.each(pool.threads());
    tasks.run(pool, tasks.rows * n_out * dim, weights, |segment, outs, next, thread| {
        let weight = &weights[segment.weight as usize];
        let y = y.at(segment.start as usize * n_out + outs.start);
        // SAFETY: lengths were checked above and when the weight was made; tasks have disjoint outputs; `isa` was
        // checked when the backend was made. A thread runs one task at a time, so its room is its own.
        unsafe {
            let room = rooms.slice(thread * room_bytes, room_bytes);
            part(isa, (y, n_out), inputs, (weight, next), segment, outs, room);
        }
    });
}

/// A product's tasks: some outputs of a segment each, one segment after another.
pub(super) struct Tasks<'a> {
    segments: &'a [Segment],
    n_out: usize,
    /// Outputs of one task.
    per_task: usize,
    /// Rows of all segments.
    pub(super) rows: usize,
}

impl<'a> Tasks<'a> {
    /// Of products of `n_out` outputs. Each of `inputs` is read again for every task; the one that wants more outputs for
    /// that decides.
    pub(super) fn of(
        (isa, threads): (Isa, usize),
        inputs: &[Inputs<'_>],
        segments: &'a [Segment],
        n_out: usize,
    ) -> Self {
        let rows = segments.iter().map(Segment::rows).sum();
        let is_turned = turns(isa) && rows > FEW * segments.len();
        let n_many = segments.len() * n_out.div_ceil(OUTS_MANY);
        let per_task = |inputs: &Inputs<'_>| match inputs {
            _ if rows >= OUTS_MANY * segments.len() => OUTS_MANY,
            Inputs::Plain(_) if is_turned && n_many >= 2 * threads => OUTS_MANY,
            Inputs::Groups(_) => OUTS_PANELS,
            Inputs::Plain(_) | Inputs::Split(_) => OUTS,
        };
        let per_task = inputs.iter().map(per_task).max().unwrap_or(OUTS);
        Self { segments, n_out, per_task, rows }
    }

    /// Calls `body(segment, outputs, next, thread)` for every task. `next` is the place in `weights` that the thread's next
    /// task begins at, as far as is known.
    pub(super) fn run(
        &self,
        pool: &mut Pool,
        work: usize,
        weights: &[Weight],
        body: impl Fn(Segment, Range<usize>, *const u8, usize) + Sync,
    ) {
        let (threads, n_node) = (pool.threads(), pool.nodes().len());
        let n_part = self.n_out.div_ceil(self.per_task);
        let begin =
            |task: usize| Some((*self.segments.get(task / n_part)?, task % n_part * self.per_task));
        let place =
            |(segment, start): (Segment, usize)| weights[segment.weight as usize].place_of(start);
        let home = |task| begin(task).map_or(0, |begin| home(place(begin).addr(), n_node));
        pool.run_work_at(work, self.segments.len() * n_part, home, |task, thread| {
            let Some((segment, start)) = begin(task) else { return };
            // Threads take turns, or nearly; not where they leave others' tasks out.
            let next = begin(task + threads).filter(|_| n_node == 1);
            let next = place(next.unwrap_or((segment, start)));
            let outs = start..(start + self.per_task).min(self.n_out);
            body(segment, outs, next, thread);
        });
    }
}

/// Holds a product's segments to its inputs, matrices, and as many rows of outputs.
pub(super) fn check(
    rows_out: usize,
    inputs: Inputs<'_>,
    weights: &[Weight],
    segments: &[Segment],
    (n_out, dim): (usize, usize),
) {
    let rows = match inputs {
        Inputs::Plain(x) => x.len() / dim.max(1),
        Inputs::Split(pairs) => pairs.rows,
        Inputs::Groups(groups) => groups.rows_of(dim),
    };
    let is_apart = |pair: &[Segment]| pair[0].end <= pair[1].start;
    assert!(segments.windows(2).all(is_apart), "segments of a product overlap");
    for segment in segments {
        let weight = &weights[segment.weight as usize];
        assert!(
            (weight.n_out, weight.dim) == (n_out, dim),
            "matrices of one product differ in shape"
        );
        let is_groups = matches!(inputs, Inputs::Groups(_));
        let is_narrow = weight.narrow.is_some();
        if let Inputs::Split(pairs) = inputs {
            let is_rows = pairs.form.order == Order::Rows;
            let takes = weight.dtype == DType::Bf16 || is_rows && weight.takes_pairs();
            assert!(takes, "bf16 inputs are for bf16 matrices, in rows for FP8 ones too");
        }
        assert!(is_groups || !weight.is_panels || is_narrow, "panels are for whole numbers");
        assert!(!is_groups || weight.dtype.block_len() > 1, "whole numbers are for blocks");
        assert!(segment.end as usize <= rows.min(rows_out), "rows outside");
    }
}

/// Some outputs of a segment; the first of its first row is at `y`, those of the next row `y_stride` further. After them
/// this thread reads from `next` on, as far as is known.
///
/// # Safety
/// Lengths are as [`check`] wants them, no other thread has these outputs, and the processor has `isa`.
pub(super) unsafe fn part(
    isa: Isa,
    (y, y_stride): (*mut f32, usize),
    inputs: Inputs<'_>,
    (weight, next): (&Weight, *const u8),
    segment: Segment,
    outs: Range<usize>,
    room: &mut [u8],
) {
    let (dim, n) = (weight.dim, outs.len());
    let (row, rows) = (segment.start as usize, segment.rows());
    let p = |w, x, room| Product { w, dim, x, x_stride: dim, rows, y, y_stride, room };
    // SAFETY: the caller's promise; parts begin at whole panels.
    unsafe {
        match inputs {
            Inputs::Plain(x) => {
                assert!(
                    room.len() >= turned_bytes(isa, dim),
                    "no room for inputs of {dim} numbers"
                );
                let narrow = Narrow::new(weight, outs.start, n, next);
                let w = rows_of(weight, outs.start);
                let p = p(w, x.as_ptr().add(row * dim), room.as_mut_ptr().cast());
                match narrow {
                    Some(narrow) => product_narrow(isa, &p, &narrow, n),
                    None => product(isa, &p, n, Reading::Once),
                }
            }
            Inputs::Split(pairs) => {
                let narrow = Narrow::new(weight, outs.start, n, next);
                let w = rows_of(weight, outs.start);
                let p = p(w, std::ptr::null(), std::ptr::null_mut());
                split(&p, narrow.as_ref(), (pairs, row), n);
            }
            Inputs::Groups(groups) => {
                let p = PanelProduct {
                    panels: weight.bytes.as_ptr(),
                    next,
                    dtype: weight.dtype,
                    outs: n,
                    dim,
                    x: groups.rows_from(row).as_ptr(),
                    x_stride: groups.width(),
                    rows,
                    y,
                    y_stride,
                };
                panel_part(isa, p, weight, outs, room);
            }
        }
    }
}

/// The rows of a matrix from `first` on; none where numbers have twelve bits, which are read otherwise.
fn rows_of(weight: &Weight, first: usize) -> Matrix {
    match weight.narrow {
        Some(_) => Matrix::rows(std::ptr::null(), 0, DType::Bf16),
        None => weight.rows_from(first),
    }
}

/// Outputs `outs` of a matrix in blocks, in panels or as it lies; they begin at a whole panel.
///
/// # Safety
/// As [`part`].
pub(super) unsafe fn panel_part(
    isa: Isa,
    p: PanelProduct,
    weight: &Weight,
    outs: Range<usize>,
    room: &mut [u8],
) {
    let bytes = &weight.bytes;
    // SAFETY: the caller's promise; outputs begin at whole panels.
    unsafe {
        if weight.is_panels {
            let panels = weight.place_of(outs.start);
            let half = room.len() / 2;
            super::panels::product(isa, &PanelProduct { panels, ..p }, &mut room[half..]);
        } else {
            let rows = &bytes[outs.start * weight.row_bytes..outs.end * weight.row_bytes];
            super::panels::product_of_rows(isa, &p, rows, room);
        }
    }
}

/// The `n` outputs of a product with inputs as bf16 numbers, from input `row` on.
///
/// # Safety
/// As [`product`]; the inputs were split because the weights take that and the processor has what their order is for, and
/// VBMI for FP8 weights.
unsafe fn split(
    p: &Product,
    narrow: Option<&Narrow<'_>>,
    (pairs, row): (&PairRows, usize),
    n: usize,
) {
    let SplitForm { order, parts } = pairs.form;
    let (hi, lo) = (pairs.hi.as_ptr(), pairs.lo.as_ptr());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; `row` is inside.
    unsafe {
        match order {
            Order::Rows => {
                let (at, stride) = (row * pairs.width, pairs.width);
                let x = Pairs { hi: hi.wrapping_add(at), lo: lo.wrapping_add(at), stride, parts };
                match narrow {
                    Some(narrow) => super::narrow::pairs::product_narrow(p, &x, narrow, n),
                    None if p.w.dtype == DType::Fp8E4m3 => {
                        super::fp8::pairs::product_fp8(p, &x, n);
                    }
                    None => super::product::product_pairs(p, &x, n),
                }
            }
            Order::Columns => {
                let of = |half: *const u16| half.cast::<u32>().wrapping_add(row);
                let stride = order.places(pairs.rows);
                let x = Columns { hi: of(hi), lo: of(lo), stride, parts };
                super::amx::product_amx(p, narrow, &x, 0..n);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, narrow, hi, lo, order, parts, row, n);
}
