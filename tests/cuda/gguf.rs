//! GGUF files on the card, held to the processor's answers of the same file with inputs in f32. What the files hold was
//! encoded by the public `gguf` package, and `cargo xtask gguf` holds the processor to what that package decodes.

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Quant, Target};
use hadal_engine::{DeviceChoice, Limits, MemoryPlan};

use super::card::card;
use super::compare::{Array, Arrays};
use super::held::{GGUF_FILES, check_gguf, gguf_source, with_same_text};

#[test]
fn blocks_of_eight_and_of_four_bits_and_mixtures_answer_as_on_the_processor() {
    for (profile, file) in ["h100", "rtx4090", "a100"].into_iter().zip(&GGUF_FILES) {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check_gguf(&card, file);
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
    for file in &GGUF_FILES {
        let limits = Limits::default();
        let on = DeviceChoice::Cuda(0);
        let (plan, _) =
            MemoryPlan::on(&gguf_source(file), &limits, &CpuOptions::default(), on).unwrap();
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
        let (plan, _) = MemoryPlan::on(
            &gguf_source(&GGUF_FILES[2]),
            &Limits::default(),
            &cpu,
            DeviceChoice::Cuda(0),
        )
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
