//! Panels of twelve bits a number, written with AVX-512.

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_cmpeq_epi16_mask, _mm512_cmpgt_epu16_mask,
    _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_maskz_loadu_epi16, _mm512_or_si512,
    _mm512_set1_epi16, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_srli_epi16,
    _mm512_storeu_si512, _mm512_sub_epi16,
};

use super::reader::turned;
use crate::quant::narrow::{
    REST, ROW_BYTES, STEP, Stray, TABLE_BYTES, UNIT_BYTES, VECTOR, ZERO, largest_exponent, table,
    units,
};
use crate::quant::panels::OUTS;

/// Numbers of a vector.
const WORDS: usize = 32;

/// [`crate::quant::narrow::pack`] on a processor with AVX-512 BF16; the same bytes.
pub(super) fn pack_avx512(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
    let n_row = rows.len() / (dim * size_of::<u16>()).max(1);
    assert!(n_row <= OUTS && panel.len() == TABLE_BYTES + units(dim) * UNIT_BYTES, "no panel");
    let largest = largest_exponent(rows, dim);
    // SAFETY: the instruction set was checked when the backend was made; sizes are.
    unsafe { pack(rows, (n_row, dim), largest, panel, strays) }
}

/// # Safety
/// There are `n_row` rows of `dim` numbers, at most sixteen, and a panel of such rows; the processor has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack(
    rows: &[u8],
    (n_row, dim): (usize, usize),
    largest: u16,
    panel: &mut [u8],
    strays: &mut Vec<Stray>,
) {
    let (head, numbers) = panel.split_at_mut(TABLE_BYTES);
    for (to, bits) in head.chunks_exact_mut(2).zip(table(largest)) {
        to.copy_from_slice(&bits.to_le_bytes());
    }
    for (u, unit) in numbers.chunks_exact_mut(UNIT_BYTES).enumerate() {
        for (r, part) in unit.chunks_exact_mut(ROW_BYTES).enumerate() {
            let first = (u * OUTS + r) * STEP;
            let n = if r < n_row { (dim - u * STEP).min(STEP) } else { 0 };
            let at = rows.as_ptr().wrapping_add((r * dim + u * STEP) * size_of::<u16>());
            // SAFETY: `n` numbers of the row are there, and three vectors of the panel.
            let found = unsafe { pack_part(at.cast(), n, largest, part.as_mut_ptr()) };
            for (quarter, found) in found.into_iter().enumerate() {
                let mut found = found;
                while found != 0 {
                    let k = quarter * WORDS + found.trailing_zeros() as usize;
                    // SAFETY: a number that was there, so below `n`.
                    let bits = unsafe { at.cast::<u16>().add(k).read_unaligned() };
                    strays.push(Stray { at: (first + k) as u32, bits });
                    found &= found - 1;
                }
            }
        }
    }
}

/// One row's `n` numbers of a unit; which are strays.
///
/// # Safety
/// There are so many numbers, and three vectors; the processor has AVX-512 BW.
#[inline(always)]
unsafe fn pack_part(at: *const i16, n: usize, largest: u16, to: *mut u8) -> [u32; STEP / WORDS] {
    // SAFETY: the caller's promise; masked numbers are not read.
    unsafe {
        let zero = _mm512_setzero_si512();
        let (mut vectors, mut found) = ([zero; 3], [0; STEP / WORDS]);
        for quarter in 0..STEP / WORDS {
            let n = n.saturating_sub(quarter * WORDS).min(WORDS);
            let from = at.wrapping_add(quarter * WORDS);
            let numbers = if n == WORDS {
                _mm512_loadu_si512(from.cast::<__m512i>())
            } else {
                _mm512_maskz_loadu_epi16((1u32 << n) - 1, from)
            };
            let exponents = _mm512_and_si512(_mm512_srli_epi16::<7>(numbers), word(0xff));
            // Below zero is far above any code.
            let codes = _mm512_sub_epi16(word(largest), exponents);
            let is_none = _mm512_cmpgt_epu16_mask(codes, word(ZERO - 1));
            let is_zero = _mm512_cmpeq_epi16_mask(exponents, zero);
            found[quarter] = is_none & !is_zero;
            let codes = _mm512_mask_blend_epi16(is_none | is_zero, codes, word(ZERO));
            let rest = _mm512_and_si512(numbers, word(REST));
            let rest = if quarter % 2 == 0 { rest } else { turned(rest) };
            vectors[quarter / 2] = _mm512_or_si512(vectors[quarter / 2], rest);
            let codes = match quarter {
                0 => codes,
                1 => _mm512_slli_epi16::<4>(codes),
                2 => _mm512_slli_epi16::<8>(codes),
                _ => _mm512_slli_epi16::<12>(codes),
            };
            vectors[2] = _mm512_or_si512(vectors[2], codes);
        }
        for (i, vector) in vectors.into_iter().enumerate() {
            _mm512_storeu_si512(to.add(i * VECTOR).cast::<__m512i>(), vector);
        }
        found
    }
}

/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn word(bits: u16) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_epi16(bits as i16) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::quant::narrow::{self, panel_bytes, tests::mixed};

    #[test]
    fn the_bytes_are_those_of_plain_code() {
        let isa = Isa::best();
        if !isa.multiplies_bf16() {
            return eprintln!("skipped: no avx512");
        }
        for (n_row, dim) in [(16, 128), (16, 300), (3, 257), (1, 1), (16, 2048), (7, 1024)] {
            let numbers = mixed(dim as u64 + 1, n_row * dim);
            let rows: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let make = |pack: &dyn Fn(&mut [u8], &mut Vec<Stray>)| {
                let (mut panel, mut strays) = (vec![1; panel_bytes(dim).unwrap()], Vec::new());
                pack(&mut panel, &mut strays);
                (panel, strays)
            };
            let got = make(&|panel, strays| pack_avx512(&rows, dim, panel, strays));
            let want = make(&|panel, strays| narrow::pack(&rows, dim, panel, strays));
            assert!(got == want && (dim < 100 || !got.1.is_empty()), "{n_row} x {dim}");
        }
    }
}
