//! bfloat16: an f32 without its lower 16 bits.

/// Widens; exact.
#[inline]
pub const fn to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// Rounds to nearest, ties to even; NaN stays NaN.
#[inline]
pub const fn from_f32(value: f32) -> u16 {
    if value.is_nan() {
        return ((value.to_bits() >> 16) | 0x40) as u16;
    }
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Decodes little-endian bytes into `out`; the lengths must agree.
///
/// # Panics
/// When they do not: a bug of the caller.
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * 2);
    for (value, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = to_f32(u16::from_le_bytes([pair[0], pair[1]]));
    }
}
