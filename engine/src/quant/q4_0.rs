//! GGUF's `Q4_0`: blocks of 32 four-bit numbers behind one f16 factor, `w[i] = d * (q[i] - 8)`. 18 bytes a block; byte
//! `i` holds number `i` in its lower half and number `i + 16` in its upper half.

use super::{block, f16};

/// Numbers of a block.
pub const LEN: usize = 32;
/// Bytes of a block: `d`, `q[32]`.
pub const BYTES: usize = 2 + LEN / 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let d = block::factor(block, 0);
        for (i, q) in block[2..].iter().enumerate() {
            out[i] = d * (f32::from(q & 15) - 8.0);
            out[i + LEN / 2] = d * (f32::from(q >> 4) - 8.0);
        }
    }
}

/// Encodes `values`, whole blocks, behind what `bytes` holds: the number of the largest size (the first of equals)
/// becomes -8 exactly, `d` is it over -8, in f16; numbers are divided by `d` as it was before that rounding, and
/// rounded to the nearest whole from -8 to 7. The public reference quantiser does the same.
///
/// # Panics
/// When they are not: a bug of the caller.
pub fn encode(values: &[f32], bytes: &mut Vec<u8>) {
    assert!(values.len().is_multiple_of(LEN));
    for values in values.chunks_exact(LEN) {
        let mut largest = 0.0f32;
        for x in values {
            if x.abs() > largest.abs() {
                largest = *x;
            }
        }
        let d = largest / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
        bytes.extend(f16::from_f32(d).to_le_bytes());
        let (lower, upper) = values.split_at(LEN / 2);
        bytes.extend(lower.iter().zip(upper).map(|(l, u)| code(*l) | (code(*u) << 4)));
    }
}
