//! The page itself, from inside the binary.

use hadal_web::Asset;
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Request, StatusCode};

use crate::http::reply::{Refusal, Reply, bytes, empty, with_header};

/// `GET /`.
pub(crate) fn index(request: &Request<Incoming>) -> Reply {
    serve(hadal_web::index(), request)
}

/// `GET /assets/NAME`.
pub(crate) fn asset(name: &str, request: &Request<Incoming>) -> Result<Reply, Refusal> {
    let asset = hadal_web::asset(name);
    let asset = asset.ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is no such asset")
    })?;
    Ok(serve(asset, request))
}

fn serve(asset: &'static Asset, request: &Request<Incoming>) -> Reply {
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    // Compared weakly, as the header asks: a proxy that compresses makes tags weak.
    let is_its = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == asset.etag;
    let is_known = known.is_some_and(|known| known.split(',').map(str::trim).any(is_its));
    let reply = if is_known {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        bytes(StatusCode::OK, asset.content_type, asset.bytes)
    };
    let mut reply = with_header(reply, ETAG, asset.etag);
    let fixed: [(HeaderName, &'static str); 5] = [
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (CONTENT_SECURITY_POLICY, hadal_web::CONTENT_SECURITY_POLICY),
    ];
    for (name, value) in fixed {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}
