//! A matrix as the backend holds it: rows as they are stored, or panels.

use super::simd::rows::Rows;
use super::{Isa, simd};
use crate::checkpoint::{Bytes, Kept, Place, Scales, Tensor};
use crate::error::{Error, Result};
use crate::quant::narrow::{self, Strays};
use crate::quant::unpack::unpack_row;
use crate::quant::{DType, panels};

/// A matrix, `[n_out, dim]`: rows back to back, or panels of sixteen.
pub struct Weight {
    pub(super) bytes: Bytes,
    pub(super) dtype: DType,
    pub(super) n_out: usize,
    pub(super) dim: usize,
    pub(super) row_bytes: usize,
    pub(super) scales: Option<Scales>,
    pub(super) is_panels: bool,
    /// Of bf16 in twelve bits a number, in panels of its own: those that have more.
    pub(super) narrow: Option<Strays>,
}

impl Weight {
    /// Takes a tensor of one or two dimensions.
    pub(super) fn new(tensor: &Tensor) -> Result<Self> {
        let (n_out, dim) = match *tensor.shape.as_slice() {
            [n_out, dim] => (n_out, dim),
            [dim] => (1, dim),
            _ => (0, 0),
        };
        let row_bytes = tensor.dtype.row_bytes(dim).unwrap_or(0);
        let wanted = n_out.checked_mul(row_bytes);
        let has_scales = match &tensor.scales {
            Some(scales) => scales.covers(n_out, dim),
            None => tensor.dtype != DType::Fp8E4m3,
        };
        if wanted != Some(tensor.bytes.len()) || wanted == Some(0) || !has_scales {
            return Err(Error::Internal {
                message: format!("`{}` is no matrix: {:?}", tensor.name, tensor.shape),
            });
        }
        let (bytes, scales) = (tensor.bytes.clone(), tensor.scales.clone());
        let dtype = tensor.dtype;
        Ok(Self { bytes, dtype, n_out, dim, row_bytes, scales, is_panels: false, narrow: None })
    }

    /// Takes a tensor's copy, of the bytes that `kept` says; `strays` where numbers have twelve bits.
    pub(super) fn resident(
        tensor: &Tensor,
        kept: Kept,
        bytes: Bytes,
        strays: Option<Strays>,
    ) -> Result<Self> {
        if kept.place == Place::Copied {
            let scales = tensor.scales.clone().filter(|_| kept.dtype == tensor.dtype);
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            return Self::new(&Tensor { name, dtype: kept.dtype, shape, bytes, scales });
        }
        let (n_out, dim, dtype) = (tensor.n_row(), tensor.dim(), kept.dtype);
        let row_bytes = dtype.row_bytes(dim).unwrap_or(0);
        let is_narrow = kept.place == Place::Narrow;
        let is_whole = kept.bytes(&[n_out, dim]) == Some(bytes.len()) && row_bytes > 0;
        if !is_whole || strays.is_some() != is_narrow {
            return Err(Error::Internal {
                message: format!("`{}` is no matrix in panels: {:?}", tensor.name, tensor.shape),
            });
        }
        let (scales, is_panels, narrow) = (None, true, strays);
        Ok(Self { bytes, dtype, n_out, dim, row_bytes, scales, is_panels, narrow })
    }

    /// Row `index`, widened into `out`.
    pub(super) fn row(&self, index: usize, out: &mut [f32]) {
        if self.is_panels {
            let panel_bytes = self.panel_bytes();
            let (at, lane) = (index / panels::OUTS, index % panels::OUTS);
            let panel = &self.bytes[at * panel_bytes..][..panel_bytes];
            if let Some(strays) = &self.narrow {
                return narrow::unpack_row(panel, strays.of(at), lane, out);
            }
            return unpack_row(self.dtype, panel, lane, out);
        }
        self.dtype.decode(&self.bytes[index * self.row_bytes..(index + 1) * self.row_bytes], out);
        if let Some(scales) = &self.scales {
            scales.apply(index, self.dim, out);
        }
    }

    /// The same, as fast as `isa` can where rows are plain numbers.
    pub(super) fn widen_row(&self, isa: Isa, index: usize, out: &mut [f32]) {
        let is_plain = matches!(self.dtype, DType::F32 | DType::Bf16) && self.scales.is_none();
        if self.is_panels || !is_plain {
            return self.row(index, out);
        }
        let row = &self.bytes[index * self.row_bytes..(index + 1) * self.row_bytes];
        Rows::of(row, 1, self.dim, self.dtype).widen(isa, 0, out);
    }

    /// Whether it is e4m3 with factors for at least 128 columns: the sums of products of bf16 numbers that one factor fits.
    pub(super) fn takes_pairs(&self) -> bool {
        let columns = self.scales.as_ref().map_or(0, |scales| scales.block[1]);
        self.dtype == DType::Fp8E4m3 && columns >= narrow::STEP
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.bytes.len() / self.n_out.div_ceil(panels::OUTS)
    }

    /// The panels of `n` rows from `first` on; `None` where they are not whole panels.
    pub(super) fn panels(&self, first: usize, n: usize) -> Option<&[u8]> {
        let is_whole = first.is_multiple_of(panels::OUTS) && n.is_multiple_of(panels::OUTS);
        let (first, end) = (first / panels::OUTS, (first + n) / panels::OUTS);
        let bytes = self.panel_bytes();
        (self.is_panels && self.narrow.is_none() && is_whole)
            .then(|| &self.bytes[first * bytes..end * bytes])
    }

    /// Where row `out`, or the panel that has it, begins.
    pub(super) fn place_of(&self, out: usize) -> *const u8 {
        let begin = if self.is_panels {
            out / panels::OUTS * self.panel_bytes()
        } else {
            out * self.row_bytes
        };
        self.bytes.as_ptr().wrapping_add(begin)
    }

    /// The rows from `first` on, for kernels.
    pub(super) fn rows_from(&self, first: usize) -> simd::Matrix {
        assert!(!self.is_panels, "a matrix in panels has no rows");
        simd::Matrix {
            at: self.bytes.as_ptr(),
            row_bytes: self.row_bytes,
            dtype: self.dtype,
            first,
            scales: self.scales.as_ref().map_or(simd::Scales::NONE, |scales| simd::Scales {
                at: scales.bytes.as_ptr(),
                per_row: scales.per_row(self.dim),
                row_shift: scales.block[0].ilog2(),
                column_shift: scales.block[1].ilog2(),
            }),
        }
    }
}
