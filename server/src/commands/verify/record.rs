//! Hashes as a file, and what has changed since it was written.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Checked;
use crate::commands::Failure;

/// What is kept of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of its stored bytes, in lower-case hexadecimal.
    pub(super) sha256: String,
    /// In its file's words.
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
}

/// The file's content.
#[derive(Deserialize)]
struct Kept {
    tensors: BTreeMap<String, Record>,
}

/// Hashes as they are kept.
pub(super) fn json(model: &str, checked: &[Checked]) -> Value {
    let tensors: BTreeMap<&str, &Record> =
        checked.iter().map(|tensor| (tensor.name.as_str(), &tensor.record)).collect();
    json!({ "model": model, "tensors": tensors })
}

/// Hashes that were kept.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Record>, Failure> {
    let bytes = std::fs::read(path).map_err(|problem| Failure::file(path, problem))?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|problem| {
        Failure::file(path, format_args!("not a file that `hadal verify --write` made: {problem}"))
    })?;
    Ok(kept.tensors)
}

/// What differs, one sentence a tensor, by name.
pub(super) fn differences(kept: &BTreeMap<String, Record>, now: &[Checked]) -> Vec<String> {
    let now: BTreeMap<&str, &Record> =
        now.iter().map(|tensor| (tensor.name.as_str(), &tensor.record)).collect();
    let mut lines = Vec::new();
    for (name, kept) in kept {
        match now.get(name.as_str()) {
            None => lines.push(format!("`{name}` is missing")),
            Some(now) if now.dtype != kept.dtype || now.shape != kept.shape => lines.push(format!(
                "`{name}` is {} {:?}, was {} {:?}",
                now.dtype, now.shape, kept.dtype, kept.shape
            )),
            Some(now) if now.sha256 != kept.sha256 => {
                lines
                    .push(format!("`{name}` has other bytes: {}, was {}", now.sha256, kept.sha256));
            }
            Some(_) => {}
        }
    }
    let new = now.keys().filter(|name| !kept.contains_key(**name));
    lines.extend(new.map(|name| format!("`{name}` is new")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_engine::checkpoint::Defects;

    fn checked(name: &str, sha256: &str, dtype: &str) -> Checked {
        let record = Record { sha256: sha256.into(), dtype: dtype.into(), shape: vec![2] };
        Checked { name: name.into(), record, bytes: 8, defects: Defects::default() }
    }

    #[test]
    fn what_is_kept_reads_back_and_differs_in_nothing() {
        let now = [checked("a", "01", "F32"), checked("b", "02", "BF16")];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hashes.json");
        super::super::write(&path, "m", &now).unwrap();
        assert_eq!(differences(&read(&path).unwrap(), &now), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn each_difference_is_named() {
        let before =
            [checked("a", "01", "F32"), checked("b", "02", "F32"), checked("c", "3", "F32")];
        let kept = before.iter().map(|t| (t.name.clone(), t.record.clone())).collect();
        let now = [checked("a", "01", "BF16"), checked("b", "05", "F32"), checked("d", "3", "F32")];
        assert_eq!(
            differences(&kept, &now),
            [
                "`a` is BF16 [2], was F32 [2]",
                "`b` has other bytes: 05, was 02",
                "`c` is missing",
                "`d` is new"
            ]
        );
    }

    #[test]
    fn a_file_of_another_kind_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        std::fs::write(&path, "{\"model\": 1}").unwrap();
        let Err(Failure::Failed(problem)) = read(&path) else { panic!("was read") };
        assert!(problem.contains("x.json") && problem.contains("--write"), "{problem}");
        assert!(read(&folder.path().join("none")).is_err());
    }
}
