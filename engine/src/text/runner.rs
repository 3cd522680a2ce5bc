//! Threads for templates: a stack for the deepest value, a deadline, and no second thread beside one that overran.
//!
//! Fuel pays for what a template makes, but operators of the renderer (`==`, `in`, `~`) visit a value that holds
//! another many times as often as it is held, and pay once. Such a template is given up at the deadline: its thread is
//! left behind, and the template is refused until that thread ends.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Error, Result};

/// Stack of the thread: expressions and values are compiled, formatted and dropped by recursion, and each level costs
/// source or fuel. Only pages that are touched take memory.
const STACK_BYTES: usize = 1 << 30;

fn error(problem: impl Into<String>) -> Error {
    Error::Template { problem: problem.into() }
}

/// Runs templates on threads of their own.
pub(super) struct Runner {
    deadline: Duration,
    /// One for each thread that overran: alive as long as it is.
    left_behind: Mutex<Vec<Weak<()>>>,
}

impl Runner {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, left_behind: Mutex::default() }
    }

    /// What `work` gives, if it comes before the deadline.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut left_behind = self.left_behind.lock().unwrap_or_else(PoisonError::into_inner);
        left_behind.retain(|thread| thread.strong_count() > 0);
        if !left_behind.is_empty() {
            return Err(error("it is still busy with an earlier conversation"));
        }
        drop(left_behind);
        let alive = Arc::new(());
        let thread = Arc::downgrade(&alive);
        let (give, take) = sync_channel(1);
        std::thread::Builder::new()
            .name("hadal-template".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Nobody takes the answer of a thread that overran.
                let _ = give.send(work());
                drop(alive);
            })
            .map_err(|e| error(format!("no thread to render on: {e}")))?;
        take.recv_timeout(self.deadline).unwrap_or_else(|e| match e {
            RecvTimeoutError::Disconnected => Err(error("it made the renderer fail")),
            RecvTimeoutError::Timeout => {
                self.left_behind.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                Err(error(format!("it took longer than {} ms", self.deadline.as_millis())))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overruns_its_deadline_is_left_behind_and_refused_until_it_ends() {
        let runner = Runner::new(Duration::from_millis(20));
        let (release, wait) = sync_channel::<()>(0);
        let stuck = runner.run(move || wait.recv().map_err(|_| error("released")));
        assert!(stuck.unwrap_err().to_string().contains("longer than 20 ms"));
        assert!(runner.run(|| Ok(())).unwrap_err().to_string().contains("busy"));
        drop(release);
        while runner.run(|| Ok(())).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_panic_in_the_renderer_is_an_error() {
        let runner = Runner::new(Duration::from_mins(1));
        let broken: Result<()> = runner.run(|| panic!("expected"));
        assert!(broken.unwrap_err().to_string().contains("fail"));
    }
}
