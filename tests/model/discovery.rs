//! What is found below a checkpoint root: any depth, half-copied folders, links out, other programs' files.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hadal_engine::checkpoint::{Found, discover};
use tempfile::TempDir;

const FILES: [&str; 4] =
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v3-halves-f32")
}

fn copy(to: &Path, files: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for file in files {
        std::fs::copy(golden().join(file), to.join(file)).unwrap();
    }
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The only model there.
#[track_caller]
fn only(root: &TempDir) -> Found {
    let mut found = discover(root.path());
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[track_caller]
fn reason(root: &TempDir) -> String {
    only(root).summary.unwrap_err()
}

#[test]
fn models_are_found_at_any_depth() {
    let root = root();
    let name = vec!["d"; 60].join("/");
    copy(&root.path().join(&name), &FILES);
    let found = only(&root);
    assert_eq!((found.name, found.format), (name, "safetensors"));
    assert_eq!(found.summary.unwrap().architecture, "deepseek_v3");
}

#[test]
fn a_folder_is_listed_with_its_reason_until_it_has_come_whole() {
    let (root, weights) = (root(), std::fs::read(golden().join("model.safetensors")).unwrap());
    let folder = root.path().join("new/model");
    copy(&folder, &FILES[..1]);
    assert!(reason(&root).contains("safetensors"), "{}", reason(&root));
    for len in [0, 5, 4000, weights.len() - 1] {
        std::fs::write(folder.join(FILES[1]), &weights[..len]).unwrap();
        assert!(reason(&root).contains("model.safetensors"), "{}", reason(&root));
        assert!(!reason(&root).contains(&*root.path().to_string_lossy()));
    }
    std::fs::write(folder.join(FILES[1]), &weights).unwrap();
    assert!(only(&root).summary.is_ok());
    // Weights that came first wait for their configuration.
    std::fs::remove_file(folder.join(FILES[0])).unwrap();
    assert!(reason(&root).contains("config.json"));
}

#[test]
fn links_out_of_the_root_are_listed_and_not_followed() {
    let (root, elsewhere) = (root(), root());
    copy(&elsewhere.path().join("model"), &FILES);
    symlink(elsewhere.path().join("model"), root.path().join("linked")).unwrap();
    assert!(reason(&root).contains("leads out"));
    std::fs::remove_file(root.path().join("linked")).unwrap();
    copy(&root.path().join("mixed"), &FILES[..1]);
    symlink(
        elsewhere.path().join("model/model.safetensors"),
        root.path().join("mixed/model.safetensors"),
    )
    .unwrap();
    assert!(reason(&root).contains("`model.safetensors`: it is a link that leads out"));
    std::fs::remove_dir_all(root.path().join("mixed")).unwrap();
    // Inside the root a link is as good as what it leads to; a circle ends.
    copy(&root.path().join("store"), &FILES[1..2]);
    copy(&root.path().join("named"), &FILES[..1]);
    symlink("../store/model.safetensors", root.path().join("named/model.safetensors")).unwrap();
    std::fs::create_dir(root.path().join("circle")).unwrap();
    symlink("..", root.path().join("circle/up")).unwrap();
    let found = discover(root.path());
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["named", "store"]);
    assert!(found[0].summary.is_ok() && found[1].summary.is_err());
}

#[test]
fn files_of_other_programs_and_downloads_that_have_not_ended_are_listed() {
    let root = root();
    let write =
        |name: &str, len: usize| std::fs::write(root.path().join(name), vec![0; len]).unwrap();
    for name in ["README.md", "small.onnx", "notes.part", "data.csv", ".hidden.onnx"] {
        write(name, 100);
    }
    write("big.onnx", 2 << 20);
    write("v3.gguf.part", 100);
    write("model.safetensors.incomplete", 100);
    let found = discover(root.path());
    let listed: Vec<(&str, bool)> =
        found.iter().map(|found| (found.name.as_str(), found.summary.is_ok())).collect();
    let wanted =
        [("big.onnx", false), ("model.safetensors.incomplete", false), ("v3.gguf.part", false)];
    assert_eq!(listed, wanted);
    assert!(found[0].summary.as_ref().unwrap_err().contains("`.onnx` files are not supported"));
    assert!(found[1].summary.as_ref().unwrap_err().contains("has not come whole"));
}
