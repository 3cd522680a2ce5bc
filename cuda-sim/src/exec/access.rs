//! Loads, stores and atomics of all spaces.

use super::alu::formats::{Round, add_odd, bf16_to_f32, f16_to_f64, f64_to_bf16, f64_to_f16};
use super::warp::Warp;
use super::{Env, at_lane, defect, lanes_of};
use crate::fault::{FaultKind, Step};
use crate::memory::track::Kind;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::Op;
use crate::ptx::instr::{Access, AtomOp, AtomType, Lanes, R, Space};

/// The widest access of a lane.
const WIDEST: usize = 32;

/// Each lane's address.
fn addresses(warp: &Warp, base: R, offset: i64, space: Space) -> Lanes {
    let base = &warp.regs[base as usize];
    let narrow = if space == Space::Shared { u64::from(u32::MAX) } else { u64::MAX };
    // Addresses in the shared window are 32 bits wide.
    base.map(|base| base.wrapping_add(offset as u64) & narrow)
}

/// The space a generic address lies in, and its address there.
fn resolve(address: u64) -> (Space, u64) {
    let within = |window: u64| address.checked_sub(window).filter(|offset| *offset < WINDOW_BYTES);
    if let Some(offset) = within(SHARED_WINDOW) {
        (Space::Shared, offset)
    } else if let Some(offset) = within(LOCAL_WINDOW) {
        (Space::Local, offset)
    } else if let Some(offset) = within(PARAM_WINDOW) {
        (Space::Param, offset)
    } else {
        (Space::Global, address)
    }
}

/// Lanes by space: one entry, unless generic addresses of one instruction lie in several.
fn by_space(space: Space, addresses: &mut Lanes, active: u32) -> Vec<(Space, u32)> {
    if space != Space::Generic {
        return vec![(space, active)];
    }
    let mut found: Vec<(Space, u32)> = Vec::with_capacity(1);
    for lane in lanes_of(active) {
        let (space, address) = resolve(addresses[lane]);
        addresses[lane] = address;
        match found.iter_mut().find(|(known, _)| *known == space) {
            Some((_, lanes)) => *lanes |= 1 << lane,
            None => found.push((space, 1 << lane)),
        }
    }
    found
}

fn aligned(addresses: &Lanes, active: u32, bytes: usize) -> Step<()> {
    for lane in lanes_of(active) {
        if addresses[lane] % bytes as u64 != 0 {
            let what = format!("an access of {bytes} bytes at {:#x}", addresses[lane]);
            return defect(FaultKind::Misaligned, lane, what);
        }
    }
    Ok(())
}

/// Counts one request.
fn count(
    env: &mut Env<'_>,
    space: Space,
    addresses: &Lanes,
    lanes: u32,
    bytes: usize,
    write: bool,
) {
    match space {
        Space::Global | Space::Generic => {
            let mut list = [0; 32];
            let mut n = 0;
            for lane in lanes_of(lanes) {
                list[n] = addresses[lane];
                n += 1;
            }
            env.counters.global(&list[..n], bytes as u64, write);
        }
        Space::Shared => {
            let mut list = [(0, 0); 32];
            let mut n = 0;
            for lane in lanes_of(lanes) {
                list[n] = (lane, addresses[lane] as u32);
                n += 1;
            }
            env.counters.shared(&list[..n], bytes as u32);
        }
        Space::Local => env.counters.local_bytes += bytes as u64 * u64::from(lanes.count_ones()),
        Space::Param | Space::Const => {}
    }
}

fn kind(strong: bool) -> Kind {
    if strong { Kind::Strong } else { Kind::Plain }
}

/// The place of a lane's local bytes.
fn local(warp: &Warp, lane: usize, address: u64, len: usize) -> Step<usize> {
    let per_lane = warp.local.len() / 32;
    let end = (address as usize).checked_add(len);
    match end {
        Some(end) if end <= per_lane => Ok(lane * per_lane + address as usize),
        _ => {
            let what = format!("{len} bytes at byte {address} of {per_lane} bytes of local memory");
            defect(FaultKind::OutOfBounds, lane, what)
        }
    }
}

fn read(
    warp: &Warp,
    env: &mut Env<'_>,
    space: Space,
    (lane, address): (usize, u64),
    strong: bool,
    into: &mut [u8],
) -> Step<()> {
    match space {
        Space::Global | Space::Const | Space::Generic => {
            let (memory, _, who) = env.actor(warp.index, lane);
            at_lane(memory.load(address, into, &who, kind(strong)), lane)
        }
        Space::Shared => {
            let (_, shared, who) = env.actor(warp.index, lane);
            at_lane(shared.load(address as u32, into, &who, kind(strong)), lane)
        }
        Space::Local => {
            let at = local(warp, lane, address, into.len())?;
            let range = at..at + into.len();
            if !warp.local_written[range.clone()].iter().all(|written| *written) {
                return defect(
                    FaultKind::Uninitialised,
                    lane,
                    format!("byte {address} of local memory"),
                );
            }
            into.copy_from_slice(&warp.local[range]);
            Ok(())
        }
        Space::Param => {
            match env.params.get(address as usize..(address as usize).saturating_add(into.len())) {
                Some(bytes) => {
                    into.copy_from_slice(bytes);
                    Ok(())
                }
                None => {
                    let what =
                        format!("byte {address} of {} bytes of parameters", env.params.len());
                    defect(FaultKind::OutOfBounds, lane, what)
                }
            }
        }
    }
}

fn write(
    warp: &mut Warp,
    env: &mut Env<'_>,
    space: Space,
    (lane, address): (usize, u64),
    strong: bool,
    from: &[u8],
) -> Step<()> {
    match space {
        Space::Global | Space::Const | Space::Generic => {
            let (memory, _, who) = env.actor(warp.index, lane);
            at_lane(memory.store(address, from, &who, kind(strong)), lane)
        }
        Space::Shared => {
            let (_, shared, who) = env.actor(warp.index, lane);
            at_lane(shared.store(address as u32, from, &who, kind(strong)), lane)
        }
        Space::Local => {
            let at = local(warp, lane, address, from.len())?;
            warp.local[at..at + from.len()].copy_from_slice(from);
            warp.local_written[at..at + from.len()].fill(true);
            Ok(())
        }
        Space::Param => defect(FaultKind::OutOfBounds, lane, "a store into the parameters"),
    }
}

/// `ld`.
pub(super) fn load(
    warp: &mut Warp,
    env: &mut Env<'_>,
    d: &[R],
    at: &Access,
    active: u32,
) -> Step<()> {
    let bytes = usize::from(at.bytes) * usize::from(at.count);
    let mut addresses = addresses(warp, at.base, at.offset, at.space);
    let mut data = [[0u8; WIDEST]; 32];
    for (space, lanes) in by_space(at.space, &mut addresses, active) {
        aligned(&addresses, lanes, bytes)?;
        count(env, space, &addresses, lanes, bytes, false);
        for lane in lanes_of(lanes) {
            read(warp, env, space, (lane, addresses[lane]), at.strong, &mut data[lane][..bytes])?;
        }
    }
    let one = usize::from(at.bytes);
    let kept = if at.width >= 64 { u64::MAX } else { (1 << at.width) - 1 };
    for (n, &d) in d.iter().enumerate() {
        let mut values: Lanes = [0; 32];
        for lane in lanes_of(active) {
            let mut word = [0; 8];
            word[..one].copy_from_slice(&data[lane][n * one..(n + 1) * one]);
            let mut value = u64::from_le_bytes(word);
            if at.sign_bits > 0 {
                let unused = 64 - u32::from(at.sign_bits);
                value = ((value << unused) as i64 >> unused) as u64;
            }
            values[lane] = value & kept;
        }
        warp.write(d, active, &values);
    }
    Ok(())
}

/// `st`.
pub(super) fn store(
    warp: &mut Warp,
    env: &mut Env<'_>,
    s: &[R],
    at: &Access,
    active: u32,
) -> Step<()> {
    let one = usize::from(at.bytes);
    let bytes = one * usize::from(at.count);
    let mut addresses = addresses(warp, at.base, at.offset, at.space);
    for (space, lanes) in by_space(at.space, &mut addresses, active) {
        aligned(&addresses, lanes, bytes)?;
        count(env, space, &addresses, lanes, bytes, true);
        for lane in lanes_of(lanes) {
            let mut data = [0u8; WIDEST];
            for (n, &s) in s.iter().enumerate() {
                let value = warp.regs[s as usize][lane].to_le_bytes();
                data[n * one..(n + 1) * one].copy_from_slice(&value[..one]);
            }
            write(warp, env, space, (lane, addresses[lane]), at.strong, &data[..bytes])?;
        }
    }
    Ok(())
}

/// `atom` and `red`: lane after lane, lowest first. A real card gives no order; results that depend on it are the
/// kernel's own fault.
pub(super) fn atomic(warp: &mut Warp, env: &mut Env<'_>, op: &Op, active: u32) -> Step<()> {
    let Op::Atom { op, ty, d, b, c, at } = op else { return Ok(()) };
    let bytes = usize::from(at.bytes);
    let mut addresses = addresses(warp, at.base, at.offset, at.space);
    let mut old: Lanes = [0; 32];
    for (space, lanes) in by_space(at.space, &mut addresses, active) {
        aligned(&addresses, lanes, bytes)?;
        count(env, space, &addresses, lanes, bytes, true);
        for lane in lanes_of(lanes) {
            let place = (lane, addresses[lane]);
            let mut word = [0; 8];
            read(warp, env, space, place, true, &mut word[..bytes])?;
            let before = u64::from_le_bytes(word);
            let value = |r: R| warp.regs[r as usize][lane];
            let after = combine(*op, *ty, bytes as u32 * 8, before, value(*b), value(*c));
            write(warp, env, space, place, true, &after.to_le_bytes()[..bytes])?;
            old[lane] = before;
        }
    }
    if let Some(d) = d {
        warp.write(*d, active, &old);
    }
    Ok(())
}

fn combine(op: AtomOp, ty: AtomType, bits: u32, a: u64, b: u64, c: u64) -> u64 {
    let kept = u64::MAX >> (64 - bits);
    let (b, c) = (b & kept, c & kept);
    let extend = |x: u64| (x << (64 - bits)) as i64 >> (64 - bits);
    match (op, ty) {
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => {
            if a == b {
                c
            } else {
                a
            }
        }
        (AtomOp::And, _) => a & b,
        (AtomOp::Or, _) => a | b,
        (AtomOp::Xor, _) => a ^ b,
        (AtomOp::Inc, _) => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        (AtomOp::Dec, _) => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
        (AtomOp::Add, AtomType::Unsigned | AtomType::Signed) => a.wrapping_add(b) & kept,
        (AtomOp::Min, AtomType::Unsigned) => a.min(b),
        (AtomOp::Max, AtomType::Unsigned) => a.max(b),
        (AtomOp::Min, AtomType::Signed) => extend(a).min(extend(b)) as u64 & kept,
        (AtomOp::Max, AtomType::Signed) => extend(a).max(extend(b)) as u64 & kept,
        (AtomOp::Add | AtomOp::Min | AtomOp::Max, _) => float_combine(op, ty, a, b),
    }
}

fn float_combine(op: AtomOp, ty: AtomType, a: u64, b: u64) -> u64 {
    let f = |a: f64, b: f64| match op {
        AtomOp::Min => a.min(b),
        AtomOp::Max => a.max(b),
        // For f64 itself the sum is the result; narrower ones round what keeps the rest.
        _ if ty == AtomType::F64 => a + b,
        _ => add_odd(a, b),
    };
    let f16 = |x: u64, y: u64| {
        u64::from(f64_to_f16(f(f16_to_f64(x as u16), f16_to_f64(y as u16)), Round::Nearest))
    };
    let wide = |x: u64| f64::from(bf16_to_f32(x as u16));
    let bf16 = |x: u64, y: u64| u64::from(f64_to_bf16(f(wide(x), wide(y)), Round::Nearest));
    let single = |x: u64| f64::from(f32::from_bits(x as u32));
    match ty {
        AtomType::F32 => u64::from((f(single(a), single(b)) as f32).to_bits()),
        AtomType::F16 => f16(a, b),
        AtomType::F16x2 => f16(a >> 16, b >> 16) << 16 | f16(a, b),
        AtomType::Bf16 => bf16(a, b),
        AtomType::Bf16x2 => bf16(a >> 16, b >> 16) << 16 | bf16(a, b),
        AtomType::F64 => f(f64::from_bits(a), f64::from_bits(b)).to_bits(),
        AtomType::Unsigned | AtomType::Signed => a,
    }
}
