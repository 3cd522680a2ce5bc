//! `Q6_K`: a group has a scale for each half.

use super::super::for_each;
use super::{Panel, Scaled, add_scaled, add_steps, factors, four_bits};
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
use crate::quant::DType;
use crate::quant::panels::{OUTS, VECTOR};

/// A group's numbers with a scale for each half, whole numbers both, under one factor.
pub(in super::super) struct Halved<L: Ints> {
    scaled: Scaled<L>,
    scales: [L::I; 2],
}

/// Four bits each, and two upper bits in two more vectors.
#[inline(always)]
unsafe fn six_bits<L: Ints>(at: *const u8) -> [L::Bytes; 8] {
    // SAFETY: the caller's promise: six vectors.
    unsafe {
        let mut numbers = four_bits::<L>(at);
        for (i, numbers) in numbers.iter_mut().enumerate() {
            let high = L::load_bytes(at.add((4 + i / 4) * VECTOR));
            *numbers = L::byte_or(*numbers, L::byte_bits(high, i as i32 % 4 * 2 - 4, 48));
        }
        numbers
    }
}

/// See [`DType::Q6K`].
pub(in super::super) struct Q6K;

impl Panel for Q6K {
    const DTYPE: DType = DType::Q6K;
    const BITS: u32 = 6;
    type Group<L: Ints> = Halved<L>;

    #[inline(always)]
    unsafe fn read<L: Ints>(unit: *const u8, group: usize, numbers: *const u8) -> Halved<L> {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = unit.add(VECTOR + group * 2 * OUTS);
            let scales = [L::load_i8(bytes), L::load_i8(bytes.add(OUTS))];
            let (numbers, scale) = (six_bits::<L>(numbers), factors::<L>(unit, 0));
            Halved { scaled: Scaled { numbers, scale }, scales }
        }
    }

    /// Each half has a sum of its own.
    #[inline(always)]
    fn begin<L: Ints>(x: &Group) -> i32 {
        x.minus_32[0]
    }

    #[inline(always)]
    unsafe fn add<L: Ints, const C: usize>(
        sums: &mut [L::V; C],
        group: &Halved<L>,
        x: *const Group,
        x_stride: usize,
    ) {
        // SAFETY: the caller's promise. A half is within 16 * 32 * 127, with its scale within 128 of that, both halves
        // below 2^24: exact as f32, whose products are faster than those of whole numbers.
        unsafe {
            let (first, second) = group.scaled.numbers.split_at(4);
            let (mut dots, mut halves) = ([L::splat_int(0); C], [L::splat(0.0); C]);
            for_each!(ROW < C, 8, {
                dots[ROW] = L::splat_int(Self::begin::<L>(&*x.add(ROW * x_stride)));
            });
            add_steps::<L, Self, C>(&mut dots, first, x, x_stride, 0);
            let scales = [L::to_f32(group.scales[0]), L::to_f32(group.scales[1])];
            for_each!(ROW < C, 8, {
                halves[ROW] = L::mul(L::to_f32(dots[ROW]), scales[0]);
                dots[ROW] = L::splat_int((*x.add(ROW * x_stride)).minus_32[1]);
            });
            add_steps::<L, Self, C>(&mut dots, second, x, x_stride, 4);
            for_each!(ROW < C, 8, {
                let dot = L::fused(L::to_f32(dots[ROW]), scales[1], halves[ROW]);
                let scale = L::mul(group.scaled.scale, L::splat((*x.add(ROW * x_stride)).scale));
                sums[ROW] = L::fused(dot, scale, sums[ROW]);
            });
        }
    }

    const HAS_TILES: bool = false;

    #[inline(always)]
    unsafe fn scaled<L: Ints>(dot: L::I, group: &Halved<L>, k: usize) -> L::I {
        // SAFETY: no memory is touched.
        unsafe { L::mul_int(dot, group.scales[k / 16]) }
    }

    const MINUS: u8 = 32;

    #[inline(always)]
    fn numbers<L: Ints>(group: &Halved<L>) -> &[L::Bytes; 8] {
        &group.scaled.numbers
    }

    #[inline(always)]
    unsafe fn finish<L: Ints>(sum: L::V, dot: L::V, group: &Halved<L>, x: &Group) -> L::V {
        // SAFETY: the caller's promise; `dot` has both halves' scales in it.
        unsafe { add_scaled::<L>(sum, dot, group.scaled.scale, x) }
    }
}
