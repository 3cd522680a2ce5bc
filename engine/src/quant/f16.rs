//! IEEE half precision: five bits of exponent, ten of mantissa.

/// Widens; exact. Written without branches, so that a loop over it becomes vector code.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub fn to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    // Shifted into an f32 the exponent is short by 112; the product also makes subnormals right.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    // Infinities and NaN have all exponent bits set, here and there.
    let special = f32::from_bits((magnitude << 13) | 0x7f80_0000);
    let value = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(value.to_bits() | (u32::from(bits & 0x8000) << 16))
}

/// Rounds to nearest, ties to even; beyond the largest half is infinity; NaN stays NaN.
pub fn from_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let size = value.abs();
    if size.is_nan() {
        return sign | 0x7e00;
    }
    // From 65520 on the nearest half is beyond the largest.
    if size >= 65_520.0 {
        return sign | 0x7c00;
    }
    if size < 2f32.powi(-14) {
        // Subnormals are multiples of 2^-24: the sum's rounding is the one wanted.
        return sign | (size + 0.5).to_bits() as u16;
    }
    let bits = size.to_bits() - (112 << 23);
    sign | ((bits + 0xfff + ((bits >> 13) & 1)) >> 13) as u16
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64.
    fn defined(bits: u16) -> f64 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        match exponent {
            0 => sign * mantissa / 1024.0 * 2f64.powi(-14),
            31 if mantissa == 0.0 => sign * f64::INFINITY,
            31 => f64::NAN,
            _ => sign * (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15),
        }
    }

    #[test]
    fn every_half_is_what_it_is_defined_to_be() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f64::from(to_f32(bits)), defined(bits));
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:04x}: {got} and {want}");
            assert!(got.is_nan() || got.is_sign_negative() == (bits >> 15 == 1), "{bits:04x}");
        }
    }

    #[test]
    fn numbers_round_to_the_nearest_half_and_ties_to_even() {
        for bits in (0..=u16::MAX).filter(|bits| !to_f32(*bits).is_nan()) {
            assert_eq!(from_f32(to_f32(bits)), bits, "{bits:04x}");
        }
        for bits in 0..0x7bffu16 {
            let (here, next) = (to_f32(bits), to_f32(bits + 1));
            let middle = f32::midpoint(here, next);
            let even = bits + bits % 2;
            assert_eq!(from_f32(middle), even, "{bits:04x}");
            assert_eq!(from_f32(middle.next_down()), bits, "{bits:04x}");
            assert_eq!(from_f32(-middle.next_up()), (bits + 1) | 0x8000, "{bits:04x}");
        }
        assert_eq!(from_f32(65_519.9), 0x7bff);
        assert_eq!(from_f32(65_520.0), 0x7c00);
        assert_eq!(from_f32(f32::MAX), 0x7c00);
        assert!(to_f32(from_f32(f32::NAN)).is_nan());
        assert_eq!(from_f32(1e-30), 0);
    }
}
