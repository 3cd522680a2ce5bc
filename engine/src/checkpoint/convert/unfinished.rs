//! Folders in the making, by name: `.NAME.partial-PID` beside `NAME`. Each is locked by the process that fills it, so
//! what a process left that was killed can be told from what another is writing: the lock goes with the process,
//! whatever its number, in a container or not.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Ending of the checkpoint that a finished one takes the place of.
const OLD: &str = "-old";
/// Ending of what is being removed.
const GONE: &str = "-gone";

/// Where a process makes `out`; `None` for a path that names no folder.
fn partial(out: &Path, pid: u32) -> Option<PathBuf> {
    let mut name = prefix(out)?;
    name.push(pid.to_string());
    Some(parent(out).join(name))
}

/// `.NAME.partial-`.
fn prefix(out: &Path) -> Option<OsString> {
    let mut prefix = OsString::from(".");
    prefix.push(out.file_name()?);
    prefix.push(".partial-");
    Some(prefix)
}

/// The folder that `out` is in.
pub(super) fn parent(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// A folder in the making. Dropped, it takes everything with it; once renamed, it is gone already.
pub(super) struct Unfinished {
    path: PathBuf,
    /// Held as long as the folder is ours. `None` where the file system knows no locks.
    _lock: Option<File>,
}

impl Unfinished {
    /// Makes the folder beside `out`.
    pub(super) fn make(out: &Path) -> Result<Self> {
        let Some(path) = partial(out, std::process::id()) else {
            let problem = "wanted the name of a folder to make".to_owned();
            return Err(Error::Format { path: out.to_owned(), problem });
        };
        std::fs::create_dir(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        let lock = lock(&path);
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder its name; what is there takes its place aside and is removed.
    pub(super) fn finish(self, out: &Path, replaces: bool) -> Result<()> {
        let io = |source| Error::Write { path: out.to_owned(), source };
        if !replaces {
            return std::fs::rename(&self.path, out).map_err(io);
        }
        // Two renames: at no moment is there half of the old and half of the new.
        let old = with_ending(&self.path, OLD);
        // Nobody must take it for left behind in between.
        let _lock = lock(out);
        std::fs::rename(out, &old).map_err(io)?;
        if let Err(source) = std::fs::rename(&self.path, out) {
            // What was there goes back to its place; the error says what happened.
            let _ = std::fs::rename(&old, out);
            return Err(io(source));
        }
        remove(&old).map_err(|source| Error::Write { path: old, source })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Nobody is left to tell; a hidden folder without `config.json` is no checkpoint.
        let _ = remove(&self.path);
    }
}

/// Removes a folder that may be gone already.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A folder's lock; `None` when somebody has it, or there is no such thing.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    file.try_lock().is_ok().then_some(file)
}

/// Removes what processes that are gone have left beside `out`, and puts a checkpoint back that was being replaced.
pub(super) fn sweep(out: &Path) {
    let Some(prefix) = prefix(out) else { return };
    for entry in std::fs::read_dir(parent(out)).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(ending) = ending(&entry.file_name(), &prefix).filter(|_| is_folder) else {
            continue;
        };
        let path = entry.path();
        // Held while it is removed: two that sweep do not meet.
        let Some(_lock) = lock(&path) else { continue };
        clear(&path, ending, out);
    }
}

/// What follows the number in the name of a folder in the making; `None` for any other name.
fn ending(name: &OsStr, prefix: &OsStr) -> Option<&'static str> {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes())?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at_checked(digits)?;
    let ending = ["", OLD, GONE].into_iter().find(|ending| ending.as_bytes() == rest)?;
    (!digits.is_empty()).then_some(ending)
}

/// Removes one; of a replacement that was cut short, what was there before goes back.
fn clear(path: &Path, ending: &str, out: &Path) {
    let is_lost = ending == OLD && std::fs::symlink_metadata(out).is_err();
    // What cannot be removed is in nobody's way.
    let _ = if is_lost { std::fs::rename(path, out) } else { remove(path) };
}

/// Removes what this process has made so far of a conversion to `out`, which fails then if it is still under way: for a
/// process that is about to end. What is finished stays.
pub fn give_up(out: &Path) {
    let Some(path) = partial(out, std::process::id()) else { return };
    // Under another name nothing can be added to it.
    let gone = with_ending(&path, GONE);
    if std::fs::rename(&path, &gone).is_ok() {
        let _ = remove(&gone);
    }
    clear(&with_ending(&path, OLD), OLD, out);
}
