//! Weighted sums of matrix rows, for several rows of weights at once: a matrix row is read once for all of them.

use super::bf16::Bf16;
use super::f16::F16;
use super::f32::F32;
use super::fp8::Fp8;
use super::quants::{Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{LANES, Lanes, Matrix, Portable, Stored, load_tail};
use crate::backend::cpu::Isa;
use crate::quant::DType;

/// `y[row] = sum_i a[row, i] * rows[i]`, in the order of `i`, for some rows of `y`.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// `[n, dim]`.
    pub(super) rows: Matrix,
    /// Rows that are added.
    pub(super) n: usize,
    /// Numbers of a row.
    pub(super) dim: usize,
    /// Whether sums begin with what `y` is, or with zero.
    pub(super) adds: bool,
    /// Factors of the first row; others' are `a_stride` apart.
    pub(super) a: *const f32,
    /// Numbers from one row's factors to the next's.
    pub(super) a_stride: usize,
    /// The first row.
    pub(super) y: *mut f32,
    /// Numbers from one row to the next.
    pub(super) y_stride: usize,
}

/// Runs the sums of `rows` rows of `y` on `isa`.
///
/// # Safety
/// All pointers cover their shapes, no other thread has these outputs, and the processor has `isa`.
pub(super) unsafe fn sums(isa: Isa, p: &Sums, rows: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.rows.dtype {
            DType::F32 => stored::<F32>(isa, p, rows),
            DType::Bf16 => stored::<Bf16>(isa, p, rows),
            DType::F16 => stored::<F16>(isa, p, rows),
            DType::Fp8E4m3 => stored::<Fp8>(isa, p, rows),
            DType::Q8_0 => stored::<Q8_0>(isa, p, rows),
            DType::Q4_0 => stored::<Q4_0>(isa, p, rows),
            DType::Q5_0 => stored::<Q5_0>(isa, p, rows),
            DType::Q5_1 => stored::<Q5_1>(isa, p, rows),
            DType::Q4K => stored::<Q4K>(isa, p, rows),
            DType::Q5K => stored::<Q5K>(isa, p, rows),
            DType::Q6K => stored::<Q6K>(isa, p, rows),
        }
    }
}

/// # Safety
/// As [`sums`]; the rows are stored as `S`.
unsafe fn stored<S: Stored>(isa: Isa, p: &Sums, rows: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2::<S>(p, rows),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512::<S>(p, rows),
            _ => all::<Portable, S, 2, 4>(p, rows),
        }
    }
}

/// # Safety
/// As [`sums`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<S: Stored>(p: &Sums, rows: usize) {
    // SAFETY: the caller's promise. Twelve registers of sums, two of weights, one of factors.
    unsafe { all::<Avx2, S, 6, 1>(p, rows) }
}

/// # Safety
/// As [`sums`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<S: Stored>(p: &Sums, rows: usize) {
    // SAFETY: the caller's promise.
    unsafe { all::<Avx512, S, 4, 4>(p, rows) }
}

/// `C` rows of `y` at a time, `B` vectors of each.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn all<L: Lanes, S: Stored, const C: usize, const B: usize>(p: &Sums, rows: usize) {
    let mut row = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while row + C <= rows {
            columns::<L, S, C, B>(p, row);
            row += C;
        }
        if C > 4 && row + 4 <= rows {
            columns::<L, S, 4, B>(p, row);
            row += 4;
        }
        while row < rows {
            columns::<L, S, 1, 4>(p, row);
            row += 1;
        }
    }
}

/// # Safety
/// As [`sums`]; `C` rows from `row`.
#[inline(always)]
unsafe fn columns<L: Lanes, S: Stored, const C: usize, const B: usize>(p: &Sums, row: usize) {
    let whole = p.dim / LANES * LANES;
    // SAFETY: columns stay below `dim`.
    unsafe {
        let mut k = 0;
        while k + B * LANES <= whole {
            block::<L, S, C, B>(p, row, k);
            k += B * LANES;
        }
        while k < whole {
            block::<L, S, C, 1>(p, row, k);
            k += LANES;
        }
        if whole < p.dim {
            tail::<L, S, C>(p, row, whole);
        }
    }
}

/// `C` rows by `B * 16` columns from `k`: weights are read once for all rows.
///
/// # Safety
/// As [`sums`]; all inside.
#[inline(always)]
unsafe fn block<L: Lanes, S: Stored, const C: usize, const B: usize>(
    p: &Sums,
    row: usize,
    k: usize,
) {
    // SAFETY: the caller's promise. Loops, not closures: those would be compiled without the instruction set.
    unsafe {
        let mut sums = [[L::splat(0.0); B]; C];
        if p.adds {
            for (c, sums) in sums.iter_mut().enumerate() {
                for (b, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(p.y.add((row + c) * p.y_stride + k + b * LANES));
                }
            }
        }
        for i in 0..p.n {
            let stored = S::row(&p.rows, i);
            let mut weights = [L::splat(0.0); B];
            for (b, weight) in weights.iter_mut().enumerate() {
                *weight = S::load::<L>(stored, k + b * LANES);
            }
            for (c, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*p.a.add((row + c) * p.a_stride + i));
                // Not zipped: what that calls is not always inlined, and this runs for every key.
                for b in 0..B {
                    sums[b] = L::fma(factor, weights[b], sums[b]);
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            for (b, sum) in sums.iter().enumerate() {
                L::store(p.y.add((row + c) * p.y_stride + k + b * LANES), *sum);
            }
        }
    }
}

/// The last columns, fewer than sixteen.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn tail<L: Lanes, S: Stored, const C: usize>(p: &Sums, row: usize, k: usize) {
    let n = p.dim - k;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0.0); C];
        if p.adds {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = load_tail::<L>(p.y.add((row + c) * p.y_stride + k), n);
            }
        }
        for i in 0..p.n {
            let weights = S::load_tail::<L>(S::row(&p.rows, i), k, n);
            for (c, sum) in sums.iter_mut().enumerate() {
                let factor = L::splat(*p.a.add((row + c) * p.a_stride + i));
                *sum = L::fma(factor, weights, *sum);
            }
        }
        for (c, sum) in sums.iter().enumerate() {
            L::store_first(p.y.add((row + c) * p.y_stride + k), *sum, n);
        }
    }
}
