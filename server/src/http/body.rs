//! Request bodies: bounded in size and time, JSON by their own word.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT};
use hyper::{Request, StatusCode};
use serde_json::{Map, Value};

use super::HttpLimits;
use super::reply::Refusal;

/// Reads a JSON object.
///
/// # Errors
/// 415 when it is not declared as JSON, 413 and 408 over the limits, 400 when it is no JSON object.
pub(crate) async fn json_object(
    request: Request<Incoming>,
    limits: &HttpLimits,
) -> Result<Map<String, Value>, Refusal> {
    let declared = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !is_json(declared) {
        let got = if declared.is_empty() { "none".to_owned() } else { format!("`{declared}`") };
        let sentence = format!("the content type is {got}, wanted `application/json`");
        let refusal =
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", sentence);
        discard(request, limits).await;
        return Err(refusal);
    }
    let bytes = read(request, limits).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::malformed("the body is JSON, but no object")),
        Err(error) => Err(Refusal::malformed(format!("the body is not valid JSON: {error}"))),
    }
}

fn is_json(declared: &str) -> bool {
    let kind = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads a JSON object from a request that may come without a body.
///
/// # Errors
/// As [`json_object`].
pub(crate) async fn optional_json_object(
    request: Request<Incoming>,
    limits: &HttpLimits,
) -> Result<Map<String, Value>, Refusal> {
    if request.body().is_end_stream() {
        return Ok(Map::new());
    }
    json_object(request, limits).await
}

/// Takes what a refused request still sends, within bounds: a client that is writing when the connection closes never
/// reads the refusal.
pub(super) async fn discard(request: Request<Incoming>, limits: &HttpLimits) {
    /// Times the largest body: who sends more is not waited for.
    const SHARE: usize = 4;
    const TIMEOUT: Duration = Duration::from_secs(5);
    // Who asks first whether to send is told no by the refusal.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return;
    }
    let mut body = Limited::new(request.into_body(), limits.body_bytes.saturating_mul(SHARE));
    let taking = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(TIMEOUT.min(limits.body_timeout), taking).await;
}

async fn read(request: Request<Incoming>, limits: &HttpLimits) -> Result<Bytes, Refusal> {
    let too_large = || {
        let sentence = format!("the body is over the limit of {} bytes", limits.body_bytes);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", sentence)
    };
    if request.body().size_hint().lower() > limits.body_bytes as u64 {
        discard(request, limits).await;
        return Err(too_large());
    }
    let (parts, mut body) = request.into_parts();
    let reading = collect(&mut body, limits.body_bytes);
    match tokio::time::timeout(limits.body_timeout, reading).await {
        Err(_) => {
            let sentence = format!(
                "the body was not there after {} seconds",
                limits.body_timeout.as_secs_f32()
            );
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", sentence))
        }
        Ok(Err(error)) => Err(Refusal::malformed(format!("the body broke off: {error}"))),
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(Request::from_parts(parts, body), limits).await;
            Err(too_large())
        }
    }
}

/// The body's bytes; `None` when they are more than `bytes_max`.
async fn collect(body: &mut Incoming, bytes_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > bytes_max - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}
