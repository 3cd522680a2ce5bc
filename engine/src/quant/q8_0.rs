//! GGUF's `Q8_0`: blocks of 32 signed bytes behind one f16 factor, `w[i] = d * q[i]`. 34 bytes a block.

use super::{block, f16};

/// Numbers of a block.
pub const LEN: usize = 32;
/// Bytes of a block: `d`, `q[32]`.
pub const BYTES: usize = 2 + LEN;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let d = block::factor(block, 0);
        for (out, q) in out.iter_mut().zip(&block[2..]) {
            *out = d * f32::from(*q as i8);
        }
    }
}

/// Encodes `values`, whole blocks, behind what `bytes` holds: `d` is the largest size over 127, in f16; numbers are
/// divided by it as it was before that rounding, and rounded to the nearest whole, halves away from zero. The public
/// reference quantiser does the same.
///
/// # Panics
/// When they are not: a bug of the caller.
pub fn encode(values: &[f32], bytes: &mut Vec<u8>) {
    assert!(values.len().is_multiple_of(LEN));
    for values in values.chunks_exact(LEN) {
        let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        bytes.extend(f16::from_f32(d).to_le_bytes());
        bytes.extend(values.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
}
