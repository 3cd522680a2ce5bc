//! Rows of a checkpoint as the kernels read them: [`Planes`] says where everything is, this what a file's rows hold.

use hadal_kernels::{Format, Planes};

use crate::checkpoint::Tensor;
use crate::error::{Error, Result};
use crate::quant::{DType, bf16, q4_0, q8_0};

/// A matrix `[n_out, n_in]` on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: Format,
    pub(super) n_out: usize,
    pub(super) n_in: usize,
    pub(super) planes: Planes,
}

impl Layout {
    /// # Errors
    /// A matrix of more bytes than there are numbers for.
    pub(super) fn new(format: Format, n_out: usize, n_in: usize) -> Result<Self> {
        let planes = format.planes(n_out, n_in);
        let planes = planes.ok_or_else(|| Error::Internal {
            message: format!("a matrix of {n_out} x {n_in} has more bytes than can be counted"),
        })?;
        Ok(Self { format, n_out, n_in, planes })
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
    let row_bytes = layout.planes.row_bytes;
    let dtype = match layout.format {
        Format::Fp8 => DType::Fp8E4m3,
        Format::Int8 => DType::Q8_0,
        Format::Int4G32 | Format::Int4G128 => DType::Q4_0,
        Format::Bf16 => DType::Bf16,
    };
    let Some(stored) = dtype.row_bytes(layout.n_in).filter(|bytes| *bytes > 0) else { return };
    quants.clear();
    quants.resize(source.len() / stored * row_bytes, 0);
    // A quant a byte.
    let mut plain: Vec<u8> = Vec::with_capacity(layout.n_in);
    let each = source.chunks_exact(stored).zip(quants.chunks_exact_mut(row_bytes));
    for ((from, to), row) in each.zip(first..) {
        plain.clear();
        match layout.format {
            Format::Bf16 | Format::Fp8 => {
                layout.planes.pack_row(from, to);
                continue;
            }
            Format::Int8 => {
                for (group, block) in from.chunks_exact(q8_0::BYTES).enumerate() {
                    put_scale(layout, scales, row, group, &block[..2]);
                    plain.extend(&block[2..]);
                }
            }
            Format::Int4G32 | Format::Int4G128 => {
                // Byte `i` of a block holds columns `i` and `i + 16`.
                for (group, block) in from.chunks_exact(q4_0::BYTES).enumerate() {
                    put_scale(layout, scales, row, group, &block[..2]);
                    plain.extend(block[2..].iter().map(|byte| byte & 15));
                    plain.extend(block[2..].iter().map(|byte| byte >> 4));
                }
            }
        }
        layout.planes.pack_row(&plain, to);
    }
}

/// The f16 scale of 32 columns.
fn put_scale(layout: &Layout, scales: &mut [u8], row: usize, group: usize, bits: &[u8]) {
    let at = layout.planes.scale_place(row, group * q8_0::LEN) * 2;
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
        let layout = Layout::new(Format::Fp8, 2, 140).unwrap();
        assert_eq!((layout.planes.quant_stride, layout.planes.scale_bytes), (256, 8));
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
        let layout = Layout::new(Format::Int8, n_out, n_in).unwrap();
        assert_eq!((layout.planes.scale_stride, layout.planes.scale_bytes), (16, 2 * 16 * 4 * 2));
        let (mut quants, mut scales) = (Vec::new(), vec![0; layout.planes.scale_bytes]);
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
        let layout = Layout::new(Format::Int4G32, n_out, n_in).unwrap();
        let (mut quants, mut scales) = (Vec::new(), vec![0; layout.planes.scale_bytes]);
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
