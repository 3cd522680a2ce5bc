//! One warp: its registers, its groups of lanes that are at the same instruction, and which of them runs next.
//!
//! The group with the lowest instruction runs until it meets another, so that lanes which parted come together where
//! their paths do. Every so often another group has its turn: a lane that waits for its neighbour in a loop would else spin
//! for ever.

use super::Env;
use super::async_copy::Copies;
use super::step::{Flow, step};
use crate::fault::{Defect, FaultKind, Step};
use crate::ptx::Kernel;
use crate::ptx::instr::{Lanes, P, R, Reduce};

/// Lanes that are at the same instruction.
#[derive(Debug, Clone, Copy)]
struct Group {
    pc: u32,
    mask: u32,
    /// At a warp-wide instruction that lanes are missing from.
    waiting: bool,
}

/// Where a warp stands at a barrier of its block.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) id: u32,
    /// Threads the barrier waits for; none for all.
    pub(crate) count: Option<u32>,
    pub(crate) pc: u32,
    /// Lanes whose predicate holds, where the barrier reduces one.
    pub(crate) reduce: Option<(Reduce, u32)>,
}

/// Why a warp gives way.
pub(crate) enum Pause {
    Done,
    Barrier(Arrival),
    /// It only passes by: others may be waiting for it.
    Arrive(Arrival),
    Turn,
}

/// Instructions after which another warp has its turn.
const TURN: u32 = 16_384;
/// Instructions after which another group of the same warp has its turn.
const GROUP_TURN: u32 = 128;

/// A warp.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub(crate) index: usize,
    pub(crate) regs: Vec<Lanes>,
    pub(crate) preds: Vec<u32>,
    /// Lanes that have not ended.
    pub(crate) live: u32,
    pub(crate) carry: u32,
    /// Local memory `[lane, byte]`, and whether each byte was written.
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
    pub(crate) copies: Copies,
    groups: Vec<Group>,
    turns: u32,
    /// Whether anything but waiting has happened since all groups waited last.
    moved: bool,
}

impl Warp {
    /// Room for a kernel's registers and local memory.
    pub(crate) fn new(kernel: &Kernel) -> Self {
        let local = 32 * kernel.local_bytes as usize;
        Self {
            regs: vec![[0; 32]; kernel.regs],
            preds: vec![0; kernel.preds],
            local: vec![0xff; local],
            local_written: vec![false; local],
            ..Self::default()
        }
    }

    /// Starts at the first instruction with the lanes of a mask.
    pub(crate) fn start(&mut self, index: usize, live: u32) {
        self.index = index;
        self.live = live;
        self.carry = 0;
        self.preds.fill(0);
        self.local_written.fill(false);
        self.copies = Copies::default();
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: live, waiting: false });
        (self.turns, self.moved) = (0, true);
    }

    pub(crate) fn write(&mut self, d: R, mask: u32, values: &Lanes) {
        let to = &mut self.regs[d as usize];
        if mask == u32::MAX {
            *to = *values;
        } else {
            for lane in super::lanes_of(mask) {
                to[lane] = values[lane];
            }
        }
    }

    pub(crate) fn write_pred(&mut self, p: P, mask: u32, value: u32) {
        let to = &mut self.preds[p as usize];
        *to = *to & !mask | value & mask;
    }

    /// The lanes where a predicate, or its negation, holds.
    pub(crate) fn holds(&self, (p, not): (P, bool)) -> u32 {
        let value = self.preds[p as usize];
        if not { !value } else { value }
    }

    /// Runs until something outside the warp has to happen. The instruction of a defect comes with it.
    pub(crate) fn run(&mut self, env: &mut Env<'_>) -> Result<Pause, (u32, Box<Defect>)> {
        let mut left = TURN;
        loop {
            self.merge();
            if self.groups.is_empty() {
                return Ok(Pause::Done);
            }
            let at = self.pick(env).map_err(|defect| (self.groups[0].pc, defect))?;
            if let Some(pause) = self.run_group(at, &mut left, env)? {
                return Ok(pause);
            }
            if left == 0 {
                return Ok(Pause::Turn);
            }
        }
    }

    /// Joins groups that are at the same instruction; the lowest comes first.
    fn merge(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        self.groups.sort_unstable_by_key(|group| group.pc);
        let mut kept = 0;
        for at in 1..self.groups.len() {
            let group = self.groups[at];
            if self.groups[kept].pc == group.pc {
                self.groups[kept].mask |= group.mask;
                self.groups[kept].waiting = false;
            } else {
                kept += 1;
                self.groups[kept] = group;
            }
        }
        self.groups.truncate(kept + 1);
    }

    fn pick(&mut self, env: &Env<'_>) -> Step<usize> {
        let ready = self.groups.iter().filter(|group| !group.waiting).count();
        if ready == 0 {
            if !self.moved {
                return Err(self.stuck(env));
            }
            // Lanes may have ended since: look at every instruction again.
            self.moved = false;
            self.groups.iter_mut().for_each(|group| group.waiting = false);
            return Ok(0);
        }
        self.turns = self.turns.wrapping_add(1);
        // Mostly the lowest; in turns any.
        let skip = if self.turns % 4 == 3 { (self.turns / 4) as usize % ready } else { 0 };
        let mut free = (0..self.groups.len()).filter(|at| !self.groups[*at].waiting);
        Ok(free.nth(skip).unwrap_or(0))
    }

    /// All groups wait at warp-wide instructions, each for lanes that are elsewhere.
    fn stuck(&self, env: &Env<'_>) -> Box<Defect> {
        use crate::ptx::Op;
        let group = self.groups[0];
        let barrier = matches!(env.kernel.code[group.pc as usize].op, Op::Barrier { .. });
        let absent = self.live & !group.mask;
        let elsewhere: Vec<String> = self.groups[1..]
            .iter()
            .map(|other| format!("lanes {:#010x} at instruction {}", other.mask, other.pc))
            .collect();
        let (kind, what) = if barrier {
            (FaultKind::DivergentBarrier, "a block's barrier in divergent code")
        } else {
            (FaultKind::AbsentLanes, "a warp-wide instruction lacks lanes that its mask names")
        };
        let what = format!(
            "{what}: lanes {:#010x} are here, {absent:#010x} are not ({})",
            group.mask,
            elsewhere.join(", ")
        );
        Defect::new(kind, group.mask.trailing_zeros() as usize, what)
    }

    /// Lanes that go on elsewhere.
    fn leave(&mut self, pc: u32, mask: u32) {
        self.groups.push(Group { pc, mask, waiting: false });
    }

    /// Runs one group until it ends, parts, waits, meets another or has had its turn.
    fn run_group(
        &mut self,
        at: usize,
        left: &mut u32,
        env: &mut Env<'_>,
    ) -> Result<Option<Pause>, (u32, Box<Defect>)> {
        let Group { mut pc, mut mask, .. } = self.groups[at];
        let alone = self.groups.len() == 1;
        let mut turn = if alone { *left } else { GROUP_TURN.min(*left) };
        let mut pause = None;
        let kernel = env.kernel;
        while turn > 0 {
            if !alone && self.groups.iter().enumerate().any(|(n, other)| n != at && other.pc == pc)
            {
                break;
            }
            turn -= 1;
            *left -= 1;
            let instr = &kernel.code[pc as usize];
            let active = match instr.guard {
                Some(guard) => mask & self.holds(guard),
                None => mask,
            };
            env.counters.instruction(instr.class, active.count_ones());
            let flow = step(self, env, instr, mask, active, pc).map_err(|defect| (pc, defect))?;
            self.moved |= !matches!(flow, Flow::Wait);
            match flow {
                Flow::Next => pc += 1,
                Flow::Jump(target) if active == mask => pc = target,
                Flow::Jump(target) => {
                    self.leave(target, active);
                    (mask, pc) = (mask & !active, pc + 1);
                    break;
                }
                Flow::Scatter(targets) => {
                    targets.into_iter().for_each(|(target, lanes)| self.leave(target, lanes));
                    (mask, pc) = (mask & !active, pc + 1);
                    break;
                }
                Flow::Part => {
                    // Lanes whose predicate keeps them out of a warp-wide instruction go past it.
                    self.leave(pc + 1, mask & !active);
                    mask = active;
                    break;
                }
                Flow::End => {
                    self.live &= !active;
                    mask &= !active;
                    pc += 1;
                    turn = if mask == 0 { 0 } else { turn };
                }
                Flow::Wait => {
                    self.groups[at] = Group { pc, mask, waiting: true };
                    return Ok(None);
                }
                Flow::Pause(why) => {
                    pause = Some(why);
                    pc += 1;
                    break;
                }
            }
        }
        self.groups[at] = Group { pc, mask, waiting: false };
        if mask == 0 {
            self.groups.swap_remove(at);
        }
        Ok(pause)
    }
}
