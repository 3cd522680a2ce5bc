//! The compute pool: a fixed team of threads that runs one parallel loop at a time.
//!
//! A decode step of a small model is dozens of loops of a few microseconds, so a loop must start without a lock, an
//! allocation or a system call while the team is warm: workers spin for a short while on the state word and park only
//! when nothing comes. The calling thread works too, and waits only for workers that have entered the loop: one that
//! the system has put aside on a busy machine is not missed. Tasks are claimed by an atomic counter; which thread runs
//! a task never changes its result.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

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

/// A loop's body as two words, so that handing it over allocates nothing.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize, usize),
    body: *const (),
    n_task: usize,
}

/// What caller and workers share.
struct Shared {
    /// The present loop: number, open or not, workers that entered.
    state: AtomicU64,
    /// Workers that have left the present loop.
    left: AtomicU64,
    /// The next task to claim.
    next: AtomicUsize,
    stop: AtomicBool,
    job: std::cell::UnsafeCell<Option<Job>>,
    has_panic: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the caller only while the last loop is closed and all who entered it have left, and read
// by workers only after they entered the loop that was opened after the write (release, acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside `job` is to a `Sync` closure that outlives the loop it belongs to.
unsafe impl Send for Shared {}

/// A fixed team of threads, the caller included.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Pool {
    /// A team of `threads`, the calling thread counted.
    ///
    /// # Errors
    /// [`Error::Setting`] outside 1 to 1024; [`Error::Internal`] when the system refuses a thread.
    pub(super) fn new(threads: usize) -> Result<Self> {
        if !(1..=1024).contains(&threads) {
            return Err(Error::Setting {
                name: "threads",
                got: threads.to_string(),
                want: "1 to 1024".into(),
            });
        }
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            left: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            job: std::cell::UnsafeCell::new(None),
            has_panic: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("hadal-compute-{index}"))
                .spawn(move || work(&shared, index))
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

    /// Calls `body(task, thread)` once for every task below `n_task`, on any thread, and returns when all are done.
    /// A panic in a task is raised again here.
    pub(super) fn run<F: Fn(usize, usize) + Sync>(&mut self, n_task: usize, body: F) {
        if self.workers.is_empty() || n_task <= 1 {
            (0..n_task).for_each(|task| body(task, 0));
            return;
        }
        let job = Job { call: call::<F>, body: std::ptr::from_ref(&body).cast(), n_task };
        let shared = &*self.shared;
        // SAFETY: `&mut self`, and the last `run` returned after it had closed its loop and all had left it.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        shared.left.store(0, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) & !(NUMBER - 1)).wrapping_add(NUMBER);
        shared.state.store(number | OPEN, Ordering::Release);
        self.workers.iter().take(n_task - 1).for_each(|(thread, _)| thread.unpark());
        let own = catch_unwind(AssertUnwindSafe(|| claim(shared, job, 0)));
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
}

impl Pool {
    /// [`Pool::run_work`] where task `i` gets `out[parts(i)]` to itself, and every thread a scratch of its own.
    ///
    /// Parts must ascend without overlap, and there must be a scratch for each thread; both are checked.
    pub(super) fn run_parts<T: Send, S: Send>(
        &mut self,
        work: usize,
        out: &mut [T],
        scratch: &mut [S],
        n_task: usize,
        parts: impl Fn(usize) -> Range<usize> + Sync,
        body: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        let mut end = 0;
        for task in 0..n_task {
            let part = parts(task);
            assert!(end <= part.start && part.start <= part.end, "parts of a loop overlap");
            end = part.end;
        }
        assert!(end <= out.len(), "a part ends at {end}, the output at {}", out.len());
        assert!(
            self.threads() <= scratch.len(),
            "{} threads, {} scratches",
            self.threads(),
            scratch.len()
        );
        let (out, scratch) = (Exclusive::new(out), Exclusive::new(scratch));
        self.run_work(work, n_task, |task, thread| {
            let part = parts(task);
            // SAFETY: parts are inside `out` and disjoint, each task runs once, and a thread runs one task at a time.
            let (part, scratch) =
                unsafe { (out.slice(part.start, part.len()), &mut *scratch.at(thread)) };
            body(task, part, scratch);
        });
    }
}

/// A block of a matrix `[row, stride]`: some columns of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Rows of the block.
    pub(super) rows: Range<usize>,
    /// First column.
    pub(super) column: usize,
}

impl Pool {
    /// [`Pool::run`] where task `i` computes the block `blocks(i)`, `width` columns wide, of `out [row, stride]` in its
    /// thread's scratch and hands it back, rows back to back.
    ///
    /// Blocks must ascend, by rows and then by column, without overlap; that is checked.
    pub(super) fn run_blocks<T: Copy + Send, S: Send>(
        &mut self,
        out: &mut [T],
        (stride, width): (usize, usize),
        scratch: &mut [S],
        n_task: usize,
        blocks: impl Fn(usize) -> Block + Sync,
        body: impl Fn(usize, &mut S) -> &[T] + Sync,
    ) {
        let mut before = Block { rows: 0..0, column: 0 };
        for task in 0..n_task {
            let block = blocks(task);
            let beside = block.rows == before.rows && block.column >= before.column + width;
            assert!(beside || block.rows.start >= before.rows.end, "blocks of a loop overlap");
            assert!(
                block.column + width <= stride && block.rows.end * stride <= out.len(),
                "a block is outside"
            );
            before = block;
        }
        assert!(
            self.threads() <= scratch.len(),
            "{} threads, {} scratches",
            self.threads(),
            scratch.len()
        );
        let (out, scratch) = (Exclusive::new(out), Exclusive::new(scratch));
        self.run(n_task, |task, thread| {
            let block = blocks(task);
            // SAFETY: a thread runs one task at a time.
            let made = body(task, unsafe { &mut *scratch.at(thread) });
            for (row, made) in block.rows.zip(made.chunks(width)) {
                // SAFETY: inside `out` and this task's alone, as checked above.
                unsafe { out.slice(row * stride + block.column, width) }.copy_from_slice(made);
            }
        });
    }
}

/// A pointer that threads use at places of their own.
pub(super) struct Exclusive<T>(*mut T);

impl<T> Exclusive<T> {
    /// Over all of `slice`, which nobody else has.
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The place of element `index`.
    pub(super) fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// They are inside the slice, and no other thread has them now.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(start), len) }
    }
}

// SAFETY: whoever dereferences shows that no other thread has the same place.
unsafe impl<T: Send> Sync for Exclusive<T> {}

/// Runs one task of a body of type `F`.
///
/// # Safety
/// `body` points to an `F` that lives until this returns.
unsafe fn call<F: Fn(usize, usize) + Sync>(body: *const (), task: usize, thread: usize) {
    // SAFETY: `body` points to the `F` of the `run` that is still on its stack, waiting for all who entered.
    unsafe { (*body.cast::<F>())(task, thread) }
}

/// Claims and runs tasks until none is left.
fn claim(shared: &Shared, job: Job, thread: usize) {
    loop {
        let task = shared.next.fetch_add(1, Ordering::Relaxed);
        if task >= job.n_task {
            return;
        }
        // SAFETY: the caller of `run` waits for all who entered, so the body is alive.
        unsafe { (job.call)(job.body, task, thread) };
    }
}

/// A worker's life: enter a loop, help, leave.
fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    while let Some(number) = enter(shared, seen) {
        seen = number;
        // SAFETY: written before the loop that `enter` entered was opened, and kept until this worker has left.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| claim(shared, job, thread)))
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
    }
}

#[cfg(test)]
mod tests;
