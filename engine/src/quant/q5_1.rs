//! GGUF's `Q5_1`: blocks of 32 five-bit numbers behind an f16 factor and an f16 offset, `w[i] = d * q[i] + m`. 24 bytes a
//! block: `d`, `m`, then as in [`super::q5_0`].

use super::block;

/// Numbers of a block.
pub const LEN: usize = 32;
/// Bytes of a block: `d`, `m`, 32 high bits, `q[32]`.
pub const BYTES: usize = 4 + 4 + LEN / 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let (d, m) = (block::factor(block, 0), block::factor(block, 2));
        block::five_bits(&block[4..], |i, q| out[i] = d * f32::from(q) + m);
    }
}
