//! What earlier listings have read, so that the next one reads the headers of what has changed since: a page that polls
//! must not parse a hundred thousand tensors' headers each time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Source;
use super::discover::{Summary, describe};

/// What was found of a checkpoint: its summary, or why it cannot be served.
type Verdict = std::result::Result<Summary, String>;

/// One file of a folder, as far as the system tells without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    name: OsString,
    bytes: u64,
    modified: Option<SystemTime>,
    /// Inode and time of the last change of anything, permissions too, where the system has them.
    changed: (u64, i64, i64),
}

/// Verdicts by path, each with the files it was made from.
#[derive(Debug, Default)]
pub struct Known {
    verdicts: HashMap<PathBuf, (Vec<Mark>, Verdict)>,
    /// Those of the listing under way; what was not met again is gone.
    met: HashMap<PathBuf, (Vec<Mark>, Verdict)>,
}

impl Known {
    /// What is to be said of a checkpoint: as before when no file of its folder has changed.
    pub(super) fn describe(&mut self, source: &Source) -> Verdict {
        let (path, folder) = match source {
            Source::Directory(path) => (path, path.as_path()),
            Source::File(path) => (path, path.parent().unwrap_or(path)),
            Source::Embedded(_) => return describe(source),
        };
        let marks = marks(folder);
        let verdict = match self.verdicts.remove(path) {
            Some((before, verdict)) if before == marks => verdict,
            _ => describe(source),
        };
        self.met.insert(path.clone(), (marks, verdict.clone()));
        verdict
    }

    /// Ends a listing.
    pub(super) fn forget_the_rest(&mut self) {
        self.verdicts = std::mem::take(&mut self.met);
    }
}

/// A folder's files, links followed, sorted by name.
fn marks(folder: &Path) -> Vec<Mark> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut marks: Vec<Mark> = entries
        .filter_map(|entry| {
            let metadata = std::fs::metadata(entry.path()).ok()?;
            Some(Mark {
                name: entry.file_name(),
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
                changed: changed(&metadata),
            })
        })
        .collect();
    marks.sort_by(|a, b| a.name.cmp(&b.name));
    marks
}

#[cfg(unix)]
fn changed(metadata: &std::fs::Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_: &std::fs::Metadata) -> (u64, i64, i64) {
    (0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(verdict: Verdict) -> String {
        verdict.unwrap_err()
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Directory(folder.path().to_owned());
        std::fs::write(folder.path().join("config.json"), "[1]").unwrap();
        let mut known = Known::default();
        let first = reason(known.describe(&source));
        assert!(first.contains("wanted a JSON object"), "{first}");
        known.forget_the_rest();
        // A verdict that no reading gives: it can only be the one that is kept.
        let kept = "kept".to_owned();
        known.verdicts.get_mut(folder.path()).unwrap().1 = Err(kept.clone());
        assert_eq!(reason(known.describe(&source)), kept);
        known.forget_the_rest();
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert!(reason(known.describe(&source)).contains("JSON"));
        known.forget_the_rest();
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        assert!(reason(known.describe(&source)).contains("no `config.json`"));
        known.forget_the_rest();
        known.forget_the_rest();
        assert!(known.verdicts.is_empty(), "what is not met again is forgotten");
    }
}
