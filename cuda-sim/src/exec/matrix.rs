//! `mma.sync`, `ldmatrix`, `stmatrix` and `movmatrix`: where each lane's values stand in the matrices, and their product.
//!
//! Sums are taken the way published measurements describe tensor cores: all products of one instruction and the accumulator are
//! aligned to the largest of them, cut off below a fixed number of bits, added exactly and cut to the accumulator's
//! format. It is a model, and coarser than an exact sum on purpose: a test must leave room for it, and must not ask
//! for equal bits.

use super::alu::formats::{
    Round, bf16_to_f32, e4m3_to_f64, e5m2_to_f64, exponent, f16_to_f64, f64_to_f16, f64_to_f32,
    power,
};
use super::warp::Warp;
use super::{Env, at_lane, defect};
use crate::fault::{FaultKind, Step};
use crate::memory::track::Kind;
use crate::ptx::Op;
use crate::ptx::instr::{Element, Lanes, Mma, R};

/// Bits kept below the largest addend, for operands of 16 bits and wider.
const KEPT_BITS: i32 = 24;
/// The same for 8-bit floats, whose sums cards keep shorter.
const KEPT_BITS_8: i32 = 13;

/// The matrix's values in f64: `[row][depth]` for A, `[column][depth]` for B. Integers are exact in it, too.
type Rows = [[f64; 32]; 16];

fn decode(element: Element, bits: u32) -> f64 {
    match element {
        Element::F16 => f16_to_f64(bits as u16),
        Element::Bf16 => f64::from(bf16_to_f32(bits as u16)),
        // The low 13 bits of a tf32 register are not read.
        Element::Tf32 => f64::from(f32::from_bits(bits & !0x1fff)),
        Element::E4m3 => e4m3_to_f64(bits as u8),
        Element::E5m2 => e5m2_to_f64(bits as u8),
        Element::S8 => f64::from(bits as i8),
        Element::U8 => f64::from(bits as u8),
    }
}

fn bits_of(element: Element) -> usize {
    match element {
        Element::Tf32 => 32,
        Element::F16 | Element::Bf16 => 16,
        _ => 8,
    }
}

/// Spreads a fragment over its matrix. A lane's group is its row (A) or column (B); registers go through the second
/// eight rows (A only) before the second half of the depth.
fn gather(warp: &Warp, registers: &[R], element: Element, is_a: bool) -> Rows {
    let per_register = 32 / bits_of(element);
    let mut rows = [[0.0; 32]; 16];
    for (n, register) in registers.iter().enumerate() {
        let (row_half, depth_half) = if is_a { (n % 2, n / 2) } else { (0, n) };
        for lane in 0..32 {
            let word = warp.regs[*register as usize][lane] as u32;
            let (group, within) = (lane / 4, lane % 4);
            for part in 0..per_register {
                let bits = word >> (part * bits_of(element));
                let depth = depth_half * 4 * per_register + within * per_register + part;
                rows[group + 8 * row_half][depth] = decode(element, bits);
            }
        }
    }
    rows
}

/// `mma.sync` of shape 16 x 8 x k.
pub(super) fn multiply(warp: &mut Warp, mma: &Mma) {
    let a = gather(warp, &mma.a, mma.a_type, true);
    let b = gather(warp, &mma.b, mma.b_type, false);
    let integers = matches!(mma.a_type, Element::S8 | Element::U8);
    let k = usize::from(mma.k);
    let kept = if bits_of(mma.a_type) == 8 { KEPT_BITS_8 } else { KEPT_BITS };
    let is_plain = a.iter().chain(&b).flatten().all(|value| value.is_finite());
    let mut out = [[0u64; 32]; 4];
    for lane in 0..32 {
        for n in 0..4 {
            // Accumulators: two columns side by side, then the same eight rows further down.
            let (row, column) = (lane / 4 + 8 * (n / 2), lane % 4 * 2 + n % 2);
            let c = if mma.half_accumulator {
                warp.regs[mma.c[n / 2] as usize][lane] >> (16 * (n % 2)) & 0xffff
            } else {
                warp.regs[mma.c[n] as usize][lane]
            };
            let (x, y) = (&a[row][..k], &b[column][..k]);
            out[n][lane] = if integers {
                integer_sum(x, y, c as i32, mma.satfinite)
            } else if mma.half_accumulator {
                let sum = sum(x, y, f16_to_f64(c as u16), kept);
                u64::from(f64_to_f16(sum, Round::Nearest))
            } else {
                let c = f32::from_bits(c as u32);
                let plain = (is_plain && c.is_finite()).then(|| plain_sum(x, y, c, kept)).flatten();
                let sum =
                    plain.unwrap_or_else(|| f64_to_f32(sum(x, y, f64::from(c), kept), Round::Zero));
                u64::from(sum.to_bits())
            };
        }
    }
    if mma.half_accumulator {
        for half in 0..2 {
            let pair: Lanes =
                std::array::from_fn(|lane| out[2 * half + 1][lane] << 16 | out[2 * half][lane]);
            warp.write(mma.d[half], u32::MAX, &pair);
        }
    } else {
        for (d, values) in mma.d.iter().zip(&out) {
            warp.write(*d, u32::MAX, values);
        }
    }
}

fn integer_sum(x: &[f64], y: &[f64], c: i32, saturate: bool) -> u64 {
    let products: i64 = x.iter().zip(y).map(|(x, y)| (x * y) as i64).sum();
    let sum = i64::from(c) + products;
    let result = if saturate {
        sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    } else {
        sum as i32
    };
    u64::from(result as u32)
}

/// Products and accumulator, aligned and cut.
fn sum(x: &[f64], y: &[f64], c: f64, kept: i32) -> f64 {
    let mut addends = [0.0; 33];
    let mut largest = c.abs();
    for ((addend, x), y) in addends.iter_mut().zip(x).zip(y) {
        *addend = x * y;
        largest = largest.max(addend.abs());
    }
    let addends = &mut addends[..=x.len()];
    addends[x.len()] = c;
    if largest == 0.0 || !largest.is_finite() || addends.iter().any(|a| !a.is_finite()) {
        return addends.iter().sum();
    }
    // Whole multiples of the quantum, of at most 24 bits each: their sum is exact.
    let quantum = (exponent(largest) - kept).clamp(-1022, 1022);
    let (scale, back) = (power(-quantum), power(quantum));
    let whole: i64 = addends.iter().map(|a| (a * scale) as i64).sum();
    whole as f64 * back
}

/// [`sum`] and its cut to f32 where nothing is infinite, tiny or huge, in whole numbers of 32 bits; most sums of a test.
fn plain_sum(x: &[f64], y: &[f64], c: f32, kept: i32) -> Option<f32> {
    let mut products = [0.0; 32];
    let products = &mut products[..x.len()];
    // An exponent's eleven bits are the same question as the largest value.
    let field = |value: f64| (value.to_bits() >> 52) as u32 & 0x7ff;
    let c = f64::from(c);
    let mut largest = field(c);
    for ((product, x), y) in products.iter_mut().zip(x).zip(y) {
        *product = x * y;
        largest = largest.max(field(*product));
    }
    if largest == 0 {
        return Some(products.iter().fold(c, |sum, product| sum + product) as f32);
    }
    let largest = largest as i32 - 1023;
    if !(-90..90).contains(&largest) {
        return None;
    }
    let quantum = largest - kept;
    let scale = power(-quantum);
    // At most 33 addends of 25 bits.
    // SAFETY: below 2^25 by the choice of the scale, and no NaN: operands are finite.
    let cut = |value: f64| unsafe { (value * scale).to_int_unchecked::<i32>() };
    let whole = products.iter().fold(cut(c), |sum, product| sum + cut(*product));
    let excess = 8u32.saturating_sub(whole.unsigned_abs().leading_zeros());
    let digits = (whole.unsigned_abs() >> excess << excess) as f32;
    let size = digits * power(quantum) as f32;
    Some(if whole < 0 { -size } else { size })
}

/// `ldmatrix` and `stmatrix`: the lanes of each eight give the rows of one matrix.
pub(super) fn transfer(warp: &mut Warp, env: &mut Env<'_>, op: &Op) -> Step<()> {
    let (registers, base, offset, trans, store) = match op {
        Op::Ldmatrix { d, base, offset, trans } => (d, *base, *offset, *trans, false),
        Op::Stmatrix { s, base, offset, trans } => (s, *base, *offset, *trans, true),
        _ => return Ok(()),
    };
    let rows = warp.regs[base as usize].map(|base| (base as u32).wrapping_add(offset as u32));
    for (n, &register) in registers.iter().enumerate() {
        let mut request = [(0, 0); 8];
        for row in 0..8 {
            let lane = 8 * n + row;
            if rows[lane] % 16 != 0 {
                return defect(
                    FaultKind::Misaligned,
                    lane,
                    format!("a matrix row at {:#x}", rows[lane]),
                );
            }
            request[row] = (row, rows[lane]);
        }
        env.counters.shared(&request, 16);
        if store {
            let tile = spread(&warp.regs[register as usize], trans);
            for (row, values) in tile.iter().enumerate() {
                let mut bytes = [0; 16];
                for (pair, value) in bytes.chunks_exact_mut(2).zip(values) {
                    pair.copy_from_slice(&value.to_le_bytes());
                }
                let lane = 8 * n + row;
                let (_, shared, who) = env.actor(warp.index, lane);
                at_lane(shared.store(rows[lane], &bytes, &who, Kind::Plain), lane)?;
            }
            continue;
        }
        let mut tile = [[0u16; 8]; 8];
        for (row, values) in tile.iter_mut().enumerate() {
            let mut bytes = [0; 16];
            let lane = 8 * n + row;
            let (_, shared, who) = env.actor(warp.index, lane);
            at_lane(shared.load(rows[lane], &mut bytes, &who, Kind::Plain), lane)?;
            for (value, pair) in values.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = u16::from_le_bytes([pair[0], pair[1]]);
            }
        }
        warp.write(register, u32::MAX, &collect(&tile, trans));
    }
    Ok(())
}

/// A lane's two neighbours of a row; of a column where the matrix is transposed.
fn collect(tile: &[[u16; 8]; 8], trans: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        let at = |row: usize, column: usize| {
            u64::from(if trans { tile[column][row] } else { tile[row][column] })
        };
        at(row, column) | at(row, column + 1) << 16
    })
}

/// The reverse of [`collect`].
fn spread(values: &Lanes, trans: bool) -> [[u16; 8]; 8] {
    let mut tile = [[0; 8]; 8];
    for (lane, value) in values.iter().enumerate() {
        for part in 0..2 {
            let (row, column) = (lane / 4, lane % 4 * 2 + part);
            let value = (value >> (16 * part)) as u16;
            if trans {
                tile[column][row] = value;
            } else {
                tile[row][column] = value;
            }
        }
    }
    tile
}

/// `movmatrix`.
pub(super) fn transpose(warp: &mut Warp, d: R, a: R) {
    let tile = spread(&warp.regs[a as usize], false);
    warp.write(d, u32::MAX, &collect(&tile, true));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a few digits and many sizes, from a multiplicative sequence.
    fn numbers(seed: u64, spread: i32) -> impl Iterator<Item = f64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let digits = f64::from((state >> 40) as u8) - 128.0;
            digits * power((state >> 50) as i32 % spread - spread / 2)
        })
    }

    #[test]
    fn the_short_way_gives_the_bits_of_the_long_one() {
        let mut short = 0;
        for seed in 0..4000 {
            for (k, kept, spread) in [
                (16, KEPT_BITS, 8),
                (16, KEPT_BITS, 60),
                (32, KEPT_BITS_8, 12),
                (8, KEPT_BITS, 260),
            ] {
                let mut numbers = numbers(seed, spread);
                let x: Vec<f64> = numbers.by_ref().take(k).collect();
                let y: Vec<f64> = numbers.by_ref().take(k).collect();
                let c = numbers.next().unwrap() as f32;
                let long = f64_to_f32(sum(&x, &y, f64::from(c), kept), Round::Zero);
                if let Some(sum) = plain_sum(&x, &y, c, kept) {
                    assert_eq!(sum.to_bits(), (long + 0.0).to_bits(), "{x:?} {y:?} {c}");
                    short += 1;
                }
            }
        }
        assert!(short > 10_000, "{short}");
    }
}
