//! Server-sent events: a stream of JSON frames with comments in between, so that nobody in the middle gets tired.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc;

use super::reply::Reply;

/// Frames that may wait for the socket; behind them, the engine's own ring holds the tokens.
const FRAMES_MAX: usize = 16;
/// What a silent stream says to show that it is alive, and how often.
pub(crate) const ALIVE: &str = "still here";
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// The writing end. Sending fails when the client has gone, or has taken nothing for too long.
pub(crate) struct Events {
    frames: mpsc::Sender<Bytes>,
    stall_max: Duration,
}

/// Nobody reads any more.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl Events {
    /// `data: {json}`.
    pub(crate) async fn json(&self, value: &Value) -> Result<(), ReaderGone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// `data: {json}`, unless `interrupt` ends while the client takes nothing.
    pub(crate) async fn json_unless<T>(
        &self,
        value: &Value,
        interrupt: impl Future<Output = T>,
    ) -> Result<Option<T>, ReaderGone> {
        tokio::select! {
            biased;
            sent = self.json(value) => sent.map(|()| None),
            interrupted = interrupt => Ok(Some(interrupted)),
        }
    }

    /// `data: text`, for words that are no JSON.
    pub(crate) async fn word(&self, word: &str) -> Result<(), ReaderGone> {
        self.send(format!("data: {word}\n\n")).await
    }

    /// What `work` comes to, with a comment, which clients ignore, each time `every` has passed; nothing when the
    /// client goes first.
    pub(crate) async fn while_waiting<T>(
        &self,
        comment: &str,
        every: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, ReaderGone> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.frames.closed() => return Err(ReaderGone),
                () = tokio::time::sleep(every) => self.comment(comment),
            }
        }
    }

    /// A comment, if there is room: who has frames to read knows that the stream is alive.
    pub(crate) fn comment(&self, text: &str) {
        let _ = self.frames.try_send(Bytes::from(format!(": {text}\n\n")));
    }

    async fn send(&self, frame: String) -> Result<(), ReaderGone> {
        let sending = self.frames.send_timeout(Bytes::from(frame), self.stall_max);
        sending.await.map_err(|_| ReaderGone)
    }
}

/// The body: frames as they come.
struct Stream(mpsc::Receiver<Bytes>);

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An open stream and the reply that carries it. A client that takes nothing for `stall_max` is given up.
pub(crate) fn open(stall_max: Duration) -> (Events, Reply) {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let mut reply = Response::new(Stream(receiver).boxed());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    (Events { frames: sender, stall_max }, reply)
}
