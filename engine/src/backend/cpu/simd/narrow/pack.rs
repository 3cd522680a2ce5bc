//! Panels of twelve bits a number, written with vectors.

mod avx2;
mod avx512;

use crate::quant::narrow::{
    ROW_BYTES, STEP, Stray, TABLE_BYTES, UNIT_BYTES, largest_exponent, table, units,
};
use crate::quant::panels::OUTS;

/// Numbers of a vector.
const WORDS: usize = 32;

/// Which numbers of a row's part of a unit are strays.
type Found = [u32; STEP / WORDS];

/// Writes one row's part of a unit.
trait Packs {
    /// One row's `n` numbers of a unit; which are strays.
    ///
    /// # Safety
    /// There are so many numbers, and three vectors; the processor has the instruction set.
    unsafe fn part(at: *const i16, n: usize, largest: u16, to: *mut u8) -> Found;
}

/// [`crate::quant::narrow::pack`] on a processor with AVX-512 BW; the same bytes.
pub(super) fn pack_avx512(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn run(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
        // SAFETY: the caller's promise.
        unsafe { pack::<avx512::Avx512>(rows, dim, panel, strays) }
    }
    // SAFETY: the instruction set was checked when the backend was made.
    unsafe { run(rows, dim, panel, strays) }
}

/// The same with AVX2.
pub(super) fn pack_avx2(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
    #[target_feature(enable = "avx2")]
    unsafe fn run(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
        // SAFETY: the caller's promise.
        unsafe { pack::<avx2::Avx2>(rows, dim, panel, strays) }
    }
    // SAFETY: the instruction set was checked when the backend was made.
    unsafe { run(rows, dim, panel, strays) }
}

/// # Safety
/// The processor has the instruction set of `P`.
#[inline(always)]
unsafe fn pack<P: Packs>(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
    let n_row = rows.len() / (dim * size_of::<u16>()).max(1);
    assert!(n_row <= OUTS && panel.len() == TABLE_BYTES + units(dim) * UNIT_BYTES, "no panel");
    let largest = largest_exponent(rows, dim);
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
            let found = unsafe { P::part(at.cast(), n, largest, part.as_mut_ptr()) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::simd::narrow::pack_on;
    use crate::quant::narrow::{self, panel_bytes, tests::mixed};

    #[test]
    fn the_bytes_are_those_of_plain_code() {
        for (n_row, dim) in [(16, 128), (16, 300), (3, 257), (1, 1), (16, 2048), (7, 1024)] {
            let numbers = mixed(dim as u64 + 1, n_row * dim);
            let rows: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let make = |pack: &dyn Fn(&mut [u8], &mut Vec<Stray>)| {
                let (mut panel, mut strays) = (vec![1; panel_bytes(dim).unwrap()], Vec::new());
                pack(&mut panel, &mut strays);
                (panel, strays)
            };
            let want = make(&|panel, strays| narrow::pack(&rows, dim, panel, strays));
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let got = make(&|panel, strays| pack_on(isa, &rows, dim, panel, strays));
                assert!(got == want && (dim < 100 || !got.1.is_empty()), "{n_row} x {dim}");
            }
        }
    }
}
