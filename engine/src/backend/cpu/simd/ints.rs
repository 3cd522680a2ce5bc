//! Whole numbers: products of unsigned and signed bytes, summed exactly.
//!
//! Every sum here is exact in 32 bits, so all instruction sets give the same; how far numbers may reach stands at
//! [`Ints::dot`], [`Ints::dot_wide`] and [`Ints::dots`].

use super::panels::for_each;
use super::{LANES, Portable, Vectors};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod turns;

/// Bytes of a vector: four for each of the sixteen lanes.
pub(super) const BYTES: usize = 4 * LANES;

/// Lanes of four bytes on some instruction set: sixteen, or some of sixteen.
///
/// # Safety
/// As [`Vectors`]; pointers are valid for what sixteen lanes read, at any address.
pub(in super::super) trait Ints: Vectors {
    /// Unsigned bytes, four a lane.
    type Bytes: Copy;

    /// Four bytes a lane.
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes;
    /// `(byte >> right) & mask` of every byte, `<<` where `right` is negative, within 7. The mask takes away what crosses
    /// from one byte to the next.
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes;
    /// `a | b`.
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// All lanes `x`.
    unsafe fn splat_int(x: i32) -> Self::I;
    /// `sum + w[4 i] * x[0] + .. + w[4 i + 3] * x[3]` in every lane `i`. `w` is below 128, `x` within 127.
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I;
    /// [`Ints::dot`] for any `w`.
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I;
    /// Whether [`Ints::dots`] takes numbers of eight bits less 128 each, as it is stored with the sign bit turned.
    const TAKES_SIGNS: bool = false;
    /// `sums[i] + numbers . x[i]` of `C` inputs, `stride` bytes apart, and up to eight vectors of numbers of `bits` bits (4, 5, 6
    /// or 8; [`Ints::TAKES_SIGNS`]). `x` is within 127.
    ///
    /// A step of all inputs comes before the next: a chain of one input's eight steps would fill the processor's queue
    /// with what waits for one another.
    #[inline(always)]
    unsafe fn dots<const C: usize>(
        sums: &mut [Self::I; C],
        numbers: &[Self::Bytes],
        bits: u32,
        x: *const [i8; 4],
        stride: usize,
    ) {
        let n = numbers.len();
        // SAFETY: the caller's promise.
        unsafe {
            for_each!(STEP < n, 8, {
                for_each!(ROW < C, 8, {
                    let x = x.byte_add(ROW * stride).add(STEP);
                    sums[ROW] = if bits == 8 {
                        Self::dot_wide(sums[ROW], numbers[STEP], x)
                    } else {
                        Self::dot(sums[ROW], numbers[STEP], x)
                    };
                });
            });
        }
    }
    /// `a * b`, which stays below 2^31.
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I;
    /// `a * b + c`, rounded once, everywhere: [`Vectors::fma`] rounds twice where the processor has no such instruction.
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

impl Ints for Portable {
    type Bytes = [u8; BYTES];

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self::Bytes {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u8; BYTES]>().read() }
    }

    #[inline(always)]
    unsafe fn byte_bits(v: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        v.map(|v| if right < 0 { v << -right } else { v >> right } & mask)
    }

    #[inline(always)]
    unsafe fn byte_or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: the caller's promise.
        let x = unsafe { x.read() };
        std::array::from_fn(|i| {
            (0..4).fold(sum[i], |sum, k| sum + i32::from(w[4 * i + k]) * i32::from(x[k]))
        })
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::I, w: Self::Bytes, x: *const [i8; 4]) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { Self::dot(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // One for every 32 products: even a library's call is little beside them.
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}
