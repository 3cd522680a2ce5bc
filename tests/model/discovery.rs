//! What is found below a checkpoint root: any depth, half-copied folders, links out, other programs' files.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hadal_engine::checkpoint::{
    Checkpoint, Found, Known, Source, Survey, describe_path, discover, discover_again,
};
use hadal_engine::text::Text;
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
    copy(&folder, &[FILES[0], FILES[2], FILES[3]]);
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
    copy(&root.path().join("named"), &[FILES[0], FILES[2], FILES[3]]);
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

/// What is listed: names, and whether they can be served.
fn listed(root: &TempDir) -> Vec<(String, bool)> {
    let found = discover(root.path());
    found.into_iter().map(|found| (found.name, found.summary.is_ok())).collect()
}

#[track_caller]
fn lists(root: &TempDir, wanted: &[(&str, bool)]) {
    let wanted: Vec<_> = wanted.iter().map(|(name, ok)| ((*name).to_owned(), *ok)).collect();
    assert_eq!(listed(root), wanted);
}

fn place(from: &str, to: PathBuf) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(golden.join(from), to).unwrap();
}

const GGUF: &str = "gguf/v3-tied-bf16.gguf";

#[test]
fn neighbours_hide_no_model() {
    let root = root();
    let at = |path: &str| root.path().join(path);
    // A repository of GGUF files keeps the configuration they were made with.
    copy(&at("repo"), &FILES[..1]);
    place(GGUF, at("repo/m-bf16.gguf"));
    place(GGUF, at("repo/more/other.gguf"));
    // A folder that is a model, with files in it that are too; a trainer's state is none.
    copy(&at("mixed"), &FILES);
    place(GGUF, at("mixed/x.gguf"));
    for name in ["optimizer.pt", "rng_state_0.pth", "scheduler.pt"] {
        std::fs::write(at("mixed").join(name), "x").unwrap();
    }
    copy(&at("mixed/checkpoint-500"), &FILES);
    std::fs::write(at("mixed/big.onnx"), vec![0; 2 << 20]).unwrap();
    copy(&at("mixed/1_Pooling"), &FILES[..1]);
    // A configuration of another kind above models.
    copy(&at("runs/first"), &FILES);
    std::fs::write(at("runs/config.json"), "{}").unwrap();
    // One stray weight file among those that are models.
    for file in ["config.yaml", "tokenizer.json", "state_dict.pt", "legacy.pt"] {
        place(&format!("mini-tied/{file}"), at("trained").join(file));
    }
    copy(&at("trained"), &FILES[1..2]);
    lists(
        &root,
        &[
            ("mixed", true),
            ("mixed/checkpoint-500", true),
            ("mixed/x.gguf", true),
            ("repo/m-bf16.gguf", true),
            ("repo/more/other.gguf", true),
            ("runs/first", true),
            ("trained", false),
            ("trained/legacy.pt", true),
            ("trained/state_dict.pt", true),
        ],
    );
    let names = |name: &str| describe_path(name, &at(name)).summary.unwrap_err();
    assert!(
        names("repo").contains("`m-bf16.gguf` in it is a model by itself"),
        "{}",
        names("repo")
    );
    assert!(names("repo/more").contains("`other.gguf` in it"), "{}", names("repo/more"));
    assert!(names("trained").contains("name one, `legacy.pt`"), "{}", names("trained"));
    let reason = names("mixed/model.safetensors");
    assert!(reason.contains("the model is its folder"), "{reason}");
}

#[test]
fn links_and_names_that_cannot_be_served_are_listed_with_their_reason() {
    use std::os::unix::ffi::OsStrExt;
    let (root, elsewhere) = (root(), root());
    place(GGUF, elsewhere.path().join("far.gguf"));
    let reason = |name: &str| {
        let found = discover(root.path()).into_iter().find(|found| found.name == name);
        found.unwrap_or_else(|| panic!("{name} is not listed")).summary.unwrap_err()
    };
    symlink(elsewhere.path().join("far.gguf"), root.path().join("out.gguf")).unwrap();
    symlink("gone", root.path().join("latest")).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    copy(&root.path().join(name), &FILES);
    place(GGUF, root.path().join(std::ffi::OsStr::from_bytes(b"\xfe.gguf")));
    place(GGUF, root.path().join("UP.GGUF"));
    for part in 1..=2 {
        let part = format!("{part:05}-of-00002");
        let to = root.path().join(format!("PARTS-{part}.GGUF"));
        place(&format!("gguf/v3-yarn-bf16-{part}.gguf"), to);
    }
    lists(
        &root,
        &[
            ("PARTS-00001-of-00002.GGUF", true),
            ("UP.GGUF", true),
            ("bad\u{fffd}", false),
            ("latest", false),
            ("out.gguf", false),
            ("\u{fffd}.gguf", false),
        ],
    );
    assert!(reason("out.gguf").contains("leads out"));
    assert!(reason("latest").contains("not there"));
    assert!(reason("bad\u{fffd}").contains("not UTF-8"));
}

#[test]
fn a_download_that_has_not_ended_is_named() {
    for name in
        ["model.safetensors.incomplete", "model.safetensors.part", "pytorch_model.bin.download"]
    {
        let root = root();
        copy(&root.path().join("m"), &FILES[..1]);
        std::fs::write(root.path().join("m").join(name), "x").unwrap();
        let wanted = format!("`{name}` has not come whole yet");
        assert!(reason(&root).contains(&wanted), "{}", reason(&root));
        // Some weights are there, and not all.
        let half = root.path().join("m/model-00001-of-00002.safetensors");
        std::fs::write(half, b"\x02\0\0\0\0\0\0\0{}").unwrap();
        assert!(reason(&root).contains(&wanted), "{}", reason(&root));
        assert!(reason(&root).contains("is missing"), "{}", reason(&root));
    }
}

#[test]
fn what_has_no_tokenizer_is_listed_with_that_as_its_reason() {
    let root = root();
    let at = |path: &str| root.path().join(path);
    let reason = |name: &str| describe_path(name, &at(name)).summary.unwrap_err();
    copy(&at("m"), &FILES[..2]);
    assert!(reason("m").contains("no `tokenizer.json` beside the weights"), "{}", reason("m"));
    std::fs::write(at("m/tokenizer.json"), "{\"model\"").unwrap();
    assert!(reason("m").contains("tokenizer.json"), "{}", reason("m"));
    copy(&at("m"), &FILES);
    std::fs::write(at("m/chat_template.jinja"), [0xff]).unwrap();
    assert!(reason("m").contains("chat_template.jinja: not UTF-8"), "{}", reason("m"));
    for file in ["config.yaml", "state_dict.pt"] {
        place(&format!("mini-tied/{file}"), at("run").join(file));
    }
    assert!(reason("run/state_dict.pt").contains("no `tokenizer.json`"));
    for file in ["vocab.json", "merges.txt"] {
        place(&format!("mini-tied/{file}"), at("run").join(file));
    }
    assert!(describe_path("run", &at("run/state_dict.pt")).summary.is_ok());
    // The same file with another name for the key.
    let mut bytes = std::fs::read(golden().join("../gguf/v3-tied-bf16.gguf")).unwrap();
    let key = b"tokenizer.ggml.model";
    let found = bytes.windows(key.len()).position(|window| window == key).unwrap();
    bytes[found + 10] = b'G';
    std::fs::write(at("g.gguf"), bytes).unwrap();
    assert!(reason("g.gguf").contains("`tokenizer.ggml.model` is missing"), "{}", reason("g.gguf"));
    let source = Source::File(at("g.gguf"));
    let problem = Text::open(&Checkpoint::open(&source).unwrap().text).err().unwrap().to_string();
    assert!(problem.contains("tokenizer.ggml.model") && !problem.contains("beside"), "{problem}");
    assert_eq!(Survey::of(&source).problems, [problem]);
}

/// Each listing looks at each file a few times, not at all the others: nine million looks take far longer.
#[test]
fn a_folder_of_thousands_of_files_is_listed_quickly() {
    let root = root();
    for i in 0..3000 {
        std::fs::write(root.path().join(format!("{i}.gguf")), "x").unwrap();
    }
    let mut known = Known::default();
    let start = std::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(discover_again(root.path(), &mut known).len(), 3000);
    }
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}
