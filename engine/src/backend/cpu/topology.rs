//! Which processors this process may use, how they are related, and where compute threads go.
//!
//! Two processors of one core share what a product is bound by, so a thread gets a core to itself as long as there are
//! any; slower cores, of processors that have several kinds, come after all fast ones: a loop ends with its last task.
//! Threads are spread over the memory nodes evenly, since weights are. As the system tells it (Linux, `/sys/devices`);
//! where it does not, processors are all alike.

mod affinity;

use std::fs;
use std::path::Path;

pub(super) use affinity::Affinity;

use crate::checkpoint::Arena;
use crate::error::{Error, Result};

/// A core is slow when it has less than this share of the fastest one's capacity, in per cent: cores of one kind differ
/// by a few.
const SLOW_BELOW: u64 = 75;

/// Threads of a team at most.
const THREADS_MAX: usize = 1024;

/// Processors that a machine has at most.
const CPUS_MAX: usize = 1 << 16;

/// Where one compute thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seat {
    /// The processor it is held to; `None`: where the system wants.
    pub(super) cpu: Option<usize>,
    /// Which of the team's memory nodes it is near.
    pub(super) node: usize,
}

/// Where all threads run, the caller's first; one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Team {
    pub(super) seats: Vec<Seat>,
    /// The system's numbers of the memory nodes that seats are near; one or more.
    pub(super) nodes: Vec<usize>,
}

impl Team {
    /// Threads that run where the system wants, memory as it comes.
    pub(super) fn anywhere(threads: usize) -> Self {
        Self { seats: vec![Seat::default(); threads.max(1)], nodes: vec![0] }
    }
}

/// Which of `n_node` memory nodes what lies at the address `at` is near. Weights in memory of our own change nodes from one large page
/// to the next: so what a step reads is spread over all of them, and an address says where it is.
pub(super) fn home(at: usize, n_node: usize) -> usize {
    at / Arena::HUGE_PAGE % n_node
}

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processor {
    id: usize,
    /// The system's number of its memory node.
    node: usize,
    rank: Rank,
}

/// In what order threads come to processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The first of a fast core.
    Fast,
    /// The first of a slow one.
    Slow,
    /// One of a core that another has come to.
    Shared,
}

/// The processors of a machine that a process may use.
#[derive(Debug)]
pub(super) struct Topology {
    /// In the order that threads come to them.
    processors: Vec<Processor>,
    /// Threads that the system lets run at once, a quota of its time included.
    at_once: usize,
}

impl Topology {
    /// Of this process.
    pub(super) fn of_process() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let allowed = Affinity::current().map_or_else(|| (0..at_once).collect(), |set| set.cpus());
        Self::read(Path::new("/sys/devices"), &allowed, at_once)
    }

    /// Of what the files below `devices` say of the processors `allowed`.
    fn read(devices: &Path, allowed: &[usize], at_once: usize) -> Self {
        let nodes = nodes(devices);
        let node_of = |cpu: usize| {
            nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map_or(0, |(node, _)| *node)
        };
        let slow = slow(devices, allowed);
        let mut processors = Vec::new();
        let mut seen = Vec::new();
        for &id in allowed {
            let siblings =
                list(&devices.join(format!("system/cpu/cpu{id}/topology/thread_siblings_list")));
            let is_second = siblings.iter().any(|sibling| seen.contains(sibling));
            let rank = match (is_second, slow.contains(&id)) {
                (true, _) => Rank::Shared,
                (false, true) => Rank::Slow,
                (false, false) => Rank::Fast,
            };
            seen.push(id);
            processors.push(Processor { id, node: node_of(id), rank });
        }
        Self { processors: spread(&processors), at_once }
    }

    /// Threads when none are asked for: one for each fast core, as far as the system lets them run.
    pub(super) fn threads(&self) -> usize {
        self.count(Rank::Fast).min(self.at_once).clamp(1, THREADS_MAX)
    }

    fn count(&self, rank: Rank) -> usize {
        self.processors.iter().filter(|processor| processor.rank == rank).count()
    }

    /// Places for so many threads. `pin`: whether each is held to a processor; `None`: where it matters which, that is with
    /// several memory nodes or several kinds of core, and the team has all fast cores for as long as it likes: of fewer than
    /// all, another process would hold its threads to the same ones. More threads than processors are not held to any.
    ///
    /// # Errors
    /// [`Error::Setting`] outside 1 to 1024.
    pub(super) fn team(&self, threads: usize, pin: Option<bool>) -> Result<Team> {
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(Error::Setting {
                name: "threads",
                got: threads.to_string(),
                want: "1 to 1024".into(),
            });
        }
        let is_uneven = self.count(Rank::Slow) > 0 || self.nodes(self.processors.len()).len() > 1;
        let has_all = threads >= self.count(Rank::Fast) && self.at_once >= self.processors.len();
        if !pin.unwrap_or(is_uneven && has_all) || threads > self.processors.len() {
            return Ok(Team::anywhere(threads));
        }
        let nodes = self.nodes(threads);
        let seat = |processor: &Processor| Seat {
            cpu: Some(processor.id),
            node: nodes.iter().position(|node| *node == processor.node).unwrap_or(0),
        };
        let seats = self.processors[..threads].iter().map(seat).collect();
        Ok(Team { seats, nodes })
    }

    /// Memory nodes of the first processors, in order.
    fn nodes(&self, n: usize) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.processors[..n].iter().map(|p| p.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// Processors by rank, those of one rank by turns of their nodes.
fn spread(processors: &[Processor]) -> Vec<Processor> {
    let turn = |of: &Processor| {
        let is_before = |p: &&Processor| (p.rank, p.node) == (of.rank, of.node) && p.id < of.id;
        processors.iter().filter(is_before).count()
    };
    let mut turns: Vec<(usize, Processor)> = processors.iter().map(|p| (turn(p), *p)).collect();
    turns.sort_by_key(|(turn, p)| (p.rank, *turn, p.node));
    turns.into_iter().map(|(_, processor)| processor).collect()
}

/// The memory nodes and their processors.
fn nodes(devices: &Path) -> Vec<(usize, Vec<usize>)> {
    let entries = fs::read_dir(devices.join("system/node")).into_iter().flatten().flatten();
    let mut nodes: Vec<(usize, Vec<usize>)> = entries
        .filter_map(|entry| {
            let node = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            Some((node, list(&entry.path().join("cpulist"))))
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

/// The slower ones of the processors `allowed`: what Intel does not list as `cpu_core` (`cpu_atom`, `cpu_lowpower`), or those
/// of a smaller capacity.
fn slow(devices: &Path, allowed: &[usize]) -> Vec<usize> {
    let fast = list(&devices.join("cpu_core/cpus"));
    if allowed.iter().any(|cpu| fast.contains(cpu)) {
        return allowed.iter().copied().filter(|cpu| !fast.contains(cpu)).collect();
    }
    let capacity = |cpu: usize| -> Option<u64> {
        let path = devices.join(format!("system/cpu/cpu{cpu}/cpu_capacity"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let all: Vec<(usize, u64)> =
        allowed.iter().filter_map(|&cpu| Some((cpu, capacity(cpu)?))).collect();
    let largest = all.iter().map(|(_, capacity)| *capacity).max().unwrap_or(0);
    let is_slow = |capacity: u64| capacity.saturating_mul(100) < largest.saturating_mul(SLOW_BELOW);
    all.into_iter().filter(|(_, capacity)| is_slow(*capacity)).map(|(cpu, _)| cpu).collect()
}

/// Numbers of a list like `0-3,8,10-11`; none where the file is none, or where it is no list.
fn list(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No machine has more, and a damaged file is no reason to fill memory.
        (last < CPUS_MAX).then_some(first..=last)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests;
