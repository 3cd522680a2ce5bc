//! Inputs as whole numbers: groups of 32 signed bytes with one factor each.
//!
//! `x ~ scale * q`, `scale = max |x| / 127`, `q` rounded to the nearest, ties to even: an input is off by at most half of
//! `scale`, 1/254 of its group's largest. The same arithmetic on every instruction set, so the same bits.

use super::ROUNDING;
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
        let largest = match Self::size(f32::from_bits(largest)) {
            Ok(largest) => largest,
            Err(group) => return group,
        };
        let inverse = 127.0 / largest;
        let mut q = [0; GROUP];
        for (q, x) in q.iter_mut().zip(x) {
            // Two operations that every instruction set has.
            *q = (x * inverse + ROUNDING).to_bits() as i8;
        }
        let sum = |q: &[i8]| q.iter().map(|q| i32::from(*q)).sum::<i32>();
        Self::from_numbers(q, largest, [sum(&q[..GROUP / 2]), sum(&q[GROUP / 2..])])
    }

    /// The largest size, or the group where that says all.
    #[inline(always)]
    fn size(largest: f32) -> Result<f32, Self> {
        if !largest.is_finite() {
            return Err(Self { scale: f32::NAN, mass: f32::NAN, ..Self::ZERO });
        }
        if largest < SMALLEST { Err(Self::ZERO) } else { Ok(largest) }
    }

    /// Of whole numbers and the sums of their halves.
    #[inline(always)]
    fn from_numbers(q: [i8; GROUP], largest: f32, [first, second]: [i32; 2]) -> Self {
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
            Isa::Avx2 | Isa::AvxVnni => fill_row_avx2(x, row),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => fill_row_avx512(x, row),
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
/// The processor has AVX-512 and VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn fill_row_avx512(x: &[f32], row: &mut [Group]) {
    let (groups, _) = x.as_chunks::<GROUP>();
    row[groups.len()..].fill(Group::ZERO);
    for (group, x) in row.iter_mut().zip(groups) {
        // SAFETY: the caller's promise.
        *group = unsafe { avx512::group(x) };
    }
}

/// [`Group::of`] with AVX-512, the same bits.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm_storeu_si128,
        _mm256_castsi256_si128, _mm256_dpbusd_epi32, _mm256_extracti128_si256, _mm256_loadu_si256,
        _mm256_set1_epi8, _mm256_setzero_si256, _mm512_add_ps, _mm512_and_si512,
        _mm512_castps_si512, _mm512_cvtepi32_epi8, _mm512_loadu_ps, _mm512_max_epi32,
        _mm512_mul_ps, _mm512_reduce_max_epi32, _mm512_set1_epi32, _mm512_set1_ps,
    };

    use super::{GROUP, Group, ROUNDING};

    /// # Safety
    /// The processor has AVX-512 and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub(super) unsafe fn group(x: &[f32; GROUP]) -> Group {
        // SAFETY: 32 numbers, and room for as many bytes.
        unsafe {
            let x = [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(GROUP / 2))];
            let sizes = _mm512_set1_epi32(0x7fff_ffff);
            let first = _mm512_and_si512(_mm512_castps_si512(x[0]), sizes);
            let second = _mm512_and_si512(_mm512_castps_si512(x[1]), sizes);
            let largest = _mm512_reduce_max_epi32(_mm512_max_epi32(first, second));
            let largest = match Group::size(f32::from_bits(largest as u32)) {
                Ok(largest) => largest,
                Err(group) => return group,
            };
            let inverse = _mm512_set1_ps(127.0 / largest);
            let rounding = _mm512_set1_ps(ROUNDING);
            let mut q = [0; GROUP];
            for (i, x) in x.into_iter().enumerate() {
                let rounded = _mm512_add_ps(_mm512_mul_ps(x, inverse), rounding);
                let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
                _mm_storeu_si128(q.as_mut_ptr().add(i * GROUP / 2).cast(), bytes);
            }
            let numbers = _mm256_loadu_si256(q.as_ptr().cast());
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), numbers);
            let first = sum(_mm256_castsi256_si128(sums));
            let second = sum(_mm256_extracti128_si256::<1>(sums));
            Group::from_numbers(q, largest, [first, second])
        }
    }

    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn sum(x: __m128i) -> i32 {
        let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b0100_1110>(x));
        _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b1011_0001>(x)))
    }
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
        let parts = self.parts(rows, dim);
        pool.run_work(2 * rows * dim, rows, |row, _| {
            // SAFETY: row `row`, which this task alone has. `isa` was checked when the backend was made.
            unsafe { parts.put(isa, row, 0, &from(row)[..dim]) }
        });
    }

    /// The same where an input has several places; input `i` is `from(i)`.
    pub(in super::super) fn fill_places<'a>(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        places: Places<'_>,
        dim: usize,
        from: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        places.check();
        let parts = self.parts(places.input.len(), dim);
        let inputs = places.input.len() / places.each;
        pool.run_work(2 * inputs * dim, inputs, |input, _| {
            let Some((first, others)) = places.of(input).split_first() else { return };
            // SAFETY: places are inside, and no other input's, as checked above.
            unsafe {
                parts.put(isa, *first as usize, 0, &from(input)[..dim]);
                let first = parts.row(*first as usize);
                for place in others {
                    parts.row(*place as usize).copy_from_slice(first);
                }
            }
        });
    }

    /// Room for `rows` inputs of `dim` numbers, whole groups, to be put there part by part.
    pub(super) fn parts(&mut self, rows: usize, dim: usize) -> Parts {
        assert!(dim.is_multiple_of(GROUP), "{dim} numbers are no whole groups");
        let width = width(dim);
        (self.width, self.rows) = (width, rows);
        assert!(rows * width <= self.groups.len(), "no room for {rows} rows of {dim}");
        Parts { groups: Exclusive::new(&mut self.groups), width, dim }
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

/// Where inputs go that have as many places each.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Places<'a> {
    /// `[input, each]`.
    pub(in super::super) place: &'a [u32],
    /// Places of an input; one or more.
    pub(in super::super) each: usize,
    /// `[place]`: whose it is.
    pub(in super::super) input: &'a [u32],
}

impl Places<'_> {
    fn of(&self, input: usize) -> &[u32] {
        &self.place[input * self.each..(input + 1) * self.each]
    }

    /// Each place names its one input, so that no two inputs have the same; what others are copied from is none of them.
    fn check(&self) {
        assert!(self.place.len() == self.input.len(), "not as many places as there are");
        for (input, places) in self.place.chunks(self.each).enumerate() {
            let is_own = |place: &u32| self.input[*place as usize] as usize == input;
            let first = places.first();
            assert!(places.iter().all(is_own), "a place of another input");
            assert!(places.iter().skip(1).all(|place| Some(place) != first), "a place twice");
        }
    }
}

/// Rows of [`GroupRows`] that threads put there, each at places of its own.
pub(super) struct Parts {
    groups: Exclusive<Group>,
    width: usize,
    dim: usize,
}

impl Parts {
    /// Takes numbers of row `row` from number `first` on, whole groups; the last ones with the zeros beyond them.
    ///
    /// # Safety
    /// The row is inside, no other thread has these groups, and the processor has `isa`.
    pub(super) unsafe fn put(&self, isa: Isa, row: usize, first: usize, x: &[f32]) {
        assert!(first.is_multiple_of(GROUP) && first + x.len() <= self.dim, "numbers outside");
        let is_last = first + x.len() == self.dim;
        let first = first / GROUP;
        let len = if is_last { self.width - first } else { x.len() / GROUP };
        // SAFETY: the caller's promise.
        unsafe { fill_row_on(isa, x, self.groups.slice(row * self.width + first, len)) }
    }

    /// A whole row.
    ///
    /// # Safety
    /// The row is inside, and no other thread has it.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    unsafe fn row(&self, row: usize) -> &mut [Group] {
        // SAFETY: the caller's promise.
        unsafe { self.groups.slice(row * self.width, self.width) }
    }
}

/// Groups of a row of `dim` numbers, filled up; an odd number, so that the rows of a tile fall into different sets of the
/// first-level cache.
fn width(dim: usize) -> usize {
    dim.div_ceil(GROUP).next_multiple_of(GROUPS) | 1
}

/// A row of inputs, filled up.
#[cfg(test)]
pub(super) fn groups_of(x: &[f32]) -> Vec<Group> {
    let mut row = vec![Group::ZERO; width(x.len())];
    fill_row(x, &mut row);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::{numbers, ways};

    #[test]
    fn groups_are_the_same_on_every_instruction_set() {
        for size in [0.0, 1e-45, 1e-38, 1.4e-36, 1e-30, 1.0, 1e30] {
            let mut x: Vec<f32> = numbers(3, 5 * GROUP).iter().map(|x| x * size).collect();
            // Halves between whole numbers, and what is no number.
            for (i, x) in x[GROUP..2 * GROUP].iter_mut().enumerate() {
                *x = if i == 0 { 127.0 } else { i as f32 / 2.0 };
            }
            (x[2 * GROUP + 9], x[3 * GROUP + 1]) = (f32::NEG_INFINITY, f32::NAN);
            let mut want = [Group::ZERO; 6];
            fill_row(&x, &mut want);
            for way in ways() {
                let mut row = [Group { scale: 9.0, ..Group::ZERO }; 6];
                // SAFETY: the ways are the processor's.
                unsafe { fill_row_on(way.isa, &x, &mut row) }
                assert_eq!(format!("{row:?}"), format!("{want:?}"), "{way:?}");
            }
        }
    }
}
