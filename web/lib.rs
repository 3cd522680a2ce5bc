//! The chat page, as bytes inside the binary.
//!
//! The page is plain HTML, CSS and ES modules without a build step; each file is served as it stands in this folder.
//! `/` is [`index`], `/assets/<file>` is [`asset`]. An [`Asset::etag`] is a hash of the bytes, made at compile time,
//! so a browser may keep a file for as long as it asks whether the tag still holds (`Cache-Control: no-cache`).
//!
//! This crate knows no HTTP: it neither compares tags nor sends anything.

#![forbid(unsafe_code)]

/// What the page may do in a browser: only what comes from its own server, and nothing inline.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Its name after `/assets/`.
    pub path: &'static str,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The file's content.
    pub bytes: &'static [u8],
    /// A strong entity tag, with its quotes, as it goes into `ETag`.
    pub etag: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

// A macro because `include_bytes!` wants a literal, and a tag of its own for each file wants a constant of its own.
macro_rules! file {
    ($path:literal, $content_type:expr) => {{
        const BYTES: &[u8] = include_bytes!($path);
        const TAG: [u8; 18] = etag(BYTES);
        Asset { path: $path, content_type: $content_type, bytes: BYTES, etag: text(&TAG) }
    }};
}

static INDEX: Asset = file!("index.html", HTML);

static ASSETS: [Asset; 23] = [
    file!("announce.js", JS),
    file!("api.js", JS),
    file!("app.js", JS),
    file!("block.js", JS),
    file!("chat.css", CSS),
    file!("chat.js", JS),
    file!("chats.js", JS),
    file!("context.js", JS),
    file!("dom.js", JS),
    file!("favicon.svg", SVG),
    file!("follow.js", JS),
    file!("generation.js", JS),
    file!("inline.js", JS),
    file!("message.js", JS),
    file!("models.js", JS),
    file!("nodes.js", JS),
    file!("render.js", JS),
    file!("settings.js", JS),
    file!("store.js", JS),
    file!("stream.js", JS),
    file!("style.css", CSS),
    file!("theme.js", JS),
    file!("thinking.js", JS),
];

/// The page itself, served at `/`.
pub fn index() -> &'static Asset {
    &INDEX
}

/// The file served at `/assets/<name>`, if there is one of exactly this name.
pub fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == name)
}

/// All files under `/assets/`.
pub fn assets() -> &'static [Asset] {
    &ASSETS
}

/// FNV-1a over 64 bits, in hexadecimal between quotes. It tells versions apart; it is no defence against forgery.
const fn etag(bytes: &[u8]) -> [u8; 18] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    let digits = b"0123456789abcdef";
    let mut tag = [b'"'; 18];
    let mut at = 0;
    while at < 16 {
        tag[1 + at] = digits[(hash >> (60 - 4 * at) & 15) as usize];
        at += 1;
    }
    tag
}

/// A tag as text. It is ASCII by construction; the other arm is never taken.
const fn text(tag: &[u8]) -> &str {
    match str::from_utf8(tag) {
        Ok(text) => text,
        Err(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn source(asset: &Asset) -> &str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    fn everything() -> impl Iterator<Item = &'static Asset> {
        std::iter::once(index()).chain(assets())
    }

    /// What stands in quotes after each `mark`.
    fn quoted<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
        text.split(mark).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_file_the_page_names_is_here_and_every_file_here_is_named() {
        let page = source(index());
        let mut named: HashSet<&str> = quoted(page, "src=\"")
            .into_iter()
            .chain(quoted(page, "href=\""))
            .filter_map(|at| at.strip_prefix("assets/"))
            .collect();
        for script in assets().iter().filter(|asset| asset.content_type == JS) {
            named.extend(quoted(source(script), "from \"./"));
        }
        for name in &named {
            assert!(asset(name).is_some(), "{name} is named and missing");
        }
        for asset in assets() {
            assert!(named.contains(asset.path), "{} is embedded and never used", asset.path);
        }
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let ours = [".js", ".css", ".svg"].iter().any(|end| name.ends_with(end));
            assert!(!ours || asset(&name).is_some(), "{name} is not embedded");
        }
    }

    #[test]
    fn nothing_makes_markup_from_text() {
        for script in assets().iter().filter(|asset| asset.content_type == JS) {
            for bad in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "srcdoc",
                "eval(",
                "Function(",
            ] {
                assert!(!source(script).contains(bad), "{} uses {bad}", script.path);
            }
        }
    }

    #[test]
    fn nothing_names_another_host() {
        for asset in everything() {
            // The SVG name space is a name, not an address.
            let text = source(asset).replace("http://www.w3.org/2000/svg", "");
            for scheme in ["http://", "https://"] {
                assert!(!text.contains(scheme), "{} names a host", asset.path);
            }
            assert!(!text.contains("\"//"), "{} names a host", asset.path);
        }
    }

    #[test]
    fn nothing_is_inline_in_the_page() {
        let page = source(index());
        assert!(
            !page.contains("<style") && !page.contains(" style=") && !page.contains("javascript:")
        );
        assert!(
            page.split("<script")
                .skip(1)
                .all(|rest| rest.contains("src=\"assets/") && rest.contains("></script>"))
        );
        let handlers =
            page.split_whitespace().filter(|word| word.starts_with("on") && word.contains('='));
        assert_eq!(handlers.count(), 0);
    }

    #[test]
    fn tags_are_quoted_and_differ() {
        let tags: HashSet<&str> = everything().map(|asset| asset.etag).collect();
        assert_eq!(tags.len(), assets().len() + 1);
        assert!(
            tags.iter().all(|tag| tag.len() == 18 && tag.starts_with('"') && tag.ends_with('"'))
        );
    }

    #[test]
    fn the_tag_is_fnv_1a() {
        assert_eq!(&etag(b""), b"\"cbf29ce484222325\"");
        assert_eq!(&etag(b"a"), b"\"af63dc4c8601ec8c\"");
    }

    #[test]
    fn a_name_is_looked_up_and_never_a_path() {
        for name in ["", "index.html", "../lib.rs", "./app.js", "app.js/", "APP.JS", "lib.rs"] {
            assert!(asset(name).is_none(), "{name}");
        }
        assert!(asset("app.js").is_some());
    }
}
