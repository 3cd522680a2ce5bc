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

/// `quantization_config`: 8-bit floats in blocks, or none. The blocks' sides; DeepSeek's own when it gives none.
pub(super) fn block(fields: &Fields<'_>) -> Result<[usize; 2]> {
    let Some(quantization) = fields.object("quantization_config")? else { return Ok(fp8::BLOCK) };
    let refuse = |what: String| Err(Error::Unsupported { path: fields.path.to_owned(), what });
    match quantization.text("quant_method")?.unwrap_or("unnamed") {
        // The second is what `hadal convert` writes: tensors in blocks say what they are in their files.
        "fp8" | "hadal" => {}
        method => {
            return refuse(format!(
                "weights quantised by `{method}` are not supported; `fp8`, float32, float16 and bfloat16 are"
            ));
        }
    }
    match quantization.text("fmt")? {
        None | Some("e4m3") => {}
        Some(other) => {
            return refuse(format!("8-bit floats of form `{other}` are not supported; `e4m3` is"));
        }
    }
    let Some(sides) = quantization.get("weight_block_size") else { return Ok(fp8::BLOCK) };
    let sides = || -> Option<[usize; 2]> {
        let [rows, columns] = sides.as_array()?.as_slice() else { return None };
        Some([usize::try_from(rows.as_u64()?).ok()?, usize::try_from(columns.as_u64()?).ok()?])
    };
    match sides() {
        Some(sides) if Scales::takes(sides) && sides[0].max(sides[1]) <= 1 << 20 => Ok(sides),
        _ => {
            Err(quantization
                .error("weight_block_size", "two powers of two, the second at least 16"))
        }
    }
}
