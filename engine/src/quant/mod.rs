//! How numbers are stored in a checkpoint: one format a file, each with its layout and a scalar decode to f32.

pub mod bf16;
pub mod f16;
pub mod f32;
pub mod fp8;

/// Storage type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision, little endian.
    F32,
    /// The upper half of an f32, little endian.
    Bf16,
    /// IEEE half precision, little endian.
    F16,
    /// 8-bit floats, four bits of exponent and three of mantissa, with a scale for every block of the matrix.
    Fp8E4m3,
}

impl DType {
    /// Numbers that are stored together; a row's length is a multiple of it.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 | Self::Fp8E4m3 => 1,
        }
    }

    /// Bytes of [`DType::block_len`] numbers.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Fp8E4m3 => 1,
        }
    }

    /// Bytes of a row of `dim` numbers; `None` when it is no whole number of blocks, or too large.
    pub fn row_bytes(self, dim: usize) -> Option<usize> {
        dim.is_multiple_of(self.block_len())
            .then(|| (dim / self.block_len()).checked_mul(self.block_bytes()))
            .flatten()
    }

    /// The name people use, as in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::Fp8E4m3 => "float8_e4m3",
        }
    }

    /// Decodes whole blocks into `out`, scales of other tensors left out; the lengths must agree.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => f32::decode(bytes, out),
            Self::Bf16 => bf16::decode(bytes, out),
            Self::F16 => f16::decode(bytes, out),
            Self::Fp8E4m3 => fp8::decode(bytes, out),
        }
    }
}
