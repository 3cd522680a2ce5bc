//! Request bodies: bounded in size and time, JSON by their own word.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
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
    let kind = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json"))
    {
        let got = if declared.is_empty() { "none".to_owned() } else { format!("`{declared}`") };
        let sentence = format!("the content type is {got}, wanted `application/json`");
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            sentence,
        ));
    }
    let bytes = read(request, limits).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::malformed("the body is JSON, but no object")),
        Err(error) => Err(Refusal::malformed(format!("the body is not valid JSON: {error}"))),
    }
}

/// Reads a JSON object from a request that may come without a body.
///
/// # Errors
/// As [`json_object`].
pub(crate) async fn optional_json_object(
    request: Request<Incoming>,
    limits: &HttpLimits,
) -> Result<Map<String, Value>, Refusal> {
    use hyper::body::Body;
    if request.body().is_end_stream() {
        return Ok(Map::new());
    }
    json_object(request, limits).await
}

async fn read(request: Request<Incoming>, limits: &HttpLimits) -> Result<bytes::Bytes, Refusal> {
    let too_large = || {
        let sentence = format!("the body is over the limit of {} bytes", limits.body_bytes);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", sentence)
    };
    let declared = request.headers().get(hyper::header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let reading = Limited::new(request.into_body(), limits.body_bytes).collect();
    match tokio::time::timeout(limits.body_timeout, reading).await {
        Err(_) => {
            let sentence = format!(
                "the body was not there after {} seconds",
                limits.body_timeout.as_secs_f32()
            );
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", sentence))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::malformed(format!("the body broke off: {error}"))),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}
