//! The ring between the model's thread and a reader, made before the first event: emitting one allocates nothing, waits
//! for nobody, and a reader that goes is seen at once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use hadal_engine::{Event, Sink};
use tokio::sync::Notify;

/// An event, and when it was emitted: a reader that is behind takes several at once.
#[derive(Debug, PartialEq)]
pub(super) struct Emitted {
    pub(super) event: Event,
    pub(super) at: Instant,
}

struct Ring {
    /// One place more than tokens may take: for the last event.
    events: ArrayQueue<Emitted>,
    notify: Notify,
    is_reader_gone: AtomicBool,
    is_writer_gone: AtomicBool,
}

/// A ring in which `events_max` tokens may wait.
pub(super) fn ring(events_max: usize) -> (RingSink, Reader) {
    let ring = Arc::new(Ring {
        events: ArrayQueue::new(events_max + 1),
        notify: Notify::new(),
        is_reader_gone: AtomicBool::new(false),
        is_writer_gone: AtomicBool::new(false),
    });
    (RingSink(Arc::clone(&ring)), Reader(ring))
}

/// The writing end, on the model's thread.
pub(super) struct RingSink(Arc<Ring>);

impl Sink for RingSink {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        let emitted = Emitted { event, at: Instant::now() };
        if self.is_closed() || self.0.events.push(emitted).is_err() {
            return ControlFlow::Break(());
        }
        self.0.notify.notify_one();
        ControlFlow::Continue(())
    }

    fn is_closed(&self) -> bool {
        self.0.is_reader_gone.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        // The last place is the last event's.
        self.0.events.len() + 1 < self.0.events.capacity()
    }
}

impl Drop for RingSink {
    fn drop(&mut self) {
        self.0.is_writer_gone.store(true, Ordering::Release);
        self.0.notify.notify_one();
    }
}

/// The reading end; when it goes, the sequence ends.
pub(super) struct Reader(Arc<Ring>);

impl Reader {
    /// The next event; `None` when the writer went without a last one.
    pub(super) async fn next(&self) -> Option<Emitted> {
        loop {
            if let Some(emitted) = self.0.events.pop() {
                return Some(emitted);
            }
            if self.0.is_writer_gone.load(Ordering::Acquire) {
                // What came between the look and the end.
                return self.0.events.pop();
            }
            self.0.notify.notified().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.is_reader_gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use hadal_engine::{FinishReason, TokenId, Usage};

    use super::*;

    fn token(id: u32) -> Event {
        Event::Token(TokenId(id))
    }

    #[test]
    fn a_full_ring_has_room_for_the_last_event_alone() {
        let (mut sink, reader) = ring(2);
        for id in 0..2 {
            assert!(sink.has_room());
            assert!(sink.emit(token(id)).is_continue());
        }
        assert!(!sink.has_room());
        let done = Event::Done(FinishReason::Stop, Usage::default());
        assert!(sink.emit(done).is_continue());
        assert!(sink.emit(token(9)).is_break());
        drop(reader);
        assert!(sink.is_closed());
    }

    #[test]
    fn a_reader_that_has_gone_is_seen_by_the_writer() {
        let (mut sink, reader) = ring(2);
        assert!(!sink.is_closed());
        drop(reader);
        assert!(sink.is_closed() && sink.emit(token(1)).is_break());
    }

    #[tokio::test]
    async fn what_was_written_is_read_before_the_writers_end() {
        let (mut sink, reader) = ring(8);
        let writing = std::thread::spawn(move || {
            for id in 0..1000 {
                while !sink.has_room() {
                    std::thread::yield_now();
                }
                assert!(sink.emit(token(id)).is_continue());
            }
        });
        for id in 0..1000 {
            assert_eq!(reader.next().await.map(|emitted| emitted.event), Some(token(id)));
        }
        assert_eq!(reader.next().await, None);
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn an_event_keeps_the_time_it_was_emitted_at_however_late_it_is_read() {
        let (mut sink, reader) = ring(8);
        let pause = std::time::Duration::from_millis(20);
        for id in 0..2 {
            assert!(sink.emit(token(id)).is_continue());
            // Time is what this test is about.
            std::thread::sleep(pause);
        }
        let (first, second) = (reader.next().await.unwrap(), reader.next().await.unwrap());
        assert!(second.at - first.at >= pause);
    }
}
