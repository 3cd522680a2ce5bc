//! Rows of a checkpoint as the kernels read them: `kernels/include/weight.h` has the layouts.
//!
//! A row's quants are padded with zeros; quants of a byte and less change places inside 64 or 128 columns, so that the
//! bytes which one lane of a warp multiplies lie side by side. Scales are a plane of their own.

use hadal_kernels::Format;

use crate::checkpoint::Tensor;
use crate::quant::{DType, bf16, q4_0, q8_0};

/// Quants of a row are a multiple of this many columns.
const COLUMNS: usize = 128;
/// Places of eight neighbours in their eight bytes.
const BYTE_ORDER: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];
/// Places of eight neighbours in the four-bit parts of a word, lowest first.
const NIBBLE_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Where the parts of a matrix `[n_out, n_in]` are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: Format,
    pub(super) n_out: usize,
    pub(super) n_in: usize,
    /// Quants of a row.
    pub(super) quant_stride: usize,
    /// See `weight.h`.
    pub(super) scale_stride: usize,
}

impl Layout {
    pub(super) fn new(format: Format, n_out: usize, n_in: usize) -> Self {
        let scale_stride = match format {
            Format::Bf16 => 0,
            Format::Fp8 => n_in.div_ceil(128),
            Format::Int8 | Format::Int4G32 | Format::Int4G128 => n_out.next_multiple_of(16),
        };
        Self { format, n_out, n_in, quant_stride: n_in.next_multiple_of(COLUMNS), scale_stride }
    }

    /// Bytes of a row of quants.
    pub(super) fn row_bytes(&self) -> usize {
        match self.format {
            Format::Bf16 => self.quant_stride * 2,
            Format::Fp8 | Format::Int8 => self.quant_stride,
            Format::Int4G32 | Format::Int4G128 => self.quant_stride / 2,
        }
    }

    /// Bytes of all quants.
    pub(super) fn quant_bytes(&self) -> usize {
        self.n_out * self.row_bytes()
    }

    /// Bytes of all scales.
    pub(super) fn scale_bytes(&self) -> usize {
        let segments = self.n_in.div_ceil(128);
        match self.format {
            Format::Bf16 => 0,
            Format::Fp8 => self.n_out.div_ceil(128) * self.scale_stride * 4,
            Format::Int8 | Format::Int4G32 => segments * self.scale_stride * 4 * 2,
            Format::Int4G128 => segments * self.scale_stride * 2,
        }
    }
}

/// The format that a matrix stored as `dtype` keeps on a card; blocks of another shape than the kernels' are decoded.
pub(super) fn format_of(tensor: &Tensor, dtype: DType) -> Format {
    match dtype {
        DType::Q8_0 => Format::Int8,
        DType::Q4_0 => Format::Int4G32,
        DType::Fp8E4m3 => {
            let is_ours = tensor.scales.as_ref().is_none_or(|scales| scales.block == [128, 128]);
            if is_ours { Format::Fp8 } else { Format::Bf16 }
        }
        _ => Format::Bf16,
    }
}

/// Rows of `source` bytes each, as rows of quants. Returns them; what scales there are inside the rows go to `scales`,
/// the whole plane, `first` being the number of the first row.
pub(super) fn rows(
    layout: &Layout,
    source: &[u8],
    first: usize,
    quants: &mut Vec<u8>,
    scales: &mut [u8],
) {
    let row_bytes = layout.row_bytes();
    let dtype = match layout.format {
        Format::Fp8 => DType::Fp8E4m3,
        Format::Int8 => DType::Q8_0,
        Format::Int4G32 | Format::Int4G128 => DType::Q4_0,
        Format::Bf16 => DType::Bf16,
    };
    let Some(stored) = dtype.row_bytes(layout.n_in).filter(|bytes| *bytes > 0) else { return };
    let n = source.len() / stored;
    quants.clear();
    quants.resize(n * row_bytes, if dtype == DType::Q4_0 { 0x88 } else { 0 });
    let rows = source.chunks_exact(stored).zip(quants.chunks_exact_mut(row_bytes));
    for ((from, to), row) in rows.zip(first..) {
        match layout.format {
            Format::Bf16 => to[..stored].copy_from_slice(from),
            Format::Fp8 => {
                for (at, unit) in from.chunks(8).enumerate() {
                    put_bytes(to, at, unit);
                }
            }
            Format::Int8 => {
                for (group, block) in from.chunks_exact(q8_0::BYTES).enumerate() {
                    put_scale(layout, scales, row, group, &block[..2]);
                    for (t, unit) in block[2..].chunks_exact(8).enumerate() {
                        put_bytes(to, 4 * group + t, unit);
                    }
                }
            }
            Format::Int4G32 | Format::Int4G128 => {
                for (group, block) in from.chunks_exact(q4_0::BYTES).enumerate() {
                    put_scale(layout, scales, row, group, &block[..2]);
                    put_nibbles(to, group, &block[2..]);
                }
            }
        }
    }
}

/// The `at`-th eight columns of a row.
fn put_bytes(row: &mut [u8], at: usize, unit: &[u8]) {
    let (segment, j, t) = (at / 8, at / 4 % 2, at % 4);
    let to = &mut row[64 * segment + 8 * (2 * t + j)..][..8];
    for (to, from) in to.iter_mut().zip(BYTE_ORDER) {
        *to = unit.get(from).copied().unwrap_or(0);
    }
}

/// Columns `32 * group ..` of a row, from a block of `Q4_0`: byte `i` holds columns `i` and `i + 16`.
fn put_nibbles(row: &mut [u8], group: usize, block: &[u8]) {
    let column = |i: usize| if i < 16 { block[i] & 15 } else { block[i - 16] >> 4 };
    let (segment, j) = (group / 4, group % 4);
    for t in 0..4 {
        let word = &mut row[64 * segment + 4 * (4 * t + j)..][..4];
        for (byte, pair) in word.iter_mut().zip(NIBBLE_ORDER.chunks_exact(2)) {
            *byte = column(8 * t + pair[0]) | column(8 * t + pair[1]) << 4;
        }
    }
}

/// The f16 scale of 32 columns.
fn put_scale(layout: &Layout, scales: &mut [u8], row: usize, group: usize, bits: &[u8]) {
    let at = ((group / 4 * layout.scale_stride + row) * 4 + group % 4) * 2;
    if let Some(to) = scales.get_mut(at..at + 2) {
        to.copy_from_slice(bits);
    }
}

/// Decoded rows of `dim` numbers as padded bf16 rows of `row_bytes` bytes.
pub(super) fn bf16_rows(values: &[f32], dim: usize, row_bytes: usize, quants: &mut Vec<u8>) {
    quants.clear();
    quants.resize(values.len() / dim.max(1) * row_bytes, 0);
    let rows = values.chunks_exact(dim.max(1)).zip(quants.chunks_exact_mut(row_bytes.max(1)));
    for (from, to) in rows {
        for (from, to) in from.iter().zip(to.chunks_exact_mut(2)) {
            to.copy_from_slice(&bf16::from_f32(*from).to_le_bytes());
        }
    }
}

/// `[rows, dim]` turned round: `[dim, rows]`.
pub(super) fn turned(values: &[f32], rows: usize, dim: usize, out: &mut Vec<f32>) {
    out.clear();
    for column in 0..dim {
        out.extend((0..rows).map(|row| values[row * dim + column]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a column's byte is, by the words of `weight.h`.
    fn byte_at(column: usize) -> usize {
        let (j, t, i) = (column % 64 / 32, column % 32 / 8, column % 8);
        let place = [0, 2, 1, 3, 4, 6, 5, 7].iter().position(|at| *at == i).unwrap();
        column / 64 * 64 + 8 * (2 * t + j) + place
    }

    #[test]
    fn bytes_go_where_the_header_says_and_the_rest_is_zero() {
        let layout = Layout::new(Format::Fp8, 2, 140);
        assert_eq!((layout.quant_stride, layout.scale_bytes()), (256, 8));
        let source: Vec<u8> = (0..280u32).map(|n| (n % 251) as u8 + 1).collect();
        let mut quants = Vec::new();
        rows(&layout, &source, 0, &mut quants, &mut []);
        for row in 0..2 {
            let mut want = vec![0u8; 256];
            (0..140).for_each(|column| want[byte_at(column)] = source[row * 140 + column]);
            assert_eq!(&quants[row * 256..][..256], want, "row {row}");
        }
    }

    #[test]
    fn whole_numbers_and_their_factors_go_where_the_header_says() {
        let (n_out, n_in) = (3, 160);
        let values: Vec<f32> = (0..n_out * n_in).map(|n| ((n * 37) % 101) as f32 - 50.0).collect();
        let mut stored = Vec::new();
        q8_0::encode(&values, &mut stored);
        let layout = Layout::new(Format::Int8, n_out, n_in);
        assert_eq!((layout.scale_stride, layout.scale_bytes()), (16, 2 * 16 * 4 * 2));
        let (mut quants, mut scales) = (Vec::new(), vec![0; layout.scale_bytes()]);
        rows(&layout, &stored, 0, &mut quants, &mut scales);
        for at in 0..values.len() {
            let (row, column) = (at / n_in, at % n_in);
            let block = &stored[(row * 5 + column / 32) * q8_0::BYTES..];
            assert_eq!(quants[row * 256 + byte_at(column)], block[2 + column % 32]);
            let place = ((column / 128 * 16 + row) * 4 + column % 128 / 32) * 2;
            assert_eq!(scales[place..place + 2], block[..2]);
        }
    }

    #[test]
    fn four_bits_go_where_the_header_says_and_the_rest_is_eight() {
        let (n_out, n_in) = (2, 160);
        let values: Vec<f32> = (0..n_out * n_in).map(|n| ((n * 29) % 16) as f32 - 8.0).collect();
        let mut stored = Vec::new();
        q4_0::encode(&values, &mut stored);
        let layout = Layout::new(Format::Int4G32, n_out, n_in);
        let (mut quants, mut scales) = (Vec::new(), vec![0; layout.scale_bytes()]);
        rows(&layout, &stored, 0, &mut quants, &mut scales);
        let mut seen = vec![vec![8u8; 256]; n_out];
        for (row, seen) in seen.iter_mut().enumerate() {
            for column in 0..n_in {
                let block = &stored[(row * 5 + column / 32) * q4_0::BYTES + 2..];
                let i = column % 32;
                let q = if i < 16 { block[i] & 15 } else { block[i - 16] >> 4 };
                let (j, t, i) = (column % 128 / 32, column % 32 / 8, column % 8);
                let place = [0, 2, 4, 6, 1, 3, 5, 7].iter().position(|at| *at == i).unwrap();
                seen[column / 128 * 128 + 8 * (4 * t + j) + place] = q;
            }
            let packed = &quants[row * 128..][..128];
            let nibbles: Vec<u8> = packed.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
            assert_eq!(&nibbles, seen, "row {row}");
        }
    }

    #[test]
    fn turning_twice_changes_nothing() {
        let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        turned(&values, 3, 4, &mut once);
        assert_eq!(once[..4], [0.0, 4.0, 8.0, 1.0]);
        turned(&once, 4, 3, &mut twice);
        assert_eq!(values, twice);
    }
}
