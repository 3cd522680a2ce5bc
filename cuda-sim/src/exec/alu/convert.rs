//! `cvt`: between all types, with every rounding that is asked for.

use super::float::flush;
use super::formats::{
    Round, bf16_to_f32, e4m3_to_f64, e5m2_to_f64, f16_to_f64, f32_to_bf16, f64_to_bf16,
    f64_to_e4m3, f64_to_e5m2, f64_to_f16, f64_to_f32, make_odd,
};
use super::lanes;
use crate::ptx::Class;
use crate::ptx::instr::{Alu, Lanes};
use crate::ptx::words::{Words, bits};

pub(super) fn find(w: &Words<'_>) -> Option<(Alu, usize, Class)> {
    let types: Vec<&str> = w.types().collect();
    let (f, sources) = match types[..] {
        // Narrowing two values into one register: the first source becomes the upper half.
        ["bf16x2", "f32"] => (pair_bf16(w)?, 2),
        ["f16x2", "f32"] => (pair_f16(w)?, 2),
        ["e4m3x2", "f32"] if w.has("satfinite") => (
            lanes!(|a, b, c| u64::from(f64_to_e4m3(f32_of(a))) << 8
                | u64::from(f64_to_e4m3(f32_of(b)))),
            2,
        ),
        ["e5m2x2", "f32"] if w.has("satfinite") => (
            lanes!(|a, b, c| u64::from(f64_to_e5m2(f32_of(a))) << 8
                | u64::from(f64_to_e5m2(f32_of(b)))),
            2,
        ),
        ["e4m3x2", "f16x2"] => (lanes!(|a, b, c| two(a, |h| f64_to_e4m3(f16_to_f64(h)))), 1),
        ["e5m2x2", "f16x2"] => (lanes!(|a, b, c| two(a, |h| f64_to_e5m2(f16_to_f64(h)))), 1),
        ["f16x2", "e4m3x2"] => (lanes!(|a, b, c| widen(a, e4m3_to_f64)), 1),
        ["f16x2", "e5m2x2"] => (lanes!(|a, b, c| widen(a, e5m2_to_f64)), 1),
        ["u8" | "s8", "s32", "b32"] if w.has("pack") => (pack(types[0])?, 3),
        [to, from] => (one(w, to, from)?, 1),
        _ => return None,
    };
    Some((f, sources, Class::Convert))
}

fn f32_of(x: u64) -> f64 {
    f64::from(f32::from_bits(x as u32))
}

fn two(pair: u64, narrow: fn(u16) -> u8) -> u64 {
    u64::from(narrow((pair >> 16) as u16)) << 8 | u64::from(narrow(pair as u16))
}

fn widen(pair: u64, decode: fn(u8) -> f64) -> u64 {
    let half = |byte: u64| u64::from(f64_to_f16(decode(byte as u8), Round::Nearest));
    half(pair >> 8) << 16 | half(pair)
}

fn relu(x: f64) -> f64 {
    if x.is_nan() || x > 0.0 { x } else { 0.0 }
}

fn pair_bf16(w: &Words<'_>) -> Option<Alu> {
    Some(match (w.has("rn"), w.has("rz"), w.has("relu")) {
        (true, _, false) => {
            lanes!(|a, b, c| {
                let narrow = |x: u64| u64::from(f32_to_bf16(f32::from_bits(x as u32)));
                narrow(a) << 16 | narrow(b)
            })
        }
        (true, _, true) => {
            lanes!(|a, b, c| {
                let narrow = |x: u64| u64::from(f64_to_bf16(relu(f32_of(x)), Round::Nearest));
                narrow(a) << 16 | narrow(b)
            })
        }
        (_, true, false) => {
            lanes!(|a, b, c| {
                let narrow = |x: u64| u64::from(f64_to_bf16(f32_of(x), Round::Zero));
                narrow(a) << 16 | narrow(b)
            })
        }
        _ => return None,
    })
}

fn pair_f16(w: &Words<'_>) -> Option<Alu> {
    macro_rules! form {
        ($before:expr, $mode:expr) => {
            lanes!(|a, b, c| {
                let before: fn(f64) -> f64 = $before;
                let narrow = |x: u64| u64::from(f64_to_f16(before(f32_of(x)), $mode));
                narrow(a) << 16 | narrow(b)
            })
        };
    }
    Some(match (w.has("rn"), w.has("rz"), w.has("relu"), w.has("satfinite")) {
        (true, _, false, false) => form!(|x| x, Round::Nearest),
        (true, _, true, false) => form!(relu, Round::Nearest),
        (true, _, false, true) => {
            form!(|x| if x.is_nan() { x } else { x.clamp(-65504.0, 65504.0) }, Round::Nearest)
        }
        (_, true, false, false) => form!(|x| x, Round::Zero),
        _ => return None,
    })
}

/// `cvt.pack.sat`: two integers saturated into bytes, above those of the third source.
fn pack(to: &str) -> Option<Alu> {
    macro_rules! bytes {
        ($low:expr, $high:expr) => {
            lanes!(|a, b, c| {
                let byte = |x: u64| (i64::from(x as i32).clamp($low, $high) & 0xff) as u64;
                (c << 16 | byte(a) << 8 | byte(b)) & 0xffff_ffff
            })
        };
    }
    Some(if to == "u8" { bytes!(0, 255) } else { bytes!(-128, 127) })
}

/// The frequent conversions of one value, each a loop of its own.
fn one(w: &Words<'_>, to: &str, from: &str) -> Option<Alu> {
    let plain = !w.has("sat") && !w.has("ftz") && !w.has("relu") && !w.has("satfinite");
    match (to, from) {
        ("f32", "bf16") if plain => Some(lanes!(|a, b, c| (a & 0xffff) << 16)),
        ("f32", "f16") if plain => {
            Some(lanes!(|a, b, c| u64::from((f16_to_f64(a as u16) as f32).to_bits())))
        }
        ("bf16", "f32") if plain && w.has("rn") => {
            Some(lanes!(|a, b, c| u64::from(f32_to_bf16(f32::from_bits(a as u32)))))
        }
        ("f32", "s32") if plain && w.has("rn") => {
            Some(lanes!(|a, b, c| u64::from((a as i32 as f32).to_bits())))
        }
        ("f32", "u32") if plain && w.has("rn") => {
            Some(lanes!(|a, b, c| u64::from((a as u32 as f32).to_bits())))
        }
        // What has no integer type is nothing for this, and goes the general way.
        _ => integer_to_integer(w, to, from),
    }
}

/// Expands for every integer type with its Rust type.
macro_rules! for_integers {
    ($ty:expr, $mac:ident) => {
        match $ty {
            "u8" | "b8" => $mac!(u8, u8),
            "s8" => $mac!(i8, u8),
            "u16" | "b16" => $mac!(u16, u16),
            "s16" => $mac!(i16, u16),
            "u32" | "b32" => $mac!(u32, u32),
            "s32" => $mac!(i32, u32),
            "u64" | "b64" => $mac!(u64, u64),
            "s64" => $mac!(i64, u64),
            _ => return None,
        }
    };
}

fn integer_to_integer(w: &Words<'_>, to: &str, from: &str) -> Option<Alu> {
    let sat = w.has("sat");
    macro_rules! read {
        ($from:ty, $unused:ty) => {{
            macro_rules! write {
                // A byte's conversion fills its register: by the sign where the result is signed.
                ($to:ty, $bits:ty) => {
                    if sat {
                        lanes!(|a, b, c| {
                            let x = a as $from as i128;
                            (x.clamp(<$to>::MIN as i128, <$to>::MAX as i128) as $to) as $bits as u64
                        })
                    } else {
                        lanes!(|a, b, c| (a as $from as $to) as $bits as u64)
                    }
                };
            }
            match to {
                "u8" | "b8" => write!(u8, u8),
                "s8" => write!(i8, u32),
                other => for_integers!(other, write),
            }
        }};
    }
    Some(for_integers!(from, read))
}

/// A type as a conversion reads or writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    Integer { bits: u8, signed: bool },
}

impl Type {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => Self::Integer {
                bits: bits(name).filter(|bits| *bits >= 8)?,
                signed: name.starts_with('s'),
            },
        })
    }
}

/// A conversion that a float takes part in: read, rounded, narrowed, written.
#[derive(Debug, Clone)]
pub(crate) struct Conversion {
    from: Type,
    to: Type,
    mode: Round,
    /// `.rni` and its like: the value becomes whole.
    whole: Option<Round>,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
}

/// The conversion of a word that has no loop of its own.
pub(crate) fn general(w: &Words<'_>) -> Option<Conversion> {
    let types: Vec<&str> = w.types().collect();
    let [to, from] = types[..] else { return None };
    let modes = [("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];
    let mode =
        modes.into_iter().find(|(word, _)| w.has(word)).map_or(Round::Nearest, |(_, mode)| mode);
    let (to, from) = (Type::of(to)?, Type::of(from)?);
    let integral = |ty| matches!(ty, Type::Integer { .. });
    let whole = whole(w);
    if integral(to) && (whole.is_none() || integral(from)) || from == Type::Tf32 {
        return None;
    }
    let [ftz, sat, relu, satfinite] = ["ftz", "sat", "relu", "satfinite"].map(|word| w.has(word));
    Some(Conversion { from, to, mode, whole, ftz, sat, relu, satfinite })
}

fn whole(w: &Words<'_>) -> Option<Round> {
    let modes =
        [("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)];
    modes.into_iter().find(|(word, _)| w.has(word)).map(|(_, mode)| mode)
}

impl Conversion {
    /// The result's bits.
    pub(crate) fn apply(&self, bits: u64) -> u64 {
        let mut x = self.read(bits);
        x = match self.whole {
            Some(Round::Nearest) => x.round_ties_even(),
            Some(Round::Zero) => x.trunc(),
            Some(Round::Down) => x.floor(),
            Some(Round::Up) => x.ceil(),
            None => x,
        };
        if self.relu {
            x = relu(x);
        }
        if self.sat && !matches!(self.to, Type::Integer { .. }) {
            x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
        }
        self.write(x)
    }

    fn read(&self, bits: u64) -> f64 {
        match self.from {
            Type::F16 => f16_to_f64(bits as u16),
            Type::Bf16 => f64::from(bf16_to_f32(bits as u16)),
            Type::F32 | Type::Tf32 => {
                let x = f32::from_bits(bits as u32);
                f64::from(if self.ftz { flush(x) } else { x })
            }
            Type::F64 => f64::from_bits(bits),
            Type::Integer { bits: width, signed } => {
                let unused = 64 - u32::from(width);
                let x = bits << unused;
                exact(if signed { i128::from(x as i64 >> unused) } else { i128::from(x >> unused) })
            }
        }
    }

    fn write(&self, x: f64) -> u64 {
        let finite = |max: f64| {
            if self.satfinite && !x.is_nan() { x.clamp(-max, max) } else { x }
        };
        match self.to {
            Type::F16 => u64::from(f64_to_f16(finite(65504.0), self.mode)),
            Type::Bf16 => u64::from(f64_to_bf16(finite(BF16_MAX), self.mode)),
            // `.rna` rounds ties away from zero, which is half a quantum up before cutting.
            Type::Tf32 => u64::from(((x as f32).to_bits().wrapping_add(0x1000)) & !0x1fff),
            Type::F32 => {
                let y = f64_to_f32(x, self.mode);
                u64::from(if self.ftz { flush(y) } else { y }.to_bits())
            }
            Type::F64 => x.to_bits(),
            // Saturating, and NaN to zero: what the manual asks of a conversion to an integer.
            Type::Integer { bits, signed } => {
                let value = match (bits, signed) {
                    (8, false) => u64::from(x as u8),
                    (8, true) => x as i8 as u32 as u64,
                    (16, false) => u64::from(x as u16),
                    (16, true) => u64::from(x as i16 as u16),
                    (32, false) => u64::from(x as u32),
                    (32, true) => u64::from(x as i32 as u32),
                    (_, false) => x as u64,
                    (_, true) => x as i64 as u64,
                };
                // A NaN becomes the pattern of the most negative value in 64 bits and zero below.
                if x.is_nan() && bits == 64 { 1 << 63 } else { value }
            }
        }
    }
}

/// The largest finite bf16.
const BF16_MAX: f64 = 3.389_531_389_251_535_5e38;

/// An integer in f64, rounded to odd where it has more than 53 bits.
fn exact(x: i128) -> f64 {
    let near = x as f64;
    make_odd(near, (x - near as i128) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, a: u64, want: u64) {
        let w = Words::new(word);
        let got = match find(&w) {
            Some((f, ..)) => {
                let (mut d, s) = ([0; 32], [a; 32]);
                f(&mut d, [&s, &s, &s, &s]);
                d[5]
            }
            None => general(&w).unwrap().apply(a),
        };
        assert_eq!(got, want, "{word}: {got:#x}, wanted {want:#x}");
    }

    fn f(x: f32) -> u64 {
        u64::from(x.to_bits())
    }

    #[test]
    fn integers_extend_by_their_own_sign_and_saturate_when_asked() {
        check("cvt.s64.s32", 0xffff_fffe, (-2i64) as u64);
        check("cvt.u64.u32", 0xffff_fffe, 0xffff_fffe);
        check("cvt.s32.s8", 0x80, 0xffff_ff80);
        check("cvt.u16.u8", 0x1ff, 0xff);
        check("cvt.u32.u16", 0x1_ffff, 0xffff);
        check("cvt.sat.u8.s32", (-5i32) as u32 as u64, 0);
        check("cvt.sat.s8.s32", 300, 127);
    }

    #[test]
    fn floats_become_integers_in_every_mode() {
        check("cvt.rzi.s32.f32", f(-2.7), (-2i32) as u32 as u64);
        check("cvt.rni.s32.f32", f(2.5), 2);
        check("cvt.rpi.u32.f32", f(2.1), 3);
        check("cvt.rmi.s32.f32", f(-2.1), (-3i32) as u32 as u64);
        check("cvt.rzi.u32.f32", f(-1.0), 0);
        check("cvt.rzi.s32.f32", f(1e20), 0x7fff_ffff);
        check("cvt.rzi.s32.f32", f(f32::NAN), 0);
        check("cvt.rmi.f32.f32", f(2.7), f(2.0));
    }

    #[test]
    fn integers_become_floats_rounded_once() {
        check("cvt.rn.f32.s32", 0x0100_0001, f(16_777_216.0));
        check("cvt.rp.f32.s32", 0x0100_0001, f(16_777_218.0));
        check("cvt.rn.f32.u64", (1 << 62) + (1 << 38) + 1, f(4.611_686_6e18));
        check("cvt.rn.f16.u32", 2049, 0x6800);
        check("cvt.rn.f64.s64", (-3i64) as u64, (-3f64).to_bits());
    }

    #[test]
    fn narrow_floats_follow_mode_and_modifiers() {
        check("cvt.rn.bf16.f32", f(1.0), 0x3f80);
        check("cvt.rz.bf16.f32", f(1.999), 0x3fff);
        check("cvt.rn.satfinite.f16.f32", f(1e9), 0x7bff);
        check("cvt.rn.relu.f16.f32", f(-1.0), 0);
        check("cvt.f32.f16", 0xc000, f(-2.0));
        check("cvt.sat.f32.f32", f(7.0), f(1.0));
        check("cvt.rna.tf32.f32", f(1.0 + 2f32.powi(-11)), f(1.0 + 2f32.powi(-10)));
    }

    #[test]
    fn the_first_source_of_a_pair_is_its_upper_half() {
        let (f, sources, _) = find(&Words::new("cvt.rn.bf16x2.f32")).unwrap();
        let (a, b) = ([u64::from(1f32.to_bits()); 32], [u64::from(2f32.to_bits()); 32]);
        let mut d = [0; 32];
        f(&mut d, [&a, &b, &b, &b]);
        assert_eq!((sources, d[0]), (2, 0x3f80_4000));
        check("cvt.rn.f16x2.e4m3x2", 0x38_c0, 0x3c00_c000);
    }
}
