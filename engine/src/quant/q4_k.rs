//! GGUF's `Q4_K`: blocks of 256 four-bit numbers in eight sub-blocks of 32, each with a six-bit scale and minimum:
//! `w = (d * scale) * q - dmin * min`. 144 bytes: `d`, `dmin` (f16), twelve bytes of scales and minima, then `q`.
//! 32 bytes hold two sub-blocks, the first in their lower halves.

use super::block;

/// Numbers of a block.
pub const LEN: usize = 256;
/// Bytes of a block: `d`, `dmin`, scales and minima, `q[256]`.
pub const BYTES: usize = 4 + 12 + LEN / 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let (d, dmin) = (block::factor(block, 0), block::factor(block, 2));
        let Some((packed, q)) = block[4..].split_first_chunk::<12>() else { continue };
        for (i, out) in out.iter_mut().enumerate() {
            let part = i / 32;
            let (scale, min) = block::scale_and_min(packed, part);
            let q = (q[part / 2 * 32 + i % 32] >> (part % 2 * 4)) & 15;
            *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
        }
    }
}
