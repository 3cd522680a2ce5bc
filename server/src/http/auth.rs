//! Who may ask: keys, browsers' origins, and hosts that a page on the web could pretend to be.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{StatusCode, Uri};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::reply::Refusal;

/// Keys and origins. Keys are kept as hashes, so that comparing takes one time for all lengths.
pub(crate) struct Keys {
    hashes: Vec<[u8; 32]>,
    origins: Vec<String>,
    is_loopback: AtomicBool,
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl Keys {
    pub(crate) fn new(keys: &[String], origins: Vec<String>) -> Self {
        let origins = origins
            .into_iter()
            .map(|origin| origin.trim_end_matches('/').to_ascii_lowercase())
            .collect();
        Self {
            hashes: keys.iter().map(|key| hash(key)).collect(),
            origins,
            is_loopback: AtomicBool::new(false),
        }
    }

    /// Whether only this machine can connect; then a request's host must be this machine too.
    pub(crate) fn set_loopback(&self, is_loopback: bool) {
        self.is_loopback.store(is_loopback, Ordering::Relaxed);
    }

    /// Holds a request to key, origin and host. `is_open` routes need no key.
    ///
    /// # Errors
    /// 401 without a key, 403 from a foreign page.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        is_open: bool,
    ) -> Result<(), Refusal> {
        self.check_browser(headers, uri)?;
        if is_open || self.hashes.is_empty() || self.has_key(headers) {
            return Ok(());
        }
        let sentence = "this server wants a key: `Authorization: Bearer KEY` or `x-api-key: KEY`";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", sentence))
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let plain = headers.get("x-api-key").and_then(|value| value.to_str().ok());
        let Some(given) = bearer.or(plain).map(hash) else { return false };
        // Every key is compared, so that time does not tell which one was near.
        self.hashes.iter().fold(false, |found, key| found | bool::from(key.ct_eq(&given)))
    }

    /// A page of another site must not use the reader's own server: neither by its origin, nor by a name of its own
    /// that resolves to this machine.
    fn check_browser(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let host = headers
            .get(HOST)
            .and_then(|value| value.to_str().ok())
            .or(uri.authority().map(hyper::http::uri::Authority::as_str));
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            let own = origin.split_once("://").map(|(_, authority)| authority);
            let is_own = own.is_some() && own == host.map(str::to_ascii_lowercase).as_deref();
            if !is_own && self.allowed_origin(&origin).is_none() {
                let sentence =
                    "pages of this origin may not use this server; `--cors-origin` allows one";
                return Err(Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", sentence));
            }
        }
        let is_named = host.is_some_and(|host| !is_this_machine(host));
        if self.is_loopback.load(Ordering::Relaxed) && self.hashes.is_empty() && is_named {
            let sentence = "this host name is not this machine's: use localhost or an address";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", sentence));
        }
        Ok(())
    }

    /// The origin as it is answered, when it is on the list.
    pub(crate) fn allowed_origin(&self, origin: &str) -> Option<&str> {
        let origin = origin.to_ascii_lowercase();
        self.origins
            .iter()
            .find(|allowed| **allowed == origin || *allowed == "*")
            .map(String::as_str)
    }
}

/// `localhost` and addresses; a name could be anybody's.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn check(keys: &Keys, list: &[(&'static str, &str)]) -> Option<u16> {
        keys.check(&headers(list), &Uri::from_static("/"), false)
            .err()
            .map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_key_opens_in_either_header() {
        let keys = Keys::new(&["one".into(), "two".into()], Vec::new());
        assert_eq!(check(&keys, &[]), Some(401));
        assert_eq!(check(&keys, &[("authorization", "Bearer two")]), None);
        assert_eq!(check(&keys, &[("x-api-key", "one")]), None);
        assert_eq!(check(&keys, &[("authorization", "Bearer on")]), Some(401));
        assert_eq!(check(&keys, &[("authorization", "Basic one")]), Some(401));
    }

    #[test]
    fn foreign_pages_are_refused() {
        let keys = Keys::new(&[], vec!["https://ok.example/".into()]);
        keys.set_loopback(true);
        assert_eq!(
            check(&keys, &[("host", "127.0.0.1:5001"), ("origin", "http://127.0.0.1:5001")]),
            None
        );
        assert_eq!(
            check(&keys, &[("host", "localhost:5001"), ("origin", "https://ok.example")]),
            None
        );
        assert_eq!(
            check(&keys, &[("host", "localhost:5001"), ("origin", "https://evil.example")]),
            Some(403)
        );
        assert_eq!(check(&keys, &[("host", "rebound.example:5001")]), Some(403));
        assert_eq!(check(&keys, &[("host", "[::1]:5001")]), None);
    }
}
