//! What the backend is made with: instructions, inputs, where weights are.

use super::simd::multiply::Parts;
use super::topology::Topology;
use crate::checkpoint::Quant;
use crate::error::{Error, Result};

/// Which instructions the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI (`vpdpbusd` of 256 bits), which newer processors without AVX-512 have.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI (`vpdpbusd` of 512 bits): Intel's servers of 2019 to 2021, Cascade Lake and Ice Lake.
    Avx512Vnni,
    /// The same with BF16 (`vdpbf16ps`).
    Avx512Bf16,
    /// The same with AMX tiles, for bf16 (`tdpbf16ps`) and for bytes (`tdpbssd`).
    Amx,
}

impl Isa {
    /// All of them, from the plainest to the fastest.
    pub const ALL: [Self; 6] =
        [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Avx512Bf16, Self::Amx];

    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| Error::Setting {
            name: "isa",
            got: name.into(),
            want: "portable, avx2, avx-vnni, avx512-vnni, avx512 or amx".into(),
        })
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Bf16.is_available() && super::simd::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Whether bf16 numbers are multiplied as they are.
    pub(super) fn multiplies_bf16(self) -> bool {
        self >= Self::Avx512Bf16
    }

    /// Whether e4m3 numbers are multiplied as bf16 numbers: tiles have no place for their factors.
    pub(super) fn multiplies_fp8(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has_table = is_x86_feature_detected!("avx512vbmi");
        #[cfg(not(target_arch = "x86_64"))]
        let has_table = false;
        self == Self::Avx512Bf16 && has_table
    }

    /// The best this processor has.
    pub fn best() -> Self {
        let has = Self::ALL.into_iter().rfind(|isa| isa.is_available());
        has.unwrap_or(Self::Portable)
    }
}

/// What matrices are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// f32 inputs; weights are widened.
    F32,
    /// For bf16 matrices, and FP8 ones where their numbers can be looked up, each input as a pair of bf16 numbers (value and
    /// remainder), for `vdpbf16ps`; all others still take f32. See docs/decisions/0004.
    Bf16,
    /// The same with the value alone: half the products of a prompt; an input is off by 2^-8 of itself at most.
    Bf16Rounded,
    /// For matrices in blocks of whole numbers, inputs as whole numbers, for `vpdpbusd`: signed bytes with a factor for
    /// every 32. bf16 and FP8 matrices take pairs where there is `vdpbf16ps` for them, all others f32. See docs/decisions/0009.
    Int8,
}

impl Activations {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "bf16-rounded" => Ok(Self::Bf16Rounded),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::Setting {
                name: "activations",
                got: name.into(),
                want: "f32, bf16, bf16-rounded or int8".into(),
            }),
        }
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Bf16Rounded => "bf16-rounded",
            Self::Int8 => "int8",
        }
    }

    /// What an input of a bf16 matrix becomes.
    pub(super) fn parts(self) -> Parts {
        if self == Self::Bf16Rounded { Parts::One } else { Parts::Two }
    }
}

/// In what the latent cache is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// As computed.
    #[default]
    F32,
    /// Rounded to bf16: half the bytes, and what tiles multiply.
    Bf16,
    /// Whole numbers with a factor for every 128, the rotary key in bf16: little more than a quarter of the bytes.
    Int8,
}

impl CacheType {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::Setting {
                name: "cache-type",
                got: name.into(),
                want: "f32, bf16 or int8".into(),
            }),
        }
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// Where matrices are while a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// In memory of our own, in large pages and in the order that products read; the files' pages are given back.
    Resident,
    /// Where they lie in the mapped files.
    Mapped,
}

impl Residence {
    /// Reads a flag's value; `None` for `auto`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Option<Self>> {
        match name {
            "auto" => Ok(None),
            "resident" => Ok(Some(Self::Resident)),
            "mapped" => Ok(Some(Self::Mapped)),
            _ => Err(Error::Setting {
                name: "weights",
                got: name.into(),
                want: "auto, resident or mapped".into(),
            }),
        }
    }
}

/// What the CPU backend is made with.
#[derive(Debug, Clone, Default)]
pub struct CpuOptions {
    /// Compute threads; `None`: one for each fast core that this process may use.
    pub threads: Option<usize>,
    /// Whether each thread is held to a processor; `None`: where memory has several nodes or cores are of several kinds, if
    /// all fast ones are used.
    pub pin: Option<bool>,
    /// `None`: the best this processor has.
    pub isa: Option<Isa>,
    /// `None`: int8 with everything but [`Isa::Portable`], f32 there.
    pub activations: Option<Activations>,
    /// `None`: resident where that changes how a matrix is kept (in panels for inputs in whole numbers, bf16 in twelve bits a
    /// number), mapped otherwise.
    pub weights: Option<Residence>,
    /// How matrices are kept; `None`: as they are stored.
    pub quant: Option<Quant>,
    /// `None`: f32 where inputs are f32, bf16 otherwise.
    pub cache: Option<CacheType>,
}

impl CpuOptions {
    /// Compute threads that are asked for, or one for each fast core; held to no range.
    pub(crate) fn threads_wanted(&self) -> usize {
        self.threads.unwrap_or_else(|| Topology::of_process().threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(isa.name()).unwrap(), isa);
        }
        for activations in
            [Activations::F32, Activations::Bf16, Activations::Bf16Rounded, Activations::Int8]
        {
            assert_eq!(Activations::parse(activations.name()).unwrap(), activations);
        }
        for cache in [CacheType::F32, CacheType::Bf16, CacheType::Int8] {
            assert_eq!(CacheType::parse(cache.name()).unwrap(), cache);
        }
        let error = Isa::parse("sse").unwrap_err().to_string();
        assert_eq!(
            error,
            "`isa` is sse, wanted portable, avx2, avx-vnni, avx512-vnni, avx512 or amx"
        );
        let error = Activations::parse("fp8").unwrap_err().to_string();
        assert_eq!(error, "`activations` is fp8, wanted f32, bf16, bf16-rounded or int8");
    }
}
