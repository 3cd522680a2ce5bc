//! The weight formats that kernels read; `include/weight.h` says how each lies on the card.

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
}
