//! Files of `torch.save`: a released model in the older format, wrong files of every kind, and how they are found.

use std::path::Path;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Checkpoint, Source, discover};
use hadal_tests::torch::{View, archive, pickle, save, save_legacy};
use safetensors::{Dtype, SafeTensors};

use super::golden::{folder, run_on};

/// A folder of its own with a golden case's small files and one file of the given bytes.
fn beside_config(case: &str, name: &str, bytes: &[u8]) -> (tempfile::TempDir, Source) {
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(folder(case).join("config.yaml"), root.path().join("config.yaml")).unwrap();
    let path = root.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (root, Source::File(path))
}

fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    let (_root, source) = beside_config("mini-tied", "best.pt", bytes);
    Checkpoint::open(&source).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let error = open(bytes).err().unwrap_or_else(|| "opened".into());
    assert!(error.contains("best.pt") && error.contains(why), "{error}");
}

/// The tensors of a safetensors file as views of a storage each, and the storages.
fn views(bytes: &[u8]) -> Vec<(View, Vec<u8>)> {
    let tensors = SafeTensors::deserialize(bytes).unwrap().tensors();
    let view = |(i, (name, tensor)): (usize, (String, safetensors::tensor::TensorView<'_>))| {
        let class = match tensor.dtype() {
            Dtype::F32 => "FloatStorage",
            Dtype::BF16 => "BFloat16Storage",
            other => panic!("{other:?}"),
        };
        (View::whole(&name, class, &i.to_string(), tensor.shape()), tensor.data().to_vec())
    };
    tensors.into_iter().enumerate().map(view).collect()
}

fn write_bin(path: &Path, tensors: &[(View, Vec<u8>)]) {
    let views: Vec<View> = tensors.iter().map(|(view, _)| view.clone()).collect();
    let mut entries = vec![("archive/data.pkl".to_owned(), pickle(&views, false))];
    entries.extend(
        tensors.iter().map(|(v, bytes)| (format!("archive/data/{}", v.key), bytes.clone())),
    );
    std::fs::write(path, archive(&entries)).unwrap();
}

fn copy_texts(case: &str, to: &Path) {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder(case).join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_released_model_in_the_older_format_gives_the_same_bits() {
    let cpu = CpuOptions { threads: Some(2), ..CpuOptions::default() };
    for case in ["v3-moe-f32", "v3-noqlora-bf16"] {
        let weights = std::fs::read(folder(case).join("model.safetensors")).unwrap();
        let tensors = views(&weights);
        let run =
            |at: &Path| run_on(&Source::Directory(at.to_owned()), &[1, 5, 9, 200], 6, 64, &cpu);
        let want = run(&folder(case));
        let root = tempfile::tempdir().unwrap();
        let (one, many) = (root.path().join("one"), root.path().join("many"));
        let unnamed = root.path().join("unnamed");
        for at in [&one, &many, &unnamed] {
            std::fs::create_dir(at).unwrap();
            copy_texts(case, at);
        }
        write_bin(&one.join("pytorch_model.bin"), &tensors);
        let (first, second) = tensors.split_at(tensors.len() / 2);
        let mut map = serde_json::Map::new();
        for (i, part) in [first, second].into_iter().enumerate() {
            let name = format!("pytorch_model-0000{}-of-00002.bin", i + 1);
            write_bin(&many.join(&name), part);
            // The same without an index.
            write_bin(&unnamed.join(&name), part);
            map.extend(part.iter().map(|(view, _)| (view.name.clone(), name.clone().into())));
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(many.join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
        for at in [&one, &many, &unnamed] {
            let made = run(at);
            for key in ["logits", "decode_logits", "decode_tokens"] {
                assert_eq!(
                    made[key].floats,
                    want[key].floats,
                    "{case}: `{key}` in {}",
                    at.display()
                );
            }
        }
        let found = discover(root.path());
        let names: Vec<_> = found.iter().map(|found| (found.name.as_str(), found.format)).collect();
        assert_eq!(names, [("many", "pt"), ("one", "pt"), ("unnamed", "pt")]);
        assert!(found.iter().all(|found| found.summary.is_ok() && found.size_bytes > 10_000));
    }
}

#[test]
fn a_trainers_folder_is_as_many_models_as_it_has_files() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("pretrain");
    std::fs::create_dir(&run).unwrap();
    for name in [
        "config.yaml",
        "tokenizer.json",
        "legacy.pt",
        "state_dict_bf16.pt",
        "reject_unknown_global.pt",
    ] {
        std::fs::copy(folder("mini-tied").join(name), run.join(name)).unwrap();
    }
    std::fs::write(run.join("half.pth"), b"PK\x03\x04").unwrap();
    std::fs::write(run.join("notes.txt"), "no model").unwrap();
    let found = discover(root.path());
    let summary = |name: &str| found.iter().find(|f| f.name == name).unwrap().summary.clone();
    let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "pretrain/half.pth",
            "pretrain/legacy.pt",
            "pretrain/reject_unknown_global.pt",
            "pretrain/state_dict_bf16.pt"
        ]
    );
    let legacy = summary("pretrain/legacy.pt").unwrap();
    assert_eq!((legacy.architecture.as_str(), legacy.dtype), ("mini_deepseek", "float32"));
    assert_eq!(summary("pretrain/state_dict_bf16.pt").unwrap().dtype, "bfloat16");
    let reason = summary("pretrain/half.pth").unwrap_err();
    assert_eq!(reason, "the archive has no end record: the file is truncated");
    let reason = summary("pretrain/reject_unknown_global.pt").unwrap_err();
    assert!(reason.contains("`os.getenv`"), "{reason}");
    assert!(found.iter().all(|found| matches!(found.source(), Source::File(_))));
}

#[test]
fn without_settings_the_file_says_what_is_missing() {
    let bytes = std::fs::read(folder("mini-tied").join("state_dict.pt")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("best.pt");
    std::fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::open(&Source::File(path.clone())).err().unwrap().to_string();
    assert!(
        error.contains("`num_attention_heads` is missing") && error.contains("config.yaml"),
        "{error}"
    );
    std::fs::write(root.path().join("config.json"), r#"{"num_attention_heads": 4}"#).unwrap();
    let error = Checkpoint::open(&Source::File(path.clone())).err().unwrap().to_string();
    assert!(error.contains("`qk_rope_head_dim` is missing"), "{error}");
    // What shapes tell needs no saying.
    std::fs::write(
        root.path().join("config.json"),
        r#"{"num_attention_heads": 4, "qk_rope_head_dim": 8}"#,
    )
    .unwrap();
    let config = Checkpoint::open(&Source::File(path.clone())).unwrap().config;
    let whole =
        Checkpoint::open(&Source::File(folder("mini-tied").join("state_dict.pt"))).unwrap().config;
    assert_eq!((config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank), (10, 14, 20));
    assert_eq!(config.is_moe_layer, whole.is_moe_layer);
    assert_eq!(config.moe.as_ref().unwrap().n_shared_experts, 2);
    assert!(config.tie_word_embeddings);
    std::fs::write(
        root.path().join("config.json"),
        r#"{"num_attention_heads": 4, "qk_rope_head_dim": 8, "v_head_dim": 15}"#,
    )
    .unwrap();
    let error = Checkpoint::open(&Source::File(path)).err().unwrap().to_string();
    assert!(error.contains("v_up_proj") && error.contains("[60, 20]"), "{error}");
}

fn floats(n: usize) -> Vec<u8> {
    vec![0; n * 4]
}

fn w(count: usize, offset: usize, shape: &[usize], stride: &[usize]) -> View {
    View { count, offset, stride: stride.to_vec(), ..View::whole("w", "FloatStorage", "0", shape) }
}

#[test]
fn tensors_that_are_not_where_they_say_are_refused() {
    let saved = |view: View, n| save(&[view], &[("0", floats(n))]);
    refused(
        &saved(w(6, 0, &[2, 4], &[4, 1]), 6),
        "8 numbers from 0 on are wanted, its storage has 6",
    );
    refused(&saved(w(6, 3, &[2, 2], &[2, 1]), 6), "4 numbers from 3 on");
    refused(&saved(w(6, 0, &[2, 3], &[3, 1]), 5), "`best/data/0` has 20 bytes, wanted 24");
    refused(&saved(w(7, 0, &[2, 3], &[3, 1]), 6), "has 24 bytes, wanted 28");
    refused(&saved(w(6, 0, &[2, 3], &[1, 2]), 6), "not those of a row-major [2, 3]");
    refused(
        &saved(w(1, 0, &[1 << 40, 1 << 40], &[1 << 40, 1]), 1),
        "more numbers than there can be",
    );
    refused(&saved(w(1 << 60, 0, &[1 << 60], &[1]), 1), "has 4 bytes, wanted 4611686018427387904");
    refused(&saved(w(1, usize::MAX >> 1, &[1], &[1]), 1), "are wanted");
    let missing = View::whole("w", "FloatStorage", "9", &[2]);
    refused(&save(&[missing], &[("0", floats(2))]), "`best/data/9` is not in the archive");
    let twice =
        [View::whole("w", "FloatStorage", "0", &[2]), View::whole("w", "FloatStorage", "0", &[2])];
    refused(&save(&twice, &[("0", floats(2))]), "`w`: the file has two tensors of this name");
    refused(
        &save(&[View::whole("w", "ComplexStorage", "0", &[2])], &[("0", floats(2))]),
        "`torch.ComplexStorage`",
    );
    refused(
        &save(&[], &[]),
        "holds no tensors of a model, neither by itself nor under `model_state_dict`, `state_dict`, `model`; found \
         `global_step`, `model_state_dict`",
    );
}

#[test]
fn archives_that_are_no_checkpoints_are_refused() {
    let tensor = [View::whole("w", "FloatStorage", "0", &[2])];
    let entry = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    refused(&archive(&[entry("x/readme", b"hi")]), "no `data.pkl`");
    let two = [entry("x/data.pkl", &pickle(&tensor, false)), entry("y/data.pkl", b".")];
    refused(&archive(&two), "more than one `data.pkl`");
    let big = [entry("x/data.pkl", &pickle(&tensor, false)), entry("x/byteorder", b"big")];
    refused(&archive(&big), "big-endian files are not supported");
    refused(&archive(&[entry("../data.pkl", b".")]), "no plain name");
    refused(b"hello, world", "neither a zip archive nor a legacy file");
    refused(b"L119547037146038801333356L\n.I1001\n.", "protocol 0 or 1, wanted 2 or later");
    refused(&archive(&[entry("x/data.pkl", b"\x80\x02K\x01.")]), "no dict of tensors");
}

#[test]
fn legacy_files_with_wrong_storages_are_refused() {
    let tensor = [View::whole("w", "FloatStorage", "0", &[2])];
    refused(
        &save_legacy(&tensor, &[("0", 2, floats(2))], false),
        "big-endian files are not supported",
    );
    refused(&save_legacy(&tensor, &[("0", 1 << 60, floats(2))], true), "ends beyond the file");
    refused(
        &save_legacy(&tensor, &[("0", usize::MAX, floats(2))], true),
        "-1 elements ends beyond",
    );
    refused(&save_legacy(&tensor, &[("0", 3, floats(3))], true), "`0` has 12 bytes, wanted 8");
    refused(&save_legacy(&tensor, &[("1", 2, floats(2))], true), "`1` belongs to no tensor");
    refused(
        &save_legacy(&tensor, &[("0", 2, floats(2)), ("0", 2, floats(2))], true),
        "is there twice",
    );
    refused(&save_legacy(&tensor, &[], true), "`0` is not in the file");
    let two = [tensor[0].clone(), View::whole("v", "HalfStorage", "0", &[2])];
    refused(&save_legacy(&two, &[("0", 2, floats(2))], true), "`0` has two types");
}

/// Damage of every kind, everywhere in the tables of contents: an error or another model, never a panic, and never long.
#[test]
fn damaged_files_are_refused_or_read_and_never_crash() {
    for name in ["state_dict.pt", "legacy.pt", "rl_final.pt"] {
        let whole = std::fs::read(folder("mini-tied").join(name)).unwrap();
        let (root, source) = beside_config("mini-tied", "best.pt", &whole);
        let open = |bytes: &[u8]| {
            std::fs::write(root.path().join("best.pt"), bytes).unwrap();
            Checkpoint::open(&source).map(|_| ())
        };
        open(&whole).unwrap();
        for i in 0..80 {
            let len = whole.len() * i / 80;
            assert!(open(&whole[..len]).is_err(), "{name}: {len} of {} bytes", whole.len());
        }
        // The pickles stand at the beginning, the archive's directory at the end.
        let places =
            (0..300).map(|i| i * 67 % 24_000).chain((1..200).map(|i| whole.len() - i * 31));
        for (i, at) in places.enumerate() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (i % 8);
            // Whether it is seen depends on the place: many bits are names, sizes of an optimizer, numbers.
            let _ = open(&bytes);
        }
    }
}
