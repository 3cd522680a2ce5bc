//! Products over slices: the safe face of [`product`], with every length checked and the work spread over the pool.

use super::LANES;
#[cfg(target_arch = "x86_64")]
use super::amx::Columns;
use super::product::{Pairs, Product, add_weighted, product};
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::backend::cpu::{Isa, Weight};
use crate::quant::{DType, bf16};

/// Outputs of one task: enough work to pay for claiming it, few enough that all threads end together.
const OUTS: usize = 32;

/// Outputs of one task where a matrix has at least as many inputs: those are read again for each task.
const OUTS_MANY: usize = 128;

/// Inputs of products, in the form the weights want.
#[derive(Clone, Copy)]
pub(in super::super) enum Inputs<'a> {
    /// f32 rows, back to back.
    Plain(&'a [f32]),
    /// Split into bf16 pairs, for `vdpbf16ps`.
    Split(&'a PairRows),
}

/// How split inputs lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) enum Order {
    /// Row after row, for `vdpbf16ps`.
    #[default]
    Rows,
    /// Pairs of neighbouring numbers of all rows side by side, for `tdpbf16ps`.
    Columns,
}

impl Order {
    /// Numbers of a step; rows are filled with zeros up to a multiple of it.
    const STEP: usize = 32;

    /// What the instruction set's products take.
    pub(in super::super) fn of(isa: Isa) -> Self {
        if isa == Isa::Amx { Self::Columns } else { Self::Rows }
    }

    /// Rows' places side by side. An odd number of cache lines apart, so that a tile's lines fall into different sets;
    /// few rows are packed.
    fn places(self, rows: usize) -> usize {
        match self {
            Self::Rows => rows,
            Self::Columns if rows < LANES => rows,
            Self::Columns => (rows.div_ceil(LANES) | 1) * LANES,
        }
    }

    /// Numbers of each half.
    fn len(self, rows: usize, dim: usize) -> usize {
        // Whole tiles of inputs are read, also from the last of them.
        let beyond = if self == Self::Columns { 2 * 2 * LANES } else { 0 };
        self.places(rows) * dim.next_multiple_of(Self::STEP) + beyond
    }
}

/// Rows split into `hi` and `lo`, each padded with zeros to a multiple of 32.
#[derive(Debug, Default)]
pub(in super::super) struct PairRows {
    order: Order,
    hi: Aligned,
    lo: Aligned,
    /// Numbers of a padded row.
    width: usize,
    rows: usize,
}

/// Numbers from the beginning of a cache line.
#[derive(Debug, Default)]
struct Aligned {
    room: Vec<u16>,
    start: usize,
}

/// Numbers of a cache line.
const LINE: usize = 32;

impl Aligned {
    fn new(len: usize) -> Self {
        let room = vec![0; len + LINE];
        let start = room.as_ptr().align_offset(LINE * size_of::<u16>());
        // The standard allows `usize::MAX` for "cannot be aligned".
        Self { start: if start < LINE { start } else { 0 }, room }
    }

    fn numbers(&self) -> &[u16] {
        &self.room[self.start..]
    }
}

impl PairRows {
    /// Room for `rows` rows of up to `dim`.
    pub(in super::super) fn with_room(order: Order, rows: usize, dim: usize) -> Self {
        let len = order.len(rows, dim);
        Self { order, hi: Aligned::new(len), lo: Aligned::new(len), width: 0, rows: 0 }
    }

    /// Bytes that [`PairRows::with_room`] takes.
    pub(in super::super) fn bytes(order: Order, rows: usize, dim: usize) -> u64 {
        (2 * (order.len(rows, dim) + LINE) * size_of::<u16>()) as u64
    }

    /// Splits `rows` inputs of `dim` numbers; row `i` is `from(i)`.
    pub(in super::super) fn fill<'a>(
        &mut self,
        pool: &mut Pool,
        rows: usize,
        dim: usize,
        from: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        (self.width, self.rows) = (dim.next_multiple_of(Order::STEP), rows);
        let len = self.order.len(rows, dim);
        assert!(len <= self.hi.numbers().len(), "no room for {rows} rows of {dim}");
        let (order, width, places) = (self.order, self.width, self.order.places(rows));
        let half = |half: &'_ mut Aligned| -> Exclusive<u16> {
            Exclusive::new(&mut half.room[half.start..])
        };
        let (hi, lo) = (half(&mut self.hi), half(&mut self.lo));
        let per_task = if order == Order::Rows { 1 } else { LANES };
        pool.run_work(2 * rows * dim, rows.div_ceil(per_task), |task, _| match order {
            Order::Rows => {
                // SAFETY: row `task` of either, which this task alone has; checked above to be inside.
                let (hi, lo) =
                    unsafe { (hi.slice(task * width, width), lo.slice(task * width, width)) };
                // SAFETY: rows are split only where the processor has AVX-512 BF16; both have `width` places.
                unsafe { split_row(&from(task)[..dim], hi, lo) }
            }
            Order::Columns => {
                let first = task * LANES;
                for row in first..(first + LANES).min(rows) {
                    // SAFETY: as above; this task alone has the words of these rows.
                    unsafe {
                        split_column(&from(row)[..dim], hi.at(2 * row), lo.at(2 * row), places);
                    }
                }
            }
        });
    }
}

/// One row into pairs, pairs of numbers `places` words apart.
///
/// # Safety
/// The processor has AVX-512 BF16; `hi` and `lo` are valid for the row's numbers, rounded up to a multiple of 32.
unsafe fn split_column(x: &[f32], hi: *mut u16, lo: *mut u16, places: usize) {
    for (block, x) in x.chunks(Order::STEP).enumerate() {
        let (mut high, mut low) = ([0u16; Order::STEP], [0u16; Order::STEP]);
        // SAFETY: the caller's promise.
        unsafe {
            split_row(x, &mut high, &mut low);
            for pair in 0..Order::STEP / 2 {
                let at = (block * Order::STEP / 2 + pair) * places * 2;
                std::ptr::copy_nonoverlapping(high.as_ptr().add(2 * pair), hi.add(at), 2);
                std::ptr::copy_nonoverlapping(low.as_ptr().add(2 * pair), lo.add(at), 2);
            }
        }
    }
}

/// One row into pairs, zero beyond its end.
///
/// # Safety
/// The processor has AVX-512 BF16; `hi` and `lo` are `x.len()` rounded up to a multiple of 32.
unsafe fn split_row(x: &[f32], hi: &mut [u16], lo: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        super::bf16::split_avx512(x, hi, lo);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, hi, lo);
}

/// What a pair keeps of a number: 16 bits of mantissa. The form of pairs where there is no `vdpbf16ps`.
pub(in super::super) fn rounded_to_pair(x: f32) -> f32 {
    let hi = bf16::to_f32(bf16::from_f32(x));
    hi + bf16::to_f32(bf16::from_f32(x - hi))
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

/// `y[row] = W x[row]` for the rows of every segment; all matrices have one shape, `y` is `[row, n_out]`.
///
/// # Panics
/// When a segment leaves inputs or outputs: a bug of the caller.
pub(in super::super) fn multiply(
    pool: &mut Pool,
    isa: Isa,
    y: &mut [f32],
    inputs: Inputs<'_>,
    weights: &[Weight],
    segments: &[Segment],
) {
    let Some(first) = weights.first() else { return };
    let (n_out, dim) = (first.n_out, first.dim);
    let rows = match inputs {
        Inputs::Plain(x) => x.len() / dim.max(1),
        Inputs::Split(pairs) => pairs.rows,
    };
    for segment in segments {
        let weight = &weights[segment.weight as usize];
        assert!(
            (weight.n_out, weight.dim) == (n_out, dim),
            "matrices of one product differ in shape"
        );
        let is_split = matches!(inputs, Inputs::Split(_));
        assert!(!is_split || weight.dtype == DType::Bf16, "pairs are for bf16 matrices");
        assert!(
            segment.end as usize <= rows && segment.end as usize * n_out <= y.len(),
            "rows outside"
        );
    }
    let rows: usize = segments.iter().map(|segment| (segment.end - segment.start) as usize).sum();
    let per_task = if rows < OUTS_MANY * segments.len() { OUTS } else { OUTS_MANY };
    let n_part = n_out.div_ceil(per_task);
    let y = Exclusive::new(y);
    pool.run_work(rows * n_out * dim, segments.len() * n_part, |task, _| {
        let segment = segments[task / n_part];
        let weight = &weights[segment.weight as usize];
        let start = task % n_part * per_task;
        let row = segment.start as usize;
        let p = Product {
            w: weight.rows_from(0),
            dim,
            x: std::ptr::null(),
            x_stride: dim,
            rows: (segment.end - segment.start) as usize,
            y: y.at(row * n_out),
            y_stride: n_out,
        };
        let outs = start..(start + per_task).min(n_out);
        // SAFETY: lengths were checked above and when the weight was made; tasks have disjoint outputs; `isa` was
        // checked when the backend was made.
        unsafe {
            match inputs {
                Inputs::Plain(x) => {
                    product(isa, &Product { x: x.as_ptr().add(row * dim), ..p }, outs);
                }
                Inputs::Split(pairs) => split(&p, pairs, row, outs),
            }
        }
    });
}

/// # Safety
/// As [`product`]; the inputs were split because the weights are bf16 and the processor has what their order is for.
unsafe fn split(p: &Product, pairs: &PairRows, row: usize, outs: std::ops::Range<usize>) {
    let (hi, lo) = (pairs.hi.numbers().as_ptr(), pairs.lo.numbers().as_ptr());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; `row` is inside.
    unsafe {
        match pairs.order {
            Order::Rows => {
                let (at, stride) = (row * pairs.width, pairs.width);
                let x = Pairs { hi: hi.add(at), lo: lo.add(at), stride };
                super::product::product_pairs(p, &x, outs);
            }
            Order::Columns => {
                let (hi, lo) = (hi.cast::<u32>().add(row), lo.cast::<u32>().add(row));
                let x = Columns { hi, lo, stride: pairs.order.places(pairs.rows) };
                super::amx::product_amx(p, &x, outs);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, hi, lo, row, outs);
}

/// `y += sum_i a[i] * W[first + i]`, row by row.
///
/// # Panics
/// When rows are outside the matrix: a bug of the caller.
pub(in super::super) fn add_weighted_rows(
    isa: Isa,
    y: &mut [f32],
    a: &[f32],
    weight: &Weight,
    first: usize,
) {
    assert!(first + a.len() <= weight.n_out && y.len() == weight.dim);
    // SAFETY: the rows are inside the matrix and as wide as `y`; `isa` was checked when the backend was made.
    unsafe { add_weighted(isa, y, a, &weight.rows_from(first)) }
}

/// `y[i] = W[first + i] . x` for `x.len() / dim` inputs: `y [input, n]` with `n = y.len() / inputs`.
///
/// # Panics
/// When rows are outside the matrix: a bug of the caller.
pub(in super::super) fn dot_rows(
    isa: Isa,
    y: &mut [f32],
    x: &[f32],
    weight: &Weight,
    first: usize,
) {
    let rows = x.len() / weight.dim;
    let n = y.len() / rows.max(1);
    assert!(first + n <= weight.n_out && x.len() == rows * weight.dim && y.len() == n * rows);
    strided_dot_rows(isa, y, n, n, x, weight.dim, rows, weight, first);
}

/// [`dot_rows`] with inputs and outputs a stride apart.
///
/// # Panics
/// When anything is outside: a bug of the caller.
#[allow(clippy::too_many_arguments, reason = "two strided views and a part of a matrix")]
pub(in super::super) fn strided_dot_rows(
    isa: Isa,
    y: &mut [f32],
    y_stride: usize,
    n: usize,
    x: &[f32],
    x_stride: usize,
    rows: usize,
    weight: &Weight,
    first: usize,
) {
    if rows == 0 || n == 0 {
        return;
    }
    assert!(first + n <= weight.n_out, "rows outside the matrix");
    assert!(x.len() >= (rows - 1) * x_stride + weight.dim && y.len() >= (rows - 1) * y_stride + n);
    let p = Product {
        w: weight.rows_from(first),
        dim: weight.dim,
        x: x.as_ptr(),
        x_stride,
        rows,
        y: y.as_mut_ptr(),
        y_stride,
    };
    // SAFETY: lengths checked above; `y` is exclusive; `isa` was checked when the backend was made.
    unsafe { product(isa, &p, 0..n) }
}

/// [`strided_dot_rows`] with all rows of a matrix of our own, `w [n, dim]`.
///
/// # Panics
/// When anything is outside: a bug of the caller.
#[allow(clippy::too_many_arguments, reason = "two strided views and a matrix")]
pub(in super::super) fn strided_dot_f32(
    isa: Isa,
    y: &mut [f32],
    y_stride: usize,
    x: &[f32],
    x_stride: usize,
    rows: usize,
    w: &[f32],
    dim: usize,
) {
    let n = w.len() / dim.max(1);
    if rows == 0 || n == 0 {
        return;
    }
    assert!(w.len() == n * dim, "no whole rows");
    assert!(x.len() >= (rows - 1) * x_stride + dim && y.len() >= (rows - 1) * y_stride + n);
    let p = Product {
        w: super::Matrix::f32(w.as_ptr(), dim * size_of::<f32>()),
        dim,
        x: x.as_ptr(),
        x_stride,
        rows,
        y: y.as_mut_ptr(),
        y_stride,
    };
    // SAFETY: lengths checked above; `y` is exclusive; `isa` was checked when the backend was made.
    unsafe { product(isa, &p, 0..n) }
}
