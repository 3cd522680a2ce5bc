//! Arithmetic: from an instruction's word to a function over 32 lanes.
//!
//! A register is 64 bits a lane; narrower values sit in its low bits with zeros above, and a function reads only the bits
//! of its type. One function is one plain loop over the lanes, which the compiler turns into vector code.

mod compare;
mod convert;
mod float;
pub(crate) mod formats;
mod half;
mod integer;

pub(crate) use compare::{compare, compare2};
pub(crate) use convert::{Conversion, general as conversion};
pub(crate) use float::extreme3;

use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::Class;
use crate::ptx::instr::{Alu, Lanes, Space};
use crate::ptx::words::{Words, bits};

/// A loop over the lanes. The expression sees the sources as `u64` and gives the result's bits.
macro_rules! lanes {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!(|$a, $b, $c, _n| $e)
    };
    (|$a:ident, $b:ident, $c:ident, $n:ident| $e:expr) => {{
        #[allow(unused_variables, reason = "an expression names the sources that it reads")]
        fn run(d: &mut Lanes, s: [&Lanes; 4]) {
            for lane in 0..32 {
                let ($a, $b, $c, $n) = (s[0][lane], s[1][lane], s[2][lane], s[3][lane]);
                d[lane] = $e;
            }
        }
        run as Alu
    }};
}
pub(crate) use lanes;

/// The function of a word, the number of its sources, and what it counts as.
pub(crate) fn find(w: &Words<'_>) -> Option<(Alu, usize, Class)> {
    let ty = w.last();
    match w.root {
        "mov" => Some((copy(bits(ty)?), 1, Class::Move)),
        "cvt" => convert::find(w),
        _ => match ty {
            "f32" | "f64" | "ftz" => float::find(w),
            "f16" | "bf16" | "f16x2" | "bf16x2" => half::find(w),
            _ => integer::find(w),
        },
    }
}

pub(crate) fn copy(bits: u8) -> Alu {
    match bits {
        16 => lanes!(|a, b, c| a & 0xffff),
        32 => lanes!(|a, b, c| a & 0xffff_ffff),
        _ => lanes!(|a, b, c| a),
    }
}

/// `cvta` and `cvta.to`: windows lie at fixed places of the generic space.
pub(crate) fn convert_address(space: Space, to_space: bool) -> Alu {
    match (space, to_space) {
        (Space::Shared, false) => lanes!(|a, b, c| (a & 0xffff_ffff) + SHARED_WINDOW),
        (Space::Shared, true) => lanes!(|a, b, c| a.wrapping_sub(SHARED_WINDOW)),
        (Space::Local, false) => lanes!(|a, b, c| (a & 0xffff_ffff) + LOCAL_WINDOW),
        (Space::Local, true) => lanes!(|a, b, c| a.wrapping_sub(LOCAL_WINDOW)),
        (Space::Param, false) => lanes!(|a, b, c| (a & 0xffff_ffff) + PARAM_WINDOW),
        (Space::Param, true) => lanes!(|a, b, c| a.wrapping_sub(PARAM_WINDOW)),
        (Space::Global | Space::Const | Space::Generic, _) => copy(64),
    }
}
