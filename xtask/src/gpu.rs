//! `cargo xtask gpu`: everything that a real card can show, where there is one.

use std::path::Path;
use std::process::Command;

use crate::Result;

/// What is shown, and the command.
const STEPS: &[(&str, &[&str])] = &[
    (
        "every kernel against float64, and its time at shapes of released models",
        &["run", "--release", "-p", "hadal-server", "--", "selftest", "--device", "cuda"],
    ),
    (
        "golden checkpoints and GGUF files against their references",
        &["test", "-p", "hadal-tests", "--test", "real_card", "--", "--nocapture"],
    ),
    (
        "the demo model's speed",
        &["run", "--release", "-p", "hadal-server", "--", "bench", "--device", "cuda"],
    ),
];

/// Runs all of it, whatever fails, and says what did. Without a card: says what it would run.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    if let Some(word) = args.first() {
        return Err(format!("takes no arguments, got `{word}`"));
    }
    if !has_card(&names_in(Path::new("/dev"))) {
        println!("skipped: no device: /dev has no nvidia0 or the like, and no dxg. With a card:");
        for (what, command) in STEPS {
            println!("  {}: {what}", line(command));
        }
        return Ok(());
    }
    let mut failed = Vec::new();
    for (what, command) in STEPS {
        println!("\n=== {what}\n$ {}", line(command));
        // A build without kernels would skip everything and call it well.
        let ran = Command::new("cargo")
            .args(*command)
            .env("REQUIRE_CUDA", "1")
            .current_dir(root)
            .status();
        match ran {
            Ok(status) if status.success() => {}
            Ok(status) => failed.push(format!("`{}`: {status}", line(command))),
            Err(problem) => failed.push(format!("cannot run `{}`: {problem}", line(command))),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

fn line(command: &[&str]) -> String {
    format!("cargo {}", command.join(" "))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether a driver has put a card among these names: its own, or the one of a Windows host.
fn has_card(names: &[String]) -> bool {
    let is_card = |name: &String| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        name == "dxg" || !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.iter().any(is_card)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_numbers() {
        let has = |names: &[&str]| {
            has_card(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert!(has(&["null", "nvidia3"]) && has(&["dxg"]));
        assert!(!has(&["nvidia", "nvidiactl", "nvidia-uvm", "dri"]) && !has(&[]));
    }

    #[test]
    fn what_is_run_is_there() {
        let root = crate::root();
        assert!(root.join("tests/real_card.rs").exists());
        assert!(root.join("server/src/commands/selftest.rs").exists());
        assert!(run(&root, &["--now".into()]).unwrap_err().contains("--now"));
    }
}
