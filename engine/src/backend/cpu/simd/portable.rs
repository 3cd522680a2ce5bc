//! Sixteen lanes in plain Rust: runs everywhere, and shows what the others mean.

use super::{LANES, Lanes, Vectors};
use crate::quant::{bf16, f16, fp8};

/// Plain Rust.
pub(in super::super) struct Portable;

// The methods are unsafe only because the trait's are: nothing here needs an instruction set.
impl Vectors for Portable {
    type V = [f32; LANES];
    type I = [i32; LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: the caller's promise; the read is unaligned.
        unsafe { at.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise; the write is unaligned.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u16) -> Self::V {
        // SAFETY: the caller's promise; the read is unaligned.
        unsafe { at.cast::<[u16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u8; LANES]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[i8; LANES]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        v.map(|v| v as f32)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Two roundings: a fused one would be a library call a lane where the processor has no FMA.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

impl Lanes for Portable {
    type Lower = Self;
    type Upper = Self;

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Self::V {
        // SAFETY: the caller's promise; the read is unaligned.
        unsafe { at.cast::<[u16; LANES]>().read_unaligned() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_e4m3(at: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u8; LANES]>().read() }.map(|bits| fp8::to_f32(bits) / 256.0)
    }

    #[inline(always)]
    unsafe fn bits(v: Self::I, shift: u32, mask: i32) -> Self::I {
        v.map(|v| (v >> shift) & mask)
    }

    #[inline(always)]
    unsafe fn join(high: Self::I, low: Self::I) -> Self::I {
        std::array::from_fn(|i| (high[i] << 4) | low[i])
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> Self::I {
        std::array::from_fn(|i| ((bits >> i) & 1) as i32)
    }

    #[inline(always)]
    unsafe fn sum(mut v: Self::V) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }
}
