//! Checkpoints of `cargo xtask tiny`, for tests that want other shapes than the golden cases have.

use std::path::Path;
use std::process::Command;

/// Writes a preset into `folder`.
pub fn write(preset: &str, folder: &Path) {
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--package", "xtask", "--"])
        .args(["tiny", "--preset", preset, "--out"])
        .arg(folder)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
}
