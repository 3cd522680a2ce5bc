//! What GGUF's block formats share.

use super::f16;

/// The f16 at byte `at` of a block, widened.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub(crate) fn factor(block: &[u8], at: usize) -> f32 {
    f16::to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Six-bit scale and minimum of sub-block `index`, 0 to 7, from the twelve bytes of `Q4_K` and `Q5_K`.
///
/// The first four have six bits of a byte each, scales in bytes 0 to 3, minima in bytes 4 to 7. The last four have
/// their lower four bits in bytes 8 to 11, scales below minima, and their upper two in the upper bits of the first
/// four's bytes.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub(crate) fn scale_and_min(packed: &[u8; 12], index: usize) -> (u8, u8) {
    if index < 4 {
        return (packed[index] & 63, packed[index + 4] & 63);
    }
    let low = packed[index + 4];
    let (scale, min) = (packed[index - 4] >> 6, packed[index] >> 6);
    ((low & 15) | (scale << 4), (low >> 4) | (min << 4))
}

/// The 32 numbers of a block whose fifth bits lie in four bytes before sixteen bytes of lower halves.
pub(super) fn five_bits(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    let (high, low) = bytes.split_at(4);
    let bit = |i: usize| ((high[i / 8] >> (i % 8)) & 1) << 4;
    for (i, q) in low.iter().enumerate() {
        each(i, (q & 15) | bit(i));
        each(i + 16, (q >> 4) | bit(i + 16));
    }
}
