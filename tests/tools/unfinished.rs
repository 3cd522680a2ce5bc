//! What interrupted conversions have left, and how many files one holds open.

use std::fs::File;
use std::path::Path;

use hadal_engine::checkpoint::{ConvertOptions, Source, Target, convert, give_up};

use super::convert::options;
use super::{copy, read};

/// A number that no process has: the largest there can be is 2^22.
const DEAD: u32 = 4_999_999;

fn make(folder: &Path, name: &str) {
    std::fs::create_dir(folder.join(name)).unwrap();
    std::fs::write(folder.join(name).join("model.safetensors"), "half").unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_dead_processes_left_is_swept_and_what_is_in_use_is_not() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for ending in ["", "-gone", "-old"] {
        make(at, &format!(".out.partial-{DEAD}{ending}"));
    }
    // Our own number, as the only process of a container has it each time.
    make(at, &format!(".out.partial-{}", std::process::id()));
    let others = [
        ".out.partial-1",
        ".out.partial-x",
        ".out.partial-",
        ".other.partial-9",
        ".out.partial-9.bak",
    ];
    for name in others {
        make(at, name);
    }
    let used = File::open(at.join(".out.partial-1")).unwrap();
    used.try_lock().unwrap();
    // A link is followed by nobody.
    make(at, "elsewhere");
    std::os::unix::fs::symlink(at.join("elsewhere"), at.join(".out.partial-7")).unwrap();
    // The old checkpoint is where it was, so what is aside of it is a copy.
    make(at, "out");
    std::fs::write(at.join("out/config.json"), "{}").unwrap();

    let force = ConvertOptions { force: true, ..options(Target::Bf16, &at.join("out")) };
    convert(&source, &force, &mut |_, _| {}).unwrap();
    let mut want: Vec<&str> =
        others.into_iter().chain(["out", "elsewhere", ".out.partial-7"]).collect();
    want.sort_unstable();
    assert_eq!(names(at), want);
    assert!(at.join("elsewhere/model.safetensors").exists());
    drop(used);
    convert(&source, &force, &mut |_, _| {}).unwrap();
    assert!(!at.join(".out.partial-1").exists());
}

#[test]
fn a_checkpoint_that_was_being_replaced_goes_back_to_its_place() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    make(folder.path(), &format!(".out.partial-{DEAD}-old"));
    let error = convert(&source, &options(Target::Bf16, &out), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(names(folder.path()), ["out"]);
    assert_eq!(std::fs::read_to_string(out.join("model.safetensors")).unwrap(), "half");
}

#[test]
fn a_conversion_that_is_given_up_leaves_nothing_and_says_that_it_failed() {
    let from = copy("v3-realdims");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Each tensor has a file of its own, which cannot be opened once the folder is gone.
    let options = ConvertOptions { shard_bytes: 1, ..options(Target::Q4, &out) };
    let mut is_given_up = false;
    let result = convert(&source, &options, &mut |_, _| {
        if !is_given_up {
            assert_eq!(names(folder.path()).len(), 1);
            give_up(&out);
            is_given_up = true;
        }
    });
    assert!(result.is_err());
    assert_eq!(names(folder.path()), Vec::<String>::new());
    // Nothing is under way: nothing happens.
    convert(&source, &options, &mut |_, _| {}).unwrap();
    give_up(&out);
    assert_eq!(names(folder.path()), ["out"]);
}

/// Files below `folder` that this process has open.
fn open_files(folder: &Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    paths.filter(|path| path.starts_with(folder) && path.extension().is_some()).count()
}

#[test]
fn files_are_open_only_while_they_are_written() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let options = ConvertOptions { shard_bytes: 1, ..options(Target::Bf16, &root.join("out")) };
    let mut most = 0;
    let done = convert(&source, &options, &mut |_, _| most = most.max(open_files(&root))).unwrap();
    assert!(done.n_file > 50, "{done:?}");
    // The folder itself has an ending too.
    assert!(most <= options.threads + 1, "{most} of {} files open at once", done.n_file);
    let names = std::fs::read_dir(root.join("out")).unwrap();
    let files: Vec<_> = names
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .collect();
    assert_eq!(files.len(), done.n_file);
    let all: usize = files.iter().map(|file| read(file).len()).sum();
    assert_eq!(all, done.n_tensor);
}
