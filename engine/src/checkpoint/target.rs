//! In what format each tensor is written when a checkpoint is converted, or kept when it is quantised at load.
//!
//! One rule for both, so that a converted checkpoint gives the tokens that quantising at load gives.

use super::Tensor;
use super::keep::is_expansion;
use super::part::is_layer_matrix;
use crate::error::{Error, Result};
use crate::quant::DType;

/// What a checkpoint is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Everything in float32.
    F32,
    /// Everything in bfloat16, correction biases in float32, as released.
    Bf16,
    /// Everything in float16, correction biases in float32.
    F16,
    /// The matrices of layers in e4m3 with a factor for every 128 x 128 block, the rest in bfloat16: DeepSeek's own.
    Fp8,
    /// The matrices of layers and the head in `Q8_0`, the rest as it is, `kv_b_proj` too where it is bfloat16.
    Q8,
    /// The matrices of layers in `Q4_0`, the head in `Q8_0`, the rest as it is, `kv_b_proj` too where it is bfloat16; elsewhere
    /// that is `Q8_0`.
    Q4,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F32, Self::Bf16, Self::F16, Self::Fp8, Self::Q8, Self::Q4];

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Fp8 => "fp8",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| Error::Setting {
            name: "to",
            got: name.into(),
            want: "f32, bf16, f16, fp8, q8 or q4".into(),
        })
    }

    /// Whether weights become blocks of whole numbers.
    pub fn is_blocks(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// How a tensor is stored under this target.
    pub(crate) fn dtype(self, tensor: &Tensor) -> DType {
        self.dtype_of(&tensor.name, tensor.dtype, &tensor.shape)
    }

    /// The same, of a tensor known by its header.
    pub(super) fn dtype_of(self, name: &str, stored: DType, shape: &[usize]) -> DType {
        let plain =
            if name.ends_with("e_score_correction_bias") { DType::F32 } else { DType::Bf16 };
        let is_matrix = shape.len() == 2 && is_layer_matrix(name);
        match self {
            Self::F32 => DType::F32,
            Self::F16 if plain == DType::Bf16 => DType::F16,
            Self::Bf16 | Self::F16 => plain,
            Self::Fp8 => {
                if is_matrix {
                    DType::Fp8E4m3
                } else {
                    plain
                }
            }
            Self::Q8 | Self::Q4 => {
                let wanted = match name {
                    // A gather alone reads the embedding, so its size costs no time; the head is read whole for
                    // every token, and errors in it go straight to the choice of the next one.
                    "lm_head.weight" => DType::Q8_0,
                    // Small, every token in the cache is read through it, and tiles take it as it is. Blocks lie along the
                    // latent, across the sums of the absorbed form: each number would be widened for each row.
                    _ if is_matrix && is_expansion(name) && stored == DType::Bf16 => stored,
                    _ if is_matrix && is_expansion(name) => DType::Q8_0,
                    _ if is_matrix => {
                        if self == Self::Q4 {
                            DType::Q4_0
                        } else {
                            DType::Q8_0
                        }
                    }
                    _ => stored,
                };
                let fits = shape.last().is_some_and(|dim| dim.is_multiple_of(wanted.block_len()));
                // What is as small already would only lose by being rounded once more.
                let gains = bits(wanted) < bits(stored);
                if fits && gains { wanted } else { stored }
            }
        }
    }
}

/// Bits of a number, sixteen times.
fn bits(dtype: DType) -> usize {
    dtype.block_bytes() * 8 * 16 / dtype.block_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: &str = "model.layers.1.mlp.experts.0.up_proj.weight";

    #[test]
    fn norms_routers_and_the_embedding_keep_what_the_format_gives_them() {
        let dtype = |target: Target, name| target.dtype_of(name, DType::F16, &[64, 64]);
        for name in ["model.embed_tokens.weight", "model.layers.1.mlp.gate.weight"] {
            let got = Target::ALL.map(|target| dtype(target, name));
            let [f32, bf16, f16] = [DType::F32, DType::Bf16, DType::F16];
            assert_eq!(got, [f32, bf16, f16, bf16, f16, f16], "{name}");
        }
        let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
        for target in [Target::F32, Target::Bf16, Target::F16, Target::Fp8, Target::Q4] {
            assert_eq!(target.dtype_of(bias, DType::F32, &[64]), DType::F32);
        }
        assert_eq!(dtype(Target::Fp8, "lm_head.weight"), DType::Bf16);
        assert_eq!(dtype(Target::Q4, "lm_head.weight"), DType::Q8_0);
        let kv_b = "model.layers.0.self_attn.kv_b_proj.weight";
        assert_eq!(dtype(Target::Q4, kv_b), DType::Q8_0);
        assert_eq!(Target::Q8.dtype_of(kv_b, DType::Bf16, &[64, 64]), DType::Bf16);
        assert_eq!(
            Target::ALL.map(|target| dtype(target, UP))[3..],
            [DType::Fp8E4m3, DType::Q8_0, DType::Q4_0]
        );
    }

    #[test]
    fn blocks_are_made_where_they_fit_and_save_something() {
        let q8 = |stored, dim| Target::Q8.dtype_of(UP, stored, &[8, dim]);
        assert_eq!(q8(DType::Bf16, 48), DType::Bf16, "48 is no multiple of 32");
        assert_eq!(q8(DType::Fp8E4m3, 64), DType::Fp8E4m3, "as small, and one rounding less");
        assert_eq!(q8(DType::Q4_0, 64), DType::Q4_0);
        assert_eq!(Target::Q4.dtype_of(UP, DType::Q4K, &[8, 256]), DType::Q4K);
        assert_eq!(Target::Q4.dtype_of(UP, DType::Fp8E4m3, &[8, 256]), DType::Q4_0);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for target in Target::ALL {
            assert_eq!(Target::parse(target.name()).unwrap(), target);
        }
        assert!(Target::parse("q5").unwrap_err().to_string().contains("`to` is q5"));
    }
}
