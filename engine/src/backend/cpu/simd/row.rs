//! Loops over one row of numbers: exponentials, sums, other formats. Plain Rust that the compiler turns into vectors,
//! compiled once for each instruction set.
//!
//! A sum runs in sixteen lanes, then over the lanes in order: its order is a function of its length.

use super::{LANES, ROUNDING};
use crate::backend::cpu::Isa;

/// `e^x` is 0 below: its value would be subnormal.
const EXP_MIN: f32 = -87.336_54;
/// `e^x` is infinite above.
const EXP_MAX: f32 = 88.722_83;

/// `e^x`, within two units of the last place. A multiple of `ln 2` is taken off (in two parts, the first one exact), what is
/// left, at most 0.35, goes through the polynomial of Cephes' `expf` (Moshier 1989).
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    let add = |a: f32, b: f32, c: f32| if FUSED { a.mul_add(b, c) } else { a * b + c };
    let clamped = if x < EXP_MIN { EXP_MIN } else { x };
    let clamped = if clamped > EXP_MAX { EXP_MAX } else { clamped };
    let shifted = add(clamped, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let r = add(n, 2.121_944_4e-4, add(n, -0.693_359_4, clamped));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = add(p, r, c);
    }
    let p = add(p * r, r, r) + 1.0;
    // Two factors: 2^128 is no number, and the largest results need it.
    let n = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(n - half);
    let y = if x < EXP_MIN { 0.0 } else { y };
    if x > EXP_MAX { f32::INFINITY } else { y }
}

/// `e^x` of sixteen numbers, inside a function that is compiled for an instruction set with fused products.
#[inline(always)]
pub(super) fn exp_lanes(x: &mut [f32; LANES]) {
    for x in x {
        *x = exp::<true>(*x);
    }
}

/// Sums in lanes.
#[inline(always)]
fn lanes_sum(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        // Not zipped: what that calls is not always inlined.
        for i in 0..LANES {
            sums[i] += chunk[i];
        }
    }
    for (i, x) in tail.iter().enumerate() {
        sums[i] += x;
    }
    fold_lanes(sums, |a, b| a + b)
}

/// All lanes in one fixed tree: the upper half onto the lower, until there is one.
#[inline(always)]
fn fold_lanes(mut lanes: [f32; LANES], both: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = both(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger one; `a` where they cannot be compared.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Makes `$name(isa, ...)`, which runs `$body` compiled for `isa`; `$body` is generic over whether products and sums are
/// fused.
macro_rules! on_isa {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $body:ident;) => {
        $(#[$doc])*
        pub(in crate::backend::cpu) fn $name(isa: Isa, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                $body::<true>($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `isa` was checked when the backend was made.
                Isa::Avx2 | Isa::AvxVnni => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512($($arg),*) },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}

mod logits;
pub(in super::super) use logits::{BLOCK, is_finite, lane_maxima, masses_above, sum_from};

on_isa! {
    /// `out[i] = e^((x[i] - max) / temperature)`; their sum.
    fn softmax_weights(out: &mut [f32], x: &[f32], max: f32, temperature: f32) -> f32 = weights;
}

#[inline(always)]
fn weights<const FUSED: bool>(out: &mut [f32], x: &[f32], max: f32, temperature: f32) -> f32 {
    for (out, x) in out.iter_mut().zip(x) {
        *out = exp::<FUSED>((x - max) / temperature);
    }
    lanes_sum(out)
}

on_isa! {
    /// The same onto `x` itself.
    fn softmax_weights_in_place(x: &mut [f32], max: f32, temperature: f32) -> f32 = weights_in_place;
}

#[inline(always)]
fn weights_in_place<const FUSED: bool>(x: &mut [f32], max: f32, temperature: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp::<FUSED>((*x - max) / temperature);
    }
    lanes_sum(x)
}

on_isa! {
    /// `x[i] = e^(x[i] - max)`; their sum.
    fn exp_in_place(x: &mut [f32], max: f32) -> f32 = in_place;
}

#[inline(always)]
fn in_place<const FUSED: bool>(x: &mut [f32], max: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp::<FUSED>(*x - max);
    }
    lanes_sum(x)
}

on_isa! {
    /// `x[i] = x[i] * factor`; the largest of them and `least`. What is no number is not compared.
    fn scale_in_place(x: &mut [f32], factor: f32, least: f32) -> f32 = scale;
}

#[inline(always)]
fn scale<const FUSED: bool>(x: &mut [f32], factor: f32, least: f32) -> f32 {
    let mut largest = [least; LANES];
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] *= factor;
            largest[i] = larger(largest[i], chunk[i]);
        }
    }
    for (i, x) in tail.iter_mut().enumerate() {
        *x *= factor;
        largest[i] = larger(largest[i], *x);
    }
    fold_lanes(largest, larger)
}

on_isa! {
    /// `x[i] = x[i] / by`.
    fn divide_in_place(x: &mut [f32], by: f32) = divide;
}

#[inline(always)]
fn divide<const FUSED: bool>(x: &mut [f32], by: f32) {
    for x in x {
        *x /= by;
    }
}

on_isa! {
    /// `y = silu(gate) * up`, `silu(z) = z / (1 + e^-z)`.
    fn silu_product(y: &mut [f32], gate: &[f32], up: &[f32]) = silu;
}

#[inline(always)]
fn gated<const FUSED: bool>(gate: f32, up: f32) -> f32 {
    gate / (1.0 + exp::<FUSED>(-gate)) * up
}

#[inline(always)]
fn silu<const FUSED: bool>(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gated::<FUSED>(*gate, *up);
    }
}

on_isa! {
    /// The same onto `gate` itself.
    fn silu_product_in_place(gate: &mut [f32], up: &[f32]) = silu_in_place;
}

#[inline(always)]
fn silu_in_place<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = gated::<FUSED>(*gate, *up);
    }
}

on_isa! {
    /// `out[i] = bf16(x[i] * factor)`, `x` signed bytes; what is no number stays none.
    fn scaled_bf16(out: &mut [u16], x: &[u8], factor: f32) = scaled;
}

#[inline(always)]
fn scaled<const FUSED: bool>(out: &mut [u16], x: &[u8], factor: f32) {
    for (out, x) in out.iter_mut().zip(x) {
        let y = f32::from(x.cast_signed()) * factor;
        // To the nearest, ties to even. A factor that is no number has bits that this does not carry over.
        let bits = y.to_bits();
        *out = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    }
}

on_isa! {
    /// `out[i] = x[i]`, little-endian f32.
    fn copy_f32(out: &mut [f32], x: &[u8]) = copied;
}

#[inline(always)]
fn copied<const FUSED: bool>(out: &mut [f32], x: &[u8]) {
    for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*x);
    }
}

on_isa! {
    /// `out[i] = x[i]`, little-endian bf16.
    fn widen_bf16(out: &mut [f32], x: &[u8]) = widened;
}

#[inline(always)]
fn widened<const FUSED: bool>(out: &mut [f32], x: &[u8]) {
    for (out, x) in out.iter_mut().zip(x.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::ways;

    /// Distance in units of the last place.
    fn ulps(got: f32, want: f64) -> f64 {
        let step = f64::from((want as f32).next_up()) - f64::from(want as f32);
        (f64::from(got) - want).abs() / step
    }

    #[test]
    fn exponentials_are_within_two_units_of_the_last_place() {
        for way in ways() {
            let x: Vec<f32> =
                (0..200_003).map(|i| -87.3 + i as f32 * (175.9 / 200_003.0)).collect();
            let mut y = vec![0.0; x.len()];
            softmax_weights(way.isa, &mut y, &x, 0.0, 1.0);
            for (x, y) in x.iter().zip(&y) {
                let distance = ulps(*y, f64::from(*x).exp());
                assert!(distance <= 2.0, "{:?}: e^{x} is {y}, {distance} off", way.isa);
            }
        }
    }

    #[test]
    fn the_ends_are_zero_and_infinity_and_what_is_no_number_stays_none() {
        for way in ways() {
            let cases = [
                (0.0, 1.0),
                (-0.0, 1.0),
                (-88.0, 0.0),
                (f32::NEG_INFINITY, 0.0),
                (f32::MIN, 0.0),
                (89.0, f32::INFINITY),
                (f32::INFINITY, f32::INFINITY),
            ];
            for (x, want) in cases {
                let mut row = [x; 19];
                exp_in_place(way.isa, &mut row, 0.0);
                assert_eq!(row, [want; 19], "{:?}: e^{x}", way.isa);
            }
            let mut row = [f32::NAN; 19];
            assert!(exp_in_place(way.isa, &mut row, 0.0).is_nan());
            assert!(row.iter().all(|x| x.is_nan()));
        }
    }
}
