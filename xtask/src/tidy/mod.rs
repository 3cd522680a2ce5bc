//! `cargo xtask tidy`: the rules of the code base that a compiler does not know. Sizes are decisions, layers stay
//! layers, a third-party crate has one home, and nothing unfinished or of somebody's machine is left behind.
//!
//! Every rule is a function from a file's path and text to complaints, so that its tests need no repository.

mod layers;
mod paths;
mod sizes;
mod text;
mod tokens;

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::Result;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Complaint {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

fn complain(path: &str, line: usize, what: impl Into<String>) -> Complaint {
    Complaint { path: path.into(), line, what: what.into() }
}

/// A file of the repository: its path from the root, `/`-separated, and its text where it is text.
struct File {
    path: String,
    bytes: u64,
    text: Option<String>,
}

/// Checks every file that git tracks or would track, prints the line budget, and fails on any complaint.
pub(crate) fn run(root: &Path) -> Result<()> {
    let files = read(root)?;
    let mut complaints = check(&files);
    complaints.extend(text::links(&files));
    complaints.extend(sizes::bytes(&files));
    complaints.sort();
    for complaint in &complaints {
        println!("{complaint}");
    }
    print!("{}", sizes::budget(&files));
    match complaints.len() {
        0 => Ok(()),
        1 => Err("1 complaint".into()),
        n => Err(format!("{n} complaints")),
    }
}

/// All rules that look at one text file at a time.
fn check(files: &[File]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in files {
        let (path, Some(text)) = (file.path.as_str(), &file.text) else { continue };
        if is_data(path) {
            continue;
        }
        complaints.extend(sizes::lines(path, text));
        complaints.extend(text::markers(path, text));
        complaints.extend(text::machine_paths(path, text));
        if has_extension(path, "rs") {
            complaints.extend(rust(path, text));
        }
    }
    complaints
}

/// The rules that read Rust.
fn rust(path: &str, text: &str) -> Vec<Complaint> {
    let syntax = match syn::parse_file(text) {
        Ok(syntax) => syntax,
        Err(problem) => {
            return vec![complain(
                path,
                problem.span().start().line,
                format!("does not parse: {problem}"),
            )];
        }
    };
    let mut complaints = sizes::functions(path, text, &syntax);
    complaints.extend(layers::check(path, &syntax));
    complaints.extend(tokens::check(path, text));
    complaints
}

/// References and checkpoints are data that others made, and PTX is what a compiler wrote: only their bytes are counted.
fn is_data(path: &str) -> bool {
    path.starts_with("checkpoints/")
        || path.starts_with("tests/golden/")
        || has_extension(path, "lock")
        || has_extension(path, "ptx")
        || path.ends_with("package-lock.json")
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn read(root: &Path) -> Result<Vec<File>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(root)
        .output()
        .map_err(|problem| format!("cannot run git: {problem}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let mut files = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|path| !path.is_empty())
    {
        // A file that git knows and that was just deleted is no file.
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        let size = bytes.len() as u64;
        files.push(File { path: path.into(), bytes: size, text: String::from_utf8(bytes).ok() });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_reads_like_a_compilers() {
        assert_eq!(complain("a/b.rs", 3, "too long").to_string(), "a/b.rs:3: too long");
    }

    #[test]
    fn rust_that_does_not_parse_is_a_complaint() {
        assert!(rust("engine/src/x.rs", "fn (")[0].what.contains("does not parse"));
    }

    #[test]
    fn data_is_not_read_as_code() {
        let file = |path: &str| File { path: path.into(), bytes: 4, text: Some("fn (".into()) };
        assert!(check(&[file("tests/golden/x.rs"), file("checkpoints/sft/demo/x.rs")]).is_empty());
        assert_eq!(check(&[file("engine/src/x.rs")]).len(), 1);
    }
}
