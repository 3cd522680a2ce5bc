//! Factors of 8-bit float matrices: one for every block of rows and columns.

use super::Bytes;
use super::json::Fields;
use crate::error::{Error, Result};
use crate::quant::fp8;

/// A block side that no matrix reaches: one factor for all rows, or for all columns.
pub(super) const WHOLE: usize = 1 << (usize::BITS - 2);

/// `[ceil(out / rows), ceil(in / columns)]` little-endian f32, block rows back to back.
#[derive(Debug, Clone)]
pub struct Scales {
    /// The factors.
    pub bytes: Bytes,
    /// Rows and columns of a block, powers of two; columns are at least 16.
    pub block: [usize; 2],
}

impl Scales {
    /// Whether sides are ones that kernels take.
    pub(super) fn takes(block: [usize; 2]) -> bool {
        block.iter().all(|side| side.is_power_of_two()) && block[1] >= 16
    }

    /// Factors of one block row.
    pub fn per_row(&self, dim: usize) -> usize {
        dim.div_ceil(self.block[1])
    }

    /// Whether there is a factor for every block of `[n_out, dim]`.
    pub fn covers(&self, n_out: usize, dim: usize) -> bool {
        let wanted =
            n_out.div_ceil(self.block[0]).checked_mul(self.per_row(dim) * size_of::<f32>());
        Self::takes(self.block) && wanted == Some(self.bytes.len())
    }

    /// Multiplies decoded row `index` by its blocks' factors.
    pub fn apply(&self, index: usize, dim: usize, row: &mut [f32]) {
        let first = index / self.block[0] * self.per_row(dim);
        let factors = self.bytes[first * size_of::<f32>()..].chunks_exact(size_of::<f32>());
        for (block, factor) in row.chunks_mut(self.block[1]).zip(factors) {
            let factor = f32::from_le_bytes([factor[0], factor[1], factor[2], factor[3]]);
            for x in block {
                *x *= factor;
            }
        }
    }
}

/// `quantization_config`: 8-bit floats with factors, or none. The blocks' sides; DeepSeek's own when it gives none.
///
/// What it says of activations (`activation_scheme`, `input_scale` tensors) is left out on purpose: it describes a
/// cheaper product, and weights mean the same without it.
pub(super) fn block(fields: &Fields<'_>) -> Result<[usize; 2]> {
    let Some(quantization) = fields.object("quantization_config")? else { return Ok(fp8::BLOCK) };
    match quantization.text("quant_method")?.unwrap_or("unnamed") {
        // The second is what `hadal convert` writes: tensors in blocks say what they are in their files.
        "fp8" | "hadal" => {}
        "compressed-tensors" => return compressed(&quantization),
        method => {
            return Err(unsupported(
                fields,
                format!(
                    "weights quantised by `{method}` are not supported; `fp8`, float32, float16 and bfloat16 are"
                ),
            ));
        }
    }
    match quantization.text("fmt")? {
        None | Some("e4m3") => sides(&quantization, "weight_block_size"),
        Some(other) => Err(unsupported(
            fields,
            format!("8-bit floats of form `{other}` are not supported; `e4m3` is"),
        )),
    }
}

/// `compressed-tensors`: groups of matrices, each with its own numbers. Those of 8-bit floats are stored and mean what
/// DeepSeek's do, their factors in `weight_scale`.
fn compressed(quantization: &Fields<'_>) -> Result<[usize; 2]> {
    let format = quantization.text("format")?.unwrap_or("unnamed");
    let mut block = None;
    for (name, group) in quantization.object("config_groups")?.iter().flat_map(|all| all.object) {
        let Some(object) = group.as_object() else {
            return Err(quantization.error("config_groups", "objects"));
        };
        let group = Fields { path: quantization.path, object };
        let Some(weights) = group.object("weights")? else { continue };
        let bits = weights.size("num_bits")?;
        let kind = weights.text("type")?.unwrap_or("int");
        let strategy = weights.text("strategy")?.unwrap_or("tensor");
        let is_float = bits == 8 && kind == "float" && weights.flag_or("symmetric", true)?;
        let format = group.text("format")?.unwrap_or(format);
        if !is_float || format != "float-quantized" {
            let what = format!(
                "`compressed-tensors` weights of {bits} bits, `{kind}`, format `{format}` (`{name}`) are not \
                 supported; 8-bit `float` in `float-quantized` is"
            );
            return Err(unsupported(quantization, what));
        }
        match strategy {
            "tensor" | "channel" => {}
            "block" => {
                let sides = sides(&weights, "block_structure")?;
                if block.is_some_and(|block| block != sides) {
                    return Err(weights.error("block_structure", "the same in all groups"));
                }
                block = Some(sides);
            }
            other => {
                let what = format!(
                    "`compressed-tensors` factors by `{other}` are not supported; `tensor`, `channel` and `block` are"
                );
                return Err(unsupported(quantization, what));
            }
        }
    }
    Ok(block.unwrap_or(fp8::BLOCK))
}

/// The sides of a block; DeepSeek's own when none are given.
fn sides(fields: &Fields<'_>, field: &str) -> Result<[usize; 2]> {
    let Some(sides) = fields.get(field) else { return Ok(fp8::BLOCK) };
    let sides = || -> Option<[usize; 2]> {
        let [rows, columns] = sides.as_array()?.as_slice() else { return None };
        Some([usize::try_from(rows.as_u64()?).ok()?, usize::try_from(columns.as_u64()?).ok()?])
    };
    match sides() {
        Some(sides) if Scales::takes(sides) && sides[0].max(sides[1]) <= 1 << 20 => Ok(sides),
        _ => Err(fields.error(field, "two powers of two, the second at least 16")),
    }
}

fn unsupported(fields: &Fields<'_>, what: String) -> Error {
    Error::Unsupported { path: fields.path.to_owned(), what }
}
