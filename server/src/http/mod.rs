//! Connections: accepted under a limit, served with deadlines, drained on a signal.

pub(crate) mod auth;
pub(crate) mod body;
mod deadline;
pub(crate) mod reply;
pub(crate) mod route;
pub(crate) mod sse;
mod stall;
mod target;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::App;
use deadline::{Phase, Timed};
use stall::Streams;

/// Bounds of connections and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest request head.
    pub head_bytes: usize,
    /// A head must be whole this long after its first byte.
    pub head_timeout: Duration,
    /// Largest request body.
    pub body_bytes: usize,
    /// A body must be whole this long after its head.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this, and an answer of which its client takes nothing ended.
    pub idle_timeout: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_bytes: 64 << 10,
            head_timeout: Duration::from_secs(10),
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            connections: 1024,
        }
    }
}

/// Serves until `shutdown` ends, then lets running answers finish, up to the drain timeout.
///
/// # Errors
/// None so far; a listener that fails to accept is asked again.
pub async fn run(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    if let Ok(address) = listener.local_addr() {
        app.keys.set_loopback(address.ip().is_loopback());
    }
    let places = Arc::new(Semaphore::new(app.limits.connections));
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut shutdown => break,
            // Ended ones are forgotten as they end.
            Some(_) = connections.join_next() => continue,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, closing) = (Arc::clone(&app), closing.subscribe());
                connections.spawn(async move {
                    serve_connection(stream, app, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others will close theirs.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    drain(&app).await;
    closing.send_replace(true);
    // Last bytes leave; who never asked anything, or takes nothing, is not waited for.
    let ending = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_BYTES, ending).await;
    connections.shutdown().await;
    Ok(())
}

/// For the last event of an answer that was ended to leave.
const LAST_WORD: Duration = Duration::from_secs(2);
/// For what was answered to reach the socket.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// Connections that exist get 503 for new requests; running answers finish, then are ended.
async fn drain(app: &Arc<App>) {
    app.start_draining();
    if tokio::time::timeout(app.drain_timeout, app.quiet()).await.is_err() {
        app.generations.cancel_all();
        let _ = tokio::time::timeout(LAST_WORD, app.quiet()).await;
    }
}

async fn serve_connection(stream: TcpStream, app: Arc<App>, mut closing: watch::Receiver<bool>) {
    // A token is a small packet that must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let limits = app.limits;
    let phase = Phase::default();
    let io = TokioIo::new(Timed::new(stream, phase.clone(), limits));
    let service = service_fn(move |request| {
        let (app, busy) = (Arc::clone(&app), phase.request());
        async move { Ok::<_, Infallible>(route::answer(&app, request, busy).await) }
    });
    let mut builder = Builder::new(Streams { idle_timeout: limits.idle_timeout });
    builder
        .http1()
        .max_buf_size(limits.head_bytes.max(8192))
        .header_read_timeout(None)
        .timer(hyper_util::rt::TokioTimer::new());
    builder.http2().max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let closed = async { drop(closing.wait_for(|is_closing| *is_closing).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Errors here are a client's: it went away, or sent what is no HTTP and was told so.
    if let Err(error) = ended {
        tracing::debug!("connection ended: {error}");
    }
}
