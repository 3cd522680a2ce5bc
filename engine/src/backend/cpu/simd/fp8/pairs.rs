//! `vdpbf16ps` on e4m3 matrices: every number of e4m3 is one of bf16, and is looked up in registers.
//!
//! Products of a row's 128 numbers of a unit are summed, and that sum times their block's factor is added to the rest: one
//! more rounding for 128 numbers, and none of a weight. So those sums can leave the range of f32 where the product itself would not:
//! with inputs above 1e34, or so small that a large factor would bring them back.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_loadu_si512, _mm512_maskz_loadu_epi8, _mm512_permutex2var_epi8,
    _mm512_permutexvar_epi64, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi64,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_ternarylogic_epi64, _mm512_unpackhi_epi8,
    _mm512_unpacklo_epi8,
};

use crate::backend::cpu::simd::Matrix;
use crate::backend::cpu::simd::pairs::{
    FOUR, Lying, Numbers, Panels, Rows, STEP, VECTORS, product,
};
use crate::backend::cpu::simd::panels::for_each;
use crate::backend::cpu::simd::product::{Pairs, Product};
use crate::quant::panels::OUTS;
use crate::quant::{bf16, fp8};

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Numbers of e4m3 without their sign.
const SIZES: usize = 128;
/// A byte's sign.
const SIGN: i8 = i8::MIN;

/// Runs a product of an e4m3 matrix on split inputs.
///
/// # Safety
/// As `product::product_pairs`; a block has at least 128 columns, and the processor has AVX-512 VBMI beside BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
pub(in super::super) unsafe fn product_fp8(p: &Product, x: &Pairs, outs: usize) {
    // SAFETY: the caller's promise.
    unsafe { product(p, x, &Fp8Panels { w: &p.w, outs }, outs) }
}

/// Rows as they lie in the file, sixteen at a time.
struct Fp8Panels<'a> {
    w: &'a Matrix,
    outs: usize,
}

impl<'a> Panels for Fp8Panels<'a> {
    type Rows = Fp8Rows<'a>;

    #[inline(always)]
    unsafe fn rows(&self, index: usize) -> Fp8Rows<'a> {
        let first = index * OUTS;
        // SAFETY: the caller's promise.
        Fp8Rows { w: self.w, first, lying: unsafe { Lying::new(self.w, first, self.outs) } }
    }
}

/// Sixteen rows.
struct Fp8Rows<'a> {
    w: &'a Matrix,
    first: usize,
    lying: Lying<1>,
}

impl Rows for Fp8Rows<'_> {
    const BY_ROWS: bool = true;
    const HAS_FACTORS: bool = true;

    #[inline(always)]
    unsafe fn ask(&self, unit: usize, row: usize) {
        self.lying.ask(unit, row);
    }

    #[inline(always)]
    unsafe fn read(&mut self, unit: usize, row: usize) -> Numbers {
        // SAFETY: the caller's promise.
        unsafe {
            let table = Table::new();
            let mut numbers = [[_mm512_setzero_si512(); VECTORS]; FOUR];
            for_each!(R < FOUR, 4, {
                let at = self.lying.place(unit, row + R).cast::<__m512i>();
                let [a, b] = table.numbers(_mm512_loadu_si512(at));
                let [c, d] = table.numbers(_mm512_loadu_si512(at.wrapping_add(1)));
                numbers[R] = [a, b, c, d];
            });
            numbers
        }
    }

    #[inline(always)]
    unsafe fn read_some(&mut self, unit: usize, row: usize, n: usize) -> Numbers {
        // SAFETY: the caller's promise; bytes that the mask leaves out are not read.
        unsafe {
            let table = Table::new();
            let mut numbers = [[_mm512_setzero_si512(); VECTORS]; FOUR];
            for (r, numbers) in numbers.iter_mut().enumerate() {
                let at = self.lying.place(unit, row + r).cast::<i8>();
                for half in 0..STEP / VECTOR {
                    let left = n.saturating_sub(half * VECTOR).min(VECTOR);
                    let mask = ((1u128 << left) - 1) as u64;
                    let bytes = _mm512_maskz_loadu_epi8(mask, at.wrapping_add(half * VECTOR));
                    [numbers[2 * half], numbers[2 * half + 1]] = table.numbers(bytes);
                }
            }
            numbers
        }
    }

    #[inline(always)]
    unsafe fn factors(&self, unit: usize, row: usize) -> [__m512; FOUR] {
        let scales = &self.w.scales;
        let column = (unit * STEP) >> scales.column_shift;
        // SAFETY: the caller's promise; a matrix has factors for all its rows, and a unit lies in one block.
        unsafe {
            let mut factors = [_mm512_setzero_ps(); FOUR];
            for_each!(R < FOUR, 4, {
                let row = self.w.first + self.first + self.lying.row(row + R);
                let at = (row >> scales.row_shift) * scales.per_row + column;
                factors[R] = _mm512_set1_ps(scales.at.cast::<f32>().add(at).read_unaligned());
            });
            factors
        }
    }
}

/// The bytes of bf16 numbers that are as large as e4m3 numbers: of the first 64 and of the others, lower and upper.
#[repr(C, align(64))]
struct Bytes([[u8; VECTOR]; 4]);

static BYTES: Bytes = {
    let (mut bytes, mut i) = ([[0; VECTOR]; 4], 0);
    while i < SIZES {
        let [low, high] = bf16::from_f32(fp8::to_f32(i as u8)).to_le_bytes();
        bytes[i / VECTOR][i % VECTOR] = low;
        bytes[2 + i / VECTOR][i % VECTOR] = high;
        i += 1;
    }
    Bytes(bytes)
};

/// [`BYTES`] in registers.
#[derive(Clone, Copy)]
struct Table {
    low: [__m512i; 2],
    high: [__m512i; 2],
}

impl Table {
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let at = BYTES.0.as_ptr().cast::<__m512i>();
            Self {
                low: [_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1))],
                high: [_mm512_loadu_si512(at.add(2)), _mm512_loadu_si512(at.add(3))],
            }
        }
    }

    /// Sixty-four numbers, in their order.
    ///
    /// # Safety
    /// The processor has AVX-512 VBMI.
    #[inline(always)]
    unsafe fn numbers(&self, bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            // So that what is woven together in four parts of a vector comes out in order.
            let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm512_permutexvar_epi64(order, bytes);
            let low = _mm512_permutex2var_epi8(self.low[0], bytes, self.low[1]);
            let high = _mm512_permutex2var_epi8(self.high[0], bytes, self.high[1]);
            // high | (bytes & SIGN).
            let high = _mm512_ternarylogic_epi64::<0xf8>(high, bytes, _mm512_set1_epi8(SIGN));
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;

    #[test]
    fn every_byte_is_the_bf16_number_of_its_value() {
        for bits in 0..=u8::MAX {
            let (want, got) = (fp8::to_f32(bits), bf16::to_f32(bf16::from_f32(fp8::to_f32(bits))));
            assert!(want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(), "{bits:02x}");
        }
        if !(Isa::Avx512Bf16.is_available() && Isa::Avx512Bf16.multiplies_fp8()) {
            return eprintln!("skipped: no AVX-512 BF16 and VBMI");
        }
        for first in (0..=u8::MAX).step_by(VECTOR) {
            let bytes: [u8; VECTOR] = std::array::from_fn(|i| first + i as u8);
            // SAFETY: looked for above.
            let got = unsafe { looked_up(&bytes) };
            for (bits, got) in bytes.into_iter().zip(got) {
                let (got, want) = (bf16::to_f32(got), fp8::to_f32(bits));
                let is_sign = got.is_sign_negative() == want.is_sign_negative();
                assert!(is_sign && (got == want || got.is_nan() && want.is_nan()), "{bits:02x}");
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn looked_up(bytes: &[u8; VECTOR]) -> [u16; VECTOR] {
        // SAFETY: two vectors are as many bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast::<__m512i>());
            std::mem::transmute(Table::new().numbers(bytes))
        }
    }
}
