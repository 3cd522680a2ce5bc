//! Streams as queues: what is in them, what may run next, and running it.

use std::sync::Arc;

use super::card::Card;
use super::graph::Node;
use super::{Outcome, code};
use crate::device::Function;
use crate::exec::Grid;
use crate::fault::{Error, FaultKind};
use crate::memory::Finding;

/// Host memory that a copy reads.
#[derive(Debug, Clone)]
pub(crate) enum HostBytes {
    /// Taken when the copy was asked for.
    Staged(Arc<Vec<u8>>),
    /// Read when the copy runs: pinned memory, and everything in a graph.
    Late { address: usize, len: usize },
}

/// Work in a stream.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Launch { function: Box<Function>, grid: Grid, params: Vec<u8> },
    ToDevice { to: u64, from: HostBytes },
    ToHost { to: usize, from: u64, len: usize },
    Copy { to: u64, from: u64, len: u64 },
    Fill { to: u64, pattern: Vec<u8>, count: u64 },
    Free { address: u64 },
    Record { event: u64, generation: u64 },
    Wait { event: u64, generation: u64 },
    Graph(Arc<Vec<Node>>),
    Host { function: usize, data: usize },
}

/// A command, and how far other streams must be before it runs.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) command: Command,
    pub(crate) after: Vec<(u64, u64)>,
}

impl Card {
    /// Puts a command behind a stream's others, or into the capture that the stream is in.
    pub(crate) fn enqueue(&mut self, stream: u64, command: Command) -> Outcome {
        if let Some(capture) = self.captures.iter_mut().find(|capture| capture.has(stream)) {
            if capture.invalid {
                return Err(code::CAPTURE_INVALIDATED);
            }
            capture.add(stream, command);
            return Ok(());
        }
        let Some(this) = self.streams.get(&stream) else { return Err(code::INVALID_HANDLE) };
        // The null stream and the blocking ones keep the order of their calls.
        let ordered = |id: &u64| if stream == 0 { *id != 0 } else { *id == 0 };
        let mut after = Vec::new();
        if this.blocking {
            for (id, other) in &self.streams {
                if other.blocking && ordered(id) {
                    after.push((*id, other.issued));
                }
            }
            if stream == 0 && self.captures.iter().any(|capture| !capture.relaxed) {
                return Err(self.capture_breaks(code::CAPTURE_IMPLICIT));
            }
        }
        if let Some(this) = self.streams.get_mut(&stream) {
            this.issued += 1;
            this.queue.push_back(Queued { command, after });
        }
        Ok(())
    }

    /// Whether a stream's next command may run.
    fn may_run(&self, stream: u64) -> bool {
        let Some(head) = self.streams.get(&stream).and_then(|stream| stream.queue.front()) else {
            return false;
        };
        let far = |(id, n): &(u64, u64)| self.streams.get(id).is_none_or(|other| other.done >= *n);
        let recorded = match head.command {
            Command::Wait { event, generation } => {
                self.events.get(&event).is_none_or(|event| event.done >= generation)
            }
            _ => true,
        };
        recorded && head.after.iter().all(far)
    }

    /// Runs one command of a stream that the seed picks. False when none may run.
    pub(crate) fn run_one(&mut self) -> Result<bool, u32> {
        let mut able: Vec<u64> =
            self.streams.keys().copied().filter(|id| self.may_run(*id)).collect();
        // The order of a map is no choice: the seed's is.
        able.sort_unstable();
        if able.is_empty() {
            return Ok(false);
        }
        let id = able[self.random() as usize % able.len()];
        let Some(queued) = self.streams.get_mut(&id).and_then(|stream| stream.queue.pop_front())
        else {
            return Ok(false);
        };
        self.run(queued.command)?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.done += 1;
        }
        Ok(true)
    }

    /// Runs until a condition holds.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> Outcome {
        while !done(self) {
            if !self.run_one()? {
                return Err(
                    self.fail(code::UNKNOWN, "streams wait for each other, and none can go on")
                );
            }
        }
        Ok(())
    }

    pub(crate) fn synchronize(&mut self, stream: u64) -> Outcome {
        self.run_until(|card| {
            card.streams.get(&stream).is_none_or(|stream| stream.queue.is_empty())
        })
    }

    pub(crate) fn synchronize_all(&mut self) -> Outcome {
        self.run_until(|card| card.streams.values().all(|stream| stream.queue.is_empty()))
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.n_commands += 1;
        if self.config.lose_after.is_some_and(|n| self.n_commands > n) {
            return Err(self.fail(code::UNKNOWN, "the card is lost, as the configuration asks"));
        }
        match command {
            Command::Launch { function, grid, params } => self.run_launch(&function, grid, &params),
            Command::ToDevice { to, from } => {
                let bytes = self.host_bytes(&from)?;
                let written = self.device.memory.write(to, &bytes);
                self.checked(written)
            }
            Command::ToHost { to, from, len } => {
                let mut bytes = vec![0; len];
                let read = self.device.memory.read(from, &mut bytes);
                self.checked(read)?;
                // SAFETY: the caller of the copy keeps `len` bytes at `to` until it has waited for it.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, len) };
                Ok(())
            }
            Command::Copy { to, from, len } => {
                let copied = self.device.memory.copy(to, from, len);
                self.checked(copied)
            }
            Command::Fill { to, pattern, count } => {
                let filled = self.device.memory.fill(to, &pattern, count);
                self.checked(filled)
            }
            Command::Free { address } => match self.device.free(address) {
                Ok(()) => Ok(()),
                Err(error) => Err(self.fail(code::ILLEGAL_ADDRESS, error.to_string())),
            },
            Command::Record { event, generation } => {
                if let Some(this) = self.events.get_mut(&event) {
                    this.done = this.done.max(generation);
                    this.at = self.n_commands;
                    // Who waits for an event that is gone has nothing to wait for: it has happened.
                    if this.destroyed && this.done >= this.issued {
                        self.events.remove(&event);
                    }
                }
                Ok(())
            }
            Command::Wait { .. } => Ok(()),
            Command::Graph(nodes) => self.run_graph(&nodes),
            Command::Host { function, data } => {
                // SAFETY: the caller gave a host function and its argument, to be called once in stream order.
                unsafe {
                    let call: extern "C" fn(*mut std::ffi::c_void) = std::mem::transmute(function);
                    call(data as *mut std::ffi::c_void);
                }
                Ok(())
            }
        }
    }

    /// Any order that keeps what comes after what: the seed's.
    fn run_graph(&mut self, nodes: &[Node]) -> Outcome {
        let mut done = vec![false; nodes.len()];
        for _ in 0..nodes.len() {
            let able: Vec<usize> = (0..nodes.len())
                .filter(|n| !done[*n] && nodes[*n].after.iter().all(|m| done[*m]))
                .collect();
            let Some(&node) = able.get(self.random() as usize % able.len().max(1)) else { break };
            self.run(nodes[node].command.clone())?;
            done[node] = true;
        }
        Ok(())
    }

    fn run_launch(&mut self, function: &Function, grid: Grid, params: &[u8]) -> Outcome {
        self.n_launches += 1;
        if self.config.fail_launch == Some(self.n_launches) {
            let what = format!("launch {} fails, as the configuration asks", self.n_launches);
            return Err(self.fail(code::LAUNCH_FAILED, what));
        }
        match self.device.launch(function, grid, params) {
            Ok(counters) => {
                self.counters.entry(function.kernel.name.clone()).or_default().add(&counters);
                Ok(())
            }
            Err(error) => {
                let code = match &error {
                    Error::Fault(fault) => code_of(fault.kind),
                    _ => code::LAUNCH_FAILED,
                };
                Err(self.fail(code, error.to_string()))
            }
        }
    }

    fn host_bytes(&mut self, from: &HostBytes) -> Result<Arc<Vec<u8>>, u32> {
        match from {
            HostBytes::Staged(bytes) => Ok(bytes.clone()),
            HostBytes::Late { address, len } => {
                if self.unpinned.contains(address) {
                    let what = "a copy reads pinned memory that was given back before it ran";
                    return Err(self.fail(code::ILLEGAL_ADDRESS, what));
                }
                // SAFETY: the caller of the copy keeps `len` bytes there until it has waited for it; memory that was given back is
                // caught above.
                Ok(Arc::new(
                    unsafe { std::slice::from_raw_parts(*address as *const u8, *len) }.to_vec(),
                ))
            }
        }
    }

    fn checked(&mut self, finding: Finding<()>) -> Outcome {
        finding
            .map_err(|(kind, what)| self.fail(code_of(kind), format!("a copy: {kind:?}: {what}")))
    }

    /// From now on every call gives this code, until the context is gone.
    pub(crate) fn fail(&mut self, code: u32, what: impl Into<String>) -> u32 {
        self.message = what.into();
        // Callers mostly see the code alone.
        eprintln!("cuda-sim: {}", self.message);
        self.failed = Some(code);
        self.streams.values_mut().for_each(|stream| stream.queue.clear());
        code
    }
}

fn code_of(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => code::MISALIGNED_ADDRESS,
        FaultKind::Hang => code::LAUNCH_TIMEOUT,
        FaultKind::Trap => code::ASSERT,
        _ => code::LAUNCH_FAILED,
    }
}
