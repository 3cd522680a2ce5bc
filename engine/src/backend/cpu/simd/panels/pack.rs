//! Rows into panels, sixteen of them at once: the bytes that `panels::pack` of `quant` writes.
//!
//! Loading a model is little but this, and reading memory, and having the system clear some. A panel's vectors are the
//! stored words of sixteen rows, turned; what formats do to their bits before they are stored is undone in whole vectors.

use std::arch::x86_64::__m512i;

use super::LINE;
use super::formats::{Panel, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::ints::Ints;
use crate::backend::cpu::simd::{Avx512, prefetch_far};
use crate::quant::panels::{GROUP, Layout, OUTS, VECTOR};
use crate::quant::{DType, q4_k, q5_k, q6_k};

/// A format's blocks, sixteen rows at a time.
///
/// # Safety
/// `at` is the same block of sixteen rows, `stride` bytes apart and below 2^27; the processor has what [`Avx512`] needs.
trait Blocks: Panel {
    /// Writes block number `index` of a unit whose factors are at `head`, its groups at `groups`.
    unsafe fn pack(at: *const u8, stride: usize, index: usize, head: *mut u8, groups: *mut u8);
}

/// Writes sixteen whole rows into `panel`; `false`, and nothing written, when that is left to the plain way.
pub(super) fn pack(isa: Isa, dtype: DType, rows: &[u8], dim: usize, panel: &mut [u8]) -> bool {
    let (Some(layout), Some(row_bytes)) = (Layout::of(dtype), dtype.row_bytes(dim)) else {
        return false;
    };
    let is_whole = rows.len() == OUTS * row_bytes && layout.panel_bytes(dim) == Some(panel.len());
    // Whoever has tiles has these; tiles themselves are slow to ask for.
    let is_wide = isa >= Isa::Avx512Bf16 && Isa::Avx512Bf16.is_available();
    if !is_whole || !is_wide || row_bytes >= STRIDE_END || row_bytes == 0 {
        return false;
    }
    if !dim.is_multiple_of(layout.groups * GROUP) {
        panel.fill(0);
    }
    let (from, to) = (rows.as_ptr(), panel.as_mut_ptr());
    // SAFETY: sixteen rows of whole blocks, a panel of as many units, and a processor with AVX-512, all seen above.
    unsafe {
        match dtype {
            DType::Q8_0 => all::<Q8_0>(from, row_bytes, to),
            DType::Q4_0 => all::<Q4_0>(from, row_bytes, to),
            DType::Q5_0 => all::<Q5_0>(from, row_bytes, to),
            DType::Q5_1 => all::<Q5_1>(from, row_bytes, to),
            DType::Q4K => all::<Q4K>(from, row_bytes, to),
            DType::Q5K => all::<Q5K>(from, row_bytes, to),
            DType::Q6K => all::<Q6K>(from, row_bytes, to),
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => return false,
        }
    }
    true
}

/// Sixteen rows are reached by 32-bit offsets.
const STRIDE_END: usize = 1 << 27;

/// # Safety
/// There are sixteen rows of `row_bytes`, whole blocks, and a panel for them; the processor has what [`Avx512`] needs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn all<B: Blocks>(rows: *const u8, row_bytes: usize, panel: *mut u8) {
    let layout = super::formats::layout::<B>();
    let block_bytes = B::DTYPE.block_bytes();
    let (blocks, parts) = (row_bytes / block_bytes, B::DTYPE.block_len() / GROUP);
    let per_unit = layout.groups / parts;
    // The sixteen rows after these, neighbours in memory, are asked for meanwhile.
    let next = rows.wrapping_add(OUTS * row_bytes);
    for block in 0..blocks {
        for line in (0..OUTS * block_bytes).step_by(LINE) {
            prefetch_far(next.wrapping_add(block * OUTS * block_bytes + line));
        }
        let index = block % per_unit;
        // SAFETY: the caller's promise: there is a unit for every `per_unit` blocks.
        unsafe {
            let head = panel.add(block / per_unit * layout.unit_bytes());
            let groups = head.add(layout.head_bytes + index * parts * layout.group_bytes);
            B::pack(rows.add(block * block_bytes), row_bytes, index, head, groups);
        }
    }
}

impl Blocks for Q8_0 {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, index: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            store_halves(head, index, Avx512::load_words(at, stride));
            for half in 0..2 {
                let turned = Avx512::load_turned(at.add(2 + half * OUTS), stride);
                // The sign bit turned.
                for (i, turned) in turned.into_iter().enumerate() {
                    put(groups, half * VECTORS_OF_16 + i, Avx512::byte_minus(turned, 128));
                }
            }
        }
    }
}

impl Blocks for Q4_0 {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, index: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            store_halves(head, index, Avx512::load_words(at, stride));
            put_turned(groups, at.add(2), stride);
        }
    }
}

impl Blocks for Q5_0 {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, index: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            store_halves(head, index, Avx512::load_words(at, stride));
            put_turned(groups, at.add(6), stride);
            put(groups, 4, Avx512::bits_by_four(Avx512::load_words(at.add(2), stride)));
        }
    }
}

impl Blocks for Q5_1 {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, index: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            store_two_halves(head, index, Avx512::load_words(at, stride));
            put_turned(groups, at.add(8), stride);
            put(groups, 4, Avx512::bits_by_four(Avx512::load_words(at.add(4), stride)));
        }
    }
}

impl Blocks for Q4K {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, _: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            factors_of_k(at, stride, head);
            let bytes = at.add(q4_k::BYTES - q4_k::LEN / 2);
            for pair in 0..4 {
                let words = load_32(bytes.add(pair * GROUP), stride);
                let to = groups.add(pair * 2 * 4 * VECTOR);
                put_halves(to, words, 0);
                put_halves(to.add(4 * VECTOR), words, 4);
            }
        }
    }
}

impl Blocks for Q5K {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, _: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            factors_of_k(at, stride, head);
            let bytes = at.add(q5_k::BYTES - q5_k::LEN / 2);
            let high = load_32(at.add(16), stride);
            for pair in 0..4 {
                let words = load_32(bytes.add(pair * GROUP), stride);
                for half in 0..2 {
                    let group = 2 * pair + half;
                    let to = groups.add(group * 5 * VECTOR);
                    put_halves(to, words, 4 * half as i32);
                    let mut bits = Avx512::splat_int(0);
                    for (i, high) in high.into_iter().enumerate() {
                        let moved = Avx512::byte_bits(high, group as i32 - i as i32, 1 << i);
                        bits = Avx512::byte_or(bits, moved);
                    }
                    put(to, 4, bits);
                }
            }
        }
    }
}

impl Blocks for Q6K {
    #[inline(always)]
    unsafe fn pack(at: *const u8, stride: usize, _: usize, head: *mut u8, groups: *mut u8) {
        // SAFETY: the caller's promise; the factor is the block's end, and so is the word that is read.
        unsafe {
            let factor = Avx512::load_words(at.add(q6_k::BYTES - 4), stride);
            store_halves(head, 0, Avx512::upper_halves(factor));
            // What fills the vector up.
            store_halves(head, 1, Avx512::splat_int(0));
            let scales = Avx512::load_turned(at.add(q6_k::LEN * 3 / 4), stride);
            for (i, scales) in scales.into_iter().enumerate() {
                put(head.add(VECTOR), i, Avx512::bytes_apart(scales));
            }
            for half in 0..2 {
                let high = load_32(at.add(q6_k::LEN / 2 + half * GROUP), stride);
                for pair in 0..2 {
                    let low = load_32(at.add(half * 64 + pair * GROUP), stride);
                    for run in [pair, pair + 2] {
                        let to = groups.add((4 * half + run) * 6 * VECTOR);
                        put_halves(to, low, run as i32 / 2 * 4);
                        upper_bits(to.add(4 * VECTOR), high, run as i32);
                    }
                }
            }
        }
    }
}

/// The upper bits of a group of `Q6_K`, two for each number.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn upper_bits(to: *mut u8, high: [__m512i; WORDS], run: i32) {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            let mut bits = Avx512::splat_int(0);
            for (i, high) in high[4 * half..4 * half + 4].iter().enumerate() {
                let by = 2 * (run - i as i32);
                let moved = Avx512::byte_bits(*high, by, 3 << (2 * i));
                bits = Avx512::byte_or(bits, moved);
            }
            put(to, half, bits);
        }
    }
}

/// Words of a group, a byte a number.
const WORDS: usize = GROUP / 4;
/// Vectors of sixteen bytes of each row.
const VECTORS_OF_16: usize = 4;

/// Vector number `index` behind `to`.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn put(to: *mut u8, index: usize, v: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { Avx512::store_bytes(to.add(index * VECTOR), v) }
}

/// Sixteen bytes of each row as they are stored.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn put_turned(to: *mut u8, at: *const u8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let turned = Avx512::load_turned(at, stride);
        for (i, turned) in turned.into_iter().enumerate() {
            put(to, i, turned);
        }
    }
}

/// 32 bytes of each row, a word of each a vector.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn load_32(at: *const u8, stride: usize) -> [__m512i; WORDS] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = Avx512::load_turned(at, stride);
        let [e, f, g, h] = Avx512::load_turned(at.add(16), stride);
        [a, b, c, d, e, f, g, h]
    }
}

/// The halves from bit `shift` of a group's bytes, 0 or 4: the group's first sixteen numbers below its last.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn put_halves(to: *mut u8, words: [__m512i; WORDS], shift: i32) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..VECTORS_OF_16 {
            let low = Avx512::byte_bits(words[i], shift, 15);
            let high = Avx512::byte_bits(words[i + 4], shift - 4, 15 << 4);
            put(to, i, Avx512::byte_or(low, high));
        }
    }
}

/// The lower half of every word as factor number `index`.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn store_halves(head: *mut u8, index: usize, words: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { Avx512::store_lower_halves(head.add(index * 2 * OUTS), words) }
}

/// The halves of every word as factors number `2 index` and `2 index + 1`.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn store_two_halves(head: *mut u8, index: usize, words: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        store_halves(head, 2 * index, words);
        store_halves(head, 2 * index + 1, Avx512::upper_halves(words));
    }
}

/// Factors of `Q4_K` and `Q5_K`: two halves, then scale and minimum of each group, which are six bits each in twelve bytes.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn factors_of_k(at: *const u8, stride: usize, head: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let [halves, a, b, c] = Avx512::load_turned(at, stride);
        store_two_halves(head, 0, halves);
        // Groups 0 to 3 have the lower six bits of `a` and `b`; 4 to 7 a half of `c`, and above it the upper two bits.
        let scales = [
            Avx512::byte_bits(a, 0, 63),
            Avx512::byte_or(Avx512::byte_bits(c, 0, 15), Avx512::byte_bits(a, 2, 3 << 4)),
        ];
        let minima = [
            Avx512::byte_bits(b, 0, 63),
            Avx512::byte_or(Avx512::byte_bits(c, 4, 15), Avx512::byte_bits(b, 2, 3 << 4)),
        ];
        for half in 0..2 {
            let (scales, minima) =
                (Avx512::bytes_apart(scales[half]), Avx512::bytes_apart(minima[half]));
            let [first, second] = Avx512::quarters_in_turn(scales, minima);
            put(head, 1 + 2 * half, first);
            put(head, 2 + 2 * half, second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::panels;

    /// Bytes that `seed` decides.
    fn bytes(mut seed: u64, n: usize) -> Vec<u8> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    /// The plain way writes them one row and one word after another.
    #[test]
    fn panels_have_the_same_bytes_as_the_plain_way_writes() {
        for dtype in DType::ALL.into_iter().filter(|dtype| Layout::of(*dtype).is_some()) {
            // One block, an odd number of them, a row as models have it.
            for blocks in [1, 2, 3, 8, 9] {
                let dim = blocks * dtype.block_len();
                let row_bytes = dtype.row_bytes(dim).unwrap();
                let len = Layout::of(dtype).unwrap().panel_bytes(dim).unwrap();
                // Rows end where the allocation does, at an odd address.
                let all = bytes(dim as u64 + 7, OUTS * row_bytes + 1);
                let rows = &all[1..];
                let mut want = vec![0; len];
                panels::pack(dtype, rows, dim, &mut want);
                for isa in [Isa::Avx512Bf16, Isa::Amx].into_iter().filter(|isa| isa.is_available())
                {
                    let mut panel = vec![0xa5; len];
                    assert!(pack(isa, dtype, rows, dim, &mut panel));
                    assert!(panel == want, "{dtype:?} {dim} {isa:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_whole_panel_is_left_to_the_plain_way() {
        let (dim, mut panel) = (64, vec![7; 16 * 64]);
        let rows = vec![1; 17 * 68];
        for (dtype, n) in [(DType::Q8_0, 15 * 68), (DType::Q8_0, 17 * 68), (DType::F16, 16 * 128)] {
            assert!(!pack(Isa::Avx512Bf16, dtype, &rows[..n.min(rows.len())], dim, &mut panel));
        }
        for isa in [Isa::Portable, Isa::Avx2] {
            assert!(!pack(isa, DType::Q8_0, &rows[..16 * 68], dim, &mut panel));
        }
        assert!(panel.iter().all(|byte| *byte == 7));
    }
}
