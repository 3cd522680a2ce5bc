//! GGUF's block formats as stored, decoded in registers: layouts in `crate::quant`.
//!
//! Sixteen weights never cross a sub-block, so each load has one factor. A factor times a sub-block's scale and a whole
//! number of at most eight bits is exact in f32, and so is a minimum: a weight is rounded at most once, here and in the
//! scalar decode alike, and both give the same bits.

use super::{LANES, Lanes, Matrix, Stored};
use crate::quant::DType;
use crate::quant::{block, q4_0, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// A block of `BYTES` bytes at `at`.
///
/// # Safety
/// The block is valid.
#[inline(always)]
unsafe fn bytes<'a, const BYTES: usize>(at: *const u8) -> &'a [u8; BYTES] {
    // SAFETY: the caller's promise; bytes have no alignment.
    unsafe { &*at.cast::<[u8; BYTES]>() }
}

/// Implements [`Stored`] for a format of which `$load` decodes sixteen weights at a multiple of sixteen in a block.
/// Rows are whole blocks, so there is no tail.
macro_rules! block_format {
    ($(#[$doc:meta])* $name:ident, $format:ident, $load:ident) => {
        $(#[$doc])*
        pub(in super::super) struct $name;

        impl Stored for $name {
            type Row = *const u8;
            const DTYPE: DType = DType::$name;

            #[inline(always)]
            unsafe fn row(matrix: &Matrix, index: usize) -> *const u8 {
                // SAFETY: the caller's promise.
                unsafe { matrix.row(index) }
            }

            #[inline(always)]
            unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V {
                // SAFETY: the row's weights lie in whole blocks.
                unsafe {
                    let block = row.add(at / $format::LEN * $format::BYTES);
                    $load::<L>(bytes::<{ $format::BYTES }>(block), at % $format::LEN)
                }
            }

            #[inline(always)]
            unsafe fn load_tail<L: Lanes>(_: *const u8, _: usize, n: usize) -> L::V {
                debug_assert!(n.is_multiple_of(LANES), "rows are whole blocks");
                // SAFETY: no memory is touched.
                unsafe { L::splat(0.0) }
            }
        }
    };
}

block_format!(
    /// See [`q8_0`].
    Q8_0, q8_0, q8_0_lanes
);
block_format!(
    /// See [`q4_0`].
    Q4_0, q4_0, q4_0_lanes
);
block_format!(
    /// See [`q5_0`].
    Q5_0, q5_0, q5_0_lanes
);
block_format!(
    /// See [`q5_1`].
    Q5_1, q5_1, q5_1_lanes
);
block_format!(
    /// See [`q4_k`].
    Q4K, q4_k, q4_k_lanes
);
block_format!(
    /// See [`q5_k`].
    Q5K, q5_k, q5_k_lanes
);
block_format!(
    /// See [`q6_k`].
    Q6K, q6_k, q6_k_lanes
);

/// # Safety
/// As [`Lanes`]; `at` is 0 or 16.
#[inline(always)]
unsafe fn q8_0_lanes<L: Lanes>(block: &[u8; q8_0::BYTES], at: usize) -> L::V {
    // SAFETY: sixteen of the 32 bytes behind the factor.
    unsafe {
        let q = L::load_i8(block.as_ptr().add(2 + at));
        L::mul(L::splat(block::factor(block, 0)), L::to_f32(q))
    }
}

/// # Safety
/// As [`Lanes`]; `at` is 0 or 16.
#[inline(always)]
unsafe fn q4_0_lanes<L: Lanes>(block: &[u8; q4_0::BYTES], at: usize) -> L::V {
    // SAFETY: sixteen bytes follow the factor.
    unsafe {
        let q = L::bits(L::load_u8(block.as_ptr().add(2)), at as u32 / 4, 15);
        let d = block::factor(block, 0);
        // `d * 8` is exact, and so is the difference of two multiples of `d` this small.
        L::fma(L::splat(d), L::to_f32(q), L::splat(-8.0 * d))
    }
}

/// Sixteen five-bit numbers, `at` 0 or 16, from four bytes of fifth bits and sixteen of lower halves.
///
/// # Safety
/// As [`Lanes`]; twenty bytes are valid.
#[inline(always)]
unsafe fn five_bits<L: Lanes>(bytes: *const u8, at: usize) -> L::I {
    // SAFETY: the caller's promise.
    unsafe {
        let high = bytes.cast::<u32>().read_unaligned();
        let low = L::bits(L::load_u8(bytes.add(4)), at as u32 / 4, 15);
        L::join(L::spread(u32::from_le(high) >> at), low)
    }
}

/// # Safety
/// As [`Lanes`]; `at` is 0 or 16.
#[inline(always)]
unsafe fn q5_0_lanes<L: Lanes>(block: &[u8; q5_0::BYTES], at: usize) -> L::V {
    // SAFETY: twenty bytes follow the factor.
    unsafe {
        let d = block::factor(block, 0);
        let q = five_bits::<L>(block.as_ptr().add(2), at);
        L::fma(L::splat(d), L::to_f32(q), L::splat(-16.0 * d))
    }
}

/// # Safety
/// As [`Lanes`]; `at` is 0 or 16.
#[inline(always)]
unsafe fn q5_1_lanes<L: Lanes>(block: &[u8; q5_1::BYTES], at: usize) -> L::V {
    // SAFETY: twenty bytes follow the factors.
    unsafe {
        let q = five_bits::<L>(block.as_ptr().add(4), at);
        L::fma(L::splat(block::factor(block, 0)), L::to_f32(q), L::splat(block::factor(block, 2)))
    }
}

/// Scale and negated minimum of the sub-block of number `at`, as `Q4_K` and `Q5_K` begin.
///
/// # Safety
/// Sixteen bytes are valid.
#[inline(always)]
unsafe fn scale_and_min(block: *const u8, at: usize) -> (f32, f32) {
    // SAFETY: the caller's promise.
    let head = unsafe { bytes::<4>(block) };
    // SAFETY: as above.
    let packed = unsafe { bytes::<12>(block.add(4)) };
    let (scale, min) = block::scale_and_min(packed, at / 32);
    (block::factor(head, 0) * f32::from(scale), -block::factor(head, 2) * f32::from(min))
}

/// # Safety
/// As [`Lanes`]; `at` is a multiple of 16 below 256.
#[inline(always)]
unsafe fn q4_k_lanes<L: Lanes>(block: &[u8; q4_k::BYTES], at: usize) -> L::V {
    // SAFETY: 128 bytes follow sixteen; 32 for every 64 numbers.
    unsafe {
        let (scale, min) = scale_and_min(block.as_ptr(), at);
        let low = L::load_u8(block.as_ptr().add(16 + at / 64 * 32 + at % 32));
        let q = L::bits(low, (at as u32 / 32 % 2) * 4, 15);
        L::fma(L::splat(scale), L::to_f32(q), L::splat(min))
    }
}

/// # Safety
/// As [`Lanes`]; `at` is a multiple of 16 below 256.
#[inline(always)]
unsafe fn q5_k_lanes<L: Lanes>(block: &[u8; q5_k::BYTES], at: usize) -> L::V {
    // SAFETY: 32 bytes of fifth bits follow sixteen, then 128 bytes, 32 for every 64 numbers.
    unsafe {
        let (scale, min) = scale_and_min(block.as_ptr(), at);
        let high = L::bits(L::load_u8(block.as_ptr().add(16 + at % 32)), at as u32 / 32, 1);
        let low = L::load_u8(block.as_ptr().add(48 + at / 64 * 32 + at % 32));
        let q = L::join(high, L::bits(low, (at as u32 / 32 % 2) * 4, 15));
        L::fma(L::splat(scale), L::to_f32(q), L::splat(min))
    }
}

/// # Safety
/// As [`Lanes`]; `at` is a multiple of 16 below 256.
#[inline(always)]
unsafe fn q6_k_lanes<L: Lanes>(block: &[u8; q6_k::BYTES], at: usize) -> L::V {
    let (half, run, i) = (at / 128, at % 128 / 32, at % 32);
    // SAFETY: 128 bytes of lower bits, 64 of upper bits, sixteen scales, a factor; offsets stay inside each.
    unsafe {
        let low = L::load_u8(block.as_ptr().add(half * 64 + run % 2 * 32 + i));
        let high = L::load_u8(block.as_ptr().add(128 + half * 32 + i));
        let q = L::join(L::bits(high, run as u32 * 2, 3), L::bits(low, run as u32 / 2 * 4, 15));
        let d = block::factor(block, 208) * f32::from(block[192 + at / 16] as i8);
        // `d * q` may not be exact here: the difference comes first.
        L::mul(L::splat(d), L::fma(L::to_f32(q), L::splat(1.0), L::splat(-32.0)))
    }
}
