//! Sixteen rows turned into vectors of four bytes of each: what panels are packed with.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::Ints;
use crate::backend::cpu::simd::{Lanes, Vectors};

/// Bytes of sixteen rows, put side by side.
///
/// # Safety
/// As [`Ints`].
pub(in super::super) trait Turns:
    Lanes + Ints<Bytes = <Self as Vectors>::I>
{
    /// `v - less` in every byte.
    unsafe fn byte_minus(v: Self::I, less: u8) -> Self::I;
    /// Sixty-four bytes.
    unsafe fn store_bytes(at: *mut u8, v: Self::I);
    /// Sixteen words, `stride` bytes apart: one after another, in less time than a gather takes.
    unsafe fn load_words(at: *const u8, stride: usize) -> Self::I;
    /// Sixteen halves, little endian, `stride` bytes apart, widened. Two bytes after each are read, too.
    unsafe fn load_halves_apart(at: *const u8, stride: usize) -> Self::V;
    /// The lower halves of sixteen words, 32 bytes.
    unsafe fn store_lower_halves(at: *mut u8, v: Self::I);
    /// The first bytes of all words, then the second, the third, the fourth.
    unsafe fn bytes_apart(v: Self::I) -> Self::I;
    /// Quarters of sixteen bytes of both in turn: `a0 b0 a1 b1`, and `a2 b2 a3 b3`.
    unsafe fn quarters_in_turn(a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Sixteen bytes of sixteen rows, `stride` bytes apart, turned: bytes `4 i` to `4 i + 3` of all rows are vector `i`.
    unsafe fn load_turned(at: *const u8, stride: usize) -> [Self::I; 4];

    /// The upper half of every word in its lower.
    #[inline(always)]
    unsafe fn upper_halves(v: Self::I) -> Self::I {
        // SAFETY: no memory is touched.
        unsafe { Self::bits(v, 16, 0xffff) }
    }

    /// The bits of every word in another order: bit `4 j + b` becomes bit `j` of byte `b`.
    #[inline(always)]
    unsafe fn bits_by_four(v: Self::I) -> Self::I {
        // SAFETY: no memory is touched.
        unsafe {
            let zero = Self::splat_int(0);
            let mut all = zero;
            // From the last byte on, so that each moves those before it up.
            for at in [3, 2, 1, 0] {
                // Every fourth bit of the word, closed up to pairs, to fours, to a byte.
                let one = Self::bits(v, at, 0x1111_1111);
                let two = Self::byte_or(one, Self::bits(one, 3, -1));
                let two = Self::bits(two, 0, 0x0303_0303);
                let four = Self::byte_or(two, Self::bits(two, 6, -1));
                let four = Self::bits(four, 0, 0x000f_000f);
                let byte = Self::byte_or(four, Self::bits(four, 12, -1));
                let byte = Self::bits(byte, 0, 0xff);
                all = Self::join(Self::join(all, zero), byte);
            }
            all
        }
    }
}
