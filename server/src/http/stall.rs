//! HTTP/2 streams whose client takes nothing.
//!
//! Over HTTP/1 that shows as a write that is pending. Over HTTP/2 a client may keep the connection busy and never open
//! one stream's window: then nobody asks that answer's body for more, and nothing on the socket shows it. So each
//! stream carries a clock that its body winds up each time it is asked; one that runs out resets its stream, and no
//! other of the connection.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::sse::HEARTBEAT;

tokio::task_local! {
    /// The clock of the stream that a task answers.
    static CLOCK: Clock;
}

/// When a stream is given up, unless its body is asked for more before; no time as long as there is no body.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<Mutex<Option<Instant>>>);

impl Clock {
    /// The clock of the HTTP/2 stream that the present task answers; none over HTTP/1.
    pub(super) fn current() -> Option<Self> {
        CLOCK.try_with(Clone::clone).ok()
    }

    /// There is something to send, and the client has so long to make room for it.
    pub(super) fn wind(&self, patience: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + patience);
    }

    /// There is nothing to send. Every stream that stays open says that it is alive: then there will be.
    pub(super) fn wind_until_alive(&self, patience: Duration) {
        self.wind(patience + HEARTBEAT);
    }

    /// Waits until it has run out; looks `every` so often whether it was wound up at all.
    async fn run_out(&self, every: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match end {
                None => sleep(every).await,
                Some(end) if end <= Instant::now() => return,
                Some(end) => sleep_until(end).await,
            }
        }
    }
}

/// Runs the streams of HTTP/2 connections, each as a task with a clock.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) idle_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (clock, every) = (Clock::default(), self.idle_timeout);
        let of = clock.clone();
        let answering = async move {
            tokio::select! {
                biased;
                _ = stream => {}
                // Dropping the stream resets it, and gives back all that its answer holds.
                () = of.run_out(every) => tracing::debug!("a client took nothing of an answer"),
            }
        };
        tokio::spawn(CLOCK.scope(clock, answering));
    }
}
