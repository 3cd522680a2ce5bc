//! `cargo xtask tiny`: checkpoints with seeded random weights, in Hugging Face layout. They say nothing sensible, but
//! they have the shapes of released models, so that speed and memory can be measured where no checkpoint can be had.
//!
//! Weights are N(0, 1 / inputs), so that activations keep their size through the layers; router rows twice that, so
//! that experts are chosen about evenly unless `--routing zipf` wants them chosen as words are. The same preset and seed give the same bytes. Written as a stream: memory
//! stays small whatever the model's size.

mod plan;
mod preset;
mod routing;
mod tokenizer;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Result, Words};
use preset::Shape;
use routing::Routing;

/// Bytes of one weights file, as released models cut theirs.
const SHARD_BYTES: u64 = 2 << 30;

/// Reads the flags and writes the checkpoint.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let words = Words::read(args, &["--out", "--preset", "--routing", "--seed"])?;
    if let Some(word) = words.plain.first() {
        return Err(format!("`{word}` is no flag; see `cargo xtask help`"));
    }
    let out = PathBuf::from(
        words.flag("--out").ok_or("`--out DIR` is wanted: where to write the checkpoint")?,
    );
    let name = words.flag("--preset").unwrap_or("tiny");
    let shape = preset::find(name)
        .ok_or_else(|| format!("no preset `{name}`; there are {}", preset::NAMES.join(", ")))?;
    let seed = words.flag("--seed").unwrap_or("1");
    let seed = seed.parse().map_err(|_| format!("`--seed` is `{seed}`, wanted a whole number"))?;
    let word = words.flag("--routing").unwrap_or("uniform");
    let routing = Routing::parse(word)
        .ok_or_else(|| format!("`--routing` is `{word}`, wanted uniform or zipf"))?;
    let bytes = write(&out, &shape, routing, seed, SHARD_BYTES)
        .map_err(|problem| format!("{}: {problem}", out.display()))?;
    println!(
        "{}: preset {name}, routing {word}, seed {seed}, {bytes} bytes of weights",
        out.display()
    );
    Ok(())
}

/// Writes every file of the checkpoint; the bytes of all tensors.
fn write(
    out: &Path,
    shape: &Shape,
    routing: Routing,
    seed: u64,
    shard_bytes: u64,
) -> std::io::Result<u64> {
    fs::create_dir_all(out)?;
    let text = |name: &str, value: &Value| fs::write(out.join(name), format!("{value:#}\n"));
    text("config.json", &shape.config())?;
    text("generation_config.json", &json!({ "bos_token_id": 0, "eos_token_id": 1 }))?;
    text("tokenizer.json", &tokenizer::byte_level())?;
    text("tokenizer_config.json", &tokenizer::config(shape.max_position_embeddings))?;
    weights::write(out, &shape.tensors(routing), seed, shard_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(shard_bytes: u64) -> (tempfile::TempDir, u64) {
        let folder = tempfile::tempdir().unwrap();
        let shape = preset::find("tiny").unwrap();
        let bytes = write(folder.path(), &shape, Routing::Uniform, 7, shard_bytes).unwrap();
        (folder, bytes)
    }

    #[test]
    fn a_checkpoint_reads_back_with_every_tensor_in_its_shape() {
        let (folder, bytes) = written(SHARD_BYTES);
        let file = fs::read(folder.path().join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let planned = preset::find("tiny").unwrap().tensors(Routing::Uniform);
        assert_eq!(tensors.len(), planned.len());
        for plan in &planned {
            let tensor = tensors.tensor(&plan.name).unwrap();
            assert_eq!(tensor.shape(), plan.shape, "{}", plan.name);
        }
        assert_eq!(
            tensors.iter().map(|(_, tensor)| tensor.data().len() as u64).sum::<u64>(),
            bytes
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_whatever_the_shards() {
        let read = |folder: &Path, name: &str| {
            let mut found = Vec::new();
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "safetensors") {
                    let file = fs::read(path).unwrap();
                    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
                    found.extend(tensors.tensor(name).ok().map(|tensor| tensor.data().to_vec()));
                }
            }
            assert_eq!(found.len(), 1);
            found.remove(0)
        };
        let (whole, cut) = (written(SHARD_BYTES).0, written(100_000).0);
        assert!(cut.path().join("model.safetensors.index.json").exists());
        for name in ["lm_head.weight", "model.layers.2.mlp.experts.3.down_proj.weight"] {
            assert_eq!(read(whole.path(), name), read(cut.path(), name));
        }
    }

    #[test]
    fn wrong_flags_are_named() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(run(&words("--preset tiny")).unwrap_err().contains("--out"));
        assert!(run(&words("--out x --preset huge")).unwrap_err().contains("moonlight-cut"));
        assert!(run(&words("--out x --seed one")).unwrap_err().contains("one"));
        assert!(run(&words("--out x --routing even")).unwrap_err().contains("even"));
    }
}
