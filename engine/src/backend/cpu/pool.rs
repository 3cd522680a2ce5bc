//! The compute pool: a fixed team of threads that runs one parallel loop at a time.
//!
//! A decode step of a small model is dozens of loops of a few microseconds, so a loop must start without a lock, an
//! allocation or a system call while the team is warm: workers spin for a short while on the state word and park only
//! when nothing comes. The calling thread works too, and waits only for workers that have entered the loop: one that
//! the system has put aside on a busy machine is not missed. Tasks are claimed by an atomic counter; which thread runs
//! a task never changes its result. Where memory has several nodes, each has a counter: a thread takes the tasks that are
//! at home with its own before it helps the others.

mod parts;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread, ThreadId};

pub(super) use parts::{Block, Exclusive};

use super::topology::{Affinity, Seat, Team};
use crate::error::{Error, Result};

/// Looks at the state before a worker parks: some tens of microseconds.
const SPINS: u32 = 2_000;

/// Looks of the caller at workers that are still busy, before it lets others have the processor.
const PATIENCE: u32 = 4_000;

/// The state word: a loop's number, whether workers may still enter it, and how many have.
const OPEN: u64 = 1 << 16;
const ENTERED: u64 = OPEN - 1;
const NUMBER: u64 = 1 << 17;

/// A loop of less work runs on the calling thread: some microseconds, which is what handing it out costs.
const WORK_MIN: usize = 1 << 16;

/// A loop's body as a few words, so that handing it over allocates nothing.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize, usize),
    body: *const (),
    n_task: usize,
    /// Which node a task is at home with; `None`: any thread is as good.
    home: Option<Home>,
}

/// A loop's homes as two words.
#[derive(Clone, Copy)]
struct Home {
    ask: unsafe fn(*const (), usize) -> usize,
    of: *const (),
}

/// A counter with a cache line to itself.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicUsize);

/// What caller and workers share.
struct Shared {
    /// The present loop: number, open or not, workers that entered.
    state: AtomicU64,
    /// Workers that have left the present loop.
    left: AtomicU64,
    /// The next task to claim: of each node, or of all at the first.
    next: Box<[Counter]>,
    stop: AtomicBool,
    job: std::cell::UnsafeCell<Option<Job>>,
    has_panic: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the caller only while the last loop is closed and all who entered it have left, and read
// by workers only after they entered the loop that was opened after the write (release, acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointers inside `job` are to `Sync` closures that outlive the loop they belong to.
unsafe impl Send for Shared {}

/// A fixed team of threads, the caller included.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
    /// The caller's place.
    seat: Seat,
    /// Who took it last, and where that thread could run before.
    seated: Option<(ThreadId, Option<Affinity>)>,
    /// The system's numbers of the team's memory nodes.
    nodes: Vec<usize>,
}

impl Pool {
    /// A team with the places of `team`, the calling thread in the first.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system refuses a thread.
    pub(super) fn new(team: &Team) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            left: AtomicU64::new(0),
            next: team.nodes.iter().map(|_| Counter::default()).collect(),
            stop: AtomicBool::new(false),
            job: std::cell::UnsafeCell::new(None),
            has_panic: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(team.seats.len()),
            seat: team.seats.first().copied().unwrap_or_default(),
            seated: None,
            nodes: team.nodes.clone(),
        };
        for (index, &seat) in team.seats.iter().enumerate().skip(1) {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("hadal-compute-{index}"))
                .spawn(move || {
                    hold(seat);
                    work(&shared, index, seat.node);
                })
                .map_err(|error| Error::Internal {
                    message: format!("cannot start a compute thread: {error}"),
                })?;
            pool.workers.push((handle.thread().clone(), Some(handle)));
        }
        Ok(pool)
    }

    /// Threads of the team.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The system's numbers of the memory nodes that threads are near; one where that makes no difference.
    pub(super) fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// [`Pool::run`], or on this thread alone when the whole loop is less work than waking the others.
    /// `work` counts multiplications, or about as many simple steps.
    pub(super) fn run_work<F: Fn(usize, usize) + Sync>(
        &mut self,
        work: usize,
        n_task: usize,
        body: F,
    ) {
        if work < WORK_MIN {
            (0..n_task).for_each(|task| body(task, 0));
        } else {
            self.run(n_task, body);
        }
    }

    /// [`Pool::run_work`], tasks with threads near `home(task)`, one of the team's nodes, as long as those have time.
    pub(super) fn run_work_at<F: Fn(usize, usize) + Sync, H: Fn(usize) -> usize + Sync>(
        &mut self,
        work: usize,
        n_task: usize,
        home: H,
        body: F,
    ) {
        if self.nodes.len() == 1 || work < WORK_MIN {
            return self.run_work(work, n_task, body);
        }
        let home = Home { ask: ask::<H>, of: std::ptr::from_ref(&home).cast() };
        self.run_job(n_task, Some(home), body);
    }

    /// Calls `body(task, thread)` once for every task below `n_task`, on any thread, and returns when all are done.
    /// A panic in a task is raised again here.
    pub(super) fn run<F: Fn(usize, usize) + Sync>(&mut self, n_task: usize, body: F) {
        self.run_job(n_task, None, body);
    }

    fn run_job<F: Fn(usize, usize) + Sync>(&mut self, n_task: usize, home: Option<Home>, body: F) {
        self.take_seat();
        if self.workers.is_empty() || n_task <= 1 {
            (0..n_task).for_each(|task| body(task, 0));
            return;
        }
        let job = Job { call: call::<F>, body: std::ptr::from_ref(&body).cast(), n_task, home };
        let shared = &*self.shared;
        // SAFETY: `&mut self`, and the last `run` returned after it had closed its loop and all had left it.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.iter().for_each(|next| next.0.store(0, Ordering::Relaxed));
        shared.left.store(0, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) & !(NUMBER - 1)).wrapping_add(NUMBER);
        shared.state.store(number | OPEN, Ordering::Release);
        self.workers.iter().take(n_task - 1).for_each(|(thread, _)| thread.unpark());
        let own = catch_unwind(AssertUnwindSafe(|| claim(shared, job, 0, self.seat.node)));
        let entered = shared.state.fetch_and(!OPEN, Ordering::AcqRel) & ENTERED;
        let mut looks = 0;
        while shared.left.load(Ordering::Acquire) < entered {
            looks += 1;
            if looks < PATIENCE { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let other = if shared.has_panic.swap(false, Ordering::Acquire) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
        } else {
            None
        };
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }

    /// Holds the calling thread to the first place, where that is a certain one. A model is loaded by one thread, and runs
    /// on another.
    fn take_seat(&mut self) {
        if self.seat.cpu.is_none() {
            return;
        }
        let caller = std::thread::current().id();
        if self.seated.as_ref().is_none_or(|(id, _)| *id != caller) {
            // One that had the place before may come again, held to it: the first one's is what they all had.
            let before = self.seated.take().map_or_else(Affinity::current, |(_, before)| before);
            self.seated = Some((caller, before));
            hold(self.seat);
        }
    }

    /// Lets the calling thread run where it could before its first loop, if it has the place: until the next one, or for
    /// what it does and starts when it has no more.
    pub(super) fn leave_seat(&mut self) {
        if let Some((thread, Some(before))) = self.seated.take()
            && thread == std::thread::current().id()
        {
            before.hold();
        }
    }
}

/// Holds this thread to its processor, if it has one.
fn hold(seat: Seat) {
    if let Some(cpu) = seat.cpu {
        Affinity::one(cpu).hold();
    }
}

/// Runs one task of a body of type `F`.
///
/// # Safety
/// `body` points to an `F` that lives until this returns.
unsafe fn call<F: Fn(usize, usize) + Sync>(body: *const (), task: usize, thread: usize) {
    // SAFETY: `body` points to the `F` of the `run` that is still on its stack, waiting for all who entered.
    unsafe { (*body.cast::<F>())(task, thread) }
}

/// The home of a task, as `H` says.
///
/// # Safety
/// As [`call`].
unsafe fn ask<H: Fn(usize) -> usize + Sync>(home: *const (), task: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*home.cast::<H>())(task) }
}

/// Claims and runs tasks until none is left: of a loop with homes the own node's, then the next one's, and so on. Each
/// node's counter passes all tasks, and those of other homes are left to theirs.
fn claim(shared: &Shared, job: Job, thread: usize, node: usize) {
    let n_node = if job.home.is_some() { shared.next.len() } else { 1 };
    for node in (0..n_node).map(|i| (node + i) % n_node) {
        loop {
            let task = shared.next[node].0.fetch_add(1, Ordering::Relaxed);
            if task >= job.n_task {
                break;
            }
            // SAFETY: the caller of `run` waits for all who entered, so body and home are alive.
            unsafe {
                if job.home.is_none_or(|home| (home.ask)(home.of, task) % n_node == node) {
                    (job.call)(job.body, task, thread);
                }
            }
        }
    }
}

/// A worker's life: enter a loop, help, leave.
fn work(shared: &Shared, thread: usize, node: usize) {
    let mut seen = 0;
    while let Some(number) = enter(shared, seen) {
        seen = number;
        // SAFETY: written before the loop that `enter` entered was opened, and kept until this worker has left.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| claim(shared, job, thread, node)))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            shared.has_panic.store(true, Ordering::Release);
        }
        shared.left.fetch_add(1, Ordering::Release);
    }
}

/// Enters the next open loop with another number than `seen`; spins, then parks, until there is one. `None`: the pool
/// is at its end.
fn enter(shared: &Shared, seen: u64) -> Option<u64> {
    let mut spins = 0;
    loop {
        if shared.stop.load(Ordering::Acquire) {
            return None;
        }
        let state = shared.state.load(Ordering::Acquire);
        let number = state & !(NUMBER - 1);
        if number != seen && state & OPEN != 0 {
            let entered = shared.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                return Some(number);
            }
        } else if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::park();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker that panicked outside a task has nothing left to hand back.
                drop(handle.join());
            }
        }
        self.leave_seat();
    }
}

#[cfg(test)]
mod tests;
