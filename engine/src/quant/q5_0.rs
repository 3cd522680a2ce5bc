//! GGUF's `Q5_0`: blocks of 32 five-bit numbers behind one f16 factor, `w[i] = d * (q[i] - 16)`. 22 bytes a block: `d`,
//! the 32 highest bits, then the lower halves in the order of [`super::q4_0`]. Quantisers fall back to it where a
//! row is no multiple of 256.

use super::block;

/// Numbers of a block.
pub const LEN: usize = 32;
/// Bytes of a block: `d`, 32 high bits, `q[32]`.
pub const BYTES: usize = 2 + 4 + LEN / 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let d = block::factor(block, 0);
        block::five_bits(&block[2..], |i, q| out[i] = d * (f32::from(q) - 16.0));
    }
}
