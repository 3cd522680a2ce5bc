//! bf16 matrices as stored: widened in registers, or multiplied as they are with inputs split into pairs.

use super::{LANES, Lanes, Matrix, Stored};

/// Little-endian bf16.
pub(in super::super) struct Bf16;

impl Stored for Bf16 {
    type Row = *const u8;

    #[inline(always)]
    unsafe fn row(matrix: &Matrix, index: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { matrix.row(index) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, at: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(row.add(at * 2).cast()) }
    }

    #[inline(always)]
    unsafe fn load_tail<L: Lanes>(row: *const u8, at: usize, n: usize) -> L::V {
        let mut lanes = [0u16; LANES];
        // SAFETY: `n` weights are valid and at most sixteen; bytes are copied, so alignment does not matter.
        unsafe {
            std::ptr::copy_nonoverlapping(row.add(at * 2), lanes.as_mut_ptr().cast(), n * 2);
            L::load_bf16(lanes.as_ptr())
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    //! `vdpbf16ps` on inputs split into pairs.

    use std::arch::x86_64::{
        __m256bh, __m256i, __m512, __m512bh, __m512i, _mm256_storeu_si256, _mm512_cvtneps_pbh,
        _mm512_cvtpbh_ps, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi16,
        _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sub_ps,
    };
    use std::mem::transmute;
    use std::ops::Range;

    use super::super::product::{Pairs, Product};
    use super::super::{Avx512, LANES, Lanes, prefetch};

    /// Weights of one `vdpbf16ps`.
    const STEP: usize = 32;

    /// The outputs `outs` of a bf16 product on split inputs.
    ///
    /// # Safety
    /// As `product::product_pairs`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(in super::super) unsafe fn pairs_avx512(p: &Product, x: &Pairs, outs: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut out = outs.start;
            while p.rows == 1 && out + 8 <= outs.end {
                block::<8, 1>(p, x, out, 0);
                out += 8;
            }
            while out + 4 <= outs.end {
                let mut row = 0;
                while row + 4 <= p.rows {
                    block::<4, 4>(p, x, out, row);
                    row += 4;
                }
                while row < p.rows {
                    block::<4, 1>(p, x, out, row);
                    row += 1;
                }
                out += 4;
            }
            while out < outs.end {
                for row in 0..p.rows {
                    block::<1, 1>(p, x, out, row);
                }
                out += 1;
            }
        }
    }

    /// One row into values and remainders, zero beyond its end. Numbers below 2^-126 count as zero, as they do in
    /// `vdpbf16ps` itself.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16; `hi` and `lo` are `x.len()` rounded up to a multiple of 32.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(in super::super) unsafe fn split_avx512(x: &[f32], hi: &mut [u16], lo: &mut [u16]) {
        debug_assert!(hi.len() == x.len().next_multiple_of(STEP) && lo.len() == hi.len());
        let mut k = 0;
        while k < hi.len() {
            let left = x.len().saturating_sub(k).min(LANES);
            let mask = if left == LANES { u16::MAX } else { (1 << left) - 1 };
            // SAFETY: masked lanes are not read, and both outputs have a multiple of 32 places.
            unsafe {
                let value = _mm512_maskz_loadu_ps(mask, x.as_ptr().wrapping_add(k));
                let rounded = _mm512_cvtneps_pbh(value);
                let rest = _mm512_cvtneps_pbh(_mm512_sub_ps(value, _mm512_cvtpbh_ps(rounded)));
                let (rounded, rest) =
                    (transmute::<__m256bh, __m256i>(rounded), transmute::<__m256bh, __m256i>(rest));
                _mm256_storeu_si256(hi.as_mut_ptr().add(k).cast(), rounded);
                _mm256_storeu_si256(lo.as_mut_ptr().add(k).cast(), rest);
            }
            k += LANES;
        }
    }

    /// How far ahead of a product its weights are asked for, in each matrix row.
    const AHEAD_BYTES: usize = 1 << 10;

    /// Thirty-two numbers.
    ///
    /// # Safety
    /// They are valid, and the processor has AVX-512.
    #[inline(always)]
    pub(in super::super) unsafe fn numbers(at: *const u16) -> __m512bh {
        // SAFETY: the caller's promise.
        unsafe { transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
    }

    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    pub(in super::super) unsafe fn zero() -> __m512bh {
        // SAFETY: the caller's promise.
        unsafe { transmute::<__m512i, __m512bh>(_mm512_setzero_si512()) }
    }

    /// One tile: a single chain of sums for each output, values before remainders.
    ///
    /// # Safety
    /// As [`pairs_avx512`]; the tile lies inside.
    #[inline(always)]
    unsafe fn block<const R: usize, const C: usize>(
        p: &Product,
        x: &Pairs,
        out: usize,
        row: usize,
    ) {
        // SAFETY: offsets stay below `dim` in the matrix (the tail is masked) and below `stride` in the inputs.
        unsafe {
            // Loops, not closures: those would be compiled without the instruction set.
            let mut w: [*const u16; R] = [std::ptr::null(); R];
            for (r, w) in w.iter_mut().enumerate() {
                *w = p.w.row(out + r).cast();
            }
            let mut sums: [[__m512; C]; R] = [[_mm512_setzero_ps(); C]; R];
            let mut k = 0;
            while k < p.dim {
                let n = (p.dim - k).min(STEP);
                let mask = if n == STEP { u32::MAX } else { (1 << n) - 1 };
                let (mut hi, mut lo) = ([zero(); C], [zero(); C]);
                for c in 0..C {
                    let at = (row + c) * x.stride + k;
                    hi[c] = numbers(x.hi.add(at));
                    lo[c] = numbers(x.lo.add(at));
                }
                for r in 0..R {
                    let at = w[r].wrapping_add(k);
                    if C == 1 {
                        prefetch(at.cast::<u8>().wrapping_add(AHEAD_BYTES));
                    }
                    let weights = if n == STEP {
                        _mm512_loadu_si512(at.cast())
                    } else {
                        _mm512_maskz_loadu_epi16(mask, at.cast())
                    };
                    let weights = transmute::<__m512i, __m512bh>(weights);
                    for c in 0..C {
                        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], weights, hi[c]);
                        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], weights, lo[c]);
                    }
                }
                k += STEP;
            }
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    *p.y.add((row + c) * p.y_stride + out + r) = Avx512::sum(*sum);
                }
            }
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub(super) use pairs::{numbers, pairs_avx512, split_avx512, zero};
