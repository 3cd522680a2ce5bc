//! Block-quantised matrices in the order that products read them: panels of sixteen outputs.
//!
//! A panel holds sixteen neighbouring rows of a matrix. Its *units* follow one another, each of one or more *groups* of 32
//! numbers of every row: first the unit's factors, then each group's numbers. A vector of 64 bytes holds four numbers `k`
//! to `k + 3` of sixteen rows, row after row: what `vpdpbusd` multiplies with four inputs. Numbers are unsigned, as they
//! are stored in all formats but `Q8_0`, whose sign bit is turned.
//!
//! | | groups of a unit | factors | a group's numbers |
//! | --- | --- | --- | --- |
//! | `Q8_0` | 2 | `d`, f16, of each group | eight vectors |
//! | `Q4_0` | 2 | `d` of each group | four vectors: numbers 0 to 15 in lower halves, 16 to 31 in upper |
//! | `Q5_0` | 2 | `d` of each group | lower four bits so, then one vector of fifth bits: bit `j` of number `4 j + b` |
//! | `Q5_1` | 2 | `d`, then offset of each group | as `Q5_0` |
//! | `Q4_K` | 8 | `d`, `dmin`; scale and minimum of each group, a byte each | as `Q4_0` |
//! | `Q5_K` | 8 | as `Q4_K` | as `Q5_0` |
//! | `Q6_K` | 8 | `d`, 32 bytes of nothing; two scales of each group, a byte each | lower four bits so, then two vectors of upper bits, two for each number |
//!
//! These are the bytes of the stored blocks in another order, but for scales and minima of `Q4_K` and `Q5_K` in a byte
//! each instead of six bits (3 % and 2 % more), 32 bytes of filling in `Q6_K` (1 %), a row's last 32 numbers in a unit of 64, and
//! rows filled up to sixteen with zeros. Every vector begins at a multiple of 64 bytes.

use super::{DType, block, q4_k, q5_k, q6_k};

/// Rows of a panel.
pub(crate) const OUTS: usize = 16;
/// Numbers of a group.
pub(crate) const GROUP: usize = 32;
/// Bytes of a vector: four numbers of each row.
pub(crate) const VECTOR: usize = 4 * OUTS;

/// Sizes of a format's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Groups of a unit.
    pub(crate) groups: usize,
    /// Bytes of a unit's factors.
    pub(crate) head_bytes: usize,
    /// Bytes of a group's numbers.
    pub(crate) group_bytes: usize,
}

impl Layout {
    /// `None` for what is not stored in blocks.
    pub(crate) const fn of(dtype: DType) -> Option<Self> {
        let (groups, head, vectors) = match dtype {
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => return None,
            DType::Q8_0 => (2, 1, 8),
            DType::Q4_0 => (2, 1, 4),
            DType::Q5_0 => (2, 1, 5),
            DType::Q5_1 => (2, 2, 5),
            DType::Q4K => (8, 5, 4),
            DType::Q5K => (8, 5, 5),
            DType::Q6K => (8, 5, 6),
        };
        Some(Self { groups, head_bytes: head * VECTOR, group_bytes: vectors * VECTOR })
    }

    /// Bytes of a unit.
    pub(crate) const fn unit_bytes(self) -> usize {
        self.head_bytes + self.groups * self.group_bytes
    }

    /// Units of rows of `dim` numbers.
    pub(crate) const fn units(self, dim: usize) -> usize {
        dim.div_ceil(self.groups * GROUP)
    }

    /// Bytes of a panel of rows of `dim` numbers; `None` when they are too many.
    pub(crate) fn panel_bytes(self, dim: usize) -> Option<usize> {
        self.units(dim).checked_mul(self.unit_bytes())
    }
}

/// Bytes of `n_out` rows of `dim` numbers in panels; `None` when the format has none, rows are no whole blocks, or the
/// bytes are too many.
pub(crate) fn bytes(dtype: DType, n_out: usize, dim: usize) -> Option<usize> {
    dtype.row_bytes(dim)?;
    Layout::of(dtype)?.panel_bytes(dim)?.checked_mul(n_out.div_ceil(OUTS))
}

/// Writes up to sixteen rows of whole blocks, back to back in `rows`, into `panel`.
///
/// Rows of other than `dtype`'s blocks, or a panel of another size, leave the panel zero: a bug of the caller.
pub(crate) fn pack(dtype: DType, rows: &[u8], dim: usize, panel: &mut [u8]) {
    // Each format as code of its own: loading a model is this loop.
    match dtype {
        DType::Q8_0 => pack_as(DType::Q8_0, rows, dim, panel),
        DType::Q4_0 => pack_as(DType::Q4_0, rows, dim, panel),
        DType::Q5_0 => pack_as(DType::Q5_0, rows, dim, panel),
        DType::Q5_1 => pack_as(DType::Q5_1, rows, dim, panel),
        DType::Q4K => pack_as(DType::Q4K, rows, dim, panel),
        DType::Q5K => pack_as(DType::Q5K, rows, dim, panel),
        DType::Q6K => pack_as(DType::Q6K, rows, dim, panel),
        DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => panel.fill(0),
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's format")]
fn pack_as(dtype: DType, rows: &[u8], dim: usize, panel: &mut [u8]) {
    let (Some(layout), Some(row_bytes)) = (Layout::of(dtype), dtype.row_bytes(dim)) else { return };
    assert_eq!(Some(panel.len()), layout.panel_bytes(dim), "a panel of another size");
    let n_row = rows.len() / row_bytes.max(1);
    assert!(n_row <= OUTS, "{n_row} rows for one panel");
    if n_row < OUTS || !dim.is_multiple_of(layout.groups * GROUP) {
        panel.fill(0);
    }
    // Unit after unit, so that one is in the first-level cache while all rows pass.
    let per_unit = layout.groups * GROUP / dtype.block_len() * dtype.block_bytes();
    let parts = dtype.block_len() / GROUP;
    for (i, unit) in panel.chunks_exact_mut(layout.unit_bytes()).enumerate() {
        let (head, numbers) = unit.split_at_mut(layout.head_bytes);
        for (lane, row) in rows.chunks_exact(row_bytes.max(1)).take(OUTS).enumerate() {
            let at = Lane { dtype, lane };
            let blocks = &row[i * per_unit..(i * per_unit + per_unit).min(row_bytes)];
            for (i, block) in blocks.chunks_exact(dtype.block_bytes()).enumerate() {
                at.factors(block, i, head);
                for part in 0..parts {
                    let group = (i * parts + part) * layout.group_bytes;
                    let vectors = &mut numbers[group..group + layout.group_bytes];
                    at.numbers(&words(dtype, block, part), vectors);
                }
            }
        }
    }
}

/// One row's place in its panel.
#[derive(Clone, Copy)]
struct Lane {
    dtype: DType,
    lane: usize,
}

impl Lane {
    /// Writes block number `index` of a unit's factors.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled for the caller's format")]
    fn factors(self, block: &[u8], index: usize, head: &mut [u8]) {
        let lane = self.lane;
        let mut half = |place: usize, from: &[u8]| {
            let to = head[(place * OUTS + lane) * 2..].first_chunk_mut::<2>();
            if let (Some(to), Some(from)) = (to, from.first_chunk()) {
                *to = *from;
            }
        };
        match self.dtype {
            DType::Q8_0 | DType::Q4_0 | DType::Q5_0 => half(index, block),
            DType::Q5_1 => {
                half(2 * index, block);
                half(2 * index + 1, &block[2..]);
            }
            DType::Q4K | DType::Q5K => {
                half(0, block);
                half(1, &block[2..]);
                let Some((packed, _)) = block[4..].split_first_chunk::<12>() else { return };
                for group in 0..8 {
                    let (scale, min) = block::scale_and_min(packed, group);
                    let at = VECTOR + group * 2 * OUTS + lane;
                    (head[at], head[at + OUTS]) = (scale, min);
                }
            }
            DType::Q6K => {
                half(0, &block[q6_k::BYTES - 2..]);
                for (i, scale) in block[q6_k::LEN * 3 / 4..][..OUTS].iter().enumerate() {
                    head[VECTOR + i * OUTS + lane] = *scale;
                }
            }
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => {}
        }
    }

    /// Writes a group's numbers, four a word.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled for the caller's format")]
    fn numbers(self, words: &[u32; 8], vectors: &mut [u8]) {
        let mut put = |vector: usize, word: u32| {
            let at = vector * VECTOR + self.lane * 4;
            // No `copy_from_slice`: a call for four bytes.
            if let Some(to) = vectors[at..].first_chunk_mut() {
                *to = word.to_le_bytes();
            }
        };
        if self.dtype == DType::Q8_0 {
            for (i, word) in words.iter().enumerate() {
                put(i, *word);
            }
            return;
        }
        for i in 0..4 {
            put(i, (words[i] & LOW) | ((words[i + 4] & LOW) << 4));
        }
        let upper = |i: usize| (words[i] & !LOW) >> 4;
        match self.dtype {
            DType::Q5_0 | DType::Q5_1 | DType::Q5K => {
                let mut bits = 0;
                for i in 0..8 {
                    bits |= upper(i) << i;
                }
                put(4, bits);
            }
            DType::Q6K => {
                for half in 0..2 {
                    let mut bits = 0;
                    for i in 0..4 {
                        bits |= upper(4 * half + i) << (2 * i);
                    }
                    put(4 + half, bits);
                }
            }
            _ => {}
        }
    }
}

/// The lower halves of four bytes.
const LOW: u32 = 0x0f0f_0f0f;
/// The lowest bits of four bytes.
const BIT: u32 = 0x0101_0101;

/// Group number `part` of a block, four numbers a word, unsigned.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's format")]
fn words(dtype: DType, block: &[u8], part: usize) -> [u32; 8] {
    let word = |at: usize| block[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    // Bits `4 i` to `4 i + 3` of a word, one a byte.
    let spread = |bits: u32, i: usize| (((bits >> (4 * i)) & 15).wrapping_mul(0x0020_4081)) & BIT;
    let halves = |at: usize, i: usize| (word(at + i % 4 * 4) >> (i / 4 * 4)) & LOW;
    // A loop: a closure handed to the standard library's would be compiled for any format.
    let mut words = [0; 8];
    for (i, to) in words.iter_mut().enumerate() {
        *to = match dtype {
            DType::Q8_0 => word(2 + 4 * i) ^ (BIT << 7),
            DType::Q4_0 => halves(2, i),
            DType::Q5_0 => halves(6, i) | (spread(word(2), i) << 4),
            DType::Q5_1 => halves(8, i) | (spread(word(4), i) << 4),
            DType::Q4K => {
                let at = q4_k::BYTES - q4_k::LEN / 2 + part / 2 * 32 + 4 * i;
                (word(at) >> (part % 2 * 4)) & LOW
            }
            DType::Q5K => {
                let at = q5_k::BYTES - q5_k::LEN / 2 + part / 2 * 32 + 4 * i;
                let high = (word(16 + 4 * i) >> part) & BIT;
                ((word(at) >> (part % 2 * 4)) & LOW) | (high << 4)
            }
            DType::Q6K => {
                let (half, run) = (part / 4, part % 4);
                let low = word(half * 64 + run % 2 * 32 + 4 * i) >> (run / 2 * 4);
                let high = word(q6_k::LEN / 2 + half * 32 + 4 * i) >> (2 * run);
                (low & LOW) | ((high & (3 * BIT)) << 4)
            }
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => 0,
        };
    }
    words
}
