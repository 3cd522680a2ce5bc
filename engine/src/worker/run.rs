//! The loop of a model's thread: take requests, plan, forward, commit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread::sleep;
use std::time::Duration;

use super::Command;
use super::handle::Door;
use crate::cache::pages::PagePool;
use crate::error::{Error, Result};
use crate::sched::Scheduler;
use crate::stats::Stats;
use crate::step::{Sampled, Step};

/// How long the thread sleeps when every reader is behind. A reader that catches up waits this long at most; asking
/// more often would take time from whoever is to read.
const PAUSE: Duration = Duration::from_millis(2);

/// All that a model's thread owns. `forward` is the model: one pass, one result a sample row.
pub(super) struct Worker<F> {
    pub(super) commands: Receiver<Command>,
    pub(super) door: Arc<Door>,
    pub(super) scheduler: Scheduler,
    pub(super) pages: PagePool,
    pub(super) forward: F,
    pub(super) sampled: Vec<Sampled>,
    pub(super) now: Box<dyn Fn() -> u64 + Send>,
    pub(super) on_stats: Box<dyn FnMut(&Stats) + Send>,
}

impl<F: FnMut(&Step, &mut Vec<Sampled>) -> Result<()>> Worker<F> {
    /// Runs until all handles are gone and everything they submitted has ended, or the model is lost. Panics end
    /// here: one model's bug is not its neighbour's.
    pub(super) fn run(mut self) {
        let why = match catch_unwind(AssertUnwindSafe(|| self.turns())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(Error::Internal { message: message(panic.as_ref()) }),
        };
        // From here on a submit is refused; one that slipped through is failed by its own sink, dropped with the channel.
        self.door.close();
        if let Some(why) = why {
            // A panic may have left the scheduler in pieces. A sink it cannot reach says its own last word.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.scheduler.fail_all(&mut self.pages, &why.to_string());
                self.publish();
            }));
        }
    }

    fn turns(&mut self) -> Result<()> {
        while self.take_requests() {
            let Some(step) = self.scheduler.plan(&mut self.pages, (self.now)()) else {
                self.publish();
                self.pause();
                continue;
            };
            (self.forward)(&step, &mut self.sampled)?;
            self.scheduler.commit(step, &self.sampled, &mut self.pages, (self.now)());
            self.publish();
        }
        Ok(())
    }

    /// Takes what has been sent; waits for it only while nothing is live. `false`: nothing is, and no handle is left.
    fn take_requests(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(_) if !self.scheduler.is_idle() => return true,
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => match self.commands.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return false,
                },
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(request) => self.scheduler.enqueue(request, (self.now)()),
            Command::CancelAll => {
                self.scheduler.cancel_all(&mut self.pages, (self.now)());
                self.publish();
            }
        }
    }

    /// Nobody can go on. A command ends the wait at once.
    fn pause(&mut self) {
        if self.scheduler.is_idle() {
            return;
        }
        match self.commands.recv_timeout(PAUSE) {
            Ok(command) => self.take(command),
            Err(RecvTimeoutError::Timeout) => {}
            // No handle is left, but readers are: without this the loop would spin.
            Err(RecvTimeoutError::Disconnected) => sleep(PAUSE),
        }
    }

    fn publish(&mut self) {
        let stats = self.scheduler.stats(&self.pages);
        (self.on_stats)(&stats);
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}
