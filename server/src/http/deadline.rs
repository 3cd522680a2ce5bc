//! Deadlines around a connection's bytes: a head that is too slow, a connection that asks nothing, and a reader that
//! takes nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

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
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Requests being answered.
    busy: AtomicUsize,
    /// Requests that have begun or ended: a quick one may do both between two looks.
    changes: AtomicU64,
}

impl Phase {
    /// A request has arrived; it is answered when the guard goes.
    pub(super) fn request(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::AcqRel);
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(&self.0))
    }

    fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Acquire) > 0
    }

    fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }
}

/// A request being answered.
pub(crate) struct Busy(Arc<Counts>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.changes.fetch_add(1, Ordering::AcqRel);
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
        let changes = self.phase.changes();
        if self.seen != changes {
            self.seen = changes;
            self.since = Instant::now();
            self.has_bytes = false;
        }
    }

    /// When the present wait is over; `None` while a request is being answered (a body has its own deadline).
    fn deadline(&self) -> Option<Instant> {
        if self.phase.is_busy() {
            return None;
        }
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
        let Some(deadline) = this.deadline() else {
            // An answer's end wakes nobody here: look again when a wait that begins now could at the earliest be over.
            let wait = this.limits.head_timeout.min(this.limits.idle_timeout);
            this.read_timer.as_mut().reset(Instant::now() + wait);
            if this.read_timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        };
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
        let before = phase.changes();
        drop(phase.request());
        assert!(!phase.is_busy());
        assert_ne!(phase.changes(), before);
    }
}
