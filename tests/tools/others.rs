//! What other readers of a converted checkpoint find: factors as numbers of the type they ask for, matrices by the
//! names they know, and the code that the settings name.

use std::collections::BTreeMap;
use std::path::Path;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{ConvertOptions, Quant, Source, Target, convert};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::convert::{converted, options, widened};
use super::quant::{F32, gguf, logits, tokens};
use super::{Raw, copy, golden, read, write};

/// `v3-fp8` with its factors in another type, and a copy with the same numbers as f32.
fn with_factors(dtype: Dtype) -> [tempfile::TempDir; 2] {
    let folders = [copy("v3-fp8"), copy("v3-fp8")];
    let mut narrow = read(&folders[0].path().join("model.safetensors"));
    for raw in
        narrow.iter_mut().filter(|(name, _)| name.ends_with("_scale_inv")).map(|(_, raw)| raw)
    {
        let values = widened(raw).into_iter();
        raw.bytes = match dtype {
            Dtype::BF16 => values.flat_map(|x| bf16::from_f64(x).to_le_bytes()).collect(),
            _ => values.flat_map(|x| f16::from_f64(x).to_le_bytes()).collect(),
        };
        raw.dtype = dtype;
    }
    let wide = narrow.iter().map(|(name, raw)| {
        let is_factor = name.ends_with("_scale_inv");
        let bytes = || widened(raw).into_iter().flat_map(|x| (x as f32).to_le_bytes()).collect();
        let raw = if is_factor {
            Raw { dtype: Dtype::F32, shape: raw.shape.clone(), bytes: bytes() }
        } else {
            raw.clone()
        };
        (name.clone(), raw)
    });
    let wide: BTreeMap<String, Raw> = wide.collect();
    for (folder, tensors) in folders.iter().zip([&narrow, &wide]) {
        write(&folder.path().join("model.safetensors"), tensors);
    }
    folders
}

#[test]
fn factors_in_any_type_are_written_as_the_same_numbers_in_f32() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let [narrow, wide] = with_factors(dtype);
        for to in [Target::Fp8, Target::Q8, Target::Q4, Target::Bf16] {
            let (_a, got) = converted(narrow.path(), to);
            let (_b, want) = converted(wide.path(), to);
            assert_eq!(got, want, "{dtype:?} to {to:?}");
            let factors = got.iter().filter(|(name, _)| name.ends_with("_scale_inv"));
            let n =
                factors.inspect(|(name, raw)| assert_eq!(raw.dtype, Dtype::F32, "{name}")).count();
            // FP8 is as small as q8, and under q4 some matrices stay too.
            assert_eq!(n > 0, to != Target::Bf16, "{to:?}: {n} factors");
        }
        let cpu = |cache| CpuOptions { quant: Some(Quant { target: Target::Q8, cache }), ..F32 };
        let want = logits(&Source::Directory(wide.path().to_owned()), &tokens(20), &cpu(false));
        let source = Source::Directory(narrow.path().to_owned());
        for (cache, what) in [(false, "in memory"), (true, "written"), (true, "used")] {
            assert!(logits(&source, &tokens(20), &cpu(cache)) == want, "{dtype:?}: {what}");
        }
    }
}

#[test]
fn halves_of_a_gguf_file_become_the_matrix_they_were() {
    let from = copy("v3-tied-bf16");
    let source = read(&from.path().join("model.safetensors"));
    for to in [Target::F32, Target::Bf16, Target::F16, Target::Fp8] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut seen = (0, 0);
        let done = convert(&gguf("v3-tied-bf16.gguf"), &options(to, &out), &mut |done, total| {
            seen = (done, total);
        })
        .unwrap();
        assert_eq!(seen.0, seen.1, "all of it is counted");
        assert_eq!(done.left_out, 0, "halves are used");
        let got = read(&out.join("model.safetensors"));
        // The file was cut and turned by NumPy, so what is put together again must be what it was cut from.
        let (_folder, want) = converted(from.path(), to);
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{to:?}");
        for (name, raw) in &got {
            assert_eq!(raw, &want[name], "{to:?}: {name}");
        }
        assert!(got.keys().any(|name| name.ends_with(".kv_b_proj.weight")));
    }
    assert!(source.keys().all(|name| !name.contains(".k_b_proj")));
}

#[test]
fn halves_in_a_format_of_our_own_are_not_taken_for_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    convert(&gguf("v3-tied-bf16.gguf"), &options(Target::Q8, &out), &mut |_, _| {}).unwrap();
    let got = read(&out.join("model.safetensors"));
    assert!(got.keys().any(|name| name.ends_with(".k_b_proj.weight")));
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"quant_method\": \"hadal\""), "{config}");
    // And back: what was halves is whole where others read it.
    let plain = folder.path().join("plain");
    convert(&Source::Directory(out), &options(Target::F32, &plain), &mut |_, _| {}).unwrap();
    let got = read(&plain.join("model.safetensors"));
    assert!(got.keys().all(|name| !name.contains(".k_b_proj") && !name.contains(".v_b_proj")));
    let config = std::fs::read_to_string(plain.join("config.json")).unwrap();
    assert!(!config.contains("hadal"), "{config}");
}

fn write_text(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[test]
fn code_that_the_settings_name_goes_along_and_other_code_does_not() {
    let from = copy("v3-moe-bf16");
    let config = std::fs::read_to_string(from.path().join("config.json")).unwrap();
    let named = r#"{ "auto_map": { "AutoModelForCausalLM": "modeling_x.XForCausalLM" },"#;
    write_text(from.path(), "config.json", &config.replacen('{', named, 1));
    write_text(from.path(), "modeling_x.py", "from .layers_x import Layer\n");
    write_text(from.path(), "layers_x.py", "class Layer: pass\n");
    write_text(from.path(), "train.py", "raise SystemExit\n");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let force = ConvertOptions { force: true, ..options(Target::F32, &out) };
    for _ in 0..2 {
        // The second time over the first: what came along is part of the checkpoint.
        convert(&source, &force, &mut |_, _| {}).unwrap();
        for name in ["modeling_x.py", "layers_x.py"] {
            let copied = std::fs::read(out.join(name)).unwrap();
            assert_eq!(copied, std::fs::read(from.path().join(name)).unwrap());
        }
        assert!(!out.join("train.py").exists());
    }
    write_text(&out, "train.py", "years of work");
    let error = convert(&source, &force, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("other things"), "{error}");
}

#[test]
fn a_vocabulary_beside_a_single_file_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state_dict.pt");
    std::fs::copy(golden("mini-tied").join("state_dict.pt"), &file).unwrap();
    std::fs::copy(golden("mini-tied").join("config.yaml"), folder.path().join("config.yaml"))
        .unwrap();
    write_text(folder.path(), "tiktoken.model", "aGk= 0\n");
    let out = folder.path().join("out");
    convert(&Source::File(file), &options(Target::F32, &out), &mut |_, _| {}).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("tiktoken.model")).unwrap(), "aGk= 0\n");
}
