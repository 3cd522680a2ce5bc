//! Warp-wide operations on registers: shuffles, votes, matches, reductions.

use super::warp::Warp;
use super::{defect, lanes_of};
use crate::fault::{FaultKind, Step};
use crate::ptx::Op;
use crate::ptx::instr::{Lanes, ReduxOp, ShflMode, VoteMode};

/// Runs with all lanes of `active`; `member` is the instruction's own mask.
pub(super) fn run(warp: &mut Warp, op: &Op, active: u32, member: u32) -> Step<()> {
    match op {
        Op::Shfl { .. } => return shuffle(warp, op, active),
        Op::Vote { mode, d, a, .. } => {
            let yes = warp.holds(*a) & active;
            let all = if yes == active { u32::MAX } else { 0 };
            match mode {
                VoteMode::Ballot => warp.write(*d, active, &[u64::from(yes); 32]),
                VoteMode::All => warp.write_pred(*d, active, all),
                VoteMode::Any => warp.write_pred(*d, active, if yes == 0 { 0 } else { u32::MAX }),
                VoteMode::Uni => warp.write_pred(*d, active, if yes == 0 { u32::MAX } else { all }),
            }
        }
        Op::Match { all, d, p, a, bits, .. } => {
            let kept = if *bits == 32 { u64::from(u32::MAX) } else { u64::MAX };
            let values = warp.regs[*a as usize].map(|x| x & kept);
            let same = |lane: usize| {
                lanes_of(active)
                    .filter(|other| values[*other] == values[lane])
                    .fold(0, |m, l| m | 1u32 << l)
            };
            let mut out: Lanes = [0; 32];
            let first = active.trailing_zeros() as usize;
            let agree = same(first) == active;
            for lane in lanes_of(active) {
                out[lane] = match (all, agree) {
                    (false, _) => u64::from(same(lane)),
                    (true, true) => u64::from(member),
                    (true, false) => 0,
                };
            }
            warp.write(*d, active, &out);
            if let Some(p) = p {
                warp.write_pred(*p, active, if agree { u32::MAX } else { 0 });
            }
        }
        Op::Redux { op, d, a, .. } => {
            let values = warp.regs[*a as usize];
            let all = lanes_of(active).map(|lane| values[lane] as u32);
            let signed =
                |f: fn(i32, i32) -> i32| move |a: u32, b: u32| f(a as i32, b as i32) as u32;
            let result = match op {
                ReduxOp::Add => all.reduce(u32::wrapping_add),
                ReduxOp::MinU => all.reduce(u32::min),
                ReduxOp::MaxU => all.reduce(u32::max),
                ReduxOp::MinS => all.reduce(signed(i32::min)),
                ReduxOp::MaxS => all.reduce(signed(i32::max)),
                ReduxOp::And => all.reduce(|a, b| a & b),
                ReduxOp::Or => all.reduce(|a, b| a | b),
                ReduxOp::Xor => all.reduce(|a, b| a ^ b),
            };
            warp.write(*d, active, &[u64::from(result.unwrap_or(0)); 32]);
        }
        Op::Elect { d, p, .. } => {
            let first = active.trailing_zeros();
            warp.write_pred(*p, active, 1 << first);
            if let Some(d) = d {
                warp.write(*d, active, &[u64::from(first); 32]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// `shfl.sync`, as the manual's pseudo-code: a segment's bounds from `c`, the source lane from `b`.
fn shuffle(warp: &mut Warp, op: &Op, active: u32) -> Step<()> {
    let Op::Shfl { mode, d, p, a, b, c, .. } = op else { return Ok(()) };
    let (values, offsets, clamps) =
        (warp.regs[*a as usize], warp.regs[*b as usize], warp.regs[*c as usize]);
    let (mut out, mut inside): (Lanes, u32) = ([0; 32], 0);
    for lane in lanes_of(active) {
        let (offset, clamp) = (offsets[lane] as u32 & 0x1f, clamps[lane] as u32);
        let (bound, segment) = (clamp & 0x1f, clamp >> 8 & 0x1f);
        let own = lane as u32;
        let most = own & segment | bound & !segment;
        let least = own & segment;
        let (from, ok) = match mode {
            ShflMode::Up => {
                let from = own.wrapping_sub(offset) as i32;
                (from, from >= most as i32)
            }
            ShflMode::Down => {
                let from = own + offset;
                (from as i32, from <= most)
            }
            ShflMode::Bfly => {
                let from = own ^ offset;
                (from as i32, from <= most)
            }
            ShflMode::Idx => {
                let from = least | offset & !segment;
                (from as i32, from <= most)
            }
        };
        let from = if ok { from as usize & 31 } else { lane };
        if active >> from & 1 == 0 {
            let what = format!("lane {lane} reads lane {from}, which is not there");
            return defect(FaultKind::AbsentLanes, lane, what);
        }
        out[lane] = values[from] & 0xffff_ffff;
        inside |= u32::from(ok) << lane;
    }
    warp.write(*d, active, &out);
    if let Some(p) = p {
        warp.write_pred(*p, active, inside);
    }
    Ok(())
}
