//! The weight formats that kernels read, and how a matrix is packed for them; `include/weight.h` says the same to the kernels.
//!
//! Quants are packed row by row, so that an upload needs room for one row: [`Planes::pack_row`]. Scales have places in a plane of
//! their own: [`Planes::scale_place`].

/// Columns that rows of quants are padded to: what a tensor-core sum takes before its scale.
pub const SEGMENT: usize = 128;

/// A weight format of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// bf16.
    Bf16,
    /// e4m3, an f32 scale for 128 x 128.
    Fp8,
    /// Signed bytes, an f16 scale for 32 columns.
    Int8,
    /// Four bits, an f16 scale for 32 columns.
    Int4G32,
    /// Four bits, an f16 scale for 128 columns.
    Int4G128,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bf16, Self::Fp8, Self::Int8, Self::Int4G32, Self::Int4G128];

    /// Bits of a quant.
    pub fn quant_bits(self) -> usize {
        match self {
            Self::Bf16 => 16,
            Self::Fp8 | Self::Int8 => 8,
            Self::Int4G32 | Self::Int4G128 => 4,
        }
    }

    /// Bytes of a scale; 0 where there are none.
    pub fn scale_bytes(self) -> usize {
        match self {
            Self::Bf16 => 0,
            Self::Fp8 => 4,
            Self::Int8 | Self::Int4G32 | Self::Int4G128 => 2,
        }
    }

    /// Planes of `[n_out, n_in]`; `None` where their sizes are no numbers of bytes.
    pub fn planes(self, n_out: usize, n_in: usize) -> Option<Planes> {
        let n_segment = n_in.div_ceil(SEGMENT);
        let quant_stride = n_segment.checked_mul(SEGMENT)?;
        let n_row = n_out.checked_next_multiple_of(16)?;
        let (scale_stride, n_scale) = match self {
            Self::Bf16 => (0, 0),
            Self::Fp8 => (n_segment, n_segment.checked_mul(n_out.div_ceil(128))?),
            Self::Int8 | Self::Int4G32 => (n_row, n_row.checked_mul(n_segment)?.checked_mul(4)?),
            Self::Int4G128 => (n_row, n_row.checked_mul(n_segment)?),
        };
        Some(Planes {
            format: self,
            quant_stride,
            row_bytes: quant_stride / 8 * self.quant_bits(),
            quant_bytes: n_out.checked_mul(quant_stride)?.checked_mul(self.quant_bits())? / 8,
            scale_stride,
            scale_bytes: n_scale.checked_mul(self.scale_bytes())?,
        })
    }
}

/// Sizes and places of a matrix's planes on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    format: Format,
    /// Quants from one row to the next.
    pub quant_stride: usize,
    /// Bytes from one row to the next.
    pub row_bytes: usize,
    /// Bytes of the plane of quants.
    pub quant_bytes: usize,
    /// As `scale_stride` in `WeightMatrix`.
    pub scale_stride: usize,
    /// Bytes of the plane of scales; every scale of it has to be finite, those of padding too.
    pub scale_bytes: usize,
}

impl Planes {
    /// One row as the card has it, `row_bytes` of them, out of a quant a byte: a code of e4m3, a signed byte, or 0 to 15. Rows of
    /// bf16 are copied and padded with zeros.
    ///
    /// What does not fit `out` is left out.
    pub fn pack_row(&self, quants: &[u8], out: &mut [u8]) {
        match self.format {
            Format::Bf16 => {
                out.fill(0);
                out.iter_mut().zip(quants).for_each(|(out, byte)| *out = *byte);
            }
            Format::Fp8 | Format::Int8 => {
                out.fill(0);
                for (at, unit) in quants.chunks(8).enumerate() {
                    let first = at / 8 * 64 + byte_unit(at);
                    let Some(to) = out.get_mut(first..first + 8) else { return };
                    for (to, from) in to.iter_mut().zip(BYTE_ORDER) {
                        *to = unit.get(from).copied().unwrap_or(0);
                    }
                }
            }
            Format::Int4G32 | Format::Int4G128 => {
                // Eights are zeros: a value is its scale times the quant less eight.
                out.fill(0x88);
                for (at, unit) in quants.chunks(8).enumerate() {
                    let first = at / 16 * 64 + nibble_unit(at);
                    let Some(to) = out.get_mut(first..first + 4) else { return };
                    let quant = |i: usize| unit.get(i).map_or(8, |quant| quant & 15);
                    for (to, pair) in to.iter_mut().zip(NIBBLE_ORDER.as_chunks::<2>().0) {
                        *to = quant(pair[0]) | quant(pair[1]) << 4;
                    }
                }
            }
        }
    }

    /// Which scale of the plane is that of `row` and `column`.
    pub fn scale_place(&self, row: usize, column: usize) -> usize {
        let segment = column / SEGMENT;
        match self.format {
            Format::Bf16 => 0,
            Format::Fp8 => row / 128 * self.scale_stride + segment,
            Format::Int8 | Format::Int4G32 => {
                (segment * self.scale_stride + row) * 4 + column % SEGMENT / 32
            }
            Format::Int4G128 => segment * self.scale_stride + row,
        }
    }
}

/// Neighbours of eight in the order of their bytes: two that are multiplied together lie in the two halves of a word.
const BYTE_ORDER: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];
/// The same of their four bits in a word, lowest first.
const NIBBLE_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Where the `at`-th eight columns begin in their 64 bytes: what a lane multiplies of 64 columns lies side by side.
fn byte_unit(at: usize) -> usize {
    let (j, t) = (at / 4 % 2, at % 4);
    8 * (2 * t + j)
}

/// The same for four bits, in the 64 bytes of 128 columns.
fn nibble_unit(at: usize) -> usize {
    let (j, t) = (at / 4 % 4, at % 4);
    4 * (4 * t + j)
}
