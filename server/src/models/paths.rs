//! What of the disk's layout a client may see: names below the checkpoint root, and nothing above it.

use std::path::{Path, PathBuf};

/// Folders whose own place on the disk is nobody's business.
pub(super) struct Paths {
    root: PathBuf,
    beside: Option<(String, PathBuf)>,
}

impl Paths {
    pub(super) fn new(root: PathBuf, beside: Option<(String, PathBuf)>) -> Self {
        Self { root, beside }
    }

    /// A sentence of the engine with paths as a listing names them: below the root, or below the name of the model
    /// beside it.
    pub(super) fn hide(&self, sentence: &str) -> String {
        let mut text = sentence.to_owned();
        for (path, name) in self.folders() {
            text = shortened(&text, &path, &name);
        }
        text
    }

    /// Folders as sentences may have them, and what stands there instead.
    fn folders(&self) -> Vec<(String, String)> {
        let forms = |path: &Path, name: &str| {
            // As it was given, and as a walk of the disk finds it.
            let real = path.canonicalize().ok();
            let forms = real.into_iter().chain([path.to_owned()]);
            forms.map(|path| (path.display().to_string(), name.to_owned())).collect::<Vec<_>>()
        };
        let beside = self.beside.iter().flat_map(|(name, path)| forms(path, name));
        beside.chain(forms(&self.root, "")).collect()
    }
}

/// A text in which a folder's path is its name; with no name, what is below it stands alone.
fn shortened(text: &str, path: &str, name: &str) -> String {
    let path = path.trim_end_matches('/');
    if path.is_empty() || path == "." {
        return text.to_owned();
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(path) {
        let (before, found) = rest.split_at(at);
        let after = found.get(path.len()..).unwrap_or_default();
        // Not the end of a longer path, nor the beginning of a longer name.
        let begins = before.chars().next_back().or(out.chars().next_back());
        let is_begin =
            begins.is_none_or(|c| c.is_whitespace() || matches!(c, '`' | '\'' | '"' | '('));
        let is_end = after
            .chars()
            .next()
            .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | '_' | '.'));
        out.push_str(before);
        if is_begin && is_end {
            out.push_str(if name.is_empty() && !after.starts_with('/') { "." } else { name });
            rest = if name.is_empty() { after.strip_prefix('/').unwrap_or(after) } else { after };
        } else {
            out.push_str(path);
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_files_below_the_root_and_no_others_change() {
        let beside = Some(("mine".to_owned(), "/data/x/mine".into()));
        let paths = Paths::new("/srv/models/".into(), beside);
        for (sentence, want) in [
            ("/srv/models/a/b.safetensors: cut", "a/b.safetensors: cut"),
            ("cannot open `/srv/models/a`, `/srv/models`", "cannot open `a`, `.`"),
            ("/data/x/mine/config.json: bad", "mine/config.json: bad"),
            ("/data/x/mine: no file", "mine: no file"),
            ("/srv/models2/a and /mnt/srv/models/a", "/srv/models2/a and /mnt/srv/models/a"),
            ("nothing to hide", "nothing to hide"),
        ] {
            assert_eq!(paths.hide(sentence), want);
        }
        let relative = Paths::new("ck".into(), None);
        assert_eq!(relative.hide("ck/a: back/ck/a"), "a: back/ck/a");
    }
}
