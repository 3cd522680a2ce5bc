//! Whole numbers: products of unsigned and signed bytes, summed exactly.
//!
//! Every sum here is exact in 32 bits, so all instruction sets give the same; how far numbers may reach stands at
//! [`Ints::dot`] and [`Ints::dot_wide`].

use super::{LANES, Lanes, Portable};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Bytes of a vector: four for each of the sixteen lanes.
pub(super) const BYTES: usize = 4 * LANES;

/// Sixteen lanes of four bytes on some instruction set.
///
/// # Safety
/// As [`Lanes`]; pointers are valid for what is read, at any address.
pub(in super::super) trait Ints: Lanes {
    /// Sixty-four unsigned bytes.
    type Bytes: Copy;

    /// Sixty-four bytes.
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
    /// `a * b`, which stays below 2^31.
    unsafe fn mul_int(a: Self::I, b: Self::I) -> Self::I;
    /// `a * b + c`, rounded once, everywhere: [`Lanes::fma`] rounds twice where the processor has no such instruction.
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
