//! `cp.async`: bytes leave global memory when the copy is issued and reach shared memory when it is waited for.
//!
//! In between they belong to the copy: whoever touches them has forgotten a wait. After the wait they are the write of the
//! thread that waited, so others need a barrier. That is the latest a card may take, which is what a kernel must bear.

use super::warp::Warp;
use super::{Env, at_lane, defect, lanes_of};
use crate::fault::{FaultKind, Step};
use crate::ptx::Op;
use crate::ptx::instr::Lanes;

/// Copies of one instruction, by lane.
#[derive(Debug)]
struct Copy {
    /// Lanes whose copy is under way.
    mask: u32,
    /// The number of its group, the same for these lanes.
    group: u32,
    bytes: usize,
    to: [u32; 32],
    data: Box<[[u8; 16]; 32]>,
    written: Box<[[bool; 16]; 32]>,
}

/// A warp's copies, oldest first, and how many groups each lane has committed.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pending: Vec<Copy>,
    committed: [u32; 32],
}

impl Copies {
    pub(crate) fn commit(&mut self, active: u32) {
        lanes_of(active).for_each(|lane| self.committed[lane] += 1);
    }
}

/// Issues one copy a lane.
pub(super) fn issue(warp: &mut Warp, env: &mut Env<'_>, op: &Op, active: u32) -> Step<()> {
    let Op::CpAsync { to, to_offset, from, from_offset, bytes, take, ignore } = op else {
        return Ok(());
    };
    let bytes = usize::from(*bytes);
    let to_base = &warp.regs[*to as usize];
    let to: [u32; 32] = to_base.map(|base| (base as u32).wrapping_add(*to_offset as u32));
    let from: Lanes = warp.regs[*from as usize].map(|base| base.wrapping_add(*from_offset as u64));
    let ignored = ignore.map_or(0, |p| warp.holds(p));
    let mut copy = Copy {
        mask: active,
        group: 0,
        bytes,
        to,
        data: Box::new([[0; 16]; 32]),
        written: Box::new([[true; 16]; 32]),
    };
    let (mut reads, mut n) = ([0; 32], 0);
    let mut writes = [(0, 0); 32];
    for (at, lane) in lanes_of(active).enumerate() {
        writes[at] = (lane, to[lane]);
        let taken =
            take.map_or(bytes as u64, |take| warp.regs[take as usize][lane] & 0xffff_ffff) as usize;
        let taken = if ignored >> lane & 1 == 1 { 0 } else { taken };
        if taken > bytes {
            let what = format!("an asynchronous copy of {bytes} bytes that reads {taken}");
            return defect(FaultKind::Undefined, lane, what);
        }
        if u64::from(to[lane]) % bytes as u64 != 0 || from[lane] % bytes as u64 != 0 {
            let what = format!(
                "an asynchronous copy of {bytes} bytes from {:#x} to {:#x}",
                from[lane], to[lane]
            );
            return defect(FaultKind::Misaligned, lane, what);
        }
        let (memory, shared, who) = env.actor(warp.index, lane);
        if taken > 0 {
            let (data, written) = (&mut copy.data[lane][..taken], &mut copy.written[lane][..taken]);
            at_lane(memory.load_any(from[lane], data, written, &who), lane)?;
            reads[n] = from[lane];
            n += 1;
        }
        at_lane(shared.begin_async(to[lane], bytes, &who), lane)?;
    }
    if n > 0 {
        env.counters.global(&reads[..n], bytes as u64, false);
    }
    env.counters.shared(&writes[..active.count_ones() as usize], bytes as u32);
    let committed = warp.copies.committed;
    let of_group = |group: u32, lanes: u32| {
        lanes_of(lanes)
            .filter(|lane| committed[*lane] == group)
            .fold(0, |mask, lane| mask | 1u32 << lane)
    };
    // Lanes that have committed differently get entries of their own.
    loop {
        copy.group = committed[copy.mask.trailing_zeros() as usize];
        let mask = of_group(copy.group, copy.mask);
        let rest = copy.mask & !mask;
        if rest == 0 {
            break;
        }
        let (data, written) = (copy.data.clone(), copy.written.clone());
        warp.copies.pending.push(Copy { mask, data, written, ..copy });
        copy.mask = rest;
    }
    warp.copies.pending.push(copy);
    Ok(())
}

/// Completes what has to be there: all but the newest `pending` committed groups, or all.
pub(super) fn wait(
    warp: &mut Warp,
    env: &mut Env<'_>,
    pending: Option<u32>,
    active: u32,
) -> Step<()> {
    let Copies { pending: copies, committed } = &mut warp.copies;
    for copy in copies.iter_mut() {
        for lane in lanes_of(copy.mask & active) {
            let due = match pending {
                // A group that is not committed has a number that is not counted yet.
                Some(n) => copy.group < committed[lane].saturating_sub(n),
                None => true,
            };
            if due {
                copy.mask &= !(1 << lane);
                let (_, shared, who) = env.actor(warp.index, lane);
                let (data, written) =
                    (&copy.data[lane][..copy.bytes], &copy.written[lane][..copy.bytes]);
                at_lane(shared.end_async(copy.to[lane], data, written, &who), lane)?;
            }
        }
    }
    copies.retain(|copy| copy.mask != 0);
    Ok(())
}
