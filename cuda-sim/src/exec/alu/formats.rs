//! Floating-point formats below 32 bits, and exact rounding into any of them.
//!
//! Every narrow result is computed in f64, exactly or rounded to odd, and rounded once into its format: rounding to odd
//! keeps what a tie needs to know, as long as the format has at least two bits fewer.

/// Rounding modes, as `.rn .rz .rm .rp` name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// A binary format: digits of the significand with the implicit one, least normal exponent, largest value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    digits: i32,
    exponent_min: i32,
    max: f64,
}

pub(crate) const F32: Format = Format { digits: 24, exponent_min: -126, max: f32::MAX as f64 };
pub(crate) const F16: Format = Format { digits: 11, exponent_min: -14, max: 65504.0 };
pub(crate) const BF16: Format =
    Format { digits: 8, exponent_min: -126, max: 3.389_531_389_251_535_5e38 };
const E4M3: Format = Format { digits: 4, exponent_min: -6, max: 448.0 };
const E5M2: Format = Format { digits: 3, exponent_min: -14, max: 57344.0 };

/// `2^n` for `n` in the normal range of f64.
pub(crate) fn power(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// The exponent of a finite value that is not zero; subnormal f64 count as the least.
pub(crate) fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// Rounds into a format. Overflow gives infinity, or the largest value where the mode leads back.
pub(crate) fn round(x: f64, format: Format, mode: Round) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let quantum = exponent(x).max(format.exponent_min) - (format.digits - 1);
    let scaled = x * power(-quantum);
    let whole = match mode {
        Round::Nearest => scaled.round_ties_even(),
        Round::Zero => scaled.trunc(),
        Round::Down => scaled.floor(),
        Round::Up => scaled.ceil(),
    };
    let rounded = (whole * power(quantum)).copysign(x);
    if rounded.abs() <= format.max {
        return rounded;
    }
    let stays = match mode {
        Round::Nearest => false,
        Round::Zero => true,
        Round::Down => x > 0.0,
        Round::Up => x < 0.0,
    };
    if stays { format.max.copysign(x) } else { f64::INFINITY.copysign(x) }
}

/// `a + b` rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // Knuth's two-sum: what the addition lost.
    let part = sum - a;
    let lost = (a - (sum - part)) + (b - part);
    make_odd(sum, lost)
}

/// A value to which an exact rest belongs, as the odd neighbour where the rest is not zero.
pub(crate) fn make_odd(value: f64, rest: f64) -> f64 {
    if rest == 0.0 || value.to_bits() & 1 == 1 || rest.is_nan() {
        return value;
    }
    let away = (rest > 0.0) == (value > 0.0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

pub(crate) fn f16_to_f64(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (e, m) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match e {
        0 => m * power(-24),
        31 if m == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + m) * power(e - 25),
    }
}

pub(crate) fn f64_to_f16(x: f64, mode: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let x = round(x, F16, mode);
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let x = x.abs();
    if x.is_infinite() {
        return sign | 0x7c00;
    }
    if x < power(-14) {
        return sign | (x * power(24)) as u16;
    }
    let e = exponent(x);
    sign | ((e + 15) as u16) << 10 | (x * power(10 - e)) as u16 & 0x3ff
}

pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

pub(crate) fn f64_to_bf16(x: f64, mode: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    ((round(x, BF16, mode) as f32).to_bits() >> 16) as u16
}

/// Nearest, from f32: the common case without f64.
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// E4M3 has no infinity; all ones are its NaN.
pub(crate) fn e4m3_to_f64(bits: u8) -> f64 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let (e, m) = (i32::from(bits >> 3 & 0xf), f64::from(bits & 7));
    sign * match e {
        0 => m * power(-9),
        15 if m == 7.0 => f64::NAN,
        _ => (8.0 + m) * power(e - 10),
    }
}

pub(crate) fn e5m2_to_f64(bits: u8) -> f64 {
    // E5M2 is the upper byte of an f16.
    f16_to_f64(u16::from(bits) << 8)
}

/// Nearest, and the largest value for what is beyond it: `.rn.satfinite`.
pub(crate) fn f64_to_e4m3(x: f64) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let x = round(x.abs(), E4M3, Round::Nearest).min(E4M3.max);
    if x < power(-6) {
        return sign | (x * power(9)) as u8;
    }
    let e = exponent(x);
    sign | ((e + 7) as u8) << 3 | (x * power(3 - e)) as u8 & 7
}

/// Nearest, and the largest value for what is beyond it: `.rn.satfinite`.
pub(crate) fn f64_to_e5m2(x: f64) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let x = round(x.abs(), E5M2, Round::Nearest).min(E5M2.max);
    sign | (f64_to_f16(x, Round::Nearest) >> 8) as u8
}

/// f64 to f32 in a mode.
pub(crate) fn f64_to_f32(x: f64, mode: Round) -> f32 {
    if x.is_nan() { f32::NAN } else { round(x, F32, mode) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_narrow_value_comes_back() {
        for bits in 0..=u16::MAX {
            let f = f16_to_f64(bits);
            if !f.is_nan() {
                assert_eq!(f64_to_f16(f, Round::Nearest), bits);
            }
            let f = bf16_to_f32(bits);
            if !f.is_nan() {
                assert_eq!(f64_to_bf16(f64::from(f), Round::Nearest), bits);
                assert_eq!(f32_to_bf16(f), bits);
            }
        }
        for bits in 0..=u8::MAX {
            let f = e4m3_to_f64(bits);
            if !f.is_nan() {
                assert_eq!(f64_to_e4m3(f), bits);
            }
            let f = e5m2_to_f64(bits);
            if f.is_finite() {
                assert_eq!(f64_to_e5m2(f), bits);
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_directions_hold() {
        // Halfway between the f16 neighbours 1 and 1 + 2^-10.
        let tie = 1.0 + power(-11);
        assert_eq!(f64_to_f16(tie, Round::Nearest), 0x3c00);
        assert_eq!(f64_to_f16(tie, Round::Up), 0x3c01);
        assert_eq!(f64_to_f16(-tie, Round::Down), 0xbc01);
        assert_eq!(f64_to_f16(-tie, Round::Zero), 0xbc00);
        assert_eq!(f64_to_f16(65520.0, Round::Nearest), 0x7c00);
        assert_eq!(f64_to_f16(65520.0, Round::Zero), 0x7bff);
        assert_eq!(f64_to_e4m3(1000.0), 0x7e);
        assert_eq!(f32_to_bf16(1.0 + 2f32.powi(-8)), 0x3f80);
        assert_eq!(f32_to_bf16(1.0 + 3.0 * 2f32.powi(-8)), 0x3f82);
        // The extremes of the smallest formats, from their definition.
        assert_eq!(e4m3_to_f64(0x01), 2f64.powi(-9));
        assert_eq!(e4m3_to_f64(0x7e), 448.0);
        assert_eq!(e5m2_to_f64(0x7b), 57344.0);
    }

    #[test]
    fn rounding_to_odd_keeps_a_tie_apart() {
        let sum = add_odd(1.0 + power(-11), power(-80));
        assert_eq!(f64_to_f16(sum, Round::Nearest), 0x3c01);
        let sum = add_odd(1.0 + power(-11), -power(-80));
        assert_eq!(f64_to_f16(sum, Round::Nearest), 0x3c00);
    }
}
