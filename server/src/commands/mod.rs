//! The subcommands, one file each, and what they share: how a command fails, and how it finds and loads a model.

pub(crate) mod answer;
pub(crate) mod bench;
pub(crate) mod chat;
mod conversation;
pub(crate) mod convert;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod locate;
pub(crate) mod logits;
pub(crate) mod plan;
mod printer;
pub(crate) mod run;
pub(crate) mod sampling;
pub(crate) mod selftest;
pub(crate) mod serve;
pub(crate) mod target;
pub(crate) mod unfinished;
pub(crate) mod verify;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use hadal_engine::{Error, ErrorKind};

/// Why a command ended early.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// The command line or a setting is wrong: exit status 2.
    Usage(String),
    /// Something else is: exit status 1.
    Failed(String),
    /// Whoever read standard output has gone away (`hadal run | head`): nobody is left to tell, and nothing is wrong.
    ReaderGone,
}

impl Failure {
    /// A file that could not be read or written.
    pub(crate) fn file(path: &Path, problem: impl Display) -> Self {
        Self::Failed(format!("{}: {problem}", path.display()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_setting = matches!(error, Error::Setting { .. } | Error::Isa { .. });
        if is_setting && error.kind() == ErrorKind::Input {
            return Self::Usage(error.to_string());
        }
        Self::Failed(error.to_string())
    }
}

/// Errors of standard output.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(format!("standard output: {error}")),
        }
    }
}

/// A line for the person at the terminal. `eprintln!` would panic where standard error is closed; nobody is left to
/// tell then, and that is no reason to stop.
pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// How a command ends.
pub(crate) type Outcome = Result<(), Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_a_usage_error_and_a_wrong_file_is_not() {
        let setting = Error::Setting { name: "threads", got: "0".into(), want: "1 to 1024".into() };
        assert_eq!(
            Failure::from(setting),
            Failure::Usage("`threads` is 0, wanted 1 to 1024".into())
        );
        let file = Error::Format { path: "a.safetensors".into(), problem: "no header".into() };
        assert_eq!(Failure::from(file), Failure::Failed("a.safetensors: no header".into()));
    }

    #[test]
    fn a_closed_pipe_is_no_failure_to_speak_of() {
        assert_eq!(
            Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
            Failure::ReaderGone
        );
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(Failure::from(full), Failure::Failed(_)));
    }
}
