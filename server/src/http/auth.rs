//! Who may ask: keys, browsers' origins, and hosts that a page on the web could pretend to be.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::reply::Refusal;

/// Keys and origins. Keys are kept as hashes, so that comparing takes one time for all lengths.
pub(crate) struct Keys {
    hashes: Vec<[u8; 32]>,
    origins: Vec<String>,
    is_loopback: AtomicBool,
}

/// An origin as `--cors-origin` names it: `*`, `null`, or a scheme and a host with nothing behind them.
///
/// # Errors
/// What was found and what is wanted.
pub fn cors_origin(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is no web origin, wanted one like `https://example.com` or `http://localhost:3000`, or `*`"
        )
    };
    if matches!(text, "*" | "null") {
        return Ok(text.to_owned());
    }
    let origin = text.strip_suffix('/').unwrap_or(text);
    let (scheme, host) = origin.split_once("://").ok_or_else(wrong)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let authority = host.parse::<Authority>().map_err(|_| wrong())?;
    let is_host = !host.contains(['@', '*']) && !authority.host().is_empty();
    let is_port = match host.strip_prefix(authority.host()) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(':')
            .and_then(|port| port.parse().ok())
            .is_some_and(|port: u16| port > 0),
        None => false,
    };
    if is_scheme && is_host && is_port { Ok(origin.to_ascii_lowercase()) } else { Err(wrong()) }
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
    pub(crate) fn check<B>(&self, request: &Request<B>, is_open: bool) -> Result<(), Refusal> {
        let headers = request.headers();
        let host = headers.get(HOST).and_then(|value| value.to_str().ok());
        let host = host.or(request.uri().authority().map(Authority::as_str));
        self.check_host(host)?;
        // What only reads is of no use to a page that may not see the answer.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.check_origin(headers, host)?;
        }
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
        // Every key is compared, so that time does not tell which one was near.
        let opens = |given: &str| {
            let given = hash(given);
            self.hashes.iter().fold(false, |found, key| found | bool::from(key.ct_eq(&given)))
        };
        bearer.is_some_and(opens) || plain.is_some_and(opens)
    }

    /// A page of another site must not use the reader's own server by a name of its own that resolves to this machine.
    fn check_host(&self, host: Option<&str>) -> Result<(), Refusal> {
        let is_named = host.is_some_and(|host| !is_this_machine(host));
        if self.is_loopback.load(Ordering::Relaxed) && self.hashes.is_empty() && is_named {
            let sentence = "this host name is not this machine's: use localhost or an address";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", sentence));
        }
        Ok(())
    }

    /// Nor may it change anything here from where it is.
    fn check_origin(&self, headers: &HeaderMap, host: Option<&str>) -> Result<(), Refusal> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = origin.split_once("://").map(|(_, authority)| authority);
        let is_own = own.is_some() && own == host.map(str::to_ascii_lowercase).as_deref();
        if is_own || self.allowed_origin(&origin).is_some() {
            return Ok(());
        }
        let sentence = "pages of this origin may not use this server; `--cors-origin` allows one";
        Err(Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", sentence))
    }

    /// Whether any page of another origin may read answers.
    pub(crate) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
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

    /// The status a POST with these headers is refused with.
    fn check(keys: &Keys, list: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::post("/").body(()).unwrap();
        for (name, value) in list {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        keys.check(&request, false).err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_key_opens_in_either_header() {
        let keys = Keys::new(&["one".into(), "two".into()], Vec::new());
        assert_eq!(check(&keys, &[]), Some(401));
        assert_eq!(check(&keys, &[("authorization", "Bearer two")]), None);
        assert_eq!(check(&keys, &[("authorization", "bearer  two ")]), None);
        assert_eq!(check(&keys, &[("x-api-key", "one")]), None);
        assert_eq!(check(&keys, &[("authorization", "Bearer no"), ("x-api-key", "one")]), None);
        assert_eq!(check(&keys, &[("authorization", "Bearer on")]), Some(401));
        assert_eq!(check(&keys, &[("authorization", "Basic one")]), Some(401));
    }

    #[test]
    fn foreign_pages_change_nothing() {
        let keys = Keys::new(&[], vec!["https://ok.example/".into()]);
        let own = [("host", "127.0.0.1:5001"), ("origin", "http://127.0.0.1:5001")];
        assert_eq!(check(&keys, &own), None);
        let allowed = [("host", "localhost:5001"), ("origin", "https://ok.example")];
        assert_eq!(check(&keys, &allowed), None);
        let foreign = [("host", "localhost:5001"), ("origin", "https://evil.example")];
        assert_eq!(check(&keys, &foreign), Some(403));
        assert_eq!(check(&keys, &[("host", "localhost:5001"), ("origin", "null")]), Some(403));
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host_and_nothing_else() {
        for (text, want) in [
            ("https://OK.example/", "https://ok.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("*", "*"),
            ("null", "null"),
        ] {
            assert_eq!(cors_origin(text).as_deref(), Ok(want));
        }
        for text in [
            "",
            "junk",
            "example.com",
            "localhost:3000",
            "https://",
            "https:///x",
            "https://a.example/path",
            "https://a.example?x",
            "https://a.example#x",
            "https://u@a.example",
            "https://a b",
            "://a",
            "https://*.example.com",
            "https://a.example, https://b.example",
            "http://a:99999",
            "http://a:",
        ] {
            let refused = cors_origin(text).unwrap_err();
            assert!(refused.contains(&format!("`{text}`")), "{refused}");
        }
    }

    #[test]
    fn on_loopback_a_foreign_name_is_refused() {
        let keys = Keys::new(&[], Vec::new());
        assert_eq!(check(&keys, &[("host", "rebound.example:5001")]), None);
        keys.set_loopback(true);
        assert_eq!(check(&keys, &[("host", "rebound.example:5001")]), Some(403));
        for host in ["localhost", "127.0.0.1:5001", "[::1]:5001", "192.168.0.7", "a.localhost:1"] {
            assert_eq!(check(&keys, &[("host", host)]), None, "{host}");
        }
    }
}
