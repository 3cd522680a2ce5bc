//! Vector arithmetic, one weight format a file, every instruction set: all the `unsafe` of the kernels.
//!
//! Everything is written once over [`Lanes`], sixteen f32 lanes, or [`Vectors`], where they may be some of sixteen, and compiled for each instruction set. A sum runs
//! lane by lane in steps of sixteen and ends in one fixed tree ([`Lanes::sum`]), or is a lane's own chain (`sums.rs`): its order depends on its own length
//! alone, so a row's result has the same bits in any tile, batch or thread.

#![allow(
    clippy::inline_always,
    reason = "vector code must end up inside the function that enables the instruction set"
)]
#![allow(clippy::cast_ptr_alignment, reason = "loads and stores here take any alignment")]

pub(super) mod attention;
pub(super) mod bf16;
pub(super) mod f16;
pub(super) mod f32;
pub(super) mod fp8;
pub(super) mod gated;
pub(super) mod groups;
pub(super) mod heads;
mod ints;
pub(super) mod multiply;
pub(super) mod narrow;
mod pair_rows;
#[cfg(target_arch = "x86_64")]
mod pairs;
pub(super) mod panels;
pub mod peak;
pub(super) mod product;
pub(super) mod quants;
pub(super) mod row;
pub(super) mod rows;
mod sums;
pub(super) mod turned;

use crate::quant::DType;

/// 1.5 * 2^23. f32 of this size are a whole number apart: adding it rounds to the nearest one, ties to even, and leaves that in
/// the lowest bits; a whole number within 2^22 that is added to its bits is added to the number.
const ROUNDING: f32 = 12_582_912.0;

/// Where a byte of e4m3 is in an f16 with the same exponent and mantissa: it is moved by seven bits, its sign by eight.
#[cfg(target_arch = "x86_64")]
const E4M3: i16 = 0xbf80_u16 as i16;

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::{Avx2, Eight};
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Sixteen vectors of sums, at cache lines, or every load of one would need two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct LaneSums([[f32; LANES]; LANES]);

impl LaneSums {
    const ZERO: Self = Self([[0.0; LANES]; LANES]);
}

/// f32 lanes on some instruction set, where one is an output of its own: sixteen, or some of sixteen.
///
/// # Safety
/// Every method needs the processor to have the instruction set, and pointers to be valid for sixteen elements, whichever
/// of them are taken. Methods are inlined into functions compiled for that set.
pub(super) trait Vectors {
    /// An f32 a lane.
    type V: Copy;
    /// An i32 a lane.
    type I: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// f32, any alignment.
    unsafe fn load(at: *const f32) -> Self::V;
    /// f32, any alignment.
    unsafe fn store(at: *mut f32, v: Self::V);
    /// f16 widened, any alignment.
    unsafe fn load_f16(at: *const u16) -> Self::V;
    /// Unsigned bytes widened.
    unsafe fn load_u8(at: *const u8) -> Self::I;
    /// Signed bytes widened.
    unsafe fn load_i8(at: *const u8) -> Self::I;
    /// Exact below 2^24.
    unsafe fn to_f32(v: Self::I) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

/// Sixteen f32 lanes on some instruction set.
///
/// # Safety
/// As [`Vectors`].
pub(super) trait Lanes: Vectors {
    /// The same lanes where they are one register, else the lower half of them, the first that is multiplied.
    type Lower: Vectors;
    /// The upper half of them.
    type Upper: Vectors;
    /// Whether sixteen lanes are two registers.
    const IS_TWO: bool = false;
    /// The first `n` lanes, all of them when `n` is at least sixteen.
    #[inline(always)]
    unsafe fn store_first(at: *mut f32, v: Self::V, n: usize) {
        // SAFETY: the caller's promise; the array holds sixteen.
        unsafe {
            if n >= LANES {
                return Self::store(at, v);
            }
            let mut lanes = [0.0f32; LANES];
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), at, n);
        }
    }
    /// Sixteen bf16 widened, any alignment.
    unsafe fn load_bf16(at: *const u16) -> Self::V;
    /// Sixteen e4m3 (`quant::fp8`) widened, times 2^-8.
    unsafe fn load_e4m3(at: *const u8) -> Self::V;
    /// `(v >> shift) & mask`, `shift` below 32.
    unsafe fn bits(v: Self::I, shift: u32, mask: i32) -> Self::I;
    /// `(high << 4) | low`.
    unsafe fn join(high: Self::I, low: Self::I) -> Self::I;
    /// The lowest sixteen bits, one a lane.
    unsafe fn spread(bits: u32) -> Self::I;
    /// All lanes added in one fixed tree: 16 to 8 to 4 to 2 to 1, upper half onto lower.
    unsafe fn sum(v: Self::V) -> f32;
    /// Lane `i` of vector `j` and lane `j` of vector `i` change places.
    #[inline(always)]
    unsafe fn transpose(v: &mut [Self::V; LANES]) {
        let mut rows = [[0.0; LANES]; LANES];
        // SAFETY: the caller's promise; rows are as long as vectors.
        unsafe {
            for i in 0..LANES {
                Self::store(rows[i].as_mut_ptr(), v[i]);
            }
            for i in 0..LANES {
                let mut column = [0.0; LANES];
                for j in 0..LANES {
                    column[j] = rows[j][i];
                }
                v[i] = Self::load(column.as_ptr());
            }
        }
    }
    /// [`Lanes::sum`] of each of sixteen vectors, the same bits.
    #[inline(always)]
    unsafe fn sum_each(v: &[Self::V; LANES]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for (sum, v) in sums.iter_mut().zip(v) {
            // SAFETY: the caller's promise.
            *sum = unsafe { Self::sum(*v) };
        }
        sums
    }
}

/// A matrix where it lies, as kernels read it.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    /// Its first byte.
    pub(super) at: *const u8,
    /// From one row to the next.
    pub(super) row_bytes: usize,
    /// How rows are stored.
    pub(super) dtype: DType,
    /// The row that kernels call 0: parts of a matrix are read in place.
    pub(super) first: usize,
    /// Factors of an 8-bit float matrix.
    pub(super) scales: Scales,
}

// SAFETY: a description only, read and never written through.
unsafe impl Sync for Matrix {}
// SAFETY: as above.
unsafe impl Send for Matrix {}

impl Matrix {
    /// Rows of our own, in a format without other tensors' factors.
    pub(super) fn rows(at: *const u8, row_bytes: usize, dtype: DType) -> Self {
        Self { at, row_bytes, dtype, first: 0, scales: Scales::NONE }
    }

    /// Rows of f32 of our own.
    pub(super) fn f32(at: *const f32, row_bytes: usize) -> Self {
        Self::rows(at.cast(), row_bytes, DType::F32)
    }

    /// Row `index`, counted from `first`.
    ///
    /// # Safety
    /// The row is inside.
    #[inline(always)]
    unsafe fn row(&self, index: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.at.add((self.first + index) * self.row_bytes) }
    }
}

/// One factor for every block of a matrix: little-endian f32 at any address, block rows back to back.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    /// The first factor.
    pub(super) at: *const u8,
    /// Factors of one block row.
    pub(super) per_row: usize,
    /// `log2` of a block's rows.
    pub(super) row_shift: u32,
    /// `log2` of a block's columns, at least 4.
    pub(super) column_shift: u32,
}

impl Scales {
    /// For formats that keep their factors with their numbers.
    pub(super) const NONE: Self =
        Self { at: std::ptr::null(), per_row: 0, row_shift: 0, column_shift: 0 };
}

/// How a matrix row is stored: reads sixteen weights as f32 lanes.
///
/// # Safety
/// As [`Lanes`].
pub(super) trait Stored {
    /// Where a row's weights are, and what else they take.
    type Row: Copy;
    /// The format.
    const DTYPE: DType;
    /// Weights of a row that are asked for at once as they come from memory: more requests stand in each other's way.
    const ASKED: usize = 64;
    /// Row `index` of a matrix of this format.
    unsafe fn row(matrix: &Matrix, index: usize) -> Self::Row;
    /// Weights `at..at + 16` of the row; `at` is a multiple of 16.
    unsafe fn load<L: Lanes>(row: Self::Row, at: usize) -> L::V;
    /// Fewer than sixteen weights, the rest zero.
    unsafe fn load_tail<L: Lanes>(row: Self::Row, at: usize, n: usize) -> L::V;
    /// Weights `at..at + n`, widened; zeros up to the next multiple of sixteen. `at` is a multiple of 16.
    #[inline(always)]
    unsafe fn widen<L: Lanes>(row: Self::Row, at: usize, n: usize, to: *mut f32) {
        let whole = n / LANES * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                L::store(to.add(i), Self::load::<L>(row, at + i));
            }
            if whole < n {
                L::store(to.add(whole), Self::load_tail::<L>(row, at + whole, n - whole));
            }
        }
    }
}

/// Asks for the cache line at `at`, which may be anywhere: nothing is read.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; an address that is not there is left alone.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same, for what is used only after much else: the first-level cache is left alone.
#[inline(always)]
pub(super) fn prefetch_far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Fewer than sixteen f32, the rest zero.
///
/// # Safety
/// `at` is valid for `n` elements, `n <= 16`.
#[inline(always)]
pub(super) unsafe fn load_tail<L: Vectors>(at: *const f32, n: usize) -> L::V {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: the caller's promise; the array holds sixteen.
    unsafe {
        std::ptr::copy_nonoverlapping(at, lanes.as_mut_ptr(), n);
        L::load(lanes.as_ptr())
    }
}

/// `out[r][c] = sum_k w[r][k] * x[c][k]` for a tile of `R` matrix rows and `C` inputs, one accumulator each.
///
/// # Safety
/// Rows are valid for `dim` weights, inputs for `dim` f32, and the processor has `L`'s instruction set.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, S: Stored, const R: usize, const C: usize>(
    w: [S::Row; R],
    x: [*const f32; C],
    dim: usize,
) -> [[f32; C]; R] {
    // SAFETY: all offsets stay below `dim`; the rest is the caller's promise.
    unsafe {
        // Loops, not closures: those would be compiled without the instruction set.
        let mut sums = [[L::splat(0.0); C]; R];
        let whole = dim / LANES * LANES;
        let mut k = 0;
        while k < whole {
            let mut inputs = [L::splat(0.0); C];
            for c in 0..C {
                inputs[c] = L::load(x[c].add(k));
            }
            for r in 0..R {
                let weights = S::load::<L>(w[r], k);
                for c in 0..C {
                    sums[r][c] = L::fma(weights, inputs[c], sums[r][c]);
                }
            }
            k += LANES;
        }
        if whole < dim {
            let mut inputs = [L::splat(0.0); C];
            for c in 0..C {
                inputs[c] = load_tail::<L>(x[c].add(whole), dim - whole);
            }
            for r in 0..R {
                let weights = S::load_tail::<L>(w[r], whole, dim - whole);
                for c in 0..C {
                    sums[r][c] = L::fma(weights, inputs[c], sums[r][c]);
                }
            }
        }
        let mut out = [[0.0; C]; R];
        if R * C == LANES {
            let mut all = [L::splat(0.0); LANES];
            for r in 0..R {
                for c in 0..C {
                    all[r * C + c] = sums[r][c];
                }
            }
            out.as_flattened_mut().copy_from_slice(&L::sum_each(&all));
            return out;
        }
        for r in 0..R {
            for c in 0..C {
                out[r][c] = L::sum(sums[r][c]);
            }
        }
        out
    }
}
