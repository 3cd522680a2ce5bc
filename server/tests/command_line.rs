//! The binary as a person or a script meets it: paths that are no text, failures that a program reads, and what is left
//! when a signal ends it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is tests: a panic is how they fail"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than a machine under load takes for any of these.
const PATIENCE: Duration = Duration::from_mins(2);

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/golden").join(case)
}

fn hadal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.stdin(Stdio::null()).env_remove("HADAL_ISA").env_remove("HADAL_LOG");
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A golden checkpoint's own files.
fn copy(case: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden(case).join(name), to.join(name)).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn paths_need_not_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(OsStr::from_bytes(b"m\xff"));
    let out = folder.path().join(OsStr::from_bytes(b"o\xfe"));
    copy("v3-moe-bf16", &model);
    for command in ["inspect", "verify"] {
        let (status, _, problem) = output(hadal().arg(command).arg(&model));
        assert_eq!((status, problem.as_str()), (Some(0), ""), "{command}");
    }
    let (status, _, problem) =
        output(hadal().arg("convert").arg(&model).args(["--to", "f32", "--out"]).arg(&out));
    assert_eq!((status, problem.as_str()), (Some(0), ""));
    assert!(out.join("model.safetensors").is_file());
    let tokens = folder.path().join("tokens.json");
    std::fs::write(&tokens, "[1, 2, 3]").unwrap();
    let logits = folder.path().join(OsStr::from_bytes(b"l\xfd"));
    let mut command = hadal();
    command.arg("logits").arg("--model").arg(&out).arg("--tokens").arg(&tokens);
    let (status, _, problem) = output(command.arg("--out").arg(&logits));
    assert_eq!((status, problem.as_str()), (Some(0), ""));
    assert!(logits.is_file());
    // One that is not there is named, as far as it can be.
    let (status, _, problem) =
        output(hadal().arg("inspect").arg(folder.path().join(OsStr::from_bytes(b"x\xff"))));
    assert_eq!(status, Some(2));
    assert!(problem.contains("x\u{fffd}"), "{problem}");
}

#[test]
fn a_failure_is_json_too_where_json_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    copy("v3-moe-bf16", &broken);
    std::fs::File::options()
        .write(true)
        .open(broken.join("model.safetensors"))
        .unwrap()
        .set_len(5000)
        .unwrap();
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let taken = taken.to_str().unwrap();
    let [broken, whole] = [broken, golden("v3-moe-bf16")].map(|path| path.display().to_string());
    let cases: [(&[&str], i32, &str); 7] = [
        (&["plan", &broken], 1, "truncated"),
        (&["verify", &broken], 1, "truncated"),
        (&["verify", &whole, "--against", "no-such-file"], 1, "no-such-file"),
        (&["convert", &broken, "--to", "q8", "--out", "never"], 1, "truncated"),
        (&["convert", &whole, "--to", "q8", "--out", taken], 1, "--force"),
        (&["plan", "no-such-model"], 2, "no-such-model"),
        (&["inspect", "no-such-model"], 2, "no-such-model"),
    ];
    for (args, want, part) in cases {
        let (status, told, problem) = output(hadal().args(args).arg("--json"));
        assert_eq!(status, Some(want), "{args:?}: {problem}");
        let object: Value = serde_json::from_str(&told).unwrap();
        let error = object["error"].as_str().unwrap();
        assert!(error.contains(part), "{args:?}: {error}");
        assert!(problem.contains(error), "{args:?}: a person reads the same: {problem}");
        let (again, told, _) = output(hadal().args(args));
        assert_eq!((again, told.as_str()), (Some(want), ""), "{args:?}");
    }
}

#[test]
fn logits_say_that_there_is_no_cache_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    copy("v3-moe-bf16", &model);
    // Where the cache's folder would be is a file.
    std::fs::write(model.join(".hadal-q8"), "").unwrap();
    let tokens = folder.path().join("tokens.json");
    std::fs::write(&tokens, "[1, 2, 3]").unwrap();
    let mut command = hadal();
    command.arg("logits").arg("--model").arg(&model).arg("--tokens").arg(&tokens).arg("--out");
    command.arg(folder.path().join("o")).args(["--quant", "q8", "--quant-cache"]);
    let (status, _, problem) = output(&mut command);
    assert_eq!(status, Some(0), "{problem}");
    assert!(problem.starts_with("warning: no cache of quantised weights: "), "{problem}");
    std::fs::remove_file(model.join(".hadal-q8")).unwrap();
    let (status, _, problem) = output(&mut command);
    assert_eq!((status, problem.as_str()), (Some(0), ""));
    assert!(model.join(".hadal-q8/model.safetensors").is_file());
}

#[test]
fn a_plan_says_where_quantised_weights_will_be() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    copy("v3-moe-bf16", &model);
    let plan = |args: &[&str]| {
        let mut command = hadal();
        command.arg("plan").arg(&model).args(["--bandwidth", "10", "--quant", "q8"]).args(args);
        let (status, told, problem) = output(&mut command);
        assert_eq!(status, Some(0), "{problem}");
        told
    };
    assert!(plan(&[]).contains("in memory of our own\n"));
    assert!(plan(&["--quant-cache"]).contains("in a cache that the first load writes"));
    let speed = |told: String| {
        told.lines()
            .skip_while(|line| !line.starts_with("decoding"))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    let before = speed(plan(&[]));
    let mut convert = hadal();
    convert.args(["run", "--raw", "a", "--max-tokens", "1", "--quant", "q8", "--quant-cache"]);
    let (status, _, problem) = output(convert.arg("--model").arg(&model));
    assert_eq!(status, Some(0), "{problem}");
    let cached = plan(&["--quant-cache"]);
    assert!(!cached.contains("weights, quantised"), "{cached}");
    assert_eq!(speed(cached), before, "as many bytes a step");
}

/// A checkpoint that takes seconds to convert and no room: its embedding and head are holes in the file.
fn large(folder: &Path) {
    const VOCAB: usize = 6_000_000;
    copy("v3-moe-bf16", folder);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let hidden = usize::try_from(config["hidden_size"].as_u64().unwrap()).unwrap();
    config["vocab_size"] = json!(VOCAB);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let head = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let mut header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + head]).unwrap();
    let mut end = bytes.len() - 8 - head;
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let next = end + VOCAB * hidden * 2;
        header.insert(
            name.to_owned(),
            json!({ "dtype": "BF16", "shape": [VOCAB, hidden], "data_offsets": [end, next] }),
        );
        end = next;
    }
    // The format allows no gaps: what the two were before belongs to somebody.
    let old = serde_json::from_slice::<BTreeMap<String, Value>>(&bytes[8..8 + head]).unwrap();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let place = &old[name]["data_offsets"];
        let n = place[1].as_u64().unwrap() - place[0].as_u64().unwrap();
        let spare = json!({ "dtype": "U8", "shape": [n], "data_offsets": place });
        header.insert(format!("spare.{name}"), spare);
    }
    let text = serde_json::to_vec(&header).unwrap();
    let mut made = (text.len() as u64).to_le_bytes().to_vec();
    made.extend(&text);
    made.extend(&bytes[8 + head..]);
    std::fs::write(&path, &made).unwrap();
    let length = (8 + text.len() + end) as u64;
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
}

/// Waits until the folder in the making is there, signals, and gives the exit status.
fn interrupted(mut child: Child, signal: &str, within: &Path) -> Option<i32> {
    let began = Instant::now();
    let is_there = || names(within).iter().any(|name| name.contains(".partial-"));
    while !is_there() {
        assert!(began.elapsed() < PATIENCE, "nothing is made in {}", within.display());
        assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let status = child.wait().unwrap();
    assert!(began.elapsed() < PATIENCE);
    status.code()
}

#[test]
fn a_signal_leaves_nothing_half_made() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    large(&model);
    let before = names(&model);
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut command = hadal();
        command.arg("convert").arg(&model).args(["--to", "q8", "--threads", "1", "--out"]);
        let child = command.arg(folder.path().join("out")).spawn().unwrap();
        assert_eq!(interrupted(child, signal, folder.path()), Some(status));
        assert_eq!(names(folder.path()), ["m"], "SIG{signal} to convert");

        let mut command = hadal();
        command.args(["run", "hi", "--quant", "q8", "--quant-cache", "--model"]);
        let child = command.arg(&model).spawn().unwrap();
        assert_eq!(interrupted(child, signal, &model), Some(status));
        assert_eq!(names(&model), before, "SIG{signal} to run");
    }
}

#[test]
fn a_server_that_stops_while_it_loads_leaves_no_half_made_cache() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    large(&model);
    let before = names(&model);
    let mut command = hadal();
    command.args([
        "serve",
        "--port",
        "0",
        "--quant",
        "q8",
        "--quant-cache",
        "--drain-timeout",
        "0",
    ]);
    let child = command.arg("--model").arg(&model).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(interrupted(child, "TERM", &model), Some(0));
    assert_eq!(names(&model), before);
}
