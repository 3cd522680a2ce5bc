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
/// How often a silent stream says that it is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// The writing end. Sending fails when the client has gone.
pub(crate) struct Events(mpsc::Sender<Bytes>);

/// Nobody reads any more.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl Events {
    /// `data: {json}`.
    pub(crate) async fn json(&self, value: &Value) -> Result<(), ReaderGone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// `data: text`, for words that are no JSON.
    pub(crate) async fn word(&self, word: &str) -> Result<(), ReaderGone> {
        self.send(format!("data: {word}\n\n")).await
    }

    /// A comment, which clients ignore.
    pub(crate) async fn comment(&self, text: &str) -> Result<(), ReaderGone> {
        self.send(format!(": {text}\n\n")).await
    }

    /// Ends when the client has gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    async fn send(&self, frame: String) -> Result<(), ReaderGone> {
        self.0.send(Bytes::from(frame)).await.map_err(|_| ReaderGone)
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

/// An open stream and the reply that carries it.
pub(crate) fn open() -> (Events, Reply) {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let mut reply = Response::new(Stream(receiver).boxed());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    (Events(sender), reply)
}
