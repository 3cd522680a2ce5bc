//! Converted checkpoints: exact where the format is, within its own step of a float64 reference where it is not, and
//! never half there.

use std::collections::BTreeMap;
use std::path::Path;

use hadal_engine::checkpoint::{
    Checkpoint, ConvertOptions, Converted, Source, Survey, Target, convert,
};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::{Raw, copy, read, write};

/// Threads enough that pieces are ready in no order.
const THREADS: usize = 3;

pub(super) fn options(to: Target, out: &Path) -> ConvertOptions {
    ConvertOptions {
        to,
        out: out.to_owned(),
        shard_bytes: 1 << 30,
        threads: THREADS,
        force: false,
        note: None,
    }
}

pub(super) fn converted(from: &Path, to: Target) -> (tempfile::TempDir, BTreeMap<String, Raw>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let source = Source::Directory(from.to_owned());
    let mut seen = (0, 0);
    let done = convert(&source, &options(to, &out), &mut |done, total| {
        assert!(done >= seen.0 && done <= total);
        seen = (done, total);
    })
    .unwrap();
    assert_eq!(seen.0, seen.1, "all of it is counted");
    assert_eq!(done.n_file, 1);
    let survey = Survey::of(&Source::Directory(out.clone()));
    assert_eq!(survey.problems, Vec::<String>::new());
    let tensors = read(&out.join("model.safetensors"));
    (folder, tensors)
}

/// A plain tensor in float64.
pub(super) fn widened(raw: &Raw) -> Vec<f64> {
    let two = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    match raw.dtype {
        Dtype::F32 => raw
            .bytes
            .chunks(4)
            .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
            .collect(),
        Dtype::BF16 => raw.bytes.chunks(2).map(|x| bf16::from_bits(two(x)).to_f64()).collect(),
        Dtype::F16 => raw.bytes.chunks(2).map(|x| f16::from_bits(two(x)).to_f64()).collect(),
        other => panic!("{other:?} is no plain type"),
    }
}

/// e4m3 by its definition.
fn e4m3(byte: u8) -> f64 {
    let sign = if byte >> 7 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    match exponent {
        0 => sign * mantissa * 2f64.powi(-9),
        _ => sign * (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    }
}

/// An FP8 matrix and its factors in float64.
fn dequantised(raw: &Raw, scales: &Raw) -> Vec<f64> {
    let dim = raw.shape[1];
    let factors = widened(scales);
    let factor = |row: usize, column: usize| factors[row / 128 * scales.shape[1] + column / 128];
    raw.bytes.iter().enumerate().map(|(i, byte)| e4m3(*byte) * factor(i / dim, i % dim)).collect()
}

/// `Q8_0` and `Q4_0` by their definitions, rows of `dim` numbers.
pub(super) fn blocks(raw: &Raw, dim: usize) -> Vec<f64> {
    let block_bytes = raw.shape[1] * 32 / dim;
    let mut values = Vec::new();
    for block in raw.bytes.chunks(block_bytes) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f64();
        match block_bytes {
            34 => values.extend(block[2..].iter().map(|q| d * f64::from(*q as i8))),
            18 => {
                values.extend(block[2..].iter().map(|q| d * (f64::from(q & 15) - 8.0)));
                values.extend(block[2..].iter().map(|q| d * (f64::from(q >> 4) - 8.0)));
            }
            _ => panic!("blocks of {block_bytes} bytes"),
        }
    }
    values
}

fn is_layer_matrix(name: &str) -> bool {
    name.ends_with("_proj.weight") && !name.contains("eh_proj")
        || name.ends_with("_with_mqa.weight")
}

#[test]
fn wider_formats_hold_the_very_numbers() {
    for (case, to, dtype) in [
        ("v3-moe-bf16", Target::F32, Dtype::F32),
        ("v3-moe-bf16", Target::Bf16, Dtype::BF16),
        ("v3-mtp-f32", Target::F32, Dtype::F32),
        ("v3-tied-bf16", Target::F32, Dtype::F32),
    ] {
        let from = copy(case);
        let source = read(&from.path().join("model.safetensors"));
        let (_folder, got) = converted(from.path(), to);
        assert_eq!(got.keys().collect::<Vec<_>>(), source.keys().collect::<Vec<_>>(), "{case}");
        for (name, raw) in &got {
            let is_bias = name.ends_with("e_score_correction_bias");
            assert_eq!(raw.dtype, if is_bias { Dtype::F32 } else { dtype }, "{name}");
            assert_eq!((&raw.shape, widened(raw)), (&source[name].shape, widened(&source[name])));
        }
    }
}

#[test]
fn narrower_formats_hold_the_nearest_numbers() {
    let from = copy("v3-moe-f32");
    let source = read(&from.path().join("model.safetensors"));
    for (to, dtype) in [(Target::Bf16, Dtype::BF16), (Target::F16, Dtype::F16)] {
        let (_folder, got) = converted(from.path(), to);
        for (name, raw) in got.iter().filter(|(name, _)| !name.ends_with("bias")) {
            assert_eq!(raw.dtype, dtype);
            let nearest = |x: f64| match to {
                // From f32, which the numbers are: from f64 that crate rounds some of them twice.
                Target::F16 => f16::from_f32(x as f32).to_f64(),
                _ => bf16::from_f32(x as f32).to_f64(),
            };
            let want: Vec<f64> = widened(&source[name]).into_iter().map(nearest).collect();
            assert_eq!(widened(raw), want, "{name}");
        }
    }
}

#[test]
fn fp8_becomes_the_dequantised_numbers() {
    let from = copy("v3-fp8");
    let source = read(&from.path().join("model.safetensors"));
    let (folder, got) = converted(from.path(), Target::F32);
    let mut n = 0;
    for (name, raw) in &got {
        let Some(scales) = source.get(&format!("{name}_scale_inv")) else { continue };
        for (got, want) in widened(raw).into_iter().zip(dequantised(&source[name], scales)) {
            // The product of two f32 is rounded once.
            assert!((got - want).abs() <= want.abs() * 2f64.powi(-24), "{name}: {got}, {want}");
        }
        n += 1;
    }
    assert_eq!(n, 40);
    assert!(got.keys().all(|name| !name.ends_with("_scale_inv")));
    let config = std::fs::read_to_string(folder.path().join("out/config.json")).unwrap();
    assert!(!config.contains("quantization_config") && config.contains("\"float32\""), "{config}");
}

#[test]
fn fp8_is_deepseeks_own_and_within_half_a_step() {
    for case in ["v3-fp8", "v3-moe-f32", "v3-realdims"] {
        let wide = copy(case);
        let (widened_folder, source) = converted(wide.path(), Target::F32);
        let (folder, got) = converted(&widened_folder.path().join("out"), Target::Fp8);
        for (name, raw) in &got {
            if name.ends_with("_scale_inv") {
                continue;
            }
            if !is_layer_matrix(name) {
                let is_bias = name.ends_with("e_score_correction_bias");
                assert_eq!(raw.dtype, if is_bias { Dtype::F32 } else { Dtype::BF16 }, "{name}");
                continue;
            }
            let scales = &got[&format!("{name}_scale_inv")];
            let sides = |side: usize| raw.shape[side].div_ceil(128);
            assert_eq!((raw.dtype, &scales.shape), (Dtype::F8_E4M3, &vec![sides(0), sides(1)]));
            let (want, factors) = (widened(&source[name]), widened(scales));
            for (i, (got, want)) in dequantised(raw, scales).into_iter().zip(want).enumerate() {
                let (row, column) = (i / raw.shape[1], i % raw.shape[1]);
                let factor = factors[row / 128 * sides(1) + column / 128];
                // Half a step: a sixteenth of the number, or of the smallest step; and the division's own rounding.
                let allowed = want.abs() / 16.0 + factor * 2f64.powi(-10);
                assert!((got - want).abs() <= allowed * (1.0 + 1e-6), "{name} {i}: {got}, {want}");
            }
        }
        let config = std::fs::read(folder.path().join("out/config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let want = serde_json::json!({ "quant_method": "fp8", "fmt": "e4m3",
            "activation_scheme": "dynamic", "weight_block_size": [128, 128] });
        assert_eq!(config["quantization_config"], want);
    }
    // What is FP8 already is not rounded again.
    let from = copy("v3-fp8-ue8m0");
    let (_folder, got) = converted(from.path(), Target::Fp8);
    assert_eq!(got, read(&from.path().join("model.safetensors")));
}

#[test]
fn blocks_are_within_half_a_step_of_the_numbers() {
    for (case, to) in
        [("v3-realdims", Target::Q8), ("v3-realdims", Target::Q4), ("v3-moe-f32", Target::Q4)]
    {
        let from = copy(case);
        let source = read(&from.path().join("model.safetensors"));
        let (_folder, got) = converted(from.path(), to);
        let mut n = 0;
        for (name, raw) in &got {
            let from = &source[name];
            let is_kept = name.contains("kv_b_proj") && from.dtype == Dtype::BF16;
            let is_target = (is_layer_matrix(name) || name == "lm_head.weight")
                && from.shape[1].is_multiple_of(32)
                && !is_kept;
            if !is_target {
                assert_eq!(raw, from, "{name} stays as it is");
                continue;
            }
            n += 1;
            let finer = to == Target::Q8 || name == "lm_head.weight" || name.contains("kv_b_proj");
            let (dim, block) = (from.shape[1], if finer { 34 } else { 18 });
            assert_eq!(
                (raw.dtype, &raw.shape),
                (Dtype::U8, &vec![from.shape[0], dim / 32 * block])
            );
            let want = widened(from);
            let got = blocks(raw, dim);
            for (got, want) in got.chunks(32).zip(want.chunks(32)) {
                let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                // A whole number's half, and what f16 costs the factor, 2^-11 of it, at the largest number. Four bits
                // reach 8 on one side and 7 on the other: a number there may be a whole step off.
                let (step, ends) =
                    if finer { (largest / 127.0, 0.5) } else { (largest / 8.0, 1.0) };
                let allowed = step * ends + largest * 2f64.powi(-11) + 1e-7;
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() <= allowed, "{name}: {got}, {want}");
                }
            }
        }
        assert!(n > 10, "{case}: {n} matrices in blocks");
    }
}

#[test]
fn what_was_converted_says_what_it_is_and_cannot_be_taken_for_numbers() {
    let from = copy("v3-realdims");
    let (folder, _) = converted(from.path(), Target::Q4);
    let out = folder.path().join("out");
    let checkpoint = Checkpoint::open(&Source::Directory(out.clone())).unwrap();
    let has = |dtype: &str| checkpoint.listed().iter().any(|tensor| tensor.dtype == dtype);
    assert!(has("Q4_0") && has("Q8_0") && has("BF16") && !has("U8"));
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"quant_method\": \"hadal\""), "{config}");
    // A header whose note and shape disagree is refused by name.
    let path = out.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let wrong = String::from_utf8_lossy(&bytes[..20_000]).replacen("Q4_0 ", "Q8_0 ", 1);
    assert!(wrong.contains("Q8_0 "));
    let at = bytes.windows(5).position(|window| window == b"Q4_0 ").unwrap();
    let mut bytes = bytes;
    bytes[at + 1] = b'8';
    std::fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&Source::Directory(out)).err().unwrap().to_string();
    assert!(error.contains("the metadata says"), "{error}");
}

#[test]
fn shards_hold_everything_once_and_the_index_says_where() {
    let from = copy("v3-yarn-bf16");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let source = Source::Directory(from.path().to_owned());
    let options = ConvertOptions { shard_bytes: 60_000, ..options(Target::Bf16, &out) };
    let done = convert(&source, &options, &mut |_, _| {}).unwrap();
    assert!(done.n_file > 3, "{done:?}");
    let survey = Survey::of(&Source::Directory(out.clone()));
    assert_eq!((survey.problems, survey.notes), (Vec::new(), Vec::new()));
    let mut whole = BTreeMap::new();
    for (name, bytes) in &survey.files {
        let part = read(&out.join(name));
        assert!(*bytes < 80_000 || part.len() == 1, "{name}: {bytes}");
        whole.extend(part);
    }
    let mut want = read(&from.path().join("model-00001-of-00002.safetensors"));
    want.extend(read(&from.path().join("model-00002-of-00002.safetensors")));
    assert_eq!(whole, want);
    let mut files: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".safetensors"))
        .collect();
    files.sort();
    let text = ["config.json", "generation_config.json", "model.safetensors.index.json"];
    assert_eq!(files[..3], text);
    assert_eq!(files[3..], ["tokenizer.json", "tokenizer_config.json"]);
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let from = copy("v3-realdims");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let bytes = [1, 7].map(|threads| {
        let out = folder.path().join(threads.to_string());
        let options = ConvertOptions { threads, ..options(Target::Q4, &out) };
        convert(&source, &options, &mut |_, _| {}).unwrap();
        std::fs::read(out.join("model.safetensors")).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}

fn refused(source: &Source, options: &ConvertOptions) -> String {
    let error = convert(source, options, &mut |_, _| {}).unwrap_err().to_string();
    let parent = options.out.parent().unwrap();
    let hidden = std::fs::read_dir(parent)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "nothing is left behind");
    error
}

#[test]
fn what_is_there_is_replaced_when_asked_and_never_when_it_is_something_else() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let plain = options(Target::F32, &out);
    let force = ConvertOptions { force: true, ..options(Target::Bf16, &out) };
    convert(&source, &plain, &mut |_, _| {}).unwrap();
    let before = std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(refused(&source, &plain).contains("--force"));
    assert!(std::fs::read(out.join("model.safetensors")).unwrap() == before);
    convert(&source, &force, &mut |_, _| {}).unwrap();
    assert!(std::fs::read(out.join("model.safetensors")).unwrap().len() < before.len());

    std::fs::write(out.join("thesis.tex"), "years of work").unwrap();
    assert!(refused(&source, &force).contains("other things"));
    assert_eq!(std::fs::read_to_string(out.join("thesis.tex")).unwrap(), "years of work");
    let onto_itself = ConvertOptions { force: true, ..options(Target::F32, from.path()) };
    let error = convert(&source, &onto_itself, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("holds the checkpoint that is converted"), "{error}");
    assert_eq!(Survey::of(&source).problems, Vec::<String>::new());
}

#[test]
fn a_number_that_does_not_fit_stops_it_and_nothing_is_left() {
    let from = copy("v3-moe-f32");
    let path = from.path().join("model.safetensors");
    let mut tensors = read(&path);
    let name = "model.layers.1.mlp.experts.3.up_proj.weight";
    tensors.get_mut(name).unwrap().bytes[..4].copy_from_slice(&1e30f32.to_le_bytes());
    write(&path, &tensors);
    let source = Source::Directory(from.path().to_owned());
    let folder = tempfile::tempdir().unwrap();
    for to in [Target::F16, Target::Q8] {
        let error = refused(&source, &options(to, &folder.path().join("out")));
        assert!(error.contains(name) && error.contains("row 0, column 0"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn tensors_that_are_no_part_of_the_model_are_left_out_and_counted() {
    let (from, folder) = (copy("v3-moe-bf16"), tempfile::tempdir().unwrap());
    let path = from.path().join("model.safetensors");
    let mut tensors = read(&path);
    let norm = tensors["model.norm.weight"].clone();
    for i in 0..3 {
        tensors.insert(format!("model.layers.0.rotary.{i}"), norm.clone());
    }
    write(&path, &tensors);
    let source = Source::Directory(from.path().to_owned());
    let options = options(Target::Bf16, &folder.path().join("out"));
    let done: Converted = convert(&source, &options, &mut |_, _| {}).unwrap();
    assert_eq!(done.left_out, 3);
}
