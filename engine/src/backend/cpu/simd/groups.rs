//! Inputs as whole numbers: groups of 32 signed bytes with one factor each.
//!
//! `x ~ scale * q`, `scale = max |x| / 127`, `q` rounded to the nearest, ties to even: an input is off by at most half of
//! `scale`, 1/254 of its group's largest. The same arithmetic on every instruction set, so the same bits.

use crate::backend::cpu::Isa;
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::quant::panels::GROUP;

/// Groups that rows are filled up to: what the longest unit of a panel is a multiple of need not be more, since rows of
/// its format are whole units.
const GROUPS: usize = 2;

/// A group's largest size below which it counts as zero, so that its factor's inverse is finite.
const SMALLEST: f32 = 1.5e-36;

/// Thirty-two inputs, and their sums in the forms that products begin with. One cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(in super::super) struct Group {
    /// The numbers, within 127.
    pub(super) q: [i8; GROUP],
    /// What they are multiplied with; NaN where an input was not finite, so that every product with it is.
    pub(super) scale: f32,
    /// `scale * sum(q)`.
    pub(super) mass: f32,
    /// `-8 * sum(q)`, `-16 * sum(q)`, `-128 * sum(q)`: what weights that are stored 8, 16, 128 too large add too much.
    pub(super) minus_8: i32,
    pub(super) minus_16: i32,
    pub(super) minus_128: i32,
    /// `-32 * sum(q)` of the first half and of the second.
    pub(super) minus_32: [i32; 2],
}

impl Group {
    const ZERO: Self = Self {
        q: [0; GROUP],
        scale: 0.0,
        mass: 0.0,
        minus_8: 0,
        minus_16: 0,
        minus_128: 0,
        minus_32: [0; 2],
    };

    /// Of 32 numbers.
    #[inline(always)]
    fn of(x: &[f32; GROUP]) -> Self {
        // Without signs, floats are ordered as their bits are, and what is not finite is above all others.
        let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        if !largest.is_finite() {
            return Self { scale: f32::NAN, mass: f32::NAN, ..Self::ZERO };
        }
        if largest < SMALLEST {
            return Self::ZERO;
        }
        let inverse = 127.0 / largest;
        // Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the lower bits: two operations
        // that every instruction set has.
        let rounding = 12_582_912.0f32;
        let mut q = [0; GROUP];
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse + rounding).to_bits() as i8;
        }
        let sum = |q: &[i8]| q.iter().map(|q| i32::from(*q)).sum::<i32>();
        let (first, second) = (sum(&q[..GROUP / 2]), sum(&q[GROUP / 2..]));
        let (sum, scale) = (first + second, largest / 127.0);
        Self {
            q,
            scale,
            mass: scale * sum as f32,
            minus_8: -8 * sum,
            minus_16: -16 * sum,
            minus_128: -128 * sum,
            minus_32: [-32 * first, -32 * second],
        }
    }
}

/// One row of whole groups; zeros beyond it.
#[inline(always)]
fn fill_row(x: &[f32], row: &mut [Group]) {
    let (groups, _) = x.as_chunks::<GROUP>();
    row[groups.len()..].fill(Group::ZERO);
    for (group, x) in row.iter_mut().zip(groups) {
        *group = Group::of(x);
    }
}

/// [`fill_row`] on `isa`, which the processor has.
///
/// # Safety
/// The processor has `isa`.
unsafe fn fill_row_on(isa: Isa, x: &[f32], row: &mut [Group]) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => fill_row_avx2(x, row),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => fill_row_avx512(x, row),
            _ => fill_row(x, row),
        }
    }
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fill_row_avx2(x: &[f32], row: &mut [Group]) {
    fill_row(x, row);
}

/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fill_row_avx512(x: &[f32], row: &mut [Group]) {
    fill_row(x, row);
}

/// Rows of groups.
#[derive(Debug, Default)]
pub(in super::super) struct GroupRows {
    groups: Vec<Group>,
    /// Groups of a row.
    width: usize,
    rows: usize,
}

impl GroupRows {
    /// Room for `rows` rows of up to `dim`.
    pub(in super::super) fn with_room(rows: usize, dim: usize) -> Self {
        Self { groups: vec![Group::ZERO; rows * width(dim)], width: 0, rows: 0 }
    }

    /// Bytes that [`GroupRows::with_room`] takes.
    pub(in super::super) fn bytes(rows: usize, dim: usize) -> u64 {
        (rows * width(dim) * size_of::<Group>()) as u64
    }

    /// Takes `rows` inputs of `dim` numbers, whole groups; row `i` is `from(i)`.
    pub(in super::super) fn fill<'a>(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        rows: usize,
        dim: usize,
        from: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        assert!(dim.is_multiple_of(GROUP), "{dim} numbers are no whole groups");
        let width = width(dim);
        (self.width, self.rows) = (width, rows);
        assert!(rows * width <= self.groups.len(), "no room for {rows} rows of {dim}");
        let groups = Exclusive::new(&mut self.groups);
        pool.run_work(2 * rows * dim, rows, |row, _| {
            // SAFETY: row `row`, which this task alone has; checked above to be inside. `isa` was checked when the
            // backend was made.
            unsafe { fill_row_on(isa, &from(row)[..dim], groups.slice(row * width, width)) }
        });
    }

    /// Rows there are, if they are of `dim` numbers.
    pub(super) fn rows_of(&self, dim: usize) -> usize {
        if self.width == width(dim) { self.rows } else { 0 }
    }

    /// Groups of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Row `row` and all after it.
    pub(super) fn rows_from(&self, row: usize) -> &[Group] {
        &self.groups[row * self.width..self.rows * self.width]
    }
}

/// Groups of a row of `dim` numbers, filled up; an odd number, so that the rows of a tile fall into different sets of the
/// first-level cache.
fn width(dim: usize) -> usize {
    dim.div_ceil(GROUP).next_multiple_of(GROUPS) | 1
}
