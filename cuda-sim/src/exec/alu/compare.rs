//! Comparisons: a mask of the lanes where they hold.

use super::float::flush;
use super::formats::{bf16_to_f32, f16_to_f64};
use crate::ptx::instr::{Cmp, Lanes};

/// A loop over the lanes that collects one bit each.
macro_rules! mask {
    (|$a:ident, $b:ident| $e:expr) => {{
        fn run(a: &Lanes, b: &Lanes) -> u32 {
            let mut mask = 0;
            for lane in 0..32 {
                let ($a, $b) = (a[lane], b[lane]);
                mask |= u32::from($e) << lane;
            }
            mask
        }
        run as Cmp
    }};
}

macro_rules! integers {
    ($compare:expr, $t:ty) => {
        match $compare {
            "eq" => mask!(|a, b| a as $t == b as $t),
            "ne" => mask!(|a, b| a as $t != b as $t),
            "lt" | "lo" => mask!(|a, b| (a as $t) < b as $t),
            "le" | "ls" => mask!(|a, b| a as $t <= b as $t),
            "gt" | "hi" => mask!(|a, b| a as $t > b as $t),
            "ge" | "hs" => mask!(|a, b| a as $t >= b as $t),
            _ => return None,
        }
    };
}

/// The unordered forms hold where either side is NaN.
macro_rules! floats {
    ($compare:expr, $decode:expr) => {{
        macro_rules! with {
            (|$a:ident, $b:ident| $e:expr) => {
                mask!(|x, y| {
                    let ($a, $b) = ($decode(x), $decode(y));
                    $e
                })
            };
        }
        match $compare {
            "eq" => with!(|a, b| a == b),
            "ne" => with!(|a, b| a < b || a > b),
            "lt" => with!(|a, b| a < b),
            "le" => with!(|a, b| a <= b),
            "gt" => with!(|a, b| a > b),
            "ge" => with!(|a, b| a >= b),
            "equ" => with!(|a, b| a == b || a.is_nan() || b.is_nan()),
            "neu" => with!(|a, b| a != b),
            "ltu" => with!(|a, b| a < b || a.is_nan() || b.is_nan()),
            "leu" => with!(|a, b| a <= b || a.is_nan() || b.is_nan()),
            "gtu" => with!(|a, b| a > b || a.is_nan() || b.is_nan()),
            "geu" => with!(|a, b| a >= b || a.is_nan() || b.is_nan()),
            "num" => with!(|a, b| !a.is_nan() && !b.is_nan()),
            "nan" => with!(|a, b| a.is_nan() || b.is_nan()),
            _ => return None,
        }
    }};
}

/// The comparison of a type.
pub(crate) fn compare(compare: &str, ty: &str, ftz: bool) -> Option<Cmp> {
    Some(match ty {
        "u16" | "b16" => integers!(compare, u16),
        "s16" => integers!(compare, i16),
        "u32" | "b32" => integers!(compare, u32),
        "s32" => integers!(compare, i32),
        "u64" | "b64" => integers!(compare, u64),
        "s64" => integers!(compare, i64),
        "f32" if ftz => floats!(compare, |x: u64| flush(f32::from_bits(x as u32))),
        "f32" => floats!(compare, |x: u64| f32::from_bits(x as u32)),
        "f64" => floats!(compare, f64::from_bits),
        "f16" => floats!(compare, |x: u64| f16_to_f64(x as u16)),
        "bf16" => floats!(compare, |x: u64| bf16_to_f32(x as u16)),
        _ => return None,
    })
}

/// The comparison of one half of a pair; `shift` is 0 or 16.
pub(crate) fn compare2(compare: &str, ty: &str, shift: u32) -> Option<Cmp> {
    Some(match (ty, shift) {
        ("f16x2", 0) => floats!(compare, |x: u64| f16_to_f64(x as u16)),
        ("f16x2", _) => floats!(compare, |x: u64| f16_to_f64((x >> 16) as u16)),
        ("bf16x2", 0) => floats!(compare, |x: u64| bf16_to_f32(x as u16)),
        ("bf16x2", _) => floats!(compare, |x: u64| bf16_to_f32((x >> 16) as u16)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordered_comparison_fails_on_nan_and_an_unordered_one_holds() {
        let nan = [u64::from(f32::NAN.to_bits()); 32];
        let one = [u64::from(1f32.to_bits()); 32];
        for (word, want) in [
            ("ne", 0),
            ("neu", u32::MAX),
            ("lt", 0),
            ("geu", u32::MAX),
            ("nan", u32::MAX),
            ("num", 0),
        ] {
            assert_eq!(compare(word, "f32", false).unwrap()(&nan, &one), want, "{word}");
        }
    }

    #[test]
    fn signs_matter_by_type() {
        let (minus, one) = ([0xffff_ffffu64; 32], [1u64; 32]);
        assert_eq!(compare("lt", "s32", false).unwrap()(&minus, &one), u32::MAX);
        assert_eq!(compare("lt", "u32", false).unwrap()(&minus, &one), 0);
        assert!(compare("lt", "b8", false).is_none());
    }
}
