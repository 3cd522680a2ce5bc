//! Operations on f32 and f64.
//!
//! `.approx` functions are computed in f64 and rounded once: closer than a card's, whose error the manual bounds. A test that
//! compares with a real card leaves room for that bound.

use super::formats::{Round, add_odd, f64_to_f32, make_odd};
use super::lanes;
use crate::ptx::Class;
use crate::ptx::instr::{Alu, Lanes};
use crate::ptx::words::Words;

fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

/// Subnormals to zero of the same sign: `.ftz`.
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// `.sat`: into [0, 1], NaN to zero.
fn saturate(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) }
}

/// The expression in f32, in its four forms: as it is, flushed, saturated, both.
macro_rules! single {
    ($w:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        macro_rules! form {
            ($before:expr, $after:expr) => {
                lanes!(|x, y, z| {
                    let before: fn(f32) -> f32 = $before;
                    let after: fn(f32) -> f32 = $after;
                    let ($a, $b, $c) = (before(f32_of(x)), before(f32_of(y)), before(f32_of(z)));
                    let _ = ($b, $c);
                    u64::from(after($e).to_bits())
                })
            };
        }
        match ($w.has("ftz"), $w.has("sat")) {
            (false, false) => form!(|x| x, |x| x),
            (true, false) => form!(flush, flush),
            (false, true) => form!(|x| x, saturate),
            (true, true) => form!(flush, saturate),
        }
    }};
}

macro_rules! double {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!(|x, y, z| {
            let ($a, $b, $c) = (f64::from_bits(x), f64::from_bits(y), f64::from_bits(z));
            let _ = ($b, $c);
            f64::to_bits($e)
        })
    };
}

/// The expression with a constant mode in place of `$m`.
macro_rules! directed {
    ($w:expr, |$a:ident, $b:ident, $c:ident, $m:ident| $e:expr) => {
        if $w.has("rz") {
            single!($w, |$a, $b, $c| {
                const $m: Round = Round::Zero;
                $e
            })
        } else if $w.has("rm") {
            single!($w, |$a, $b, $c| {
                const $m: Round = Round::Down;
                $e
            })
        } else if $w.has("rp") {
            single!($w, |$a, $b, $c| {
                const $m: Round = Round::Up;
                $e
            })
        } else {
            single!($w, |$a, $b, $c| {
                const $m: Round = Round::Nearest;
                $e
            })
        }
    };
}

pub(super) fn find(w: &Words<'_>) -> Option<(Alu, usize, Class)> {
    let is_double = w.last() == "f64";
    let (f, sources) = if is_double { double(w)? } else { single(w)? };
    Some((f, sources, Class::Float))
}

fn toward(w: &Words<'_>) -> bool {
    ["rz", "rm", "rp"].iter().any(|mode| w.has(mode))
}

fn single(w: &Words<'_>) -> Option<(Alu, usize)> {
    if toward(w) {
        return single_directed(w);
    }
    Some(match w.root {
        "add" => (single!(w, |a, b, c| a + b), 2),
        "sub" => (single!(w, |a, b, c| a - b), 2),
        "mul" => (single!(w, |a, b, c| a * b), 2),
        "fma" | "mad" if !w.has("ftz") && !w.has("sat") => (multiply_add(), 3),
        "fma" | "mad" => (single!(w, |a, b, c| a.mul_add(b, c)), 3),
        "div" => (single!(w, |a, b, c| a / b), 2),
        "rcp" => (single!(w, |a, b, c| 1.0 / a), 1),
        "sqrt" => (single!(w, |a, b, c| a.sqrt()), 1),
        "min" | "max" => extreme(w),
        "abs" => (single!(w, |a, b, c| a.abs()), 1),
        "neg" => (single!(w, |a, b, c| -a), 1),
        // The first source gives the sign.
        "copysign" => (single!(w, |a, b, c| b.copysign(a)), 2),
        "ex2" => (single!(w, |a, b, c| f64::from(a).exp2() as f32), 1),
        "lg2" => (single!(w, |a, b, c| f64::from(a).log2() as f32), 1),
        "rsqrt" => (single!(w, |a, b, c| (1.0 / f64::from(a).sqrt()) as f32), 1),
        "sin" => (single!(w, |a, b, c| f64::from(a).sin() as f32), 1),
        "cos" => (single!(w, |a, b, c| f64::from(a).cos() as f32), 1),
        "tanh" => (single!(w, |a, b, c| f64::from(a).tanh() as f32), 1),
        "slct" => (lanes!(|a, b, c| if f32_of(c) >= 0.0 { a } else { b }), 3),
        _ => return None,
    })
}

fn single_directed(w: &Words<'_>) -> Option<(Alu, usize)> {
    Some(match w.root {
        "add" => (directed!(w, |a, b, c, M| f64_to_f32(add_odd(f64::from(a), f64::from(b)), M)), 2),
        "sub" => {
            (directed!(w, |a, b, c, M| f64_to_f32(add_odd(f64::from(a), -f64::from(b)), M)), 2)
        }
        // The product of two f32 is exact in f64.
        "mul" => (directed!(w, |a, b, c, M| f64_to_f32(f64::from(a) * f64::from(b), M)), 2),
        "fma" | "mad" => (
            directed!(w, |a, b, c, M| f64_to_f32(
                add_odd(f64::from(a) * f64::from(b), f64::from(c)),
                M
            )),
            3,
        ),
        "div" => {
            (directed!(w, |a, b, c, M| f64_to_f32(quotient(f64::from(a), f64::from(b)), M)), 2)
        }
        "rcp" => (directed!(w, |a, b, c, M| f64_to_f32(quotient(1.0, f64::from(a)), M)), 1),
        "sqrt" => (directed!(w, |a, b, c, M| f64_to_f32(root(f64::from(a)), M)), 1),
        _ => return None,
    })
}

/// `a / b` rounded to odd.
fn quotient(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    let rest = -q.mul_add(b, -a);
    make_odd(q, rest * b.signum())
}

/// The square root rounded to odd.
fn root(a: f64) -> f64 {
    let r = a.sqrt();
    if r.is_finite() { make_odd(r, -r.mul_add(r, -a)) } else { r }
}

/// Fused multiply-add: by the processor's own instruction where it has one, which is ten times a library call's speed.
fn multiply_add() -> Alu {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn fused(d: &mut Lanes, s: [&Lanes; 4]) {
            for lane in 0..32 {
                let value = f32_of(s[0][lane]).mul_add(f32_of(s[1][lane]), f32_of(s[2][lane]));
                d[lane] = u64::from(value.to_bits());
            }
        }
        fn checked(d: &mut Lanes, s: [&Lanes; 4]) {
            // SAFETY: chosen below, only where the processor has both features.
            unsafe { fused(d, s) }
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return checked;
        }
    }
    lanes!(|a, b, c| u64::from(f32_of(a).mul_add(f32_of(b), f32_of(c)).to_bits()))
}

fn least(a: f32, b: f32) -> f32 {
    if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { a.min(b) }
}

fn greatest(a: f32, b: f32) -> f32 {
    if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { a.max(b) }
}

/// Without `.NaN` a NaN loses against a number.
fn extreme(w: &Words<'_>) -> (Alu, usize) {
    let f = match (w.root, w.has("NaN")) {
        ("min", false) => single!(w, |a, b, c| least(a, b)),
        ("min", true) => {
            single!(w, |a, b, c| if a.is_nan() || b.is_nan() { f32::NAN } else { least(a, b) })
        }
        (_, false) => single!(w, |a, b, c| greatest(a, b)),
        (_, true) => {
            single!(w, |a, b, c| if a.is_nan() || b.is_nan() { f32::NAN } else { greatest(a, b) })
        }
    };
    (f, 2)
}

/// The form with three sources, which targets from sm_100 on have.
pub(crate) fn extreme3(w: &Words<'_>) -> Option<Alu> {
    let plain = w.last() == "f32" && !w.has("NaN");
    match w.root {
        "min" if plain => Some(single!(w, |a, b, c| least(least(a, b), c))),
        "max" if plain => Some(single!(w, |a, b, c| greatest(greatest(a, b), c))),
        _ => None,
    }
}

fn double(w: &Words<'_>) -> Option<(Alu, usize)> {
    if toward(w) {
        return None;
    }
    Some(match w.root {
        "add" => (double!(|a, b, c| a + b), 2),
        "sub" => (double!(|a, b, c| a - b), 2),
        "mul" => (double!(|a, b, c| a * b), 2),
        "fma" | "mad" => (double!(|a, b, c| a.mul_add(b, c)), 3),
        "div" => (double!(|a, b, c| a / b), 2),
        "rcp" => (double!(|a, b, c| 1.0 / a), 1),
        "sqrt" => (double!(|a, b, c| a.sqrt()), 1),
        "rsqrt" => (double!(|a, b, c| 1.0 / a.sqrt()), 1),
        "min" => (double!(|a, b, c| a.min(b)), 2),
        "max" => (double!(|a, b, c| a.max(b)), 2),
        "abs" => (double!(|a, b, c| a.abs()), 1),
        "neg" => (double!(|a, b, c| -a), 1),
        "copysign" => (double!(|a, b, c| b.copysign(a)), 2),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, s: [f32; 3], want: f32) {
        let (f, ..) = find(&Words::new(word)).unwrap();
        let [a, b, c] = s.map(|x| [u64::from(x.to_bits()); 32]);
        let mut d = [0; 32];
        f(&mut d, [&a, &b, &c, &c]);
        assert_eq!(d[31], u64::from(want.to_bits()), "{word} {s:?}: {}", f32_of(d[31]));
    }

    #[test]
    fn directed_rounding_takes_the_neighbour_on_its_side() {
        let (tiny, next, before) = (1e-30, 1.0 + f32::EPSILON, 1.0 - f32::EPSILON / 2.0);
        check("add.rn.f32", [1.0, tiny, 0.0], 1.0);
        check("add.rp.f32", [1.0, tiny, 0.0], next);
        check("add.rz.f32", [1.0, -tiny, 0.0], before);
        check("fma.rm.f32", [1.0, 1.0, -tiny], before);
        check("fma.rp.f32", [1.0, 1.0, -tiny], 1.0);
        check("div.rm.f32", [1.0, 3.0, 0.0], 0.333_333_31);
        check("div.rp.f32", [1.0, 3.0, 0.0], 0.333_333_34);
        check("sqrt.rz.f32", [2.0, 0.0, 0.0], 1.414_213_5);
        check("sqrt.rp.f32", [2.0, 0.0, 0.0], 1.414_213_7);
    }

    #[test]
    fn flushing_saturation_and_nan_follow_the_modifiers() {
        let small = f32::MIN_POSITIVE / 2.0;
        check("add.f32", [small, 0.0, 0.0], small);
        check("add.ftz.f32", [small, 0.0, 0.0], 0.0);
        check("mul.ftz.sat.f32", [2.0, 3.0, 0.0], 1.0);
        check("fma.rn.sat.f32", [f32::NAN, 3.0, 0.0], 0.0);
        check("max.f32", [f32::NAN, -3.0, 0.0], -3.0);
        check("max.f32", [-0.0, 0.0, 0.0], 0.0);
        check("min.f32", [0.0, -0.0, 0.0], -0.0);
        check(
            "fma.rn.f32",
            [1.0 + f32::EPSILON, 1.0 - f32::EPSILON, -1.0],
            -f32::EPSILON * f32::EPSILON,
        );
    }
}
