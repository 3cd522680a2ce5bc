//! From a request to the file that answers it: one match on method and path.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CONNECTION, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, StatusCode, Version};
use percent_encoding::percent_decode_str;

use super::deadline::Busy;
use super::reply::{Body, Refusal, Reply, empty, with_header};
use crate::api::{openai, ops, page};
use crate::app::{Activity, App};

/// What a path means, whatever the method.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Page,
    Asset(String),
    Models,
    ModelStatus(Option<String>),
    ModelLoad(Option<String>),
    ModelUnload(Option<String>),
    Generate,
    GenerateCancel,
    ChatClear,
    OlderCheckpoints,
    OlderLoad,
    OlderStatus,
    OlderCancel,
    OpenAiModels,
    OpenAiModel(String),
    OpenAiChat,
    Health,
    Ready,
    Version,
    Metrics,
}

impl Target {
    /// The path's meaning; names of models may stand raw or percent-encoded, decoded once.
    fn of(path: &str) -> Option<Self> {
        let exact = match path {
            "/" => Self::Page,
            "/api/models" => Self::Models,
            "/api/models/status" => Self::ModelStatus(None),
            "/api/models/load" => Self::ModelLoad(None),
            "/api/models/unload" => Self::ModelUnload(None),
            "/api/generate" => Self::Generate,
            "/api/generate/cancel" => Self::GenerateCancel,
            "/api/chat/clear" => Self::ChatClear,
            "/api/checkpoints" => Self::OlderCheckpoints,
            "/api/load_model" => Self::OlderLoad,
            "/api/model_status" => Self::OlderStatus,
            "/api/cancel" => Self::OlderCancel,
            "/v1/models" => Self::OpenAiModels,
            "/v1/chat/completions" => Self::OpenAiChat,
            "/health" => Self::Health,
            "/ready" => Self::Ready,
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            _ => return Self::with_name(path),
        };
        Some(exact)
    }

    fn with_name(path: &str) -> Option<Self> {
        let decoded = |name: &str| {
            percent_decode_str(name).decode_utf8().ok().map(std::borrow::Cow::into_owned)
        };
        if let Some(name) = path.strip_prefix("/assets/") {
            return decoded(name).map(Self::Asset);
        }
        if let Some(name) = path.strip_prefix("/v1/models/") {
            return decoded(name).map(Self::OpenAiModel);
        }
        let (name, action) = path.strip_prefix("/api/models/")?.rsplit_once('/')?;
        let name = decoded(name)?;
        match action {
            "status" => Some(Self::ModelStatus(Some(name))),
            "load" => Some(Self::ModelLoad(Some(name))),
            "unload" => Some(Self::ModelUnload(Some(name))),
            _ => None,
        }
    }

    /// The route as metrics name it: without names, so that their number is bounded.
    fn label(&self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Asset(_) => "/assets/*",
            Self::Models => "/api/models",
            Self::ModelStatus(_) => "/api/models/*/status",
            Self::ModelLoad(_) => "/api/models/*/load",
            Self::ModelUnload(_) => "/api/models/*/unload",
            Self::Generate => "/api/generate",
            Self::GenerateCancel => "/api/generate/cancel",
            Self::ChatClear => "/api/chat/clear",
            Self::OlderCheckpoints => "/api/checkpoints",
            Self::OlderLoad => "/api/load_model",
            Self::OlderStatus => "/api/model_status",
            Self::OlderCancel => "/api/cancel",
            Self::OpenAiModels => "/v1/models",
            Self::OpenAiModel(_) => "/v1/models/*",
            Self::OpenAiChat => "/v1/chat/completions",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Version => "/version",
            Self::Metrics => "/metrics",
        }
    }

    fn is_post(&self) -> bool {
        matches!(
            self,
            Self::ModelLoad(_)
                | Self::ModelUnload(_)
                | Self::Generate
                | Self::GenerateCancel
                | Self::ChatClear
                | Self::OlderLoad
                | Self::OlderCancel
                | Self::OpenAiChat
        )
    }

    fn allow(&self) -> &'static str {
        if self.is_post() { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" }
    }

    /// Routes that need no key: what a load balancer asks, and the page that asks for one.
    fn is_open(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Page | Self::Asset(_))
    }

    fn is_openai(&self) -> bool {
        matches!(self, Self::OpenAiChat | Self::OpenAiModel(_) | Self::OpenAiModels)
    }

    /// A refusal in the shape of this route's family.
    fn refuse(&self, refusal: &Refusal) -> Reply {
        if self.is_openai() { openai::error::reply(refusal) } else { refusal.page() }
    }
}

/// Answers a request, whatever it is. Guards live as long as the body.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>, busy: Busy) -> Reply {
    let activity = app.activity();
    let origin =
        request.headers().get(ORIGIN).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let is_head = request.method() == Method::HEAD;
    let is_http1 = request.version() <= Version::HTTP_11;
    let target = Target::of(request.uri().path());
    let label = target.as_ref().map_or("unknown", Target::label);
    let mut reply = match target {
        Some(target) => dispatch(app, request, target).await,
        None => unknown(request.uri().path()),
    };
    app.metrics.answered(label, reply.status().as_u16());
    if let Some(origin) = origin
        && let Some(allowed) = app.keys.allowed_origin(&origin)
    {
        reply = with_header(reply, ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        let headers = reply.headers_mut();
        headers
            .insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, x-api-key"),
        );
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-task-id"));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if app.is_draining() && is_http1 {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_head {
        let (parts, _) = reply.into_parts();
        reply = Reply::from_parts(parts, empty(StatusCode::OK).into_body());
    }
    reply.map(|body| Guarded { body, _guards: (activity, busy) }.boxed())
}

fn unknown(path: &str) -> Reply {
    let shown: String = path.chars().take(100).collect();
    Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no route `{shown}`")).page()
}

async fn dispatch(app: &Arc<App>, request: Request<Incoming>, target: Target) -> Reply {
    if request.method() == Method::OPTIONS {
        return with_header(empty(StatusCode::NO_CONTENT), ALLOW, target.allow());
    }
    if app.is_draining() && !matches!(target, Target::Health | Target::Ready | Target::Metrics) {
        return target.refuse(&Refusal::draining());
    }
    if let Err(refusal) = app.keys.check(request.headers(), request.uri(), target.is_open()) {
        return target.refuse(&refusal);
    }
    let wanted = if target.is_post() {
        request.method() == Method::POST
    } else {
        matches!(*request.method(), Method::GET | Method::HEAD)
    };
    if !wanted {
        let sentence = format!("{} is not allowed here, {} are", request.method(), target.allow());
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", sentence);
        return with_header(target.refuse(&refusal), ALLOW, target.allow());
    }
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
        Target::Metrics => Ok(ops::metrics(app)),
    };
    result.unwrap_or_else(|refusal| target.refuse(&refusal))
}

/// A body that holds what must live as long as it does.
struct Guarded {
    body: Body,
    _guards: (Activity, Busy),
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_raw_or_encoded_once() {
        let status = |name: &str| Some(Target::ModelStatus(Some(name.to_owned())));
        assert_eq!(Target::of("/api/models/pretrain/best.pt/status"), status("pretrain/best.pt"));
        assert_eq!(Target::of("/api/models/pretrain%2Fbest.pt/status"), status("pretrain/best.pt"));
        assert_eq!(
            Target::of("/api/models/pretrain%252Fbest.pt/status"),
            status("pretrain%2Fbest.pt")
        );
        assert_eq!(Target::of("/api/models/status"), Some(Target::ModelStatus(None)));
        assert_eq!(Target::of("/api/models/a/status/status"), status("a/status"));
        assert_eq!(Target::of("/api/models/%ff/status"), None);
        assert_eq!(Target::of("/api/nothing"), None);
    }
}
