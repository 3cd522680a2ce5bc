//! Whose turn it is to encode. A long prompt takes seconds and some hundred times its size in memory: one at a time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Prompts up to this are short: milliseconds.
const SHORT_BYTES_MAX: usize = 64 << 10;
/// Short prompts that are encoded at once.
const SHORT_AT_ONCE: usize = 4;
/// Long prompts that are encoded at once.
const LONG_AT_ONCE: usize = 1;

/// Turns to encode; short prompts never wait behind long ones.
pub(crate) struct Encoders {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// A turn; it is the next one's when this goes.
pub(super) struct Turn(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl Default for Encoders {
    fn default() -> Self {
        Self {
            short: Arc::new(Semaphore::new(SHORT_AT_ONCE)),
            long: Arc::new(Semaphore::new(LONG_AT_ONCE)),
        }
    }
}

impl Encoders {
    /// Waits for a turn to encode a prompt of so many bytes. Who stops waiting has no turn.
    pub(super) async fn turn(&self, n_byte: usize) -> Turn {
        let lane = if n_byte <= SHORT_BYTES_MAX { &self.short } else { &self.long };
        // Nobody closes the semaphore, so this cannot fail.
        Turn(Arc::clone(lane).acquire_owned().await.ok())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_waiting(turn: impl Future<Output = Turn>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(std::pin::pin!(turn).as_mut().poll(&mut context), Poll::Pending)
    }

    #[tokio::test]
    async fn long_prompts_take_turns_and_hold_up_no_short_one() {
        let encoders = Encoders::default();
        let long = encoders.turn(8 << 20).await;
        assert!(is_waiting(encoders.turn(SHORT_BYTES_MAX + 1)));
        let short: Vec<Turn> = vec![
            encoders.turn(1).await,
            encoders.turn(1).await,
            encoders.turn(1).await,
            encoders.turn(1).await,
        ];
        assert!(is_waiting(encoders.turn(1)));
        drop((long, short));
        encoders.turn(8 << 20).await;
        encoders.turn(1).await;
    }
}
