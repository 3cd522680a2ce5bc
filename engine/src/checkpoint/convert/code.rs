//! The Python files that a checkpoint's settings name: other readers run them, hadal only takes them along.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Files that may name code, under `auto_map`.
const SETTINGS: [&str; 4] =
    ["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"];

/// The largest one that is read or taken along.
const BYTES_MAX: u64 = 16 << 20;

/// Names of the files in `folder` that its settings name, and of those beside them that they import.
pub(super) fn files(folder: &Path) -> BTreeSet<String> {
    let mut wanted: Vec<String> = SETTINGS
        .iter()
        .filter_map(|name| serde_json::from_str::<Value>(&text(&folder.join(name))?).ok())
        .flat_map(|settings| named(&settings))
        .collect();
    let mut files = BTreeSet::new();
    while let Some(module) = wanted.pop() {
        let name = format!("{module}.py");
        if files.contains(&name) {
            continue;
        }
        // One that is elsewhere is no file of this checkpoint.
        let Some(text) = text(&folder.join(&name)) else { continue };
        wanted.extend(text.lines().filter_map(imported));
        files.insert(name);
    }
    files
}

/// A regular file's text, unless it is too large.
fn text(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > BYTES_MAX {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Modules of `auto_map`: `"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", null]`.
fn named(settings: &Value) -> Vec<String> {
    let classes = settings.get("auto_map").and_then(Value::as_object).into_iter().flatten();
    let each = classes.flat_map(|(_, class)| match class {
        Value::Array(several) => several.iter().collect(),
        one => vec![one],
    });
    // `owner/name--module.Class` is in another repository.
    each.filter_map(|class| Some(class.as_str()?.rsplit_once('.')?.0))
        .filter(|module| is_module(module))
        .map(str::to_owned)
        .collect()
}

/// The module of a line `from .module import name`.
fn imported(line: &str) -> Option<String> {
    let module = line.trim_start().strip_prefix("from .")?.split_whitespace().next()?;
    is_module(module).then(|| module.to_owned())
}

/// A plain name: no path, no folder, no other repository.
fn is_module(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settings_name_and_what_that_imports_is_all_that_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "config.json",
            r#"{"auto_map": {"AutoConfig": "configuration_k.K", "AutoModel": "o/r--modeling_k.M",
                "X": "../evil.M", "Y": 7, "Z": "gone.M"}}"#,
        );
        write(
            "tokenizer_config.json",
            r#"{"auto_map": {"AutoTokenizer": ["tokenization_k.T", null]}}"#,
        );
        write("configuration_k.py", "import os\n");
        write(
            "tokenization_k.py",
            "from .tools import a\n    from .more_tools import b\nfrom ..up import c\n",
        );
        write("tools.py", "from .tokenization_k import T\n");
        for other in ["more_tools.py", "modeling_k.py", "evil.py", "up.py", "train.py"] {
            write(other, "");
        }
        let found: Vec<String> = files(folder.path()).into_iter().collect();
        let want = ["configuration_k.py", "more_tools.py", "tokenization_k.py", "tools.py"];
        assert_eq!(found, want);
    }

    #[test]
    fn settings_that_are_none_name_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files(folder.path()).is_empty());
        for settings in ["{", "[]", r#"{"auto_map": "a.B"}"#] {
            std::fs::write(folder.path().join("config.json"), settings).unwrap();
            assert!(files(folder.path()).is_empty(), "{settings}");
        }
    }
}
