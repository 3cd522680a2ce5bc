//! Answers: a status, headers, and JSON or bytes or a stream.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// A body of any kind.
pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;
/// An answer.
pub(crate) type Reply = Response<Body>;

/// A whole body.
pub(crate) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(Full::new(bytes.into()).boxed());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// JSON.
pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    bytes(status, "application/json; charset=utf-8", value.to_string())
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()).boxed());
    *reply.status_mut() = status;
    reply
}

/// Adds a header whose value may come from data; one that cannot be a header is left out.
pub(crate) fn with_header(mut reply: Reply, name: HeaderName, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// A refusal: a status, a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) sentence: String,
    /// The field that is wrong.
    pub(crate) field: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into(), field: None, retry_after: None }
    }

    /// 400.
    pub(crate) fn malformed(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
    }

    /// 422: a field of the wrong type or out of range.
    pub(crate) fn field(field: &str, sentence: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", sentence);
        Self { field: Some(field.to_owned()), ..refusal }
    }

    /// Told to come back.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// 503 while the server stops.
    pub(crate) fn draining() -> Self {
        let sentence = "the server is stopping and takes no new requests";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", sentence)
            .retry_after(Duration::from_secs(5))
    }

    /// The page API's shape.
    pub(crate) fn page(&self) -> Reply {
        self.dressed(json(self.status, &json!({ "error": self.sentence, "code": self.code })))
    }

    /// Headers that every shape of this refusal carries.
    pub(crate) fn dressed(&self, reply: Reply) -> Reply {
        let reply = match self.status {
            StatusCode::UNAUTHORIZED => with_header(reply, WWW_AUTHENTICATE, "Bearer"),
            _ => reply,
        };
        match self.retry_after {
            Some(after) => with_header(reply, RETRY_AFTER, &after.as_secs().max(1).to_string()),
            None => reply,
        }
    }
}

/// A model that cannot be had, as a refusal.
impl From<crate::models::Problem> for Refusal {
    fn from(problem: crate::models::Problem) -> Self {
        use crate::models::Problem;
        match problem {
            Problem::Unknown(sentence) => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", sentence)
            }
            Problem::Unusable(sentence) | Problem::Defect(sentence) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_unusable", sentence)
            }
            Problem::Withdrawn(sentence) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_unloaded", sentence)
                    .retry_after(Duration::from_secs(1))
            }
            Problem::Memory(sentence) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_enough_memory", sentence)
                    .retry_after(Duration::from_secs(30))
            }
        }
    }
}
