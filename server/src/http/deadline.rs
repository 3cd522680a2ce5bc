//! Deadlines around a connection's bytes: a head that is too slow, a connection that asks nothing, and a reader that
//! takes nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::HttpLimits;

/// What a client hears whose head did not come in time.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection's requests are doing.
#[derive(Clone)]
pub(super) struct Phase(Arc<Mutex<Counts>>);

struct Counts {
    /// Requests being answered.
    busy: usize,
    /// Requests that have begun or ended: a quick one may do both between two looks.
    changes: u64,
    /// When the last of them did.
    changed: Instant,
    /// Who waits for the last answer to end.
    waiting: Option<Waker>,
}

impl Default for Phase {
    fn default() -> Self {
        let counts = Counts { busy: 0, changes: 0, changed: Instant::now(), waiting: None };
        Self(Arc::new(Mutex::new(counts)))
    }
}

impl Phase {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has arrived; it is answered when the guard goes.
    pub(super) fn request(&self) -> Busy {
        let mut counts = self.lock();
        counts.busy += 1;
        counts.change(Instant::now());
        drop(counts);
        Busy { phase: self.clone(), moved: None }
    }
}

impl Counts {
    fn change(&mut self, at: Instant) {
        self.changes += 1;
        self.changed = self.changed.max(at);
    }
}

/// A request being answered.
pub(crate) struct Busy {
    phase: Phase,
    /// When its body last moved: from then on the connection is idle, whenever that is noticed. `None` while there is no
    /// body.
    moved: Option<Instant>,
}

impl Busy {
    /// The client takes the answer.
    pub(super) fn moves(&mut self) {
        self.moved = Some(Instant::now());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut counts = self.phase.lock();
        counts.busy = counts.busy.saturating_sub(1);
        counts.change(self.moved.unwrap_or_else(Instant::now));
        let waiting = if counts.busy == 0 { counts.waiting.take() } else { None };
        drop(counts);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

/// What the first bytes say the connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// So far the first bytes of the preface, this many.
    Unknown(usize),
    Http1,
    Http2,
}

impl Speech {
    fn after(self, bytes: &[u8]) -> Self {
        let Self::Unknown(known) = self else { return self };
        let rest = PREFACE.get(known..).unwrap_or_default();
        let n = rest.len().min(bytes.len());
        match (rest.get(..n) == bytes.get(..n), n == rest.len()) {
            (false, _) => Self::Http1,
            (true, true) => Self::Http2,
            (true, false) => Self::Unknown(known + n),
        }
    }
}

/// A stream that fails when a head, the next request or the client's reading takes too long.
pub(super) struct Timed {
    stream: TcpStream,
    phase: Phase,
    limits: HttpLimits,
    speech: Speech,
    /// The phase's changes when the present wait began.
    seen: u64,
    /// When the present wait began, and whether bytes of a head have arrived in it.
    since: Instant,
    has_bytes: bool,
    read_timer: Pin<Box<Sleep>>,
    /// Runs while the client takes nothing of what is written.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, phase: Phase, limits: HttpLimits) -> Self {
        let since = Instant::now();
        let read_timer = Box::pin(sleep_until(since + limits.idle_timeout));
        Self {
            stream,
            phase,
            limits,
            speech: Speech::Unknown(0),
            seen: 0,
            since,
            has_bytes: false,
            read_timer,
            write_timer: None,
        }
    }

    /// A wait begins anew with each request and each answer.
    fn look(&mut self) {
        let counts = self.phase.lock();
        let (changes, changed) = (counts.changes, counts.changed);
        drop(counts);
        if self.seen != changes {
            self.seen = changes;
            self.since = changed;
            self.has_bytes = false;
        }
    }

    /// When the present wait is over; `None` while a request is being answered (a body has its own deadline), whose end
    /// wakes the task.
    fn deadline(&mut self, context: &Context<'_>) -> Option<Instant> {
        let mut counts = self.phase.lock();
        if counts.busy > 0 {
            counts.waiting = Some(context.waker().clone());
            return None;
        }
        drop(counts);
        // An answer may have ended since the last look.
        self.look();
        // Frames of HTTP/2 need not be a request: there only the preface counts as a head, and nothing but a request
        // makes the wait longer.
        let is_head = self.has_bytes && self.speech != Speech::Http2;
        Some(self.since + if is_head { self.limits.head_timeout } else { self.limits.idle_timeout })
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.speech = self.speech.after(bytes);
        if !self.has_bytes && self.speech != Speech::Http2 {
            self.has_bytes = true;
            self.since = Instant::now();
        }
    }

    /// Passes a write's result on, unless it has been pending for too long.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer = None;
            return result;
        }
        let end = Instant::now() + self.limits.idle_timeout;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(timed_out("the client takes nothing")))
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.look();
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            this.arrived(buffer.filled().get(before..).unwrap_or_default());
            return Poll::Ready(result);
        }
        let Some(deadline) = this.deadline(context) else { return Poll::Pending };
        this.read_timer.as_mut().reset(deadline);
        ready!(this.read_timer.as_mut().poll(context));
        if this.has_bytes && this.speech != Speech::Http2 {
            // The last word to somebody who may not listen: if it does not fit, so be it.
            let _ = this.stream.try_write(TOO_SLOW);
        }
        Poll::Ready(Err(timed_out("the client was silent too long")))
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection is taken for after these reads.
    fn speech(reads: &[&[u8]]) -> Speech {
        reads.iter().fold(Speech::Unknown(0), |speech, bytes| speech.after(bytes))
    }

    #[test]
    fn the_preface_is_known_in_whatever_pieces_it_comes() {
        let pieces: Vec<&[u8]> = PREFACE.chunks(1).collect();
        assert_eq!(speech(&pieces), Speech::Http2);
        assert_eq!(speech(&[PREFACE, b"frames"]), Speech::Http2);
        assert_eq!(speech(&[b"PRI * H"]), Speech::Unknown(7));
        assert_eq!(speech(&[b"P", b"OST / HTTP/1.1"]), Speech::Http1);
        assert_eq!(speech(&[b"GET / HTTP/1.1", PREFACE]), Speech::Http1);
    }

    #[test]
    fn a_request_that_begins_and_ends_between_two_looks_is_seen() {
        let phase = Phase::default();
        let before = phase.lock().changes;
        drop(phase.request());
        assert_eq!(phase.lock().busy, 0);
        assert_ne!(phase.lock().changes, before);
    }
}
