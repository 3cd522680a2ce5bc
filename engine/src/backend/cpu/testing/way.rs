//! What products are tested on: instruction sets, and forms of inputs.

use crate::backend::cpu::{Activations, Isa};
use crate::quant::DType;

/// Largest error of a product of length `dim`, relative to its size, FP8's factors for at least 128 columns. f32: each of
/// sixteen lanes is a chain of `dim / 16` roundings, then a tree of four. Pairs leave out 2^-17 of each input, single bf16 numbers
/// 2^-8, and `vdpbf16ps` adds twice as often.
///
/// Whole numbers: a chain of `dim / 32` roundings, two where numbers have an offset, and what [`Sum::steps`] says beside.
pub(in super::super) fn product_error(way: Way, dtype: DType, dim: usize) -> f64 {
    let roundings = 2.0 * (dim as f64 / 16.0).ceil() + 6.0;
    let input = match way.activations {
        Activations::F32 => 0.0,
        _ if dtype != DType::Bf16 && !way.is_split(dtype) => 0.0,
        Activations::Bf16 | Activations::Int8 => 2f64.powi(-17),
        Activations::Bf16Rounded => 2f64.powi(-8),
    };
    // A factor rounds each weight once more, or 128 products' sum, and so does a block's.
    let factor = if dtype == DType::Fp8E4m3 || dtype.block_len() > 1 { 1.0 } else { 0.0 };
    (roundings + factor) * 2f64.powi(-24) + input
}

/// Instructions and form of inputs.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Way {
    pub(in super::super) isa: Isa,
    pub(in super::super) activations: Activations,
}

impl Way {
    /// Whether inputs of a matrix of `dtype` become whole numbers.
    pub(in super::super) fn is_whole(self, dtype: DType) -> bool {
        self.activations == Activations::Int8 && dtype.block_len() > 1
    }

    /// Whether inputs of a matrix of `dtype` lose more than their last bits.
    pub(in super::super) fn is_coarse(self, dtype: DType) -> bool {
        let is_rounded = self.activations == Activations::Bf16Rounded;
        self.is_whole(dtype) || is_rounded && (dtype == DType::Bf16 || self.is_split(dtype))
    }

    /// Whether inputs of a matrix of `dtype` become bf16 numbers for `vdpbf16ps`.
    pub(in super::super) fn is_split(self, dtype: DType) -> bool {
        self.activations != Activations::F32
            && match dtype {
                DType::Bf16 => self.isa.multiplies_bf16(),
                DType::Fp8E4m3 => self.isa.multiplies_fp8(),
                _ => false,
            }
    }
}

/// Everything this processor can run; what it cannot is said.
pub(in super::super) fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for isa in Isa::ALL {
        if !isa.is_available() {
            eprintln!("skipped: no {}", isa.name());
            continue;
        }
        ways.extend(
            [Activations::F32, Activations::Bf16, Activations::Bf16Rounded, Activations::Int8]
                .map(|activations| Way { isa, activations }),
        );
    }
    ways
}
