//! The model a tool looks at, and what the tools share: figures, tables, JSON, the progress bar.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::locate::{Located, locate};
use super::{Failure, Outcome};
use crate::args::ModelArgs;

/// Which model a tool looks at.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// The model: a name below the checkpoint folder, or the path of a checkpoint
    #[arg(value_name = "PATH|NAME")]
    pub(crate) model: OsString,
    /// Folder below which checkpoints are found [default: checkpoints]
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoints: Option<PathBuf>,
}

impl TargetArgs {
    /// Looks it up; it may be broken.
    pub(crate) fn locate(&self) -> Result<Located, Failure> {
        locate(&ModelArgs {
            checkpoints: self.checkpoints.clone(),
            model: Some(self.model.clone()),
        })
    }
}

/// A size for a reader, decimal: `8.1 MB`.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// A count for a reader: `4.1 M`.
pub(crate) fn count(n: u64) -> String {
    scaled(n as f64, &["", "k", "M", "B"]).trim_end().to_owned()
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let mut is_whole = true;
    for next in units {
        if value < 999.95 {
            break;
        }
        value /= 1e3;
        unit = next;
        is_whole = false;
    }
    if is_whole { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// One JSON object on standard output.
pub(crate) fn print_json(value: &Value) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value:#}")?;
    Ok(out.flush()?)
}

/// A failure that comes before any result. With `--json`, who reads the output finds it there too: `{"error": "…"}`.
pub(crate) fn unless_told(is_json: bool, failure: Failure) -> Failure {
    if let (Failure::Failed(problem) | Failure::Usage(problem), true) = (&failure, is_json) {
        // Where nobody reads it, something is wrong all the same.
        let _ = print_json(&json!({ "error": problem }));
    }
    failure
}

/// Text on standard output.
pub(crate) fn print_text(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A bar of bytes on standard error, which shows on a terminal only.
pub(crate) fn bar(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(doing);
    let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_have_one_digit_and_the_unit_that_fits() {
        let got = [0, 999, 1000, 8_123_456, 999_949_999, 999_950_001, 671_000_000_000].map(size);
        assert_eq!(got, ["0 B", "999 B", "1.0 kB", "8.1 MB", "999.9 MB", "1.0 GB", "671.0 GB"]);
        assert_eq!([7, 4_100_000, 671_000_000_000].map(count), ["7", "4.1 M", "671.0 B"]);
        assert_eq!(
            (plural(1, "tensor"), plural(0, "tensor")),
            ("1 tensor".into(), "0 tensors".into())
        );
    }
}
