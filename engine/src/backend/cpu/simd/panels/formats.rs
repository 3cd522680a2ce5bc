//! How each format's panels are read: layouts in `crate::quant::panels`.

mod q6_k;

use super::for_each;
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::quant::DType;
use crate::quant::panels::{Layout, OUTS, VECTOR};
pub(super) use q6_k::Q6K;

/// A format in panels: reads a group of 32 numbers of sixteen outputs, and multiplies it with inputs.
///
/// # Safety
/// As [`Ints`]; a unit is valid for its bytes.
pub(in super::super::super) trait Panel {
    /// The format.
    const DTYPE: DType;
    /// The layout of its panels.
    const LAYOUT: Layout = match Layout::of(Self::DTYPE) {
        Some(layout) => layout,
        None => Layout { groups: 1, head_bytes: 0, group_bytes: 0 },
    };
    /// Bits of a number.
    const BITS: u32;
    /// A group, ready for any number of inputs.
    type Group<L: Ints>;
    /// Group number `group` of a unit, whose numbers are at `numbers`.
    unsafe fn read<L: Ints>(unit: *const u8, group: usize, numbers: *const u8) -> Self::Group<L>;
    /// What a sum of products begins with: what weights that are stored too large add too much.
    fn begin<L: Ints>(x: &Group) -> i32;
    /// Adds a group's products with `C` inputs, `x_stride` groups apart, to their sums: `sum + group . x`, rounded once
    /// (twice with minima) after the product of factors.
    #[inline(always)]
    unsafe fn add<L: Ints, const C: usize>(
        sums: &mut [L::V; C],
        group: &Self::Group<L>,
        x: *const Group,
        x_stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut dots = [L::splat_int(0); C];
            for_each!(ROW < C, 8, {
                dots[ROW] = L::splat_int(Self::begin::<L>(&*x.add(ROW * x_stride)));
            });
            add_steps::<L, Self, C>(&mut dots, Self::numbers::<L>(group), x, x_stride, 0);
            for_each!(ROW < C, 8, {
                let dot = L::to_f32(dots[ROW]);
                sums[ROW] = Self::finish::<L>(sums[ROW], dot, group, &*x.add(ROW * x_stride));
            });
        }
    }
    /// Whether a group is one product of signed bytes: [`Panel::add`] in two parts, of which tiles do the first.
    const HAS_TILES: bool = true;
    /// A product with number `k` of a group, times the scale that is its own: formats that have one say so.
    unsafe fn scaled<L: Ints>(dot: L::I, _group: &Self::Group<L>, _k: usize) -> L::I {
        dot
    }
    /// What numbers are stored too large.
    const MINUS: u8;
    /// A group's numbers, as they are stored.
    fn numbers<L: Ints>(group: &Self::Group<L>) -> &[L::Bytes; 8];
    /// `sum + group . x` from the product of numbers, what they are too large taken away: a whole number, as f32.
    unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Self::Group<L>, x: &Group) -> L::V;
}

/// Eight vectors of four numbers of each output, and what they are multiplied with.
pub(super) struct Scaled<L: Ints> {
    pub(super) numbers: [L::Bytes; 8],
    pub(super) scale: L::V,
}

/// The same with what is added to every number.
pub(super) struct Shifted<L: Ints> {
    scaled: Scaled<L>,
    offset: L::V,
}

/// Four bits each: the first four vectors' numbers in lower halves, the others' in upper.
#[inline(always)]
unsafe fn four_bits<L: Ints>(at: *const u8) -> [L::Bytes; 8] {
    // SAFETY: the caller's promise: four vectors.
    unsafe {
        let mut numbers = [L::load_bytes(at); 8];
        for i in 0..4 {
            let both = L::load_bytes(at.add(i * VECTOR));
            numbers[i] = L::byte_bits(both, 0, 15);
            numbers[i + 4] = L::byte_bits(both, 4, 15);
        }
        numbers
    }
}

/// The same with fifth bits in one more vector.
#[inline(always)]
unsafe fn five_bits<L: Ints>(at: *const u8) -> [L::Bytes; 8] {
    // SAFETY: the caller's promise: five vectors.
    unsafe {
        let (mut numbers, high) = (four_bits::<L>(at), L::load_bytes(at.add(4 * VECTOR)));
        for (i, numbers) in numbers.iter_mut().enumerate() {
            *numbers = L::byte_or(*numbers, L::byte_bits(high, i as i32 - 4, 16));
        }
        numbers
    }
}

/// Adds the products of some of a group's vectors, from number `first` on, with `C` inputs.
///
/// # Safety
/// As [`Panel`]; at most eight vectors.
#[inline(always)]
unsafe fn add_steps<L: Ints, P: Panel + ?Sized, const C: usize>(
    dots: &mut [L::I; C],
    numbers: &[L::Bytes],
    x: *const Group,
    x_stride: usize,
    first: usize,
) {
    // SAFETY: the caller's promise: a group has eight times four numbers.
    unsafe {
        let x = (&raw const (*x).q).cast::<[i8; 4]>().add(first);
        L::dots::<C>(dots, numbers, P::BITS, x, x_stride * size_of::<Group>());
    }
}

/// `sum + dot * (scale * x.scale)`.
#[inline(always)]
unsafe fn add_scaled<L: Ints>(sum: L::V, dot: L::V, scale: L::V, x: &Group) -> L::V {
    // SAFETY: no memory is touched.
    unsafe { L::fused(dot, L::mul(scale, L::splat(x.scale)), sum) }
}

/// Factor number `index` of a unit.
#[inline(always)]
unsafe fn factors<L: Ints>(unit: *const u8, index: usize) -> L::V {
    // SAFETY: the caller's promise.
    unsafe { L::load_f16(unit.add(index * 2 * OUTS).cast()) }
}

/// See [`DType::Q8_0`].
pub(super) struct Q8_0;

impl Panel for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    type Group<L: Ints> = Scaled<L>;

    #[inline(always)]
    unsafe fn read<L: Ints>(unit: *const u8, group: usize, numbers: *const u8) -> Scaled<L> {
        // SAFETY: the caller's promise: eight vectors.
        unsafe {
            let mut loaded = [L::load_bytes(numbers); 8];
            for (i, loaded) in loaded.iter_mut().enumerate() {
                *loaded = L::load_bytes(numbers.add(i * VECTOR));
            }
            Scaled { numbers: loaded, scale: factors::<L>(unit, group) }
        }
    }

    const BITS: u32 = 8;

    #[inline(always)]
    fn begin<L: Ints>(x: &Group) -> i32 {
        if L::TAKES_SIGNS { 0 } else { x.minus_128 }
    }

    const MINUS: u8 = 128;

    #[inline(always)]
    fn numbers<L: Ints>(group: &Scaled<L>) -> &[L::Bytes; 8] {
        &group.numbers
    }

    #[inline(always)]
    unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Scaled<L>, x: &Group) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { add_scaled::<L>(sum, dot, group.scale, x) }
    }
}

/// Implements [`Panel`] for a format of one factor a group: `$bits` reads its numbers, `$minus` is what sums begin with.
macro_rules! one_factor {
    ($name:ident, $bits:ident = $n:literal, $minus:ident = $less:literal) => {
        /// See [`DType`].
        pub(super) struct $name;

        impl Panel for $name {
            const DTYPE: DType = DType::$name;
            const BITS: u32 = $n;
            type Group<L: Ints> = Scaled<L>;

            #[inline(always)]
            unsafe fn read<L: Ints>(unit: *const u8, group: usize, at: *const u8) -> Scaled<L> {
                // SAFETY: the caller's promise.
                unsafe { Scaled { numbers: $bits::<L>(at), scale: factors::<L>(unit, group) } }
            }

            #[inline(always)]
            fn begin<L: Ints>(x: &Group) -> i32 {
                x.$minus
            }

            const MINUS: u8 = $less;

            #[inline(always)]
            fn numbers<L: Ints>(group: &Scaled<L>) -> &[L::Bytes; 8] {
                &group.numbers
            }

            #[inline(always)]
            unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Scaled<L>, x: &Group) -> L::V {
                // SAFETY: the caller's promise.
                unsafe { add_scaled::<L>(sum, dot, group.scale, x) }
            }
        }
    };
}

one_factor!(Q4_0, four_bits = 4, minus_8 = 8);
one_factor!(Q5_0, five_bits = 5, minus_16 = 16);

/// `sum + group . x` where numbers have an offset, whose share is `offset * (scale of x * sum of x)`.
#[inline(always)]
unsafe fn finish_shifted<L: Ints>(sum: L::V, dot: L::V, group: &Shifted<L>, x: &Group) -> L::V {
    // SAFETY: no memory is touched.
    unsafe {
        let sum = L::fused(group.offset, L::splat(x.mass), sum);
        add_scaled::<L>(sum, dot, group.scaled.scale, x)
    }
}

/// See [`DType::Q5_1`].
pub(super) struct Q5_1;

impl Panel for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const BITS: u32 = 5;
    type Group<L: Ints> = Shifted<L>;

    #[inline(always)]
    unsafe fn read<L: Ints>(unit: *const u8, group: usize, numbers: *const u8) -> Shifted<L> {
        // SAFETY: the caller's promise.
        unsafe {
            let (numbers, scale) = (five_bits::<L>(numbers), factors::<L>(unit, 2 * group));
            let offset = factors::<L>(unit, 2 * group + 1);
            Shifted { scaled: Scaled { numbers, scale }, offset }
        }
    }

    #[inline(always)]
    fn begin<L: Ints>(_: &Group) -> i32 {
        0
    }

    const MINUS: u8 = 0;

    #[inline(always)]
    fn numbers<L: Ints>(group: &Shifted<L>) -> &[L::Bytes; 8] {
        &group.scaled.numbers
    }

    #[inline(always)]
    unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Shifted<L>, x: &Group) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { finish_shifted::<L>(sum, dot, group, x) }
    }
}

/// Implements [`Panel`] for a format of scales and minima in whole numbers: `$bits` reads its numbers.
macro_rules! scales_and_minima {
    ($name:ident, $bits:ident = $n:literal) => {
        /// See [`DType`].
        pub(super) struct $name;

        impl Panel for $name {
            const DTYPE: DType = DType::$name;
            const BITS: u32 = $n;
            type Group<L: Ints> = Shifted<L>;

            #[inline(always)]
            unsafe fn read<L: Ints>(unit: *const u8, group: usize, at: *const u8) -> Shifted<L> {
                // SAFETY: the caller's promise. Eleven bits times six are exact.
                unsafe {
                    let bytes = unit.add(VECTOR + group * 2 * OUTS);
                    let scale = L::to_f32(L::load_u8(bytes));
                    let min = L::to_f32(L::load_u8(bytes.add(OUTS)));
                    let scale = L::mul(factors::<L>(unit, 0), scale);
                    let offset = L::mul(L::mul(factors::<L>(unit, 1), L::splat(-1.0)), min);
                    Shifted { scaled: Scaled { numbers: $bits::<L>(at), scale }, offset }
                }
            }

            #[inline(always)]
            fn begin<L: Ints>(_: &Group) -> i32 {
                0
            }

            const MINUS: u8 = 0;

            #[inline(always)]
            fn numbers<L: Ints>(group: &Shifted<L>) -> &[L::Bytes; 8] {
                &group.scaled.numbers
            }

            #[inline(always)]
            unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Shifted<L>, x: &Group) -> L::V {
                // SAFETY: the caller's promise.
                unsafe { finish_shifted::<L>(sum, dot, group, x) }
            }
        }
    };
}

scales_and_minima!(Q4K, four_bits = 4);
scales_and_minima!(Q5K, five_bits = 5);
