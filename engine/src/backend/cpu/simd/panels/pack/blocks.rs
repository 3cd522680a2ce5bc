//! What each format's blocks become: a unit's factors and groups.

use super::super::LINE;
use super::super::formats::{Panel, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::backend::cpu::simd::ints::turns::Turns;
use crate::backend::cpu::simd::prefetch_far;
use crate::quant::panels::{GROUP, OUTS, VECTOR};
use crate::quant::{q4_k, q5_k, q6_k};

/// A format's blocks, sixteen rows at a time.
///
/// # Safety
/// The block is there in sixteen rows, and so is its unit; the processor has `L`.
pub(in super::super) trait Blocks: Panel {
    /// Bytes of a block.
    const BYTES: usize = Self::DTYPE.block_bytes();
    /// Groups of a block.
    const PARTS: usize = Self::DTYPE.block_len() / GROUP;
    /// Blocks of a row in a unit.
    const PER_UNIT: usize = Self::LAYOUT.groups / Self::PARTS;
    /// Writes a block into its unit, and asks for what lies ahead meanwhile.
    unsafe fn pack<L: Turns>(from: Block, to: Unit);
}

/// The same block of sixteen rows.
#[derive(Clone, Copy)]
pub(in super::super) struct Block {
    /// The first row's.
    pub(in super::super) at: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// As many bytes further on.
    pub(super) ahead: *const u8,
}

impl Block {
    /// Asks for part number `part` of `parts` of what lies ahead. All at once would wait for one another, and what is packed
    /// behind them.
    #[inline(always)]
    pub(in super::super) fn ask<B: Blocks>(self, part: usize, parts: usize) {
        let share = (OUTS * B::BYTES).div_ceil(parts * LINE);
        for line in part * share..(part + 1) * share {
            prefetch_far(self.ahead.wrapping_add(line * LINE));
        }
    }

    /// Four bytes of each row.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    unsafe fn words<L: Turns>(self, at: usize) -> L::I {
        // SAFETY: the caller's promise.
        unsafe { L::load_words(self.at.add(at), self.stride) }
    }

    /// The half that each row's begins with, widened.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    pub(in super::super) unsafe fn factors<L: Turns>(self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::load_halves_apart(self.at, self.stride) }
    }

    /// Sixteen bytes of each row, a word of each a vector.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    pub(in super::super) unsafe fn turned<L: Turns>(self, at: usize) -> [L::I; VECTORS_OF_16] {
        // SAFETY: the caller's promise.
        unsafe { L::load_turned(self.at.add(at), self.stride) }
    }

    /// The same of 32.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    unsafe fn load_32<L: Turns>(self, at: usize) -> [L::I; WORDS] {
        // SAFETY: the caller's promise.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (self.turned::<L>(at), self.turned::<L>(at + 16));
            [a, b, c, d, e, f, g, h]
        }
    }
}

/// Where a block goes.
#[derive(Clone, Copy)]
pub(in super::super) struct Unit {
    /// The unit's factors.
    pub(super) head: *mut u8,
    /// Which of its blocks this is.
    pub(super) index: usize,
    /// The block's groups.
    pub(super) groups: *mut u8,
}

impl Unit {
    /// The lower half of every word as factor number `index`.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    unsafe fn store_halves<L: Turns>(self, index: usize, words: L::I) {
        // SAFETY: the caller's promise.
        unsafe { L::store_lower_halves(self.head.add(index * 2 * OUTS), words) }
    }

    /// The halves of every word as factors number `2 index` and `2 index + 1`.
    ///
    /// # Safety
    /// As [`Blocks`].
    #[inline(always)]
    unsafe fn store_two_halves<L: Turns>(self, index: usize, words: L::I) {
        // SAFETY: the caller's promise.
        unsafe {
            self.store_halves::<L>(2 * index, words);
            self.store_halves::<L>(2 * index + 1, L::upper_halves(words));
        }
    }
}

impl Blocks for Q8_0 {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            from.ask::<Self>(0, 1);
            to.store_halves::<L>(to.index, from.words::<L>(0));
            for half in 0..2 {
                let turned = from.turned::<L>(2 + half * OUTS);
                // The sign bit turned.
                for (i, turned) in turned.into_iter().enumerate() {
                    put::<L>(to.groups, half * VECTORS_OF_16 + i, L::byte_minus(turned, 128));
                }
            }
        }
    }
}

impl Blocks for Q4_0 {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            from.ask::<Self>(0, 1);
            to.store_halves::<L>(to.index, from.words::<L>(0));
            put_turned::<L>(to.groups, from.turned::<L>(2));
        }
    }
}

impl Blocks for Q5_0 {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            from.ask::<Self>(0, 1);
            to.store_halves::<L>(to.index, from.words::<L>(0));
            put_turned::<L>(to.groups, from.turned::<L>(6));
            put::<L>(to.groups, 4, L::bits_by_four(from.words::<L>(2)));
        }
    }
}

impl Blocks for Q5_1 {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            from.ask::<Self>(0, 1);
            to.store_two_halves::<L>(to.index, from.words::<L>(0));
            put_turned::<L>(to.groups, from.turned::<L>(8));
            put::<L>(to.groups, 4, L::bits_by_four(from.words::<L>(4)));
        }
    }
}

impl Blocks for Q4K {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            factors_of_k::<L>(from, to);
            let bytes = q4_k::BYTES - q4_k::LEN / 2;
            for pair in 0..4 {
                from.ask::<Self>(pair, 4);
                let words = from.load_32::<L>(bytes + pair * GROUP);
                let to = to.groups.add(pair * 2 * 4 * VECTOR);
                put_halves::<L>(to, words, 0);
                put_halves::<L>(to.add(4 * VECTOR), words, 4);
            }
        }
    }
}

impl Blocks for Q5K {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise.
        unsafe {
            factors_of_k::<L>(from, to);
            let bytes = q5_k::BYTES - q5_k::LEN / 2;
            let high = from.load_32::<L>(16);
            for pair in 0..4 {
                from.ask::<Self>(pair, 4);
                let words = from.load_32::<L>(bytes + pair * GROUP);
                for half in 0..2 {
                    let group = 2 * pair + half;
                    let to = to.groups.add(group * 5 * VECTOR);
                    put_halves::<L>(to, words, 4 * half as i32);
                    let mut bits = L::splat_int(0);
                    for (i, high) in high.into_iter().enumerate() {
                        let moved = L::byte_bits(high, group as i32 - i as i32, 1 << i);
                        bits = L::byte_or(bits, moved);
                    }
                    put::<L>(to, 4, bits);
                }
            }
        }
    }
}

impl Blocks for Q6K {
    #[inline(always)]
    unsafe fn pack<L: Turns>(from: Block, to: Unit) {
        // SAFETY: the caller's promise; the factor is the block's end, and so is the word that is read.
        unsafe {
            let factor = from.words::<L>(q6_k::BYTES - 4);
            to.store_halves::<L>(0, L::upper_halves(factor));
            // What fills the vector up.
            to.store_halves::<L>(1, L::splat_int(0));
            let scales = from.turned::<L>(q6_k::LEN * 3 / 4);
            for (i, scales) in scales.into_iter().enumerate() {
                put::<L>(to.head.add(VECTOR), i, L::bytes_apart(scales));
            }
            for half in 0..2 {
                let high = from.load_32::<L>(q6_k::LEN / 2 + half * GROUP);
                for pair in 0..2 {
                    from.ask::<Self>(2 * half + pair, 4);
                    let low = from.load_32::<L>(half * 64 + pair * GROUP);
                    for run in [pair, pair + 2] {
                        let to = to.groups.add((4 * half + run) * 6 * VECTOR);
                        put_halves::<L>(to, low, run as i32 / 2 * 4);
                        upper_bits::<L>(to.add(4 * VECTOR), high, run as i32);
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
unsafe fn upper_bits<L: Turns>(to: *mut u8, high: [L::I; WORDS], run: i32) {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            let mut bits = L::splat_int(0);
            for (i, high) in high[4 * half..4 * half + 4].iter().enumerate() {
                let by = 2 * (run - i as i32);
                let moved = L::byte_bits(*high, by, 3 << (2 * i));
                bits = L::byte_or(bits, moved);
            }
            put::<L>(to, half, bits);
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
unsafe fn put<L: Turns>(to: *mut u8, index: usize, v: L::I) {
    // SAFETY: the caller's promise.
    unsafe { L::store_bytes(to.add(index * VECTOR), v) }
}

/// Sixteen bytes of each row as they are stored.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn put_turned<L: Turns>(to: *mut u8, turned: [L::I; VECTORS_OF_16]) {
    for (i, turned) in turned.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { put::<L>(to, i, turned) }
    }
}

/// The halves from bit `shift` of a group's bytes, 0 or 4: the group's first sixteen numbers below its last.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn put_halves<L: Turns>(to: *mut u8, words: [L::I; WORDS], shift: i32) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..VECTORS_OF_16 {
            let low = L::byte_bits(words[i], shift, 15);
            let high = L::byte_bits(words[i + 4], shift - 4, 15 << 4);
            put::<L>(to, i, L::byte_or(low, high));
        }
    }
}

/// Factors of `Q4_K` and `Q5_K`: two halves, then scale and minimum of each group, which are six bits each in twelve bytes.
///
/// # Safety
/// As [`Blocks`].
#[inline(always)]
unsafe fn factors_of_k<L: Turns>(from: Block, to: Unit) {
    // SAFETY: the caller's promise.
    unsafe {
        let [halves, a, b, c] = from.turned::<L>(0);
        to.store_two_halves::<L>(0, halves);
        // Groups 0 to 3 have the lower six bits of `a` and `b`; 4 to 7 a half of `c`, and above it the upper two bits.
        let scales = [
            L::byte_bits(a, 0, 63),
            L::byte_or(L::byte_bits(c, 0, 15), L::byte_bits(a, 2, 3 << 4)),
        ];
        let minima = [
            L::byte_bits(b, 0, 63),
            L::byte_or(L::byte_bits(c, 4, 15), L::byte_bits(b, 2, 3 << 4)),
        ];
        for half in 0..2 {
            let (scales, minima) = (L::bytes_apart(scales[half]), L::bytes_apart(minima[half]));
            let [first, second] = L::quarters_in_turn(scales, minima);
            put::<L>(to.head, 1 + 2 * half, first);
            put::<L>(to.head, 2 + 2 * half, second);
        }
    }
}
