//! The CPU backend.

use crate::error::{Error, Result};

/// Which instructions the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and BF16 (`vdpbf16ps`).
    Avx512Bf16,
}

/// What a bf16 matrix is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// f32 inputs; bf16 weights are widened in registers.
    F32,
    /// Each input as a pair of bf16 numbers (value and remainder), for `vdpbf16ps`. f32 matrices still take f32.
    Bf16,
}

/// What the CPU backend is made with.
#[derive(Debug, Clone, Default)]
pub struct CpuOptions {
    /// Compute threads; `None`: the physical cores.
    pub threads: Option<usize>,
    /// `None`: the best this processor has.
    pub isa: Option<Isa>,
    /// `None`: bf16 with [`Isa::Avx512Bf16`], f32 otherwise.
    pub activations: Option<Activations>,
}

impl Isa {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512Bf16),
            _ => Err(Error::Setting {
                name: "isa",
                got: name.into(),
                want: "portable, avx2 or avx512".into(),
            }),
        }
    }
}

/// The CPU backend: worker pool, scratch, chosen kernels.
pub struct Cpu {}

impl Cpu {
    /// Checks the processor and starts the pool.
    ///
    /// # Errors
    /// [`Error::Isa`] when an instruction set is asked for that is not there; [`Error::Setting`] for threads out of 1..=1024.
    pub fn new(_options: &CpuOptions) -> Result<Self> {
        Ok(Self {})
    }
}
