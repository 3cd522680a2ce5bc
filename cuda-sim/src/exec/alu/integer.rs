//! Integer and bit operations.

use super::lanes;
use crate::ptx::Class;
use crate::ptx::instr::{Alu, Lanes};
use crate::ptx::words::Words;

/// A loop whose sources are of one type; the result is of the same width.
macro_rules! of {
    ($t:ty, $u:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!(|x, y, z| {
            let ($a, $b, $c) = (x as $t, y as $t, z as $t);
            let _ = ($b, $c);
            (($e) as $u) as u64
        })
    };
}

/// The same expression for each integer type.
macro_rules! typed {
    ($ty:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        match $ty {
            "s16" => of!(i16, u16, |$a, $b, $c| $e),
            "u16" | "b16" => of!(u16, u16, |$a, $b, $c| $e),
            "s32" => of!(i32, u32, |$a, $b, $c| $e),
            "u32" | "b32" => of!(u32, u32, |$a, $b, $c| $e),
            "s64" => of!(i64, u64, |$a, $b, $c| $e),
            "u64" | "b64" => of!(u64, u64, |$a, $b, $c| $e),
            _ => return None,
        }
    };
}

pub(super) fn find(w: &Words<'_>) -> Option<(Alu, usize, Class)> {
    let (f, sources) = arithmetic(w).or_else(|| bitwise(w)).or_else(|| fields(w))?;
    Some((f, sources, Class::Integer))
}

fn arithmetic(w: &Words<'_>) -> Option<(Alu, usize)> {
    let ty = w.last();
    Some(match w.root {
        "add" if w.has("sat") => {
            (lanes!(|a, b, c| (a as i32).saturating_add(b as i32) as u32 as u64), 2)
        }
        "sub" if w.has("sat") => {
            (lanes!(|a, b, c| (a as i32).saturating_sub(b as i32) as u32 as u64), 2)
        }
        "add" => (typed!(ty, |a, b, c| a.wrapping_add(b)), 2),
        "sub" => (typed!(ty, |a, b, c| a.wrapping_sub(b)), 2),
        "mul" | "mad" | "mul24" => return multiply(w),
        // Division by zero gives all ones, the remainder the dividend: what the hardware's sequences give.
        "div" => (typed!(ty, |a, b, c| if b == 0 { !0 } else { a.wrapping_div(b) }), 2),
        "rem" => (typed!(ty, |a, b, c| if b == 0 { a } else { a.wrapping_rem(b) }), 2),
        "min" => (typed!(ty, |a, b, c| a.min(b)), 2),
        "max" => (typed!(ty, |a, b, c| a.max(b)), 2),
        "abs" => (signed(ty, false)?, 1),
        "neg" => (signed(ty, true)?, 1),
        "sad" => (
            typed!(ty, |a, b, c| c.wrapping_add(if a > b {
                a.wrapping_sub(b)
            } else {
                b.wrapping_sub(a)
            })),
            3,
        ),
        "dp4a" => (dot4(w)?, 3),
        _ => return None,
    })
}

fn signed(ty: &str, negate: bool) -> Option<Alu> {
    Some(match (ty, negate) {
        ("s16", false) => of!(i16, u16, |a, b, c| a.wrapping_abs()),
        ("s32", false) => of!(i32, u32, |a, b, c| a.wrapping_abs()),
        ("s64", false) => of!(i64, u64, |a, b, c| a.wrapping_abs()),
        ("s16", true) => of!(i16, u16, |a, b, c| a.wrapping_neg()),
        ("s32", true) => of!(i32, u32, |a, b, c| a.wrapping_neg()),
        ("s64", true) => of!(i64, u64, |a, b, c| a.wrapping_neg()),
        _ => return None,
    })
}

fn multiply(w: &Words<'_>) -> Option<(Alu, usize)> {
    let ty = w.last();
    let add = w.root.starts_with("mad");
    let f = if w.has("wide") {
        match (ty, add) {
            ("s16", false) => {
                lanes!(|a, b, c| (a as i16 as i32).wrapping_mul(b as i16 as i32) as u32 as u64)
            }
            ("u16", false) => {
                lanes!(|a, b, c| (a as u16 as u32).wrapping_mul(b as u16 as u32) as u64)
            }
            ("s32", false) => {
                lanes!(|a, b, c| (a as i32 as i64).wrapping_mul(b as i32 as i64) as u64)
            }
            ("u32", false) => lanes!(|a, b, c| (a as u32 as u64).wrapping_mul(b as u32 as u64)),
            ("s16", true) => {
                lanes!(|a, b, c| (a as i16 as i32)
                    .wrapping_mul(b as i16 as i32)
                    .wrapping_add(c as i32) as u32 as u64)
            }
            ("u16", true) => {
                lanes!(|a, b, c| (a as u16 as u32)
                    .wrapping_mul(b as u16 as u32)
                    .wrapping_add(c as u32) as u64)
            }
            ("s32", true) => {
                lanes!(|a, b, c| (a as i32 as i64)
                    .wrapping_mul(b as i32 as i64)
                    .wrapping_add(c as i64) as u64)
            }
            ("u32", true) => {
                lanes!(|a, b, c| (a as u32 as u64).wrapping_mul(b as u32 as u64).wrapping_add(c))
            }
            _ => return None,
        }
    } else if w.has("hi") {
        high(ty, add)?
    } else if w.root == "mul24" {
        match ty {
            "s32" => lanes!(|a, b, c| {
                let low = |x: u64| i64::from((x as i32) << 8 >> 8);
                (low(a) * low(b)) as u32 as u64
            }),
            _ => lanes!(|a, b, c| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) as u32 as u64),
        }
    } else if add {
        typed!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c))
    } else {
        typed!(ty, |a, b, c| a.wrapping_mul(b))
    };
    Some((f, if add { 3 } else { 2 }))
}

fn high(ty: &str, add: bool) -> Option<Alu> {
    Some(match (ty, add) {
        ("s32", false) => {
            lanes!(|a, b, c| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32 as u64)
        }
        ("u32", false) => lanes!(|a, b, c| (a as u32 as u64 * b as u32 as u64) >> 32),
        ("s64", false) => lanes!(|a, b, c| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64),
        ("u64", false) => lanes!(|a, b, c| ((a as u128 * b as u128) >> 64) as u64),
        ("s32", true) => lanes!(|a, b, c| {
            (((a as i32 as i64 * b as i32 as i64) >> 32) as i32).wrapping_add(c as i32) as u32
                as u64
        }),
        ("u32", true) => {
            lanes!(|a, b, c| (((a as u32 as u64 * b as u32 as u64) >> 32) as u32)
                .wrapping_add(c as u32) as u64)
        }
        ("s64", true) => {
            lanes!(|a, b, c| (((a as i64 as i128 * b as i64 as i128) >> 64) as u64).wrapping_add(c))
        }
        ("u64", true) => lanes!(|a, b, c| (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c)),
        _ => return None,
    })
}

fn dot4(w: &Words<'_>) -> Option<Alu> {
    let types: Vec<&str> = w.types().collect();
    macro_rules! dot {
        ($a:ty, $b:ty) => {
            lanes!(|a, b, c| {
                let mut sum = c as u32;
                for byte in 0..4 {
                    let (x, y) = ((a >> (8 * byte)) as $a as i32, (b >> (8 * byte)) as $b as i32);
                    sum = sum.wrapping_add((x * y) as u32);
                }
                sum as u64
            })
        };
    }
    Some(match types[..] {
        ["u32", "u32"] => dot!(u8, u8),
        ["u32", "s32"] => dot!(u8, i8),
        ["s32", "u32"] => dot!(i8, u8),
        ["s32", "s32"] => dot!(i8, i8),
        _ => return None,
    })
}

fn bitwise(w: &Words<'_>) -> Option<(Alu, usize)> {
    let ty = w.last();
    Some(match w.root {
        "and" => (typed!(ty, |a, b, c| a & b), 2),
        "or" => (typed!(ty, |a, b, c| a | b), 2),
        "xor" => (typed!(ty, |a, b, c| a ^ b), 2),
        "not" => (typed!(ty, |a, b, c| !a), 1),
        "cnot" => (typed!(ty, |a, b, c| if a == 0 { 1 } else { 0 }), 1),
        "lop3" => (
            lanes!(|a, b, c, table| {
                let mut d = 0;
                for row in 0..8u64 {
                    let pick = |x: u64, bit: u64| if row >> bit & 1 == 1 { x } else { !x };
                    let chosen = if table >> row & 1 == 1 { u64::MAX } else { 0 };
                    d |= chosen & pick(a, 2) & pick(b, 1) & pick(c, 0);
                }
                d & 0xffff_ffff
            }),
            4,
        ),
        "shl" => (shift_left(ty)?, 2),
        "shr" => (shift_right(ty)?, 2),
        "shf" => (funnel(w)?, 3),
        "popc" if ty == "b64" => (lanes!(|a, b, c| u64::from(a.count_ones())), 1),
        "popc" => (lanes!(|a, b, c| u64::from((a as u32).count_ones())), 1),
        "clz" if ty == "b64" => (lanes!(|a, b, c| u64::from(a.leading_zeros())), 1),
        "clz" => (lanes!(|a, b, c| u64::from((a as u32).leading_zeros())), 1),
        "brev" if ty == "b64" => (lanes!(|a, b, c| a.reverse_bits()), 1),
        "brev" => (lanes!(|a, b, c| u64::from((a as u32).reverse_bits())), 1),
        "bfind" => (find_high(w)?, 1),
        _ => return None,
    })
}

/// Amounts beyond the width give zero, or the sign.
fn shift_left(ty: &str) -> Option<Alu> {
    Some(match ty {
        "b16" => lanes!(|a, b, c| if b as u32 > 15 { 0 } else { (a << (b as u32)) & 0xffff }),
        "b32" => lanes!(|a, b, c| if b as u32 > 31 { 0 } else { (a << (b as u32)) & 0xffff_ffff }),
        "b64" => lanes!(|a, b, c| if b as u32 > 63 { 0 } else { a << (b as u32) }),
        _ => return None,
    })
}

fn shift_right(ty: &str) -> Option<Alu> {
    Some(match ty {
        "b16" | "u16" => lanes!(|a, b, c| (a & 0xffff).checked_shr(b as u32).unwrap_or(0)),
        "b32" | "u32" => lanes!(|a, b, c| (a & 0xffff_ffff).checked_shr(b as u32).unwrap_or(0)),
        "b64" | "u64" => lanes!(|a, b, c| a.checked_shr(b as u32).unwrap_or(0)),
        "s16" => lanes!(|a, b, c| (a as i16 >> (b as u32).min(15)) as u16 as u64),
        "s32" => lanes!(|a, b, c| (a as i32 >> (b as u32).min(31)) as u32 as u64),
        "s64" => lanes!(|a, b, c| (a as i64 >> (b as u32).min(63)) as u64),
        _ => return None,
    })
}

/// `shf`: `b` above `a`, shifted; the high word for left, the low one for right.
fn funnel(w: &Words<'_>) -> Option<Alu> {
    Some(match (w.has("l"), w.has("wrap")) {
        (true, true) => lanes!(|a, b, c| {
            let both = (b << 32) | (a & 0xffff_ffff);
            (both << (c & 31)) >> 32
        }),
        (true, false) => lanes!(|a, b, c| {
            let both = (b << 32) | (a & 0xffff_ffff);
            (both << (c as u32).min(32)) >> 32
        }),
        (false, true) => lanes!(|a, b, c| {
            let both = (b << 32) | (a & 0xffff_ffff);
            (both >> (c & 31)) & 0xffff_ffff
        }),
        (false, false) => lanes!(|a, b, c| {
            let both = (b << 32) | (a & 0xffff_ffff);
            (both >> (c as u32).min(32)) & 0xffff_ffff
        }),
    })
}

/// The highest bit that differs from the sign; all ones where there is none.
fn find_high(w: &Words<'_>) -> Option<Alu> {
    let from_top = w.has("shiftamt");
    macro_rules! high {
        ($u:ty, $bits:expr, $clean:expr) => {
            match from_top {
                true => lanes!(|a, b, c| {
                    let x: $u = $clean(a);
                    if x == 0 { 0xffff_ffff } else { u64::from(x.leading_zeros()) }
                }),
                false => lanes!(|a, b, c| {
                    let x: $u = $clean(a);
                    if x == 0 { 0xffff_ffff } else { u64::from($bits - 1 - x.leading_zeros()) }
                }),
            }
        };
    }
    Some(match w.last() {
        "u32" | "b32" => high!(u32, 32, |a: u64| a as u32),
        "s32" => high!(u32, 32, |a: u64| if (a as i32) < 0 { !(a as u32) } else { a as u32 }),
        "u64" | "b64" => high!(u64, 64, |a: u64| a),
        "s64" => high!(u64, 64, |a: u64| if (a as i64) < 0 { !a } else { a }),
        _ => return None,
    })
}

fn fields(w: &Words<'_>) -> Option<(Alu, usize)> {
    Some(match (w.root, w.last()) {
        ("bfe", "u32") => (lanes!(|a, b, c| extract(a & 0xffff_ffff, b, c, 32, false)), 3),
        ("bfe", "u64") => (lanes!(|a, b, c| extract(a, b, c, 64, false)), 3),
        ("bfe", "s32") => {
            (lanes!(|a, b, c| extract(a as i32 as i64 as u64, b, c, 32, true) & 0xffff_ffff), 3)
        }
        ("bfe", "s64") => (lanes!(|a, b, c| extract(a, b, c, 64, true)), 3),
        ("bfi", "b32") => (lanes!(|a, b, c, n| insert(a, b, c, n, 32) & 0xffff_ffff), 4),
        ("bfi", "b64") => (lanes!(|a, b, c, n| insert(a, b, c, n, 64)), 4),
        ("bmsk", _) => (
            lanes!(|a, b, c| {
                let (at, n) = ((a as u32).min(32), (b as u32).min(32));
                let end = (at + n).min(32);
                ((1u64 << end) - 1) & !((1u64 << at) - 1) & 0xffff_ffff
            }),
            2,
        ),
        ("szext", "u32") => {
            (lanes!(|a, b, c| if b as u32 > 31 { a } else { a & ((1u64 << (b as u32)) - 1) }), 2)
        }
        ("prmt", _) => (permute(w), 3),
        ("slct", "s32") => (lanes!(|a, b, c| if (c as i32) >= 0 { a } else { b }), 3),
        _ => return None,
    })
}

/// `bfe`: `length` bits from `position`; beyond the width the sign or zeros.
fn extract(a: u64, position: u64, length: u64, width: u32, signed: bool) -> u64 {
    let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
    let top = if signed && length > 0 { (position + length - 1).min(width - 1) } else { 0 };
    let sign = signed && length > 0 && a >> top & 1 == 1;
    let field = a.checked_shr(position).unwrap_or(0);
    let field = if position >= width { 0 } else { field };
    let kept = length.min(width.saturating_sub(position));
    let mask = if kept >= 64 { u64::MAX } else { (1u64 << kept) - 1 };
    let field = field & mask;
    if sign { field | !mask } else { field }
}

/// `bfi`: the low bits of `a` into `b`.
fn insert(a: u64, b: u64, position: u64, length: u64, width: u32) -> u64 {
    let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
    if position >= width || length == 0 {
        return b;
    }
    let length = length.min(width - position);
    let mask = if length >= 64 { u64::MAX } else { (1u64 << length) - 1 };
    (b & !(mask << position)) | ((a & mask) << position)
}

/// `prmt`: picks four bytes out of eight.
fn permute(w: &Words<'_>) -> Alu {
    macro_rules! modes {
        ($($name:literal => $pick:expr),+) => {
            $(if w.has($name) {
                return lanes!(|a, b, c| {
                    let pick: fn(u64, u64) -> u64 = $pick;
                    let both = (b << 32) | (a & 0xffff_ffff);
                    let mut d = 0;
                    for byte in 0..4 {
                        d |= (both >> (8 * pick(c & 3, byte)) & 0xff) << (8 * byte);
                    }
                    d
                });
            })+
        };
    }
    modes! {
        "f4e" => |c, byte| c + byte,
        "b4e" => |c, byte| (c + 8 - byte) % 8,
        "rc8" => |c, _| c,
        "ecl" => |c, byte| c.max(byte),
        "ecr" => |c, byte| c.min(byte),
        "rc16" => |c, byte| (c & 1) * 2 + byte % 2
    }
    lanes!(|a, b, c| {
        let both = (b << 32) | (a & 0xffff_ffff);
        let mut d = 0;
        for byte in 0..4 {
            let selector = c >> (4 * byte);
            let picked = both >> (8 * (selector & 7)) & 0xff;
            let sign = if picked & 0x80 != 0 { 0xff } else { 0 };
            d |= (if selector & 8 != 0 { sign } else { picked }) << (8 * byte);
        }
        d
    })
}
