//! Vector arithmetic, one weight format a file, every instruction set: all the `unsafe` of the kernels.
//!
//! Everything is written once over [`Lanes`], sixteen f32 lanes, and compiled for each instruction set. A sum runs
//! lane by lane in steps of sixteen and ends in one fixed tree ([`Lanes::sum`]): its order depends on its own length
//! alone, so a row's result has the same bits in any tile, batch or thread.

#![allow(
    clippy::inline_always,
    reason = "vector code must end up inside the function that enables the instruction set"
)]
#![allow(clippy::cast_ptr_alignment, reason = "loads and stores here take any alignment")]

pub(super) mod attention;
pub(super) mod bf16;
pub(super) mod f32;
pub(super) mod multiply;
pub(super) mod product;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Sixteen f32 lanes on some instruction set.
///
/// # Safety
/// Every method needs the processor to have the instruction set, and pointers to be valid for sixteen elements.
/// Methods are inlined into functions compiled for that set.
pub(super) trait Lanes {
    /// Sixteen f32.
    type V: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Sixteen f32, any alignment.
    unsafe fn load(at: *const f32) -> Self::V;
    /// Sixteen f32, any alignment.
    unsafe fn store(at: *mut f32, v: Self::V);
    /// Sixteen bf16 widened, any alignment.
    unsafe fn load_bf16(at: *const u16) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// All lanes added in one fixed tree: 16 to 8 to 4 to 2 to 1, upper half onto lower.
    unsafe fn sum(v: Self::V) -> f32;
}

/// How a matrix row is stored: reads sixteen weights as f32 lanes.
///
/// # Safety
/// As [`Lanes`].
pub(super) trait Stored {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Weights `at..at + 16` of the row.
    unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V;
    /// Fewer than sixteen weights, the rest zero.
    unsafe fn load_tail<L: Lanes>(row: *const u8, at: usize, n: usize) -> L::V;
}

/// Fewer than sixteen f32, the rest zero.
///
/// # Safety
/// `at` is valid for `n` elements, `n <= 16`.
#[inline(always)]
pub(super) unsafe fn load_tail<L: Lanes>(at: *const f32, n: usize) -> L::V {
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
    w: [*const u8; R],
    x: [*const f32; C],
    dim: usize,
) -> [[f32; C]; R] {
    // SAFETY: all offsets stay below `dim`; the rest is the caller's promise.
    unsafe {
        let mut sums = [[L::splat(0.0); C]; R];
        let whole = dim / LANES * LANES;
        let mut k = 0;
        while k < whole {
            let inputs: [L::V; C] = std::array::from_fn(|c| L::load(x[c].add(k)));
            for r in 0..R {
                let weights = S::load::<L>(w[r], k);
                for c in 0..C {
                    sums[r][c] = L::fma(weights, inputs[c], sums[r][c]);
                }
            }
            k += LANES;
        }
        if whole < dim {
            let inputs: [L::V; C] =
                std::array::from_fn(|c| load_tail::<L>(x[c].add(whole), dim - whole));
            for r in 0..R {
                let weights = S::load_tail::<L>(w[r], whole, dim - whole);
                for c in 0..C {
                    sums[r][c] = L::fma(weights, inputs[c], sums[r][c]);
                }
            }
        }
        std::array::from_fn(|r| std::array::from_fn(|c| L::sum(sums[r][c])))
    }
}

/// `y += sum_i a[i] * row_i`, in the order of `i`, over `dim` columns; rows are `row_bytes` apart.
///
/// Columns are taken in blocks that stay in registers while all rows pass.
///
/// # Safety
/// As [`tile`] for `a.len()` rows; `y` is valid for `dim` f32.
#[inline(always)]
pub(super) unsafe fn add_rows<L: Lanes, S: Stored>(
    y: *mut f32,
    a: &[f32],
    rows: *const u8,
    row_bytes: usize,
    dim: usize,
) {
    // SAFETY: all offsets stay below `dim` and `a.len()`; the rest is the caller's promise.
    unsafe {
        let whole = dim / LANES * LANES;
        let mut k = 0;
        while k + 4 * LANES <= whole {
            add_block::<L, S, 4>(y, a, rows, row_bytes, k);
            k += 4 * LANES;
        }
        while k < whole {
            add_block::<L, S, 1>(y, a, rows, row_bytes, k);
            k += LANES;
        }
        if whole < dim {
            let n = dim - whole;
            let mut sum = load_tail::<L>(y.add(whole), n);
            for (i, a) in a.iter().enumerate() {
                sum =
                    L::fma(L::splat(*a), S::load_tail::<L>(rows.add(i * row_bytes), whole, n), sum);
            }
            let mut lanes = [0.0f32; LANES];
            L::store(lanes.as_mut_ptr(), sum);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), y.add(whole), n);
        }
    }
}

/// [`add_rows`] for the `B * 16` columns from `k`.
///
/// # Safety
/// As [`add_rows`]; the columns are inside.
#[inline(always)]
unsafe fn add_block<L: Lanes, S: Stored, const B: usize>(
    y: *mut f32,
    a: &[f32],
    rows: *const u8,
    row_bytes: usize,
    k: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums: [L::V; B] = std::array::from_fn(|b| L::load(y.add(k + b * LANES)));
        for (i, a) in a.iter().enumerate() {
            let (factor, row) = (L::splat(*a), rows.add(i * row_bytes));
            for (b, sum) in sums.iter_mut().enumerate() {
                *sum = L::fma(factor, S::load::<L>(row, k + b * LANES), *sum);
            }
        }
        for (b, sum) in sums.iter().enumerate() {
            L::store(y.add(k + b * LANES), *sum);
        }
    }
}
