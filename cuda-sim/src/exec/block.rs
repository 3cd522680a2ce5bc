//! Blocks: one after another, each with its warps in turns and its barriers.

use super::warp::{Arrival, Pause, Warp};
use super::{Checks, Env, Grid, lanes_of};
use crate::Counters;
use crate::fault::{Defect, Error, Fault, FaultKind, Result};
use crate::memory::Memory;
use crate::memory::clock::Clocks;
use crate::memory::shared::{SHARED_BASE, Shared};
use crate::ptx::instr::{Lanes, Reduce};
use crate::ptx::{Constant, Kernel, LaneMask, Special};

/// Barriers of a block.
const BARRIERS: u32 = 16;

/// What a launch runs with.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) grid: Grid,
    pub(crate) params: &'a [u8],
    pub(crate) checks: Checks,
    /// Address of each module variable.
    pub(crate) globals: &'a std::collections::HashMap<String, u64>,
}

/// Runs every block. The limits have been checked.
pub(crate) fn run_launch(launch: &Launch<'_>, memory: &mut Memory) -> Result<Counters> {
    let Launch { kernel, grid, .. } = launch;
    memory.begin_launch();
    let mut env = Env {
        kernel,
        memory,
        shared: Shared::default(),
        clocks: Clocks::default(),
        counters: Counters::launch(),
        params: launch.params,
        checks: launch.checks,
        block: 0,
    };
    let dynamic = kernel.shared_bytes.next_multiple_of(16);
    env.shared.reset(dynamic + grid.shared_bytes);
    let mut block = Block::new(launch)?;
    let [nx, ny, nz] = grid.blocks;
    for z in 0..nz {
        for y in 0..ny {
            for x in 0..nx {
                block.run(&mut env, [x, y, z])?;
                env.block += 1;
            }
        }
    }
    let counters = std::mem::take(&mut env.counters);
    memory.end_launch();
    Ok(counters)
}

/// Where a warp is.
#[derive(Debug, Clone)]
enum State {
    Ready,
    Waiting(Arrival),
    Done,
}

struct Block<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    states: Vec<State>,
    /// Warps that came to a barrier and did not wait.
    passed: Vec<(usize, Arrival)>,
    at: [u32; 3],
}

impl<'a> Block<'a> {
    /// Registers and what stays the same for all blocks.
    fn new(launch: &'a Launch<'a>) -> Result<Self> {
        let kernel = launch.kernel;
        let threads = launch.grid.block_threads() as usize;
        let mut warps = Vec::new();
        for index in 0..threads.div_ceil(32) {
            let mut warp = Warp::new(kernel);
            for (register, constant) in &kernel.constants {
                warp.regs[*register as usize] = fixed(launch, constant, index)?;
            }
            warps.push(warp);
        }
        let states = vec![State::Ready; warps.len()];
        Ok(Self { launch, warps, states, passed: Vec::new(), at: [0; 3] })
    }

    fn run(&mut self, env: &mut Env<'_>, at: [u32; 3]) -> Result<()> {
        let threads = self.launch.grid.block_threads() as usize;
        self.at = at;
        env.shared.begin_block();
        env.clocks.reset(self.warps.len());
        env.counters.blocks += 1;
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let lanes = (threads - 32 * index).min(32);
            warp.start(index, u32::MAX >> (32 - lanes));
            for (register, constant) in &self.launch.kernel.constants {
                if let Constant::Special(Special::Ctaid(axis)) = constant {
                    warp.regs[*register as usize] = [u64::from(at[usize::from(*axis)]); 32];
                }
            }
        }
        self.states.fill(State::Ready);
        self.passed.clear();
        loop {
            let mut ran = false;
            for index in 0..self.warps.len() {
                if matches!(self.states[index], State::Ready) {
                    ran = true;
                    self.turn(index, env)?;
                }
            }
            if self.states.iter().all(|state| matches!(state, State::Done)) {
                return Ok(());
            }
            if !ran {
                return Err(self.stuck(env));
            }
            if env.counters.instructions_total() > env.checks.instructions_max {
                let what = format!("more than {} warp instructions", env.checks.instructions_max);
                return Err(self.fault(
                    env,
                    0,
                    0,
                    &Defect { kind: FaultKind::Hang, lane: 0, what },
                ));
            }
        }
    }

    /// Runs a warp until it gives way, then opens the barriers that are complete.
    fn turn(&mut self, index: usize, env: &mut Env<'_>) -> Result<()> {
        match self.warps[index].run(env) {
            Ok(Pause::Turn) => return Ok(()),
            Ok(Pause::Done) => self.states[index] = State::Done,
            Ok(Pause::Barrier(arrival)) => {
                if arrival.id >= BARRIERS {
                    let what = format!("barrier {} of {BARRIERS}", arrival.id);
                    let defect = Defect { kind: FaultKind::Undefined, lane: 0, what };
                    return Err(self.fault(env, index, arrival.pc, &defect));
                }
                self.states[index] = State::Waiting(arrival);
            }
            Ok(Pause::Arrive(arrival)) => self.passed.push((index, arrival)),
            Err((pc, defect)) => return Err(self.fault(env, index, pc, &defect)),
        }
        self.open_barriers(env)
    }

    /// Lets those go whose barrier has all it waits for.
    fn open_barriers(&mut self, env: &mut Env<'_>) -> Result<()> {
        let mut ids: Vec<u32> = Vec::new();
        for state in &self.states {
            if let State::Waiting(arrival) = state
                && !ids.contains(&arrival.id)
            {
                ids.push(arrival.id);
            }
        }
        for id in ids {
            let at = |state: &State| matches!(state, State::Waiting(arrival) if arrival.id == id);
            let waiting: Vec<usize> =
                (0..self.warps.len()).filter(|n| at(&self.states[*n])).collect();
            let passed: Vec<usize> =
                self.passed.iter().filter(|(_, a)| a.id == id).map(|(n, _)| *n).collect();
            let State::Waiting(first) = self.states[waiting[0]].clone() else { continue };
            let complete = match first.count {
                // A barrier counts whole warps.
                Some(count) => 32 * (waiting.len() + passed.len()) as u32 >= count,
                None => self.states.iter().all(|state| at(state) || matches!(state, State::Done)),
            };
            if !complete {
                continue;
            }
            self.check_same_place(env, &waiting, &first)?;
            self.reduce(&waiting);
            env.clocks.sync_warps(&waiting, &passed);
            env.counters.barriers += 1;
            self.passed.retain(|(_, a)| a.id != id);
            for n in waiting {
                self.states[n] = State::Ready;
            }
        }
        Ok(())
    }

    /// A barrier for the whole block has to be the same one for all its warps.
    fn check_same_place(&self, env: &Env<'_>, waiting: &[usize], first: &Arrival) -> Result<()> {
        for &n in waiting {
            let State::Waiting(arrival) = &self.states[n] else { continue };
            let other_count = arrival.count != first.count;
            if other_count || first.count.is_none() && arrival.pc != first.pc {
                let what = format!(
                    "warp {} waits at instruction {}, warp {n} at {}: one barrier, reached from two places",
                    waiting[0], first.pc, arrival.pc
                );
                let defect = Defect { kind: FaultKind::DivergentBarrier, lane: 0, what };
                return Err(self.fault(env, n, arrival.pc, &defect));
            }
        }
        Ok(())
    }

    /// `bar.red`: over the threads of all warps.
    fn reduce(&mut self, waiting: &[usize]) {
        let mut lanes = Vec::new();
        for &n in waiting {
            if let State::Waiting(Arrival { reduce: Some((how, yes)), .. }) = &self.states[n] {
                lanes.push((n, *how, *yes, self.warps[n].live));
            }
        }
        let count: u32 = lanes.iter().map(|(_, _, yes, _)| yes.count_ones()).sum();
        let all = lanes.iter().all(|(_, _, yes, live)| yes & live == *live);
        for (n, how, _, live) in lanes {
            let warp = &mut self.warps[n];
            match how {
                Reduce::Popc(d) => warp.write(d, live, &[u64::from(count); 32]),
                Reduce::And(p) => warp.write_pred(p, live, if all { u32::MAX } else { 0 }),
                Reduce::Or(p) => warp.write_pred(p, live, if count > 0 { u32::MAX } else { 0 }),
            }
        }
    }

    /// No warp can run: some wait at a barrier that the others do not come to.
    fn stuck(&self, env: &Env<'_>) -> Error {
        let mut waits = Vec::new();
        for (n, state) in self.states.iter().enumerate() {
            if let State::Waiting(arrival) = state {
                waits.push((n, arrival));
            }
        }
        let words: Vec<String> = waits
            .iter()
            .map(|(n, a)| format!("warp {n} at barrier {} (instruction {})", a.id, a.pc))
            .collect();
        let what = format!("barriers that never open: {}", words.join(", "));
        let (warp, pc) = waits.first().map_or((0, 0), |(n, a)| (*n, a.pc));
        self.fault(env, warp, pc, &Defect { kind: FaultKind::DivergentBarrier, lane: 0, what })
    }

    fn fault(&self, env: &Env<'_>, warp: usize, pc: u32, defect: &Defect) -> Error {
        let kernel = env.kernel;
        let (file, line) = kernel.sources.get(pc as usize).copied().unwrap_or_default();
        let source = kernel.files.get(&file).map(|name| format!("{name}:{line}"));
        Error::Fault(Box::new(Fault {
            kind: defect.kind,
            kernel: kernel.name.clone(),
            block: self.at,
            thread: thread_of(self.launch.grid.threads, (32 * warp + defect.lane) as u32),
            pc,
            ptx_line: kernel.lines.get(pc as usize).copied().unwrap_or_default(),
            source,
            what: defect.what.clone(),
        }))
    }
}

/// x y z of the n-th thread.
fn thread_of([nx, ny, _]: [u32; 3], n: u32) -> [u32; 3] {
    [n % nx, n / nx % ny, n / nx / ny]
}

/// What a constant register of one warp holds.
fn fixed(launch: &Launch<'_>, constant: &Constant, warp: usize) -> Result<Lanes> {
    let same = |value: u64| Ok([value; 32]);
    let shared = launch.kernel.shared_bytes.next_multiple_of(16);
    let special = match constant {
        Constant::Value(value) => return same(*value),
        Constant::Shared(at) => return same(u64::from(SHARED_BASE + at)),
        Constant::SharedDynamic => return same(u64::from(SHARED_BASE + shared)),
        Constant::Global(name) => {
            return match launch.globals.get(name) {
                Some(address) => same(*address),
                None => Err(Error::Invalid(format!("module variable `{name}` has no address"))),
            };
        }
        Constant::Special(special) => *special,
    };
    let Grid { blocks, threads, shared_bytes } = launch.grid;
    let mut values: Lanes = [0; 32];
    for lane in lanes_of(u32::MAX) {
        let bit = 1u64 << lane;
        let thread = thread_of(threads, (32 * warp + lane) as u32);
        values[lane] = match special {
            Special::Tid(axis) => u64::from(thread[usize::from(axis)]),
            Special::Ntid(axis) => u64::from(threads[usize::from(axis)]),
            Special::Nctaid(axis) => u64::from(blocks[usize::from(axis)]),
            // Filled when the block starts.
            Special::Ctaid(_) | Special::Zero => 0,
            Special::Lane => lane as u64,
            Special::Warp => warp as u64,
            Special::WarpCount => u64::from(launch.grid.block_threads().div_ceil(32)),
            Special::LaneMask(LaneMask::Eq) => bit,
            Special::LaneMask(LaneMask::Lt) => bit - 1,
            Special::LaneMask(LaneMask::Le) => bit | (bit - 1),
            Special::LaneMask(LaneMask::Gt) => u64::from(u32::MAX) & !(bit | (bit - 1)),
            Special::LaneMask(LaneMask::Ge) => u64::from(u32::MAX) & !(bit - 1),
            Special::SharedDynamicBytes => u64::from(shared_bytes),
            Special::SharedBytes => u64::from(shared + shared_bytes),
        };
    }
    Ok(values)
}
