//! GGUF's `Q6_K`: blocks of 256 six-bit numbers in sixteen sub-blocks of 16, each with a signed byte as scale:
//! `w = (d * scale) * (q - 32)`. 210 bytes: 128 bytes of lower four bits, 64 bytes of upper two bits, sixteen scales, `d`
//! (f16).
//!
//! Each half of 128 numbers is four runs of 32. Of its 64 bytes of lower bits, the first 32 hold runs 0 and 2, the last
//! 32 runs 1 and 3, lower half first; its 32 bytes of upper bits hold two bits of every run, the first lowest.

use super::block;

/// Numbers of a block.
pub const LEN: usize = 256;
/// Bytes of a block: lower bits, upper bits, scales, `d`.
pub const BYTES: usize = LEN / 2 + LEN / 4 + LEN / 16 + 2;

/// Decodes whole blocks into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * LEN, out.len() * BYTES);
    for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(LEN)) {
        let (low, rest) = block.split_at(LEN / 2);
        let (high, scales) = rest.split_at(LEN / 4);
        let d = block::factor(scales, LEN / 16);
        for (i, out) in out.iter_mut().enumerate() {
            let (half, run, at) = (i / 128, i % 128 / 32, i % 32);
            let q = (low[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4)) & 15;
            let q = q | (((high[half * 32 + at] >> (run * 2)) & 3) << 4);
            *out = d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0);
        }
    }
}
