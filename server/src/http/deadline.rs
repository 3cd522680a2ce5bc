//! Deadlines around a connection's reads: a head that is too slow, and a connection that asks nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::HttpLimits;

/// What a client hears whose head did not come in time.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// What an HTTP/2 connection begins with.
const HTTP2: &[u8] = b"PRI";

/// How many requests of a connection are being answered.
#[derive(Clone)]
pub(super) struct Phase(Arc<AtomicUsize>);

impl Phase {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(0)))
    }

    /// A request has arrived; it is answered when the guard goes.
    pub(super) fn request(&self) -> Busy {
        self.0.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(&self.0))
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// A request being answered.
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream whose reads fail when a head or the next request takes too long.
pub(super) struct Timed {
    stream: TcpStream,
    phase: Phase,
    limits: HttpLimits,
    /// When the present wait began, and whether bytes of a head have arrived in it.
    since: Instant,
    has_bytes: bool,
    was_busy: bool,
    is_http2: Option<bool>,
    timer: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, phase: Phase, limits: HttpLimits) -> Self {
        let since = Instant::now();
        let timer = Box::pin(sleep_until(since + limits.idle_timeout));
        Self {
            stream,
            phase,
            limits,
            since,
            has_bytes: false,
            was_busy: false,
            is_http2: None,
            timer,
        }
    }

    /// When the present wait is over; `None` while a request is being answered (a body has its own deadline).
    fn deadline(&mut self) -> Option<Instant> {
        let is_busy = self.phase.is_busy();
        if self.was_busy != is_busy {
            self.was_busy = is_busy;
            self.since = Instant::now();
            self.has_bytes = false;
        }
        if is_busy {
            return None;
        }
        // An HTTP/2 client may send frames that are no request; only silence ends it.
        let is_head = self.has_bytes && self.is_http2 != Some(true);
        Some(self.since + if is_head { self.limits.head_timeout } else { self.limits.idle_timeout })
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.is_http2.get_or_insert(bytes.starts_with(HTTP2));
        if !self.has_bytes || self.is_http2 == Some(true) {
            self.has_bytes = true;
            self.since = Instant::now();
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            result?;
            let new = buffer.filled().get(before..).unwrap_or_default().to_vec();
            this.arrived(&new);
            return Poll::Ready(Ok(()));
        }
        // Asked again whenever the phase may have changed: hyper reads between requests.
        match this.deadline() {
            None => {
                // Looks again when a wait could at the earliest be over.
                let again = Instant::now() + this.limits.head_timeout.min(this.limits.idle_timeout);
                this.timer.as_mut().reset(again);
                if this.timer.as_mut().poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Some(deadline) => {
                this.timer.as_mut().reset(deadline);
                ready!(this.timer.as_mut().poll(context));
                if this.has_bytes && this.is_http2 != Some(true) {
                    let _ = this.stream.try_write(TOO_SLOW);
                }
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client was silent too long",
                )))
            }
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
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
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
