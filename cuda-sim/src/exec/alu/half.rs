//! Operations on f16 and bf16, alone and in pairs: each result exact, then rounded once.

use super::formats::{Round, add_odd, bf16_to_f32, f16_to_f64, f64_to_bf16, f64_to_f16};
use super::lanes;
use crate::ptx::Class;
use crate::ptx::instr::{Alu, Lanes};
use crate::ptx::words::Words;

fn bf16_to_f64(bits: u16) -> f64 {
    f64::from(bf16_to_f32(bits))
}

/// The expression for f16 and bf16, alone or for both halves of a register.
macro_rules! each {
    ($ty:expr, $after:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        macro_rules! of {
            ($decode:ident, $encode:ident, $halves:expr) => {
                lanes!(|x, y, z| {
                    let after: fn(f64) -> f64 = $after;
                    let mut d = 0;
                    for half in 0..$halves {
                        let shift = 16 * half;
                        let part = |v: u64| $decode((v >> shift) as u16);
                        let ($a, $b, $c) = (part(x), part(y), part(z));
                        let _ = ($b, $c);
                        d |= u64::from($encode(after($e), Round::Nearest)) << shift;
                    }
                    d
                })
            };
        }
        match $ty {
            "f16" => of!(f16_to_f64, f64_to_f16, 1),
            "f16x2" => of!(f16_to_f64, f64_to_f16, 2),
            "bf16" => of!(bf16_to_f64, f64_to_bf16, 1),
            _ => of!(bf16_to_f64, f64_to_bf16, 2),
        }
    }};
}

/// With what may follow the operation: nothing, `.relu` or `.sat`.
macro_rules! halves {
    ($w:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        match ($w.has("relu"), $w.has("sat")) {
            (true, _) => {
                each!($w.last(), |x| if x.is_nan() || x > 0.0 { x } else { 0.0 }, |$a, $b, $c| $e)
            }
            (_, true) => each!(
                $w.last(),
                |x| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) },
                |$a, $b, $c| $e
            ),
            _ => each!($w.last(), |x| x, |$a, $b, $c| $e),
        }
    };
}

pub(super) fn find(w: &Words<'_>) -> Option<(Alu, usize, Class)> {
    let nan = w.has("NaN");
    let (f, sources) = match w.root {
        "add" => (halves!(w, |a, b, c| add_odd(a, b)), 2),
        "sub" => (halves!(w, |a, b, c| add_odd(a, -b)), 2),
        // Two significands of 11 bits make a product that f64 holds.
        "mul" => (halves!(w, |a, b, c| a * b), 2),
        "fma" => (halves!(w, |a, b, c| add_odd(a * b, c)), 3),
        "min" if nan => {
            (halves!(w, |a, b, c| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }), 2)
        }
        "max" if nan => {
            (halves!(w, |a, b, c| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }), 2)
        }
        "min" => (halves!(w, |a, b, c| a.min(b)), 2),
        "max" => (halves!(w, |a, b, c| a.max(b)), 2),
        "ex2" => (halves!(w, |a, b, c| a.exp2()), 1),
        "tanh" => (halves!(w, |a, b, c| a.tanh()), 1),
        // Sign bits alone: a NaN keeps its payload.
        "neg" => (signs(w, true), 1),
        "abs" => (signs(w, false), 1),
        _ => return None,
    };
    Some((f, sources, Class::Half))
}

fn signs(w: &Words<'_>, negate: bool) -> Alu {
    match (w.last().ends_with("x2"), negate) {
        (true, true) => lanes!(|a, b, c| a ^ 0x8000_8000),
        (false, true) => lanes!(|a, b, c| a ^ 0x8000),
        (true, false) => lanes!(|a, b, c| a & 0x7fff_7fff),
        (false, false) => lanes!(|a, b, c| a & 0x7fff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_computed_apart_and_rounded_once() {
        let (f, ..) = find(&Words::new("fma.rn.bf16x2")).unwrap();
        // Low: 1.5 * 2 + 1 = 4. High: 1 + 2^-7 squared is 1 + 2^-6 + 2^-14; less 2^-14 it is exact.
        let a = [0x3f81_3fc0u64; 32];
        let b = [0x3f81_4000u64; 32];
        let c = [0xb880_3f80u64; 32];
        let mut d = [0; 32];
        f(&mut d, [&a, &b, &c, &c]);
        assert_eq!(d[0], 0x3f82_4080);
    }

    #[test]
    fn relu_clears_negative_results() {
        let (f, ..) = find(&Words::new("fma.rn.relu.f16x2")).unwrap();
        let (a, b, c) = ([0xbc00_3c00u64; 32], [0x3c00_3c00u64; 32], [0u64; 32]);
        let mut d = [0; 32];
        f(&mut d, [&a, &b, &c, &c]);
        assert_eq!(d[7], 0x0000_3c00);
    }
}
