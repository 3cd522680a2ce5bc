//! Matrix times rows, and the few vector loops of attention, compiled for each instruction set and chosen at run time.

use std::ops::Range;

use super::bf16::Bf16;
use super::f32::F32;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, bf16};
use super::{Lanes, Portable, Stored, add_rows, tile};
use crate::backend::cpu::Isa;
use crate::quant::DType;

/// `y[row, out] = sum_k w[out, k] * x[row, k]` for some outputs and all rows.
///
/// Raw pointers, because threads write disjoint columns of the same `y`.
#[derive(Clone, Copy)]
pub(in super::super) struct Product {
    /// `[n_out, dim]`, rows back to back.
    pub(in super::super) w: *const u8,
    /// How `w` is stored.
    pub(in super::super) dtype: DType,
    /// Length of every sum.
    pub(in super::super) dim: usize,
    /// First input; inputs are `x_stride` apart.
    pub(in super::super) x: *const f32,
    /// Numbers from one input to the next.
    pub(in super::super) x_stride: usize,
    /// Inputs.
    pub(in super::super) rows: usize,
    /// First output; outputs of one input are contiguous.
    pub(in super::super) y: *mut f32,
    /// Numbers from one input's outputs to the next's.
    pub(in super::super) y_stride: usize,
}

// SAFETY: a description only; whoever runs it promises that threads write disjoint outputs.
unsafe impl Sync for Product {}
// SAFETY: as above.
unsafe impl Send for Product {}

/// Inputs split into bf16 pairs: `[rows, stride]` each, zero beyond `dim`, `stride` a multiple of 32.
#[derive(Clone, Copy)]
pub(in super::super) struct Pairs {
    /// The rounded values.
    pub(in super::super) hi: *const u16,
    /// What rounding left over.
    pub(in super::super) lo: *const u16,
    /// Numbers from one input to the next.
    pub(in super::super) stride: usize,
}

// SAFETY: read only.
unsafe impl Sync for Pairs {}

/// Runs a product's `outs` on `isa`.
///
/// # Safety
/// All pointers cover their shapes, `outs` lies inside the matrix, no other thread touches these outputs, and the
/// processor has `isa`.
pub(in super::super) unsafe fn product(isa: Isa, p: &Product, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (isa, p.dtype) {
            (Isa::Portable, DType::F32) => outer::<Portable, F32, 2, 2>(p, outs),
            (Isa::Portable, DType::Bf16) => outer::<Portable, Bf16, 2, 2>(p, outs),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::F32) => avx2_f32(p, outs),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::Bf16) => avx2_bf16(p, outs),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::F32) => avx512_f32(p, outs),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::Bf16) => avx512_bf16(p, outs),
            #[cfg(not(target_arch = "x86_64"))]
            (_, DType::F32) => outer::<Portable, F32, 2, 2>(p, outs),
            #[cfg(not(target_arch = "x86_64"))]
            (_, DType::Bf16) => outer::<Portable, Bf16, 2, 2>(p, outs),
        }
    }
}

/// Runs a bf16 product on inputs split into pairs, with `vdpbf16ps`.
///
/// # Safety
/// As [`product`]; `pairs` covers `p.rows` rows of `p.dim`, and the processor has AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
pub(in super::super) unsafe fn product_pairs(p: &Product, pairs: &Pairs, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { bf16::pairs_avx512(p, pairs, outs) }
}

/// Rows of weights or of f32, `row_bytes` apart.
#[derive(Clone, Copy)]
pub(in super::super) struct Rows {
    /// The first row.
    pub(in super::super) at: *const u8,
    /// From one row to the next.
    pub(in super::super) row_bytes: usize,
    /// How they are stored.
    pub(in super::super) dtype: DType,
}

/// `y += sum_i a[i] * row_i` on `isa`, in the order of `i`.
///
/// # Safety
/// There are `a.len()` rows of `y.len()` numbers, and the processor has `isa`.
pub(in super::super) unsafe fn add_weighted(isa: Isa, y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe {
        match (isa, rows.dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::F32) => add_avx2_f32(y, a, rows),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::Bf16) => add_avx2_bf16(y, a, rows),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::F32) => add_avx512_f32(y, a, rows),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::Bf16) => add_avx512_bf16(y, a, rows),
            (_, DType::F32) => add::<Portable, F32>(y, a, rows),
            (_, DType::Bf16) => add::<Portable, Bf16>(y, a, rows),
        }
    }
}

/// # Safety
/// As [`add_weighted`].
#[inline(always)]
unsafe fn add<L: Lanes, S: Stored>(y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe { add_rows::<L, S>(y.as_mut_ptr(), a, rows.at, rows.row_bytes, y.len()) }
}

/// Tiles over outputs and inputs; a tile's matrix rows stay in the first-level cache while all inputs pass.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn outer<L: Lanes, S: Stored, const R: usize, const C: usize>(
    p: &Product,
    outs: Range<usize>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = outs.start;
        // One input: eight matrix rows in flight hide the latency of the sum.
        while p.rows == 1 && out + 8 <= outs.end {
            block::<L, S, 8, 1>(p, out, 0);
            out += 8;
        }
        while out + R <= outs.end {
            let mut row = 0;
            while row + C <= p.rows {
                block::<L, S, R, C>(p, out, row);
                row += C;
            }
            while row < p.rows {
                block::<L, S, R, 1>(p, out, row);
                row += 1;
            }
            out += R;
        }
        while out < outs.end {
            for row in 0..p.rows {
                block::<L, S, 1, 1>(p, out, row);
            }
            out += 1;
        }
    }
}

/// One tile, stored.
///
/// # Safety
/// As [`product`]; the tile lies inside.
#[inline(always)]
unsafe fn block<L: Lanes, S: Stored, const R: usize, const C: usize>(
    p: &Product,
    out: usize,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = std::array::from_fn(|r| p.w.add((out + r) * p.dim * S::BYTES));
        let x = std::array::from_fn(|c| p.x.add((row + c) * p.x_stride));
        let sums = tile::<L, S, R, C>(w, x, p.dim);
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                *p.y.add((row + c) * p.y_stride + out + r) = *sum;
            }
        }
    }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_f32(p: &Product, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { outer::<Avx2, F32, 2, 2>(p, outs) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_bf16(p: &Product, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { outer::<Avx2, Bf16, 2, 2>(p, outs) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512_f32(p: &Product, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { outer::<Avx512, F32, 4, 4>(p, outs) }
}

/// # Safety
/// As [`product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512_bf16(p: &Product, outs: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { outer::<Avx512, Bf16, 4, 4>(p, outs) }
}

/// # Safety
/// As [`add_weighted`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_avx2_f32(y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe { add::<Avx2, F32>(y, a, rows) }
}

/// # Safety
/// As [`add_weighted`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_avx2_bf16(y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe { add::<Avx2, Bf16>(y, a, rows) }
}

/// # Safety
/// As [`add_weighted`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_avx512_f32(y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe { add::<Avx512, F32>(y, a, rows) }
}

/// # Safety
/// As [`add_weighted`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_avx512_bf16(y: &mut [f32], a: &[f32], rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe { add::<Avx512, Bf16>(y, a, rows) }
}
