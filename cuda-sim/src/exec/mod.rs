//! Execution: a launch runs its blocks one after another, a block its warps in turns, a warp its lanes in step.

mod access;
pub(crate) mod alu;
mod async_copy;
mod block;
mod collective;
mod matrix;
mod step;
mod warp;

pub(crate) use block::{Launch, run_launch};

use crate::fault::{Defect, FaultKind, Step};
use crate::memory::Finding;
use crate::memory::Memory;
use crate::memory::clock::Clocks;
use crate::memory::shared::Shared;
use crate::memory::track::Actor;
use crate::{Counters, ptx::Kernel};

/// How a launch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Look for races. The other checks are always on; this one takes a third of the time.
    pub races: bool,
    /// Warp instructions that a launch may run before it counts as hanging.
    pub instructions_max: u64,
}

impl Default for Checks {
    fn default() -> Self {
        Self { races: true, instructions_max: 20_000_000_000 }
    }
}

/// A launch's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks, x y z.
    pub blocks: [u32; 3],
    /// Threads of a block, x y z.
    pub threads: [u32; 3],
    /// Shared memory of a block, beside what the kernel declares.
    pub shared_bytes: u32,
}

impl Grid {
    /// One row of blocks of one row of threads.
    pub fn flat(blocks: u32, threads: u32, shared_bytes: u32) -> Self {
        Self { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared_bytes }
    }

    pub(crate) fn block_threads(&self) -> u32 {
        self.threads.iter().product()
    }
}

/// What all warps of a block share while they run.
pub(crate) struct Env<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) memory: &'a mut Memory,
    pub(crate) shared: Shared,
    pub(crate) clocks: Clocks,
    pub(crate) counters: Counters,
    pub(crate) params: &'a [u8],
    pub(crate) checks: Checks,
    /// The running block's number.
    pub(crate) block: u32,
}

impl Env<'_> {
    /// Splits into the memories and the thread that touches them.
    pub(crate) fn actor(
        &mut self,
        warp: usize,
        lane: usize,
    ) -> (&mut Memory, &mut Shared, Actor<'_>) {
        let actor =
            Actor { clocks: &self.clocks, block: self.block, warp, lane, races: self.checks.races };
        (self.memory, &mut self.shared, actor)
    }
}

/// Gives a finding its lane.
pub(crate) fn at_lane<T>(finding: Finding<T>, lane: usize) -> Step<T> {
    finding.map_err(|(kind, what)| Defect::new(kind, lane, what))
}

pub(crate) fn defect<T>(kind: FaultKind, lane: usize, what: impl Into<String>) -> Step<T> {
    Err(Defect::new(kind, lane, what))
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}
