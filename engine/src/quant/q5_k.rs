//! GGUF's `Q5_K`: as [`super::q4_k`] with a fifth bit. 176 bytes: `d`, `dmin` (f16), twelve bytes of scales and minima,
//! 32 bytes of fifth bits (byte `i` holds those of number `i` of every sub-block, the first lowest), then the lower halves.

use super::block;

/// Numbers of a block.
pub const LEN: usize = 256;
/// Bytes of a block: `d`, `dmin`, scales and minima, fifth bits, lower halves.
pub const BYTES: usize = 4 + 12 + LEN / 8 + LEN / 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let (d, dmin) = (block::factor(block, 0), block::factor(block, 2));
        let Some((packed, q)) = block[4..].split_first_chunk::<12>() else { continue };
        let (high, low) = q.split_at(LEN / 8);
        for (i, out) in out.iter_mut().enumerate() {
            let part = i / 32;
            let (scale, min) = block::scale_and_min(packed, part);
            let q = (low[part / 2 * 32 + i % 32] >> (part % 2 * 4)) & 15;
            let q = q | (((high[i % 32] >> part) & 1) << 4);
            *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
        }
    }
}
