//! What each format of weights, inputs and cache costs the demo model, as perplexity on stories it was not trained on.

use std::path::{Path, PathBuf};

use hadal_engine::backend::cpu::{Activations, CacheType, CpuOptions};
use hadal_engine::checkpoint::{Source, Target};

use super::golden;
use super::quant::{F32, prompt_logits, quant};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("checkpoints/pretrain/demo")
}

/// `e` to the mean of `-ln p` of every token after a story's first.
fn perplexity(stories: &[Vec<u32>], cpu: &CpuOptions) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for story in stories {
        let logits = prompt_logits(&Source::Directory(demo()), story, cpu);
        let dim = logits.len() / story.len();
        for (row, next) in logits.chunks(dim).zip(&story[1..]) {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            sum += total.ln() - f64::from(row[*next as usize] - largest);
            n += 1;
        }
    }
    (sum / n as f64).exp()
}

#[test]
fn perplexity_stays_near_that_of_bf16_weights() {
    let stories = std::fs::read(golden("quant").join("stories.json")).unwrap();
    let stories: Vec<Vec<u32>> = serde_json::from_slice(&stories).unwrap();
    let plain = perplexity(&stories, &F32);
    let whole = CpuOptions { activations: Some(Activations::Int8), ..F32 };
    let rounded = CpuOptions { activations: Some(Activations::Bf16Rounded), ..F32 };
    let kept = |target, cache| CpuOptions {
        quant: Some(quant(target)),
        cache: Some(cache),
        ..whole.clone()
    };
    // Bounds in percent. Eight bits: 1, four bits: 4, whatever the cache is kept in.
    let ways = [
        ("bf16, inputs in pairs", CpuOptions { activations: Some(Activations::Bf16), ..F32 }, 0.1),
        ("bf16, inputs rounded once", rounded, 0.3),
        ("bf16, cache bf16", CpuOptions { cache: Some(CacheType::Bf16), ..whole.clone() }, 0.3),
        ("bf16, cache int8", CpuOptions { cache: Some(CacheType::Int8), ..whole.clone() }, 1.0),
        ("q8, inputs f32", CpuOptions { quant: Some(quant(Target::Q8)), ..F32 }, 1.0),
        ("q8, inputs int8, cache bf16", kept(Target::Q8, CacheType::Bf16), 1.0),
        ("q8, inputs int8, cache int8", kept(Target::Q8, CacheType::Int8), 1.0),
        ("q4, inputs f32", CpuOptions { quant: Some(quant(Target::Q4)), ..F32 }, 4.0),
        ("q4, inputs int8, cache bf16", kept(Target::Q4, CacheType::Bf16), 4.0),
        ("q4, inputs int8, cache int8", kept(Target::Q4, CacheType::Int8), 4.0),
    ];
    println!("bf16, inputs f32: perplexity {plain:.4} over {} stories", stories.len());
    // A model that knows its language: without this, nothing would be near nothing.
    assert!(plain > 1.0 && plain < 30.0, "{plain}");
    for (name, cpu, percent) in ways {
        let got = perplexity(&stories, &cpu);
        let change = (got / plain - 1.0) * 100.0;
        println!("{name}: {got:.4}, {change:+.2} %");
        assert!(change.abs() < percent, "{name}: {got} against {plain}, {change} %");
    }
}
