//! Tensors written anew in another format, some rows at a time.

use std::path::Path;

use super::Tensor;
use crate::error::{Error, Result};
use crate::quant::{DType, bf16, f16, fp8, q4_0, q8_0};

/// Rows of a tensor in another format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// Row-major, little-endian.
    pub bytes: Vec<u8>,
    /// Of [`DType::Fp8E4m3`]: a factor for every block of [`fp8::BLOCK`].
    pub scales: Vec<f32>,
}

impl Tensor {
    /// Decodes rows `first..first + n` and writes them as `to`. For [`DType::Fp8E4m3`] `first` is a multiple of
    /// [`fp8::BLOCK`]`[0]`, so that a block is seen whole.
    ///
    /// # Errors
    /// [`Error::TensorRange`] for a number that `to` cannot hold; [`Error::Internal`] for a format that nothing is
    /// written in.
    pub fn encode_rows(&self, first: usize, n: usize, to: DType) -> Result<Encoded> {
        let dim = self.dim();
        let mut values = vec![0.0; n * dim];
        self.decode_rows(first, &mut values);
        encode(&values, dim, to, Place { name: &self.name, path: self.bytes.path(), first })
    }
}

/// Where rows come from, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The tensor.
    pub(super) name: &'a str,
    /// Its file; `None` inside the binary.
    pub(super) path: Option<&'a Path>,
    /// The number of the first row.
    pub(super) first: usize,
}

/// Writes rows of `dim` numbers as `to`.
///
/// # Errors
/// As of [`Tensor::encode_rows`].
pub(super) fn encode(values: &[f32], dim: usize, to: DType, place: Place<'_>) -> Result<Encoded> {
    if let Some(index) = values.iter().position(|value| !holds(to, *value)) {
        let (row, column, value) = (place.first + index / dim, index % dim, values[index]);
        return Err(Error::TensorRange {
            path: place.path.unwrap_or(Path::new("memory")).to_owned(),
            name: place.name.to_owned(),
            problem: format!(
                "{value} at row {row}, column {column} is nothing that {} can hold",
                to.name()
            ),
        });
    }
    let mut encoded = Encoded::default();
    let bytes = &mut encoded.bytes;
    bytes.reserve_exact(to.row_bytes(dim).unwrap_or(0) * (values.len() / dim.max(1)));
    match to {
        DType::F32 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        DType::Bf16 => bytes.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        DType::F16 => bytes.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        DType::Q8_0 => q8_0::encode(values, bytes),
        DType::Q4_0 => q4_0::encode(values, bytes),
        DType::Fp8E4m3 => {
            assert!(place.first.is_multiple_of(fp8::BLOCK[0]));
            for rows in values.chunks(fp8::BLOCK[0] * dim) {
                fp8::encode_block_row(rows, dim, bytes, &mut encoded.scales);
            }
        }
        _ => {
            return Err(Error::Internal {
                message: format!("{} is read and not written", to.name()),
            });
        }
    }
    Ok(encoded)
}

/// Whether a format has a number near this one. Those that have NaN and infinities keep them.
fn holds(to: DType, value: f32) -> bool {
    match to {
        DType::F32 => true,
        DType::Bf16 => !value.is_finite() || bf16::to_f32(bf16::from_f32(value)).is_finite(),
        DType::F16 => !value.is_finite() || f16::to_f32(f16::from_f32(value)).is_finite(),
        // Factors are f16, up to 65504, and the whole numbers reach 127 and -8.
        DType::Q8_0 => value.abs() <= 65_504.0 * 127.0,
        DType::Q4_0 => value.abs() <= 65_504.0 * 8.0,
        _ => value.is_finite(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bytes;
    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        let bytes = Bytes::owned(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        Tensor { name: "w".into(), dtype: DType::F32, shape: shape.to_vec(), bytes, scales: None }
    }

    fn problem(values: &[f32; 64], to: DType) -> String {
        tensor(&[2, 32], values).encode_rows(0, 2, to).unwrap_err().to_string()
    }

    #[test]
    fn some_rows_are_the_same_as_all_of_them() {
        let values: Vec<f32> = (0..300 * 32).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let tensor = tensor(&[300, 32], &values);
        for to in [DType::F32, DType::Bf16, DType::F16, DType::Q8_0, DType::Q4_0, DType::Fp8E4m3] {
            let whole = tensor.encode_rows(0, 300, to).unwrap();
            let mut joined = tensor.encode_rows(0, 256, to).unwrap();
            let rest = tensor.encode_rows(256, 44, to).unwrap();
            joined.bytes.extend(rest.bytes);
            joined.scales.extend(rest.scales);
            assert_eq!(joined, whole, "{to:?}");
            assert_eq!(whole.bytes.len(), 300 * to.row_bytes(32).unwrap());
        }
    }

    #[test]
    fn a_number_too_large_is_named_with_its_place() {
        let mut values = [1.0; 64];
        values[40] = 70_000.0;
        let want = "memory: tensor `w`: 70000 at row 1, column 8 is nothing that float16 can hold";
        assert_eq!(problem(&values, DType::F16), want);
        values[40] = f32::NAN;
        for to in [DType::Q8_0, DType::Q4_0, DType::Fp8E4m3] {
            assert!(problem(&values, to).contains("NaN at row 1, column 8"), "{to:?}");
        }
        values[40] = f32::MAX;
        assert!(problem(&values, DType::Bf16).contains("bfloat16"));
        assert!(problem(&values, DType::Q8_0).contains("Q8_0"));
        assert!(problem(&[0.0; 64], DType::Q6K).contains("not written"));
    }
}
