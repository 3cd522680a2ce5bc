//! From a request to the file that answers it: one match on method and path.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW, CONNECTION,
    CONTENT_LENGTH, HeaderValue, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode, Version};

use super::body;
use super::deadline::Busy;
use super::reply::{Body, Refusal, Reply, empty, with_header};
use super::stall::Clock;
use super::target::Target;
use crate::api::{openai, ops, page};
use crate::app::{Activity, App};

/// Answers a request, whatever it is. Guards live as long as the body.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>, busy: Busy) -> Reply {
    let activity = app.activity();
    let header = |name| request.headers().get(name).cloned();
    let (origin, asked) = (header(ORIGIN), header(ACCESS_CONTROL_REQUEST_HEADERS));
    let is_head = request.method() == Method::HEAD;
    let is_http1 = request.version() <= Version::HTTP_11;
    let target = Target::of(request.uri().path());
    let label = target.label();
    let mut reply = dispatch(app, request, target).await;
    app.metrics.answered(label, reply.status().as_u16());
    if app.keys.has_origins() {
        share(app, origin.as_ref(), asked, &mut reply);
    }
    let headers = reply.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = reply.status();
    // What is left of a refused body must not be taken for the next request.
    let is_torn = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
    if is_http1 && (app.is_draining() || is_torn) {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_head {
        reply = without_body(reply);
    }
    let clock = Clock::current();
    let idle_timeout = app.limits.idle_timeout;
    let guarded = |body| Guarded { body, busy, clock, idle_timeout, _activity: activity };
    reply.map(|body| guarded(body).begun().boxed())
}

/// Lets pages of the origins on the list read the answer.
fn share(app: &App, origin: Option<&HeaderValue>, asked: Option<HeaderValue>, reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    let origin = origin.and_then(|origin| origin.to_str().ok());
    let allowed = origin.and_then(|origin| app.keys.allowed_origin(origin));
    let Some(allowed) = allowed.and_then(|allowed| HeaderValue::from_str(allowed).ok()) else {
        return;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-task-id"));
    headers
        .insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    // An origin on the list may send what its client library sends.
    let usual = HeaderValue::from_static("authorization, content-type, x-api-key");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(usual));
}

/// The answer to HEAD: what GET would say of its body, without it.
fn without_body(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Reply::from_parts(parts, empty(StatusCode::OK).into_body())
}

fn unknown(path: &str) -> Refusal {
    let shown: String = path.chars().take(100).collect();
    Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no route `{shown}`"))
}

async fn dispatch(app: &Arc<App>, request: Request<Incoming>, target: Target) -> Reply {
    if request.method() == Method::OPTIONS && target.allow().is_some() {
        let reply = empty(StatusCode::NO_CONTENT);
        return with_header(reply, ALLOW, target.allow().unwrap_or_default());
    }
    if let Err(refusal) = admit(app, &request, &target) {
        let mut reply = target.refuse(&refusal);
        if let (StatusCode::METHOD_NOT_ALLOWED, Some(allow)) = (refusal.status, target.allow()) {
            reply = with_header(reply, ALLOW, allow);
        }
        body::discard(request, &app.limits).await;
        return reply;
    }
    respond(app, request, target).await
}

/// Whether the request may go on to its route.
fn admit(app: &App, request: &Request<Incoming>, target: &Target) -> Result<(), Refusal> {
    if app.is_draining() && !matches!(target, Target::Health | Target::Ready | Target::Metrics) {
        return Err(Refusal::draining());
    }
    app.keys.check(request, target.is_open())?;
    let Some(allow) = target.allow() else { return Err(unknown(request.uri().path())) };
    let method = request.method().as_str();
    if allow.split(", ").any(|allowed| allowed == method) {
        return Ok(());
    }
    let sentence = format!("{method} is not allowed here, {allow} are");
    Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", sentence))
}

async fn respond(app: &Arc<App>, request: Request<Incoming>, target: Target) -> Reply {
    let result = match target.clone() {
        Target::Page => Ok(page::assets::index(&request)),
        Target::Asset(name) => page::assets::asset(&name, &request),
        Target::Models => Ok(page::models::list(app).await),
        Target::ModelStatus(name) => page::models::status(app, name, &request).await,
        Target::ModelLoad(name) => page::models::load(app, name, request).await,
        Target::ModelUnload(name) => page::models::unload(app, name, request).await,
        Target::Generate => page::generate::handle(app, request).await,
        Target::GenerateCancel => page::generate::cancel(app, request).await,
        Target::ChatClear => Ok(page::generate::clear()),
        Target::OlderCheckpoints => Ok(page::older::checkpoints(app).await),
        Target::OlderLoad => page::older::load(app, request).await,
        Target::OlderStatus => page::older::status(app, &request).await,
        Target::OlderCancel => page::older::cancel(app, request).await,
        Target::OpenAiModels => Ok(openai::models::list(app).await),
        Target::OpenAiModel(name) => openai::models::get(app, &name).await,
        Target::OpenAiChat => openai::chat::handle(app, request).await,
        Target::Health => Ok(ops::health()),
        Target::Ready => Ok(ops::ready(app)),
        Target::Version => Ok(ops::version()),
        Target::Metrics => Ok(ops::metrics(app, &request)),
        // Told so by `admit`.
        Target::Server | Target::Unknown | Target::UnknownOpenAi => {
            Err(unknown(request.uri().path()))
        }
    };
    result.unwrap_or_else(|refusal| target.refuse(&refusal))
}

/// A body that holds what must live as long as it does, and notes when its client takes of it.
struct Guarded {
    body: Body,
    busy: Busy,
    clock: Option<Clock>,
    idle_timeout: Duration,
    _activity: Activity,
}

impl Guarded {
    /// The first part of it may be there to send.
    fn begun(mut self) -> Self {
        self.moves(true);
        self
    }

    /// Somebody asks for more, and may get something.
    fn moves(&mut self, has_frame: bool) {
        self.busy.moves();
        match &self.clock {
            Some(clock) if has_frame => clock.wind(self.idle_timeout),
            Some(clock) => clock.wind_until_alive(self.idle_timeout),
            None => {}
        }
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.moves(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
