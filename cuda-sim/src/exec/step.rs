//! One instruction of one group of lanes.

use super::warp::{Arrival, Pause, Warp};
use super::{Env, access, async_copy, collective, defect, lanes_of, matrix};
use crate::fault::{FaultKind, Step};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::instr::{Lanes, Logic, Space};
use crate::ptx::{Instr, Op};

/// Where the group goes on.
pub(crate) enum Flow {
    Next,
    /// The active lanes; the others go on behind.
    Jump(u32),
    Scatter(Vec<(u32, u32)>),
    /// A warp-wide instruction under a predicate that holds for some: the others leave first.
    Part,
    /// Lanes are missing.
    Wait,
    /// At a barrier of the block.
    Pause(Pause),
    End,
}

/// Executes; `mask` are the group's lanes, `active` those whose predicate holds.
pub(crate) fn step(
    warp: &mut Warp,
    env: &mut Env<'_>,
    instr: &Instr,
    mask: u32,
    active: u32,
    pc: u32,
) -> Step<Flow> {
    // Under a predicate that holds nowhere an instruction is passed over.
    if active == 0 {
        return Ok(Flow::Next);
    }
    match &instr.op {
        Op::Nop => {}
        Op::Alu { f, d, s } => {
            let mut out: Lanes = [0; 32];
            f(&mut out, s.map(|r| &warp.regs[r as usize]));
            warp.write(*d, active, &out);
        }
        Op::Branch { target } => return Ok(Flow::Jump(*target)),
        Op::Exit => return Ok(Flow::End),
        Op::Load { d, at } => access::load(warp, env, d, at, active)?,
        Op::Store { s, at } => access::store(warp, env, s, at, active)?,
        Op::Atom { .. } => access::atomic(warp, env, &instr.op, active)?,
        Op::Trap { what } => return defect(FaultKind::Trap, first(active), *what),
        Op::BranchIndex { index, targets } => return scatter(warp, *index, targets, active),
        Op::CpAsync { .. } => async_copy::issue(warp, env, &instr.op, active)?,
        Op::CpAsyncCommit => warp.copies.commit(active),
        Op::CpAsyncWait { pending } => async_copy::wait(warp, env, *pending, active)?,
        Op::ActiveMask { d } => warp.write(*d, active, &[u64::from(active); 32]),
        op if is_warp_wide(op) => {
            if active != mask {
                return Ok(Flow::Part);
            }
            return warp_wide(warp, env, op, active, pc);
        }
        op => plain(warp, op, active),
    }
    Ok(Flow::Next)
}

fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize
}

fn is_warp_wide(op: &Op) -> bool {
    matches!(
        op,
        Op::Shfl { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::Elect { .. }
            | Op::WarpSync { .. }
            | Op::Barrier { .. }
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Movmatrix { .. }
            | Op::Mma(_)
    )
}

fn warp_wide(warp: &mut Warp, env: &mut Env<'_>, op: &Op, active: u32, pc: u32) -> Step<Flow> {
    let member = match op {
        Op::Shfl { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. }
        | Op::WarpSync { mask } => member_mask(warp, *mask, active)?,
        Op::Barrier { .. } => warp.live,
        // `.aligned`: the whole warp.
        _ => u32::MAX,
    };
    // Lanes that have ended are waited for by nobody, and a matrix instruction without them has no result.
    let wanted = if matches!(
        op,
        Op::Mma(_) | Op::Ldmatrix { .. } | Op::Stmatrix { .. } | Op::Movmatrix { .. }
    ) {
        if warp.live != u32::MAX {
            let what = format!("a matrix instruction with lanes {:#010x} alone", warp.live);
            return defect(FaultKind::AbsentLanes, first(active), what);
        }
        u32::MAX
    } else {
        member & warp.live
    };
    if wanted & !active != 0 {
        return Ok(Flow::Wait);
    }
    match op {
        Op::Barrier { id, count, arrive, reduce, .. } => {
            let value = |r: &u32| warp.regs[*r as usize][first(active)] as u32;
            let reduce = reduce.map(|(how, p, not)| (how, warp.holds((p, not)) & active));
            let arrival = Arrival { id: value(id), count: count.as_ref().map(value), pc, reduce };
            let pause = if *arrive { Pause::Arrive(arrival) } else { Pause::Barrier(arrival) };
            return Ok(Flow::Pause(pause));
        }
        Op::WarpSync { .. } => env.clocks.sync_lanes(warp.index, member & warp.live),
        Op::Ldmatrix { .. } | Op::Stmatrix { .. } => matrix::transfer(warp, env, op)?,
        Op::Movmatrix { d, a } => matrix::transpose(warp, *d, *a),
        Op::Mma(mma) => matrix::multiply(warp, mma),
        _ => collective::run(warp, op, active, member)?,
    }
    Ok(Flow::Next)
}

/// The mask operand; it has to be the same in all lanes and name each of them.
fn member_mask(warp: &Warp, mask: u32, active: u32) -> Step<u32> {
    let values = &warp.regs[mask as usize];
    let member = values[first(active)] as u32;
    for lane in lanes_of(active) {
        if values[lane] as u32 != member {
            let what = format!(
                "lane masks {member:#010x} and {:#010x} in one instruction",
                values[lane] as u32
            );
            return defect(FaultKind::AbsentLanes, lane, what);
        }
        if member >> lane & 1 == 0 {
            let what = format!(
                "lane {lane} runs an instruction whose mask {member:#010x} does not name it"
            );
            return defect(FaultKind::AbsentLanes, lane, what);
        }
    }
    Ok(member)
}

fn scatter(warp: &Warp, index: u32, targets: &[u32], active: u32) -> Step<Flow> {
    let mut groups: Vec<(u32, u32)> = Vec::new();
    for lane in lanes_of(active) {
        let index = warp.regs[index as usize][lane] as u32 as usize;
        let Some(&target) = targets.get(index) else {
            let what = format!("branch target {index} of {}", targets.len());
            return defect(FaultKind::Undefined, lane, what);
        };
        match groups.iter_mut().find(|(known, _)| *known == target) {
            Some((_, lanes)) => *lanes |= 1 << lane,
            None => groups.push((target, 1 << lane)),
        }
    }
    Ok(Flow::Scatter(groups))
}

/// What needs no memory and no other lane.
fn plain(warp: &mut Warp, op: &Op, active: u32) {
    match op {
        Op::Convert { how, d, a } => {
            let values = warp.regs[*a as usize].map(|x| how.apply(x));
            warp.write(*d, active, &values);
        }
        Op::Setp { f, p, q, a, b, with } => {
            let mut yes = f(&warp.regs[*a as usize], &warp.regs[*b as usize]);
            let mut no = !yes;
            if let Some((logic, c, not)) = with {
                let c = warp.holds((*c, *not));
                (yes, no) = (combine(*logic, yes, c), combine(*logic, no, c));
            }
            if let Some(p) = p {
                warp.write_pred(*p, active, yes);
            }
            if let Some(q) = q {
                warp.write_pred(*q, active, no);
            }
        }
        Op::Setp2 { low, high, p, q, a, b } => {
            let (a, b) = (&warp.regs[*a as usize], &warp.regs[*b as usize]);
            let (low, high) = (low(a, b), high(a, b));
            warp.write_pred(*p, active, low);
            warp.write_pred(*q, active, high);
        }
        Op::Set { f, d, a, b, yes } => {
            let holds = f(&warp.regs[*a as usize], &warp.regs[*b as usize]);
            let values = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { *yes } else { 0 });
            warp.write(*d, active, &values);
        }
        Op::Selp { d, a, b, p, not } => {
            let (holds, a, b) =
                (warp.holds((*p, *not)), &warp.regs[*a as usize], &warp.regs[*b as usize]);
            let values =
                std::array::from_fn(|lane| if holds >> lane & 1 == 1 { a[lane] } else { b[lane] });
            warp.write(*d, active, &values);
        }
        Op::PredLogic { op, d, a, b } => {
            let value = combine(*op, warp.holds(*a), warp.holds(*b));
            warp.write_pred(*d, active, value);
        }
        Op::PredMove { d, a, not } => {
            let value = warp.holds((*a, *not));
            warp.write_pred(*d, active, value);
        }
        Op::Carry { .. } => carry(warp, op, active),
        op => bits(warp, op, active),
    }
}

/// Registers put together and taken apart, and what an address lies in.
fn bits(warp: &mut Warp, op: &Op, active: u32) {
    match op {
        Op::Pack { d, parts, bits } => {
            let mask = u64::MAX >> (64 - u32::from(*bits).clamp(1, 64));
            let mut values: Lanes = [0; 32];
            for (n, part) in parts.iter().enumerate() {
                let shift = n as u32 * u32::from(*bits);
                let part = &warp.regs[*part as usize];
                for (value, part) in values.iter_mut().zip(part) {
                    *value |= (part & mask) << shift;
                }
            }
            warp.write(*d, active, &values);
        }
        Op::Unpack { d, a, bits } => {
            let mask = u64::MAX >> (64 - u32::from(*bits).clamp(1, 64));
            let from = warp.regs[*a as usize];
            for (n, d) in d.iter().enumerate() {
                let shift = n as u32 * u32::from(*bits);
                if let Some(d) = d {
                    warp.write(*d, active, &from.map(|x| x >> shift & mask));
                }
            }
        }
        Op::IsSpace { p, a, space } => {
            let inside = |x: u64, window: u64| x >= window && x - window < WINDOW_BYTES;
            let mut holds = 0;
            for (lane, &x) in warp.regs[*a as usize].iter().enumerate() {
                let yes = match space {
                    Space::Shared => inside(x, SHARED_WINDOW),
                    Space::Local => inside(x, LOCAL_WINDOW),
                    Space::Param => inside(x, PARAM_WINDOW),
                    _ => x >= PARAM_WINDOW + WINDOW_BYTES,
                };
                holds |= u32::from(yes) << lane;
            }
            warp.write_pred(*p, active, holds);
        }
        _ => {}
    }
}

fn combine(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// Addition with the flag: a subtraction adds the complement, and its borrow is a carry that did not come.
fn carry(warp: &mut Warp, op: &Op, active: u32) {
    let Op::Carry { d, a, b, bits, subtract, carry_in, carry_out } = op else { return };
    let mask = if *bits == 32 { u64::from(u32::MAX) } else { u64::MAX };
    let (a, b) = (&warp.regs[*a as usize], &warp.regs[*b as usize]);
    let (mut values, mut flags): (Lanes, u32) = ([0; 32], 0);
    for lane in lanes_of(active) {
        let flag = warp.carry >> lane & 1;
        let (y, in_flag) = match (subtract, carry_in) {
            (false, false) => (b[lane] & mask, 0),
            (false, true) => (b[lane] & mask, flag),
            (true, false) => (!b[lane] & mask, 1),
            (true, true) => (!b[lane] & mask, 1 - flag),
        };
        let sum = u128::from(a[lane] & mask) + u128::from(y) + u128::from(in_flag);
        values[lane] = sum as u64 & mask;
        let out = (sum >> bits) as u32 & 1;
        flags |= (if *subtract { 1 - out } else { out }) << lane;
    }
    if *carry_out {
        warp.carry = warp.carry & !active | flags;
    }
    warp.write(*d, active, &values);
}
