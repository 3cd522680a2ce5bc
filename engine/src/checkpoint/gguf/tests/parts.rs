//! Models in several files.

use super::super::Part;
use super::file::File;
use super::*;

/// A model in parts, in a folder of its own.
fn parts(folder: &Path, count: u32) -> Vec<PathBuf> {
    let whole = File::model();
    let path = |number| folder.join(format!("m-{number:05}-of-{count:05}.gguf"));
    let per_part = whole.tensors.len().div_ceil(count as usize);
    for (number, tensors) in (1..).zip(whole.tensors.chunks(per_part)) {
        let mut file = File::empty();
        if number == 1 {
            file.model_keys();
        }
        file.key("split.no", typed(2, &(number as u16 - 1).to_le_bytes()));
        file.key("split.count", typed(2, &(count as u16).to_le_bytes()));
        file.key("split.tensors.count", typed(5, &(whole.tensors.len() as i32).to_le_bytes()));
        file.tensors = tensors.to_vec();
        std::fs::write(path(number), file.bytes()).unwrap();
    }
    (1..=count).map(path).collect()
}

#[test]
fn a_model_in_several_files_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let paths = parts(folder.path(), 3);
    let checkpoint = Checkpoint::open(&Source::File(paths[0].clone())).unwrap();
    assert_eq!(checkpoint.weight_bytes(), open(&File::model()).unwrap().weight_bytes());
    let found = discover(folder.path());
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["m-00001-of-00003.gguf"]);
    let reason = found[0].summary.as_ref().unwrap_err();
    assert!(reason.contains("`tokenizer.ggml.model` is missing"), "{reason}");
    let on_disk: u64 = paths.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert_eq!(found[0].size_bytes, on_disk);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let paths = parts(folder.path(), 3);
    let error =
        |path: &PathBuf| Checkpoint::open(&Source::File(path.clone())).err().unwrap().to_string();
    assert!(
        error(&paths[1]).contains("part 2 of 3")
            && error(&paths[1]).contains("m-00001-of-00003.gguf")
    );
    std::fs::rename(&paths[1], folder.path().join("away")).unwrap();
    assert!(error(&paths[0]).contains("m-00002-of-00003.gguf"));
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    assert!(error(&paths[0]).contains("says it is part 2 of 3"), "{}", error(&paths[0]));
    // Without the first the others are listed, each with its reason.
    std::fs::remove_file(&paths[0]).unwrap();
    let found = discover(folder.path());
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|found| found.summary.is_err()));
}

#[test]
fn names_of_parts_are_read_strictly() {
    let part = Part::of(Path::new("a/x-of-y-00002-of-00010.gguf")).unwrap();
    assert_eq!((part.number, part.count), (2, 10));
    assert_eq!(part.path(1), Path::new("a/x-of-y-00001-of-00010.gguf"));
    for name in [
        "x.gguf",
        "x-2-of-3.gguf",
        "x-00004-of-00003.gguf",
        "x-00000-of-00003.gguf",
        "x-+0001-of-00003.gguf",
    ] {
        assert_eq!(Part::of(Path::new(name)), None, "{name}");
    }
}
