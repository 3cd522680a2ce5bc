//! 8-bit floats as DeepSeek ships them: e4m3fn (four bits of exponent with bias 7, three of mantissa, no infinities,
//! only 0x7f and 0xff are NaN; "FP8 Formats for Deep Learning", Micikevicius et al. 2022, table 1), and for every block
//! of the matrix one factor: `W[i, j] = e4m3(weight[i, j]) * weight_scale_inv[i / 128, j / 128]`. Edge blocks are
//! smaller. Despite its name the factor is multiplied with.

/// Rows and columns of a block in released checkpoints.
pub const BLOCK: [usize; 2] = [128, 128];

/// Widens, the block's factor left out; exact. Written without branches, so that a loop over it becomes vector code.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub fn to_f32(bits: u8) -> f32 {
    let magnitude = u32::from(bits & 0x7f);
    // Shifted into an f32 the exponent is short by 120; the product also makes subnormals right.
    let scaled = f32::from_bits(magnitude << 20) * f32::from_bits(0x7b80_0000);
    let value = if magnitude == 0x7f { f32::NAN } else { scaled };
    f32::from_bits(value.to_bits() | (u32::from(bits & 0x80) << 24))
}

/// Decodes bytes into `out`, the blocks' factors left out; the lengths must agree.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), out.len());
    for (value, bits) in out.iter_mut().zip(bytes) {
        *value = to_f32(*bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64.
    fn defined(bits: u8) -> f64 {
        let sign = if bits >> 7 == 1 { -1.0 } else { 1.0 };
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        match (exponent, bits & 7) {
            (15, 7) => f64::NAN,
            (0, _) => sign * mantissa / 8.0 * 2f64.powi(-6),
            _ => sign * (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        }
    }

    #[test]
    fn every_byte_is_what_it_is_defined_to_be() {
        for bits in 0..=u8::MAX {
            let (got, want) = (f64::from(to_f32(bits)), defined(bits));
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:02x}: {got} and {want}");
        }
        assert_eq!(to_f32(0x7e), 448.0);
    }
}
