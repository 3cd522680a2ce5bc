//! The driver: libcuda's entry points over simulated cards.
//!
//! Nothing runs when it is called for. Every stream is a queue; work is done when somebody waits for it, and which queue goes on
//! next is drawn from a seed, so that a missing event wait shows. Pageable host memory is read when a copy is asked
//! for, pinned memory when it runs, so that a buffer that is filled again too early shows. A kernel's fault is sticky, as
//! on a card: every later call fails with it, and [`control`]'s report has its words.
//!
//! It encodes a reading of the driver's manual, and is no evidence about a driver.

mod api_device;
mod api_graph;
mod api_memory;
mod api_module;
mod api_stream;
mod card;
mod config;
mod control;
mod fatbin;
mod graph;
mod queue;

pub use fatbin::choose as image_ptx;

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use card::Card;
use config::Config;

/// Result codes, as `cuda.h` numbers them.
pub(crate) mod code {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_IMAGE: u32 = 200;
    pub(crate) const INVALID_CONTEXT: u32 = 201;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const INVALID_PTX: u32 = 218;
    pub(crate) const INVALID_HANDLE: u32 = 400;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const NOT_READY: u32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const LAUNCH_TIMEOUT: u32 = 702;
    pub(crate) const ASSERT: u32 = 710;
    pub(crate) const MISALIGNED_ADDRESS: u32 = 716;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const CAPTURE_UNSUPPORTED: u32 = 900;
    pub(crate) const CAPTURE_INVALIDATED: u32 = 901;
    pub(crate) const CAPTURE_UNMATCHED: u32 = 903;
    pub(crate) const CAPTURE_UNJOINED: u32 = 904;
    pub(crate) const CAPTURE_IMPLICIT: u32 = 906;
    pub(crate) const UNKNOWN: u32 = 999;
}

/// What an entry point does: nothing to say, or a code.
pub(crate) type Outcome = Result<(), u32>;

/// All cards, and what the process has done with them.
#[derive(Default)]
pub(crate) struct Driver {
    pub(crate) initialised: bool,
    pub(crate) config: Option<Config>,
    pub(crate) cards: Vec<Card>,
    /// Words of the last refusal or fault.
    pub(crate) message: String,
}

// A driver is one a process by its nature: the entry points have no argument that could carry it.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    /// The current context of the thread: a card's number and 1, or 0.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an entry point. No panic leaves the library: a caller from C could not bear it.
pub(crate) fn call(f: impl FnOnce(&mut Driver) -> Outcome) -> u32 {
    let run = || {
        let mut guard = lock();
        f(guard.get_or_insert_with(Driver::default))
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => code::UNKNOWN,
    }
}

/// The same for what needs an initialised driver.
pub(crate) fn ready(f: impl FnOnce(&mut Driver) -> Outcome) -> u32 {
    call(|driver| if driver.initialised { f(driver) } else { Err(code::NOT_INITIALIZED) })
}

/// The same on the card of the thread's context. After a fault every call gives its code.
pub(crate) fn on_card(f: impl FnOnce(&mut Card) -> Outcome) -> u32 {
    ready(|driver| {
        let at = CURRENT.get().checked_sub(1).ok_or(code::INVALID_CONTEXT)? as usize;
        let card = driver
            .cards
            .get_mut(at)
            .filter(|card| card.retained > 0)
            .ok_or(code::INVALID_CONTEXT)?;
        let outcome = match card.failed {
            Some(code) => Err(code),
            None => f(card),
        };
        if !card.message.is_empty() {
            driver.message = std::mem::take(&mut card.message);
        }
        outcome
    })
}

/// Writes a result through a caller's pointer.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by this function's contract.
    unsafe { to.write_unaligned(value) };
    Ok(())
}
