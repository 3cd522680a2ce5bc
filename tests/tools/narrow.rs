//! bf16 weights kept in twelve bits a number: every bit of the answer as from the file, in three quarters of its memory.

use hadal_engine::backend::cpu::{Activations, CpuOptions, Isa, Residence};
use hadal_engine::checkpoint::Source;
use hadal_engine::{Limits, MemoryPlan};
use hadal_tests::tiny;

use super::quant::{F32, logits, prompt_logits, tokens};

#[test]
fn twelve_bits_a_number_answer_as_sixteen_do() {
    let folder = tempfile::tempdir().unwrap();
    // Rows of 256 numbers, 16 MB in bf16.
    tiny::write("blocks", folder.path());
    let source = Source::Directory(folder.path().to_owned());
    for isa in [Isa::Avx512Bf16, Isa::Amx] {
        if !isa.is_available() {
            println!("skipped: this processor has no {isa:?}");
            continue;
        }
        for activations in [Activations::Bf16, Activations::Bf16Rounded, Activations::Int8] {
            let cpu = CpuOptions { isa: Some(isa), activations: Some(activations), ..F32 };
            let mapped = CpuOptions { weights: Some(Residence::Mapped), ..cpu.clone() };
            let plan = |cpu| MemoryPlan::of(&source, &Limits::default(), cpu).unwrap();
            let (kept, stored) = (plan(&cpu), plan(&mapped));
            assert_eq!(stored.encoded_bytes, 0);
            // But for the embedding and `kv_b_proj`, of which single rows are read.
            let copied = stored.mapped_bytes - kept.mapped_bytes;
            assert!(copied * 10 > stored.mapped_bytes * 6, "{copied} of {}", stored.mapped_bytes);
            let share = kept.encoded_bytes as f64 / copied as f64;
            assert!((0.75..0.78).contains(&share), "{share} of what is copied");
            // A few rows and many: more than tiles of few inputs take.
            for n in [7, 90] {
                let want = logits(&source, &tokens(n), &mapped);
                for threads in [1, 3] {
                    let cpu = CpuOptions { threads: Some(threads), ..cpu.clone() };
                    let got = logits(&source, &tokens(n), &cpu);
                    assert!(got == want, "{isa:?} {activations:?}, {threads} threads, {n} tokens");
                }
            }
        }
        // Where inputs are f32 nothing is copied.
        let plain = CpuOptions { isa: Some(isa), ..F32 };
        assert_eq!(MemoryPlan::of(&source, &Limits::default(), &plain).unwrap().encoded_bytes, 0);
        assert!(!prompt_logits(&source, &tokens(5), &plain).is_empty());
    }
}
