//! GGUF files on the card, held to the processor's answers of the same file with inputs in f32. What the files hold was
//! encoded by the public `gguf` package, and `cargo xtask gguf` holds the processor to what that package decodes.

use std::path::{Path, PathBuf};

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Checkpoint, Quant, Source, Target};
use hadal_engine::{DeviceChoice, Limits, MemoryPlan};

use super::card::{Card, card};
use super::compare::{self, Array, Arrays};
use super::golden::{folder, run, with_same_text};

/// The case that the files were made from.
const CASE: &str = "v3-fp8-ue8m0";

/// A file, and what its weights take on a card.
pub(crate) struct File {
    pub(crate) name: &'static str,
    /// Bytes of a number of a layer's matrices, factors included.
    bytes_each: f64,
    /// Numbers that are in `Q8_0` in any case.
    n_eight_bits: u32,
}

/// `Q8_0` with `kv_b_proj` in halves, `Q4_0` with it whole, and a mixture of `Q5_0`, `Q5_1`, `Q6_K` and `Q8_0` as
/// quantisers make it.
pub(crate) const FILES: [File; 3] = [
    File { name: "v3-fp8-ue8m0-q8_0.gguf", bytes_each: 34.0 / 32.0, n_eight_bits: 0 },
    File { name: "v3-fp8-ue8m0-q4_0.gguf", bytes_each: 18.0 / 32.0, n_eight_bits: 0 },
    File { name: "v3-fp8-ue8m0-mixture.gguf", bytes_each: 2.0, n_eight_bits: 163_840 },
];

fn source(file: &File) -> Source {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gguf");
    Source::File(folder.join(file.name))
}

/// Logits of the prompt and of greedy answers, and the tokens of these.
#[track_caller]
pub(crate) fn check(card: &Card, file: &File) {
    let golden = compare::read(&folder(CASE).join("golden.safetensors"));
    let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
    let (source, n_greedy) = (source(file), 16);
    let mut want = run(&source, &ids, n_greedy, 64, (None, None));
    let mut made = run(&source, &ids, n_greedy, 7, (Some(0), None));
    want.insert("decode_margin".into(), margins(&want["decode_logits"]));
    want.insert("input_ids".into(), golden["input_ids"].clone());
    let answer: Vec<i64> = want["decode_tokens"].floats.iter().map(|id| *id as i64).collect();
    let routing = routing_margins(&source, &[ids.as_slice(), &answer].concat());
    let same = with_same_text(&mut want, &mut made);
    // The row that the first other token is drawn from.
    let margin = routing.floats[ids.len() - 1 + same.min(n_greedy - 1)];
    want.insert("routing_margin".into(), routing);
    for key in ["logits", "decode_logits", "decode_tokens"] {
        if key == "decode_tokens" && same < n_greedy && margin < compare::BF16.route_tie {
            continue;
        }
        let wrong = compare::compare(key, &want, &made[key], &compare::BF16);
        assert!(wrong.is_empty(), "{}, `{key}`: {wrong:?}", file.name);
    }
    assert_eq!(card.live_bytes(), 0);
}

/// Of each row of a text, by how much the last expert that the processor chooses is better than the next: of scores with
/// their bias, as the model's rule has them (V3, one group).
fn routing_margins(source: &Source, text: &[i64]) -> Array {
    // The one mixture of this checkpoint.
    let name = "model.layers.1.mlp.gate.e_score_correction_bias";
    let bias = Checkpoint::open(source).unwrap().tensor(name).unwrap().to_f32();
    let traced = run(source, text, 0, 64, (None, None));
    let (logits, chosen) = (&traced["router.1.logits"], traced["router.1.indices"].shape[1]);
    let margin = |row: &[f64]| {
        let scores = row.iter().zip(&bias);
        let mut scores: Vec<f64> =
            scores.map(|(logit, bias)| 1.0 / (1.0 + (-logit).exp()) + f64::from(*bias)).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores[chosen - 1] - scores[chosen]
    };
    let floats: Vec<f64> = logits.floats.chunks(logits.shape[1]).map(margin).collect();
    Array { shape: vec![floats.len()], floats, is_integer: false }
}

/// Of each row, by how much its largest number is larger than the next.
fn margins(logits: &Array) -> Array {
    let margin = |row: &[f64]| {
        let mut row = row.to_vec();
        row.sort_by(|a, b| b.total_cmp(a));
        row[0] - row[1]
    };
    let floats: Vec<f64> = logits.floats.chunks(logits.shape[1]).map(margin).collect();
    Array { shape: vec![floats.len()], floats, is_integer: false }
}

#[test]
fn blocks_of_eight_and_of_four_bits_and_mixtures_answer_as_on_the_processor() {
    for (profile, file) in ["h100", "rtx4090", "a100"].into_iter().zip(&FILES) {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check(&card, file);
    }
}

/// `Q8_0` and `Q4_0` stay as small as they are; everything else is bf16, and `kv_b_proj` and the embedding always are.
#[test]
fn a_file_takes_what_its_formats_take() {
    let Some(_card) = card("devices=h100") else { return };
    // Matrices of a layer but for kv_b_proj, and the head; embedding, kv_b_proj and its turned half in bf16, the one with
    // rows of `n` numbers padded to 128.
    let (d, q, c, r, v, n, h, vocab) = (128, 128, 128, 16, 32, 32, 4, 384);
    let attention = q * d + h * (n + r) * q + (c + r) * d + d * h * v;
    let (dense, mixture) = (3 * d * 256, 3 * d * 128 * 5);
    let kept = 2 * attention + dense + mixture + vocab * d;
    let wide = vocab * d + 2 * (h * (n + v) * c + h * c * 128);
    for file in &FILES {
        let limits = Limits::default();
        let on = DeviceChoice::Cuda(0);
        let (plan, _) = MemoryPlan::on(&source(file), &limits, &CpuOptions::default(), on).unwrap();
        let want = f64::from(kept - file.n_eight_bits) * file.bytes_each
            + f64::from(file.n_eight_bits) * 34.0 / 32.0
            + 2.0 * f64::from(wide);
        let taken = plan.weight_bytes() as f64;
        assert!((taken / want - 1.0).abs() < 0.05, "{}: {taken} of {want}", file.name);
    }
}

/// Loaded in another format: what a mixture's user does whose card is too small for bf16.
#[test]
fn a_mixture_is_made_smaller_when_it_is_loaded() {
    let Some(_card) = card("devices=h100") else { return };
    let bytes = |quant| {
        let cpu = CpuOptions { quant, ..CpuOptions::default() };
        let (plan, _) =
            MemoryPlan::on(&source(&FILES[2]), &Limits::default(), &cpu, DeviceChoice::Cuda(0))
                .unwrap();
        plan.weight_bytes()
    };
    let quant = |target| Some(Quant { target, cache: false });
    let [stored, q8, q4] = [None, quant(Target::Q8), quant(Target::Q4)].map(bytes);
    assert!(q4 < q8 && q8 < stored, "{stored} {q8} {q4}");
}

/// The two arrays of [`with_same_text`] are what is compared here, too.
#[test]
fn another_token_ends_what_is_compared() {
    let arrays = |tokens: &[f64]| -> Arrays {
        let logits = vec![0.0; tokens.len() * 2];
        let array = |shape: Vec<usize>, floats| Array { shape, floats, is_integer: false };
        Arrays::from([
            ("decode_tokens".to_owned(), array(vec![tokens.len()], tokens.to_vec())),
            ("decode_logits".to_owned(), array(vec![tokens.len(), 2], logits)),
        ])
    };
    let (mut want, mut made) = (arrays(&[1.0, 2.0, 3.0, 4.0]), arrays(&[1.0, 2.0, 9.0, 4.0]));
    assert_eq!(with_same_text(&mut want, &mut made), 2);
    assert_eq!(made["decode_logits"].shape, [3, 2]);
    assert_eq!(want["decode_logits"].floats.len(), 6);
}
