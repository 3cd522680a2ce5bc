//! 8-bit floats as DeepSeek ships them: e4m3fn (four bits of exponent with bias 7, three of mantissa, no infinities,
//! only 0x7f and 0xff are NaN; "FP8 Formats for Deep Learning", Micikevicius et al. 2022, table 1), and for every block
//! of the matrix one factor: `W[i, j] = e4m3(weight[i, j]) * weight_scale_inv[i / 128, j / 128]`. Edge blocks are
//! smaller. Despite its name the factor is multiplied with.

/// Rows and columns of a block in released checkpoints.
pub const BLOCK: [usize; 2] = [128, 128];

/// Widens, the block's factor left out; exact. Written without branches, so that a loop over it becomes vector code.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub const fn to_f32(bits: u8) -> f32 {
    let magnitude = (bits & 0x7f) as u32;
    // Shifted into an f32 the exponent is short by 120; the product also makes subnormals right.
    let scaled = f32::from_bits(magnitude << 20) * f32::from_bits(0x7b80_0000);
    let value = if magnitude == 0x7f { f32::NAN } else { scaled };
    f32::from_bits(value.to_bits() | ((bits & 0x80) as u32) << 24)
}

/// The largest finite number.
pub const MAX: f32 = 448.0;

/// Rounds to nearest, ties to even; what is larger than [`MAX`] becomes it, NaN stays NaN.
pub fn from_f32(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    // Below the smallest normal number, 2^-6, numbers are multiples of 2^-9; the largest of them rounds up into it.
    if magnitude < 0.015_625 {
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.min(MAX).to_bits();
    let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
    sign | (rounded - (120 << 3)) as u8
}

/// Encodes up to [`BLOCK`]`[0]` rows of `dim` numbers: the bytes behind `bytes`, one factor a block of columns behind
/// `scales`. A block's factor is its largest size over [`MAX`]; a block of zeros has factor 1.
///
/// # Panics
/// When there are more rows, or no whole ones: a bug of the caller.
pub fn encode_block_row(values: &[f32], dim: usize, bytes: &mut Vec<u8>, scales: &mut Vec<f32>) {
    assert!(dim > 0 && values.len().is_multiple_of(dim) && values.len() / dim <= BLOCK[0]);
    let first = scales.len();
    scales.resize(first + dim.div_ceil(BLOCK[1]), 0.0);
    let factors = &mut scales[first..];
    for row in values.chunks_exact(dim) {
        for (factor, block) in factors.iter_mut().zip(row.chunks(BLOCK[1])) {
            *factor = block.iter().fold(*factor, |largest, x| largest.max(x.abs()));
        }
    }
    for factor in factors.iter_mut() {
        // A factor that is no normal number would not divide to within range.
        *factor = if *factor == 0.0 { 1.0 } else { (*factor / MAX).max(f32::MIN_POSITIVE) };
    }
    for row in values.chunks_exact(dim) {
        for (factor, block) in factors.iter().zip(row.chunks(BLOCK[1])) {
            bytes.extend(block.iter().map(|x| from_f32(x / factor)));
        }
    }
}

/// Decodes bytes into `out`, the blocks' factors left out; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len());
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

    #[test]
    fn every_byte_comes_back_and_numbers_between_go_to_the_nearest_and_even() {
        for bits in 0..0x7eu8 {
            let (low, high) = (to_f32(bits), to_f32(bits + 1));
            assert_eq!((from_f32(low), from_f32(-low)), (bits, bits | 0x80));
            let middle = f32::midpoint(low, high);
            assert_eq!(from_f32(middle), bits + (bits & 1), "{bits:02x}");
            assert_eq!(from_f32(middle.next_down()), bits, "{bits:02x}");
            assert_eq!(from_f32(middle.next_up()), bits + 1, "{bits:02x}");
        }
        for large in [448.0, 463.9, 480.0, f32::MAX, f32::INFINITY] {
            assert_eq!((from_f32(large), from_f32(-large)), (0x7e, 0xfe));
        }
        assert!(to_f32(from_f32(f32::NAN)).is_nan());
    }

    #[test]
    fn a_block_row_is_within_half_a_step_of_its_largest_number() {
        // Two blocks of columns, the second one short; three rows; every size from 2^-10 to 2^10, and zeros.
        let dim = 150;
        let values: Vec<f32> = (0..3 * dim)
            .map(|i| ((i * 7919 % 2001) as f32 - 1000.0) * 2f32.powi((i * 31 % 21) as i32 - 20))
            .collect();
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        encode_block_row(&values, dim, &mut bytes, &mut scales);
        assert_eq!((bytes.len(), scales.len()), (values.len(), 2));
        for (i, (byte, value)) in bytes.iter().zip(&values).enumerate() {
            let scale = f64::from(scales[i % dim / 128]);
            let got = f64::from(to_f32(*byte)) * scale;
            // Four bits of mantissa with the hidden one: half a step is a sixteenth; below that, of the smallest step.
            let allowed = f64::from(value.abs()) / 16.0 + scale * 2f64.powi(-10);
            assert!((got - f64::from(*value)).abs() <= allowed * 1.000_001, "{i}: {got}, {value}");
        }
        assert!(
            bytes.iter().any(|byte| byte & 0x7f == 0x7e),
            "the largest number takes the largest byte"
        );
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        encode_block_row(&[0.0; 16], 16, &mut bytes, &mut scales);
        assert_eq!((bytes, scales), (vec![0; 16], vec![1.0]));
    }
}
