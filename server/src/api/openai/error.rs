//! Refusals in OpenAI's shape and statuses.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::http::reply::{Refusal, Reply, json as json_reply};

/// Wrong fields are 400 here, as the official clients expect.
fn status(refusal: &Refusal) -> StatusCode {
    match refusal.status {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    }
}

/// A refusal as an answer.
pub(crate) fn reply(refusal: &Refusal) -> Reply {
    refusal.dressed(json_reply(status(refusal), &body(refusal)))
}

/// `{"error": {"message", "type", "param", "code"}}`.
pub(super) fn body(refusal: &Refusal) -> Value {
    let status = status(refusal);
    let (kind, code) = match status {
        StatusCode::UNAUTHORIZED => ("authentication_error", "invalid_api_key"),
        StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", "rate_limit_exceeded"),
        _ if status.is_server_error() => ("server_error", refusal.code),
        _ => ("invalid_request_error", refusal.code),
    };
    json!({ "error": { "message": refusal.sentence, "type": kind, "param": refusal.field, "code": code } })
}
