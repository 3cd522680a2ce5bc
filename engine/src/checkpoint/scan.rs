//! Looking for values that are no numbers.

use super::Tensor;

/// Numbers that are decoded at once: a few rows, whatever the tensor's size.
const CHUNK_LEN: usize = 1 << 16;

/// Values of a tensor that are not finite once they are decoded, factors included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defects {
    /// NaN.
    pub n_nan: u64,
    /// Infinities, also those that a factor makes.
    pub n_infinite: u64,
    /// Row and column of the first of either.
    pub first: Option<(usize, usize)>,
}

impl Defects {
    /// All of them.
    pub fn count(&self) -> u64 {
        self.n_nan + self.n_infinite
    }
}

impl Tensor {
    /// Decodes everything, some rows at a time, and counts what is not finite. `progress` is called with the stored
    /// bytes each piece took.
    pub fn defects(&self, progress: &mut dyn FnMut(u64)) -> Defects {
        let (n_row, dim) = (self.n_row(), self.dim());
        let mut defects = Defects::default();
        if n_row == 0 || dim == 0 {
            return defects;
        }
        let rows_at_once = (CHUNK_LEN / dim).clamp(1, n_row);
        let mut values = vec![0.0f32; rows_at_once * dim];
        let row_bytes = (self.bytes.len() / n_row) as u64;
        for first in (0..n_row).step_by(rows_at_once) {
            let n = rows_at_once.min(n_row - first);
            let Some(values) = values.get_mut(..n * dim) else { break };
            self.decode_rows(first, values);
            // Most pieces are sound, and this finds it out without a branch a number.
            if !values.iter().fold(true, |is_sound, value| is_sound & value.is_finite()) {
                defects.count_in(values, first, dim);
            }
            progress(n as u64 * row_bytes);
        }
        defects
    }
}

impl Defects {
    fn count_in(&mut self, values: &[f32], first_row: usize, dim: usize) {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
            if value.is_nan() {
                self.n_nan += 1;
            } else {
                self.n_infinite += 1;
            }
            self.first.get_or_insert((first_row + index / dim, index % dim));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bytes, Scales};
    use super::*;
    use crate::quant::DType;

    fn tensor(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        let (name, bytes) = ("w".to_owned(), Bytes::owned(bytes));
        Tensor { name, dtype, shape: shape.to_vec(), bytes, scales: None }
    }

    #[test]
    fn nan_and_infinities_are_counted_wherever_they_lie() {
        // Wide and long enough for several pieces, the last one short.
        let (n_row, dim) = (67, 2001);
        let mut values = vec![1.0f32; n_row * dim];
        values[3 * dim + 7] = f32::INFINITY;
        values[40 * dim] = f32::NAN;
        values[n_row * dim - 1] = f32::NEG_INFINITY;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = tensor(DType::F32, &[n_row, dim], bytes);
        let mut seen = 0;
        let defects = tensor.defects(&mut |bytes| seen += bytes);
        assert_eq!(defects, Defects { n_nan: 1, n_infinite: 2, first: Some((3, 7)) });
        assert_eq!(seen, tensor.bytes.len() as u64);
    }

    #[test]
    fn a_factor_can_make_a_sound_number_infinite() {
        let scales: Vec<u8> = [1.0f32, f32::MAX].iter().flat_map(|x| x.to_le_bytes()).collect();
        let scales = Scales { bytes: Bytes::owned(scales), block: [128, 16] };
        // 448 in every place, and one NaN in the block of factor 1.
        let mut bytes = vec![0x7eu8; 20];
        bytes[2] = 0x7f;
        let tensor = Tensor { scales: Some(scales), ..tensor(DType::Fp8E4m3, &[1, 20], bytes) };
        let defects = tensor.defects(&mut |_| {});
        assert_eq!(defects, Defects { n_nan: 1, n_infinite: 4, first: Some((0, 2)) });
    }

    #[test]
    fn nothing_is_wrong_with_nothing() {
        assert_eq!(tensor(DType::Bf16, &[0, 4], Vec::new()).defects(&mut |_| {}).count(), 0);
    }
}
