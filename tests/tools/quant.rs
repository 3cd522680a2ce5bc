//! Weights quantised at load: the numbers of a converted checkpoint, on every instruction set and any threads; near the
//! original's; in less memory, as planned; and a cache that is used when it fits and never otherwise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hadal_engine::backend::cpu::{Activations, CacheType, CpuOptions, Isa, Residence};
use hadal_engine::checkpoint::{Quant, Source, Target, convert};
use hadal_engine::trace::{self, TraceData, TraceOptions};
use hadal_engine::{Limits, MemoryPlan, TokenId};
use safetensors::tensor::Dtype;

use super::cache::open;
use super::convert::{blocks, converted, options, widened};
use super::{Raw, copy, golden, read, write};

pub(super) const F32: CpuOptions = CpuOptions {
    threads: Some(2),
    pin: None,
    isa: None,
    activations: Some(Activations::F32),
    quant: None,
    weights: None,
    cache: None,
};

pub(super) fn quant(target: Target) -> Quant {
    Quant { target, cache: false }
}

fn run(source: &Source, tokens: &[u32], cpu: &CpuOptions) -> BTreeMap<String, Vec<f32>> {
    let options = TraceOptions {
        tokens: tokens.iter().copied().map(TokenId).collect(),
        n_greedy: 5,
        all: false,
        step_rows: 0,
        cpu: cpu.clone(),
        cuda: None,
    };
    let floats = |data| match data {
        TraceData::F32(values) => values,
        TraceData::I64(values) => values.into_iter().map(|value| value as f32).collect(),
    };
    let trace = trace::run(source, &options).unwrap();
    trace.tensors.into_iter().map(|tensor| (tensor.name, floats(tensor.data))).collect()
}

/// Logits of a prompt.
pub(super) fn prompt_logits(source: &Source, tokens: &[u32], cpu: &CpuOptions) -> Vec<f32> {
    run(source, tokens, cpu).remove("logits").unwrap()
}

/// Logits of a prompt, then of a greedy answer in decode form.
pub(super) fn logits(source: &Source, tokens: &[u32], cpu: &CpuOptions) -> Vec<f32> {
    let mut made = run(source, tokens, cpu);
    let mut all = made.remove("logits").unwrap();
    all.extend(made.remove("decode_logits").unwrap());
    all
}

pub(super) fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 5) % 200).collect()
}

#[test]
fn quantised_at_load_or_converted_before_the_bits_are_the_same() {
    for case in ["v3-realdims", "v3-moe-bf16", "v3-fp8"] {
        let from = copy(case);
        let plain = Source::Directory(from.path().to_owned());
        for target in [Target::Q8, Target::Q4] {
            let (folder, _) = converted(from.path(), target);
            let before = Source::Directory(folder.path().join("out"));
            for isa in Isa::ALL {
                if !isa.is_available() {
                    println!("skipped: this processor has no {isa:?}");
                    continue;
                }
                for activations in [Activations::F32, Activations::Bf16, Activations::Int8] {
                    let cpu = CpuOptions { isa: Some(isa), activations: Some(activations), ..F32 };
                    let want = logits(&before, &tokens(20), &cpu);
                    // Wherever weights are, too.
                    for weights in [Residence::Resident, Residence::Mapped] {
                        let cpu = CpuOptions { weights: Some(weights), ..cpu.clone() };
                        let got = logits(&before, &tokens(20), &cpu);
                        assert!(
                            got == want,
                            "{case} {target:?} {isa:?} {activations:?} {weights:?}"
                        );
                    }
                    for threads in [1, 3] {
                        let cpu = CpuOptions {
                            threads: Some(threads),
                            quant: Some(quant(target)),
                            ..cpu.clone()
                        };
                        let got = logits(&plain, &tokens(20), &cpu);
                        assert!(got == want, "{case} {target:?} {isa:?} {activations:?} {threads}");
                    }
                }
            }
        }
    }
}

/// A checkpoint of plain f32 numbers that are what the blocks stand for.
fn dequantised(from: &Path, target: Target) -> tempfile::TempDir {
    let (folder, tensors) = converted(from, target);
    let original = read(&from.join("model.safetensors"));
    let plain: BTreeMap<String, Raw> = tensors
        .iter()
        .map(|(name, raw)| {
            let shape = original[name].shape.clone();
            let values = match raw.dtype {
                Dtype::U8 => blocks(raw, shape[1]),
                _ => widened(raw),
            };
            let bytes = values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
            (name.clone(), Raw { dtype: Dtype::F32, shape, bytes })
        })
        .collect();
    let out = folder.path().join("out");
    write(&out.join("model.safetensors"), &plain);
    std::fs::copy(from.join("config.json"), out.join("config.json")).unwrap();
    folder
}

#[test]
fn the_numbers_are_those_of_the_dequantised_weights() {
    for case in ["v3-realdims", "v3-moe-bf16"] {
        let from = copy(case);
        for target in [Target::Q8, Target::Q4] {
            let folder = dequantised(from.path(), target);
            let reference = Source::Directory(folder.path().join("out"));
            let want = logits(&reference, &tokens(24), &F32);
            let cpu = CpuOptions { quant: Some(quant(target)), ..F32 };
            let got = logits(&Source::Directory(from.path().to_owned()), &tokens(24), &cpu);
            assert_eq!(got.len(), want.len());
            // The goldens' bound for float32 arithmetic on equal weights.
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 3e-4, "{case} {target:?}: {worst}");
        }
    }
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("checkpoints/sft/demo")
}

/// Mean over rows of the divergence of `got` from `want`, in nats; rows of `dim` logits.
fn divergence(want: &[f32], got: &[f32], dim: usize) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
        row.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
    };
    let rows = want.chunks(dim).zip(got.chunks(dim)).map(|(want, got)| {
        let (want, got) = (log_softmax(want), log_softmax(got));
        want.iter().zip(&got).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    rows.clone().sum::<f64>() / rows.count() as f64
}

/// Questions the demo was trained to answer, and their tokens.
fn prompts() -> Vec<Vec<u32>> {
    let reference = std::fs::read(demo().join("reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let ids = |row: &serde_json::Value| {
        let answer = row["greedy_24"].as_array().unwrap();
        let prompt = row["token_ids"].as_array().unwrap();
        prompt.iter().chain(answer).map(|id| id.as_u64().unwrap() as u32).collect()
    };
    reference["rows"].as_array().unwrap().iter().map(ids).collect()
}

#[test]
fn the_demo_stays_near_itself() {
    let source = Source::Directory(demo());
    // Measured: 0.00095 and 0.045; the bounds leave room for another order of sums.
    for (target, bound) in [(Target::Q8, 0.002), (Target::Q4, 0.08)] {
        let (mut sum, mut n) = (0.0, 0.0);
        for prompt in prompts() {
            let want = prompt_logits(&source, &prompt, &F32);
            let got =
                prompt_logits(&source, &prompt, &CpuOptions { quant: Some(quant(target)), ..F32 });
            assert_eq!(want.len(), prompt.len() * 2048);
            sum += divergence(&want, &got, 2048);
            n += 1.0;
        }
        println!("{target:?}: {:.5} nats over {n} prompts", sum / n);
        assert!(n > 1.0 && sum / n < bound, "{target:?}: {}", sum / n);
        assert!(sum > 0.0, "something was quantised");
    }
}

#[test]
fn whole_number_inputs_stay_near_the_same_weights() {
    let source = Source::Directory(demo());
    for target in [Target::Q8, Target::Q4] {
        // Inputs alone: a cache in bf16 would come with them.
        let cache = Some(CacheType::F32);
        let plain = CpuOptions { quant: Some(quant(target)), cache, ..F32 };
        let whole = CpuOptions { activations: Some(Activations::Int8), ..plain.clone() };
        let (mut sum, mut n) = (0.0, 0.0);
        for prompt in prompts() {
            let want = prompt_logits(&source, &prompt, &plain);
            let got = prompt_logits(&source, &prompt, &whole);
            sum += divergence(&want, &got, 2048);
            n += 1.0;
        }
        println!("{target:?}: {:.5} nats over {n} prompts", sum / n);
        // Less than what the weights' own eight bits cost.
        assert!(sum > 0.0 && sum / n < 0.002, "{target:?}: {}", sum / n);
    }
}

#[test]
fn it_takes_less_memory_and_the_plan_says_so() {
    let source = Source::Directory(demo());
    let bytes = |target: Option<Target>| {
        let cpu = CpuOptions { quant: target.map(quant), ..F32 };
        MemoryPlan::of(&source, &Limits::default(), &cpu).unwrap().weight_bytes() as f64
    };
    let plain = bytes(None);
    // 8.5 and 4.5 bits a number instead of 16; embedding, routers and norms stay.
    assert!(bytes(Some(Target::Q8)) < 0.60 * plain, "{} of {plain}", bytes(Some(Target::Q8)));
    assert!(bytes(Some(Target::Q4)) < 0.40 * plain, "{} of {plain}", bytes(Some(Target::Q4)));
}

#[test]
fn a_single_file_becomes_a_folder_with_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::File(golden("mini-tied").join("state_dict.pt"));
    let out = folder.path().join("out");
    convert(&source, &options(Target::F32, &out), &mut |_, _| {}).unwrap();
    let want = logits(&source, &tokens(20), &F32);
    assert!(logits(&Source::Directory(out), &tokens(20), &F32) == want);
}

/// GGUF files and the checkpoints they were made from, number by number.
const GGUF: [(&str, &str); 2] =
    [("v3-tied-bf16.gguf", "v3-tied-bf16"), ("v3-yarn-bf16-00001-of-00002.gguf", "v3-yarn-bf16")];

pub(super) fn gguf(file: &str) -> Source {
    Source::File(golden("gguf").join(file))
}

#[test]
fn a_gguf_file_becomes_a_folder_with_the_same_numbers() {
    for (file, case) in GGUF {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        convert(&gguf(file), &options(Target::Bf16, &out), &mut |_, _| {}).unwrap();
        let got = logits(&Source::Directory(out.clone()), &tokens(20), &F32);
        // Whole where the file has halves, so sums have the order of the checkpoint that the file was made from.
        let want = logits(&Source::Directory(golden(case)), &tokens(20), &F32);
        assert!(got == want, "{file}");
        let (made, from) = [out, golden(case)]
            .map(|folder| hadal_engine::checkpoint::Checkpoint::open(&Source::Directory(folder)))
            .map(|checkpoint| checkpoint.unwrap().config)
            .into();
        assert_eq!(made, from, "{file}");
    }
}

#[test]
fn a_gguf_file_is_quantised_at_load_and_cached_beside_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("v3-tied-bf16.gguf");
    std::fs::copy(golden("gguf/v3-tied-bf16.gguf"), &file).unwrap();
    let source = Source::File(file);
    for target in [Target::Q8, Target::Q4] {
        let out = folder.path().join(format!("{target:?}"));
        convert(&source, &options(target, &out), &mut |_, _| {}).unwrap();
        let want = logits(&Source::Directory(out), &tokens(20), &F32);
        let plain = logits(&source, &tokens(20), &F32);
        assert!(want != plain, "something was quantised");
        for cache in [false, true] {
            let cpu = CpuOptions { quant: Some(Quant { target, cache }), ..F32 };
            assert!(logits(&source, &tokens(20), &cpu) == want, "{target:?} {cache}");
        }
        let cache = folder.path().join(format!(".v3-tied-bf16.gguf.hadal-{}", target.name()));
        assert_eq!(open(&source, target).checkpoint.path(), cache);
    }
}
