//! All checks that need no model: what a change must pass before anything is run.

use std::path::Path;
use std::process::Command;

use crate::Result;

/// Formatting, lints, tidy; then cargo-deny, where it is installed.
pub(crate) fn run(root: &Path) -> Result<()> {
    step(root, "cargo", &["fmt", "--all", "--check"])?;
    step(root, "cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    crate::tidy::run(root)?;
    if installed("cargo-deny") {
        step(root, "cargo-deny", &["check", "licenses", "bans", "sources"])
    } else {
        println!(
            "cargo-deny is not installed: licences, bans and sources were not checked (./test does it)"
        );
        Ok(())
    }
}

fn step(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    println!("$ {line}");
    let status = Command::new(program).args(args).current_dir(root).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}`: {status}")),
        Err(problem) => Err(format!("cannot run `{line}`: {problem}")),
    }
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_names_its_command() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(step(here, "cargo", &["--version"]).is_ok());
        let problem = step(here, "cargo", &["no-such-command"]).unwrap_err();
        assert!(problem.contains("cargo no-such-command"), "{problem}");
        assert!(step(here, "no-such-program", &[]).unwrap_err().contains("cannot run"));
    }

    #[test]
    fn a_missing_program_is_noticed() {
        assert!(installed("cargo"));
        assert!(!installed("no-such-program"));
    }
}
