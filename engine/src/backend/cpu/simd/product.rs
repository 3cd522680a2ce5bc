//! Matrix times rows, and the few vector loops of attention, compiled for each instruction set and chosen at run time.

mod chains;
mod many;
mod narrow;
mod one;

use super::bf16::Bf16;
use super::f16::F16;
use super::f32::F32;
use super::fp8::Fp8;
use super::pair_rows::Parts;
#[cfg(target_arch = "x86_64")]
use super::pairs::PlainRows;
use super::quants::{Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{Lanes, Matrix, Portable, Stored, tile};
use crate::backend::cpu::Isa;
use crate::quant::DType;
pub(super) use many::FEW;
use many::{Few, Many};
pub(super) use narrow::product_narrow;
use one::One;

/// `y[row, out] = sum_k w[out, k] * x[row, k]` for some outputs and all rows.
///
/// Raw pointers, because threads write disjoint columns of the same `y`.
#[derive(Clone, Copy)]
pub(in super::super) struct Product {
    /// `[n_out, dim]`.
    pub(in super::super) w: Matrix,
    /// Length of every sum, at least one.
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
    /// Room for inputs that are turned round, [`turned_bytes`] long; who reads in registers needs none.
    pub(in super::super) room: *mut f32,
}

// SAFETY: a description only; whoever runs it promises that threads write disjoint outputs.
unsafe impl Sync for Product {}
// SAFETY: as above.
unsafe impl Send for Product {}

/// Inputs as bf16 numbers: `[rows, stride]` of each part, zero from `dim` to the next multiple of 32; what comes after may
/// be anything.
#[derive(Clone, Copy)]
pub(in super::super) struct Pairs {
    /// The rounded values.
    pub(in super::super) hi: *const u16,
    /// What rounding left over; not read where inputs have become one number.
    pub(in super::super) lo: *const u16,
    /// Numbers from one input to the next.
    pub(in super::super) stride: usize,
    /// What an input has become.
    pub(in super::super) parts: Parts,
}

// SAFETY: read only.
unsafe impl Sync for Pairs {}

/// How weights are read; the bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reading {
    /// Widened in registers, for a few inputs at a time: of what lies in a cache.
    InRegisters,
    /// Widened once for all inputs, or many, and asked for meanwhile: of what comes from memory.
    Once,
}

/// Whether inputs are turned round on `isa`, where there are more than [`FEW`].
pub(super) fn turns(isa: Isa) -> bool {
    matches!(isa, Isa::Avx2 | Isa::AvxVnni)
}

/// Bytes of room that products of sums of `dim` numbers need on `isa`.
pub(super) fn turned_bytes(isa: Isa, dim: usize) -> usize {
    if turns(isa) { chains::room_len(dim) * size_of::<f32>() } else { 0 }
}

/// Runs a product's first `outs` outputs on `isa`.
///
/// # Safety
/// All pointers cover their shapes, the matrix has `outs` rows, no other thread touches these outputs and this room, there is
/// room unless `reading` is in registers, and the processor has `isa`.
pub(in super::super) unsafe fn product(isa: Isa, p: &Product, outs: usize, reading: Reading) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.w.dtype {
            DType::F32 => stored::<F32>(isa, p, outs, reading),
            DType::Bf16 => stored::<Bf16>(isa, p, outs, reading),
            DType::F16 => stored::<F16>(isa, p, outs, reading),
            DType::Fp8E4m3 => stored::<Fp8>(isa, p, outs, reading),
            DType::Q8_0 => stored::<Q8_0>(isa, p, outs, reading),
            DType::Q4_0 => stored::<Q4_0>(isa, p, outs, reading),
            DType::Q5_0 => stored::<Q5_0>(isa, p, outs, reading),
            DType::Q5_1 => stored::<Q5_1>(isa, p, outs, reading),
            DType::Q4K => stored::<Q4K>(isa, p, outs, reading),
            DType::Q5K => stored::<Q5K>(isa, p, outs, reading),
            DType::Q6K => stored::<Q6K>(isa, p, outs, reading),
        }
    }
}

/// # Safety
/// As [`product`]; the matrix is stored as `S`.
unsafe fn stored<S: Stored>(isa: Isa, p: &Product, outs: usize, reading: Reading) {
    // SAFETY: the caller's promise.
    unsafe {
        match reading {
            _ if p.rows == 0 => {}
            Reading::InRegisters => compiled::<S, InRegisters>(isa, p, outs),
            Reading::Once if p.rows == 1 => compiled::<S, One>(isa, p, outs),
            Reading::Once if p.rows <= FEW => compiled::<S, Few>(isa, p, outs),
            Reading::Once => compiled::<S, Many>(isa, p, outs),
        }
    }
}

/// # Safety
/// As [`stored`].
unsafe fn compiled<S: Stored, W: Way>(isa: Isa, p: &Product, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2::<S, W>(p, outs),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512::<S, W>(p, outs),
            _ => W::run::<Portable, S, 2, 2>(p, outs),
        }
    }
}

/// A way to multiply, each compiled by itself: what one of them needs is in the way of the others.
trait Way {
    /// The first `outs` outputs of a product, up to `R` of them with `C` inputs at a time.
    ///
    /// # Safety
    /// As [`stored`]; the processor has `L`'s instruction set.
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize);
}

/// See [`Reading::InRegisters`].
struct InRegisters;

impl Way for InRegisters {
    #[inline(always)]
    unsafe fn run<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if L::IS_TWO {
                // Sums, inputs and weights take two registers each.
                outer::<L, S, 2, 2>(p, outs);
            } else {
                outer::<L, S, R, C>(p, outs);
            }
        }
    }
}

/// Runs a bf16 product on split inputs, with `vdpbf16ps`.
///
/// # Safety
/// As [`product`]; `pairs` covers `p.rows` rows of `p.dim`, and the processor has AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in super::super) unsafe fn product_pairs(p: &Product, pairs: &Pairs, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { super::pairs::product(p, pairs, &PlainRows::new(&p.w, outs), outs) }
}

/// Tiles over outputs and inputs; a tile's matrix rows stay in the first-level cache while all inputs pass.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn outer<L: Lanes, S: Stored, const R: usize, const C: usize>(p: &Product, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = 0;
        // One input: eight matrix rows in flight hide the latency of the sum.
        while p.rows == 1 && out + 8 <= outs {
            block::<L, S, 8, 1>(p, out, 0);
            out += 8;
        }
        while out + R <= outs {
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
        while out < outs {
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
        let (mut w, mut x) = ([S::row(&p.w, out); R], [p.x; C]);
        for (r, w) in w.iter_mut().enumerate() {
            *w = S::row(&p.w, out + r);
        }
        for (c, x) in x.iter_mut().enumerate() {
            *x = p.x.add((row + c) * p.x_stride);
        }
        let sums = tile::<L, S, R, C>(w, x, p.dim);
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                *p.y.add((row + c) * p.y_stride + out + r) = *sum;
            }
        }
    }
}

/// # Safety
/// As [`stored`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<S: Stored, W: Way>(p: &Product, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { W::run::<Avx2, S, 4, 3>(p, outs) }
}

/// # Safety
/// As [`stored`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<S: Stored, W: Way>(p: &Product, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { W::run::<Avx512, S, 4, 4>(p, outs) }
}
