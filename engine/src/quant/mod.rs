//! How numbers are stored in a checkpoint: one format a file, each with its layout and a scalar decode to f32.

pub mod bf16;
pub(crate) mod block;
pub mod f16;
pub mod f32;
pub mod fp8;
pub(crate) mod narrow;
pub(crate) mod panels;
pub mod q4_0;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub(crate) mod unpack;

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
    /// GGUF: 32 signed bytes and a factor.
    Q8_0,
    /// GGUF: 32 four-bit numbers and a factor.
    Q4_0,
    /// GGUF: 32 five-bit numbers and a factor.
    Q5_0,
    /// GGUF: 32 five-bit numbers, a factor and an offset.
    Q5_1,
    /// GGUF: 256 four-bit numbers, scales and minima in six bits.
    Q4K,
    /// GGUF: 256 five-bit numbers, scales and minima in six bits.
    Q5K,
    /// GGUF: 256 six-bit numbers, scales in eight bits.
    Q6K,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Fp8E4m3,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Numbers that are stored together; a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 | Self::Fp8E4m3 => 1,
            Self::Q8_0 => q8_0::LEN,
            Self::Q4_0 => q4_0::LEN,
            Self::Q5_0 => q5_0::LEN,
            Self::Q5_1 => q5_1::LEN,
            Self::Q4K => q4_k::LEN,
            Self::Q5K => q5_k::LEN,
            Self::Q6K => q6_k::LEN,
        }
    }

    /// Bytes of [`DType::block_len`] numbers.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Fp8E4m3 => 1,
            Self::Q8_0 => q8_0::BYTES,
            Self::Q4_0 => q4_0::BYTES,
            Self::Q5_0 => q5_0::BYTES,
            Self::Q5_1 => q5_1::BYTES,
            Self::Q4K => q4_k::BYTES,
            Self::Q5K => q5_k::BYTES,
            Self::Q6K => q6_k::BYTES,
        }
    }

    /// Bytes of a row of `dim` numbers; `None` when it is no whole number of blocks, or too large.
    pub fn row_bytes(self, dim: usize) -> Option<usize> {
        dim.is_multiple_of(self.block_len())
            .then(|| (dim / self.block_len()).checked_mul(self.block_bytes()))
            .flatten()
    }

    /// The name people use, as in `config.json` or in GGUF.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::Fp8E4m3 => "float8_e4m3",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Decodes whole blocks into `out`, scales of other tensors left out; the lengths must agree.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => f32::decode(bytes, out),
            Self::Bf16 => bf16::decode(bytes, out),
            Self::F16 => f16::decode(bytes, out),
            Self::Fp8E4m3 => fp8::decode(bytes, out),
            Self::Q8_0 => q8_0::decode(bytes, out),
            Self::Q4_0 => q4_0::decode(bytes, out),
            Self::Q5_0 => q5_0::decode(bytes, out),
            Self::Q5_1 => q5_1::decode(bytes, out),
            Self::Q4K => q4_k::decode(bytes, out),
            Self::Q5K => q5_k::decode(bytes, out),
            Self::Q6K => q6_k::decode(bytes, out),
        }
    }
}
