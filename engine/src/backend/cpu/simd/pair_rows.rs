//! Inputs as bf16 numbers, one or two each, in the order that products want.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512i, _mm512_storeu_si512};

use super::LANES;
#[cfg(target_arch = "x86_64")]
use super::attention::words::split_and_turn;
use crate::backend::cpu::Isa;
use crate::backend::cpu::aligned::Aligned;
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::quant::bf16;

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
    pub(super) fn places(self, rows: usize) -> usize {
        match self {
            Self::Rows => rows,
            Self::Columns if rows < LANES => rows,
            Self::Columns => (rows.div_ceil(LANES) | 1) * LANES,
        }
    }

    /// Numbers from one row's to the next's. Where they are read row after row, an odd number of 256 bytes, so that the same
    /// 256 of sixteen rows fall into different sets of the first-level cache.
    fn width(self, dim: usize) -> usize {
        match self {
            Self::Rows => (dim.div_ceil(4 * Self::STEP) | 1) * 4 * Self::STEP,
            Self::Columns => dim.next_multiple_of(Self::STEP),
        }
    }

    /// Numbers of each half.
    fn len(self, rows: usize, dim: usize) -> usize {
        // Whole tiles of inputs are read, also from the last of them.
        let beyond = if self == Self::Columns { 2 * 2 * LANES } else { 0 };
        self.places(rows) * self.width(dim) + beyond
    }
}

/// What an input becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) enum Parts {
    /// Its value rounded to bf16.
    One,
    /// That, and what rounding left over, rounded too.
    #[default]
    Two,
}

impl Parts {
    /// What the parts keep of a number: 8 or 16 bits of mantissa. Their form where there is no `vdpbf16ps`.
    pub(in super::super) fn rounded(self, x: f32) -> f32 {
        let hi = bf16::to_f32(bf16::from_f32(x));
        match self {
            Self::One => hi,
            Self::Two => hi + bf16::to_f32(bf16::from_f32(x - hi)),
        }
    }
}

/// How split inputs lie, and how many numbers each has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct SplitForm {
    pub(in super::super) order: Order,
    pub(in super::super) parts: Parts,
}

impl SplitForm {
    /// Numbers of values and of remainders.
    fn lens(self, rows: usize, dim: usize) -> [usize; 2] {
        let len = self.order.len(rows, dim);
        [len, if self.parts == Parts::Two { len } else { 0 }]
    }
}

/// Rows split into `hi` and `lo`, each padded with zeros to a multiple of 32; without `lo` where inputs become one number.
#[derive(Debug, Default)]
pub(in super::super) struct PairRows {
    pub(super) form: SplitForm,
    pub(super) hi: Aligned<u16>,
    pub(super) lo: Aligned<u16>,
    /// Numbers from one row's to the next's.
    pub(super) width: usize,
    pub(super) rows: usize,
}

impl PairRows {
    /// Room for `rows` rows of up to `dim`.
    pub(in super::super) fn with_room(form: SplitForm, rows: usize, dim: usize) -> Self {
        let [hi, lo] = form.lens(rows, dim).map(Aligned::zeros);
        Self { form, hi, lo, width: 0, rows: 0 }
    }

    /// Bytes that [`PairRows::with_room`] takes.
    pub(in super::super) fn bytes(form: SplitForm, rows: usize, dim: usize) -> u64 {
        form.lens(rows, dim).map(Aligned::<u16>::bytes).iter().sum()
    }

    /// Splits `rows` inputs of `dim` numbers; row `i` is `from(i)`.
    pub(in super::super) fn fill<'a>(
        &mut self,
        pool: &mut Pool,
        rows: usize,
        dim: usize,
        from: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        let SplitForm { order, parts } = self.form;
        (self.width, self.rows) = (order.width(dim), rows);
        let [hi_len, lo_len] = self.form.lens(rows, dim);
        let has_room = hi_len <= self.hi.len() && lo_len <= self.lo.len();
        assert!(has_room, "no room for {rows} rows of {dim}");
        let (width, places) = (self.width, order.places(rows));
        // A single row is the same in both.
        let order = if places == 1 { Order::Rows } else { order };
        let (hi, lo) = (Exclusive::new(&mut self.hi), Exclusive::new(&mut self.lo));
        let per_task = if order == Order::Rows { 1 } else { LANES };
        pool.run_work(2 * rows * dim, rows.div_ceil(per_task), |task, _| match order {
            Order::Rows => {
                let (at, len) = (task * width, dim.next_multiple_of(Order::STEP));
                let lo_len = if parts == Parts::Two { len } else { 0 };
                // SAFETY: row `task` of either, which this task alone has; checked above to be inside.
                let (hi, lo) = unsafe { (hi.slice(at, len), lo.slice(at, lo_len)) };
                // SAFETY: rows are split only where the processor has AVX-512 BF16; both have a multiple of 32 places.
                unsafe { split_row(&from(task)[..dim], hi, lo) }
            }
            Order::Columns => {
                let first = task * LANES;
                let last = (first + LANES).min(rows);
                // SAFETY: as above; this task alone has the words of these rows.
                unsafe {
                    let at = |row: usize| (hi.at(2 * row), lo.at(2 * row));
                    let done = if last - first == LANES {
                        let rows = std::array::from_fn(|i| &from(first + i)[..dim]);
                        split_columns(&rows, parts, at(first), places)
                    } else {
                        0
                    };
                    for row in first..last {
                        let at = at(row + done / 2 * places);
                        split_column(&from(row)[done..dim], parts, at, places);
                    }
                }
            }
        });
    }
}

/// One row into its parts, pairs of numbers `places` words apart.
///
/// # Safety
/// The processor has AVX-512 BF16; `hi`, and `lo` where there are two parts, are valid for the row's numbers, rounded up to a
/// multiple of 32.
unsafe fn split_column(x: &[f32], parts: Parts, (hi, lo): (*mut u16, *mut u16), places: usize) {
    for (block, x) in x.chunks(Order::STEP).enumerate() {
        let (mut high, mut low) = ([0u16; Order::STEP], [0u16; Order::STEP]);
        // SAFETY: the caller's promise.
        unsafe {
            split_row(x, &mut high, &mut low);
            for pair in 0..Order::STEP / 2 {
                let at = (block * Order::STEP / 2 + pair) * places * 2;
                std::ptr::copy_nonoverlapping(high.as_ptr().add(2 * pair), hi.add(at), 2);
                if parts == Parts::Two {
                    std::ptr::copy_nonoverlapping(low.as_ptr().add(2 * pair), lo.add(at), 2);
                }
            }
        }
    }
}

/// Whole steps of sixteen rows as [`split_column`] of each, the same bits; says how many numbers.
///
/// # Safety
/// As [`split_column`], for sixteen rows of one length side by side.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn split_columns(
    rows: &[&[f32]; LANES],
    parts: Parts,
    (hi, lo): (*mut u16, *mut u16),
    places: usize,
) -> usize {
    let whole = rows[0].len() / Order::STEP * Order::STEP;
    for k in (0..whole).step_by(Order::STEP) {
        // SAFETY: a step of a row is inside it, and the caller has sixteen words of each pair's line.
        unsafe {
            let turned = split_and_turn(rows.iter().map(|row| row.as_ptr().wrapping_add(k)));
            let n = if parts == Parts::Two { 2 } else { 1 };
            for (to, pairs) in [hi, lo].into_iter().zip(turned).take(n) {
                for (pair, words) in pairs.into_iter().enumerate() {
                    let at = to.add((k / 2 + pair) * places * 2);
                    _mm512_storeu_si512(at.cast::<__m512i>(), words);
                }
            }
        }
    }
    whole
}

/// None: all is left to [`split_column`].
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn split_columns(_: &[&[f32]; LANES], _: Parts, _: (*mut u16, *mut u16), _: usize) -> usize {
    0
}

/// One row into its parts, zero beyond its end.
///
/// # Safety
/// The processor has AVX-512 BF16; `hi` is `x.len()` rounded up to a multiple of 32, and `lo` as many or empty.
unsafe fn split_row(x: &[f32], hi: &mut [u16], lo: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        super::bf16::split_avx512(x, hi, lo);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, hi, lo);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::{numbers, two_nodes};

    #[test]
    fn both_orders_have_the_same_numbers_and_values_are_the_same_without_remainders() {
        if !Isa::Avx512Bf16.is_available() {
            return eprintln!("skipped: no {}", Isa::Avx512Bf16.name());
        }
        let mut pool = Pool::new(&two_nodes(2)).unwrap();
        for (rows, dim) in [(1, 33), (2, 100), (15, 31), (16, 64), (17, 100), (40, 97)] {
            let x = numbers(5, rows * dim);
            let mut filled = |order, parts| {
                let mut all = PairRows::with_room(SplitForm { order, parts }, rows, dim);
                all.fill(&mut pool, rows, dim, |row| &x[row * dim..(row + 1) * dim]);
                all
            };
            let plain = filled(Order::Rows, Parts::Two);
            for parts in [Parts::One, Parts::Two] {
                for order in [Order::Rows, Order::Columns] {
                    let all = filled(order, parts);
                    let places = order.places(rows);
                    for (row, k) in (0..rows).flat_map(|row| (0..dim).map(move |k| (row, k))) {
                        let at = if order == Order::Rows || places == 1 {
                            row * all.width + k
                        } else {
                            (k / 2 * places + row) * 2 + k % 2
                        };
                        let want = row * plain.width + k;
                        assert_eq!(all.hi[at], plain.hi[want]);
                        if parts == Parts::Two {
                            assert_eq!(all.lo[at], plain.lo[want]);
                        }
                    }
                }
            }
            let held = |at: usize| {
                let [hi, lo] = [&plain.hi, &plain.lo].map(|half| bf16::to_f32(half[at]));
                [hi, hi + lo]
            };
            for (i, x) in x.iter().enumerate() {
                let want = [Parts::One, Parts::Two].map(|parts| parts.rounded(*x));
                assert_eq!(held(i / dim * plain.width + i % dim), want);
            }
        }
    }
}
