//! What a forward pass has to read and to compute, counted from a checkpoint's own tensors and sizes.
//!
//! Counted is what the model needs, not what a kernel does: a weight once a step however many rows use it, a latent
//! once a step and sequence, an expert when a row goes to it, the head for rows that want a token alone. A multiplication
//! and an addition are two operations. Norms, softmax and rotations are left out: together below a hundredth.

use hadal_engine::Error;
use hadal_engine::backend::cpu::{Cpu, CpuOptions};
use hadal_engine::checkpoint::{Checkpoint, Keep, ModelConfig, Part};
use hadal_engine::model::Model;
use hadal_engine::step::PAGE_TOKENS;

/// Bytes read and operations computed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Work {
    pub(crate) bytes: f64,
    pub(crate) flops: f64,
}

/// Some matrices.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Matrices {
    bytes: f64,
    /// Numbers in them: two operations each for every row.
    numbers: f64,
}

/// The sizes of a model that decide how much a step reads and computes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sizes {
    /// Used by every row: attention, dense layers, shared experts, routers, norms.
    rows: Matrices,
    /// Used by rows that want a token.
    head: Matrices,
    /// One routed expert of one layer.
    expert: Matrices,
    /// Layers with routed experts.
    moe_layers: f64,
    /// Routed experts of such a layer.
    experts: f64,
    /// Experts that a row goes to in such a layer.
    chosen: f64,
    /// A token's row of the embedding.
    embedding_row_bytes: f64,
    /// A token's latents in all layers.
    latent_bytes: f64,
    /// Operations of attention for a row and a key it sees, in all layers, absorbed: `2 H (2 c + r)` a layer.
    decode_key_flops: f64,
    /// The same with heads apart: `2 H (n + r + v)` a layer. Keys and values are expanded once a token, by matrices
    /// that are in `rows`.
    prompt_key_flops: f64,
}

impl Sizes {
    /// From a checkpoint, its matrices and cache kept as `options` say, threads aside; what the backend refuses is an error.
    pub(crate) fn of(checkpoint: &Checkpoint, options: &CpuOptions) -> Result<Self, Error> {
        let mut cpu = Cpu::new(&CpuOptions { threads: Some(1), ..options.clone() })?;
        Model::prepare(&mut cpu, checkpoint)?;
        let config = &checkpoint.config;
        let [mut rows, mut head, mut experts, mut embedding] =
            [(); 4].map(|()| Matrices::default());
        // Fewer bits a number are what is needed; what fills panels is not.
        let needed = Keep { packs_encoded: false, packs_stored: false, ..cpu.keep() };
        for loaded in checkpoint.loaded(needed) {
            let to = match Part::of(loaded.name, None) {
                Part::RoutedExperts => &mut experts,
                Part::Head => &mut head,
                Part::Embedding => &mut embedding,
                _ => &mut rows,
            };
            to.bytes += loaded.bytes as f64;
            to.numbers += loaded.numbers as f64;
        }
        if config.tie_word_embeddings {
            head = embedding;
        }
        let moe_layers = config.is_moe_layer.iter().filter(|is_moe| **is_moe).count() as f64;
        let route = config.moe.as_ref().map(|moe| moe.route);
        let n_expert = route.map_or(0.0, |route| route.n_routed_experts as f64);
        let each = 1.0 / (n_expert * moe_layers).max(1.0);
        let layers = config.num_hidden_layers as f64;
        Ok(Self {
            rows,
            head,
            expert: Matrices { bytes: experts.bytes * each, numbers: experts.numbers * each },
            moe_layers,
            experts: n_expert,
            chosen: route.map_or(0.0, |route| route.num_experts_per_tok as f64),
            embedding_row_bytes: embedding.bytes / config.vocab_size as f64,
            latent_bytes: Model::page_bytes(&cpu, checkpoint) as f64 / PAGE_TOKENS as f64,
            decode_key_flops: layers * decode_key_flops(config),
            prompt_key_flops: layers * prompt_key_flops(config),
        })
    }

    /// Experts of all layers that a step of `rows` rows touches when routing is uniform: one row leaves an expert out
    /// with probability `1 - K / E`, all of them with that to the power of their number.
    pub(crate) fn touched_if_uniform(&self, rows: f64) -> f64 {
        if self.experts == 0.0 {
            return 0.0;
        }
        self.moe_layers * self.experts * (1.0 - (1.0 - self.chosen / self.experts).powf(rows))
    }

    /// Bytes of weights that a decode step of `batch` sequences reads when it touches so many experts.
    pub(crate) fn weight_bytes(&self, batch: f64, touched: f64) -> f64 {
        self.rows.bytes
            + self.head.bytes
            + self.expert.bytes * touched
            + self.embedding_row_bytes * batch
    }

    /// A decode step of `batch` sequences that see `context` tokens each, their own included.
    pub(crate) fn decode_step(&self, batch: f64, context: f64, touched: f64) -> Work {
        let row = 2.0 * (self.rows.numbers + self.head.numbers) + self.expert_flops();
        Work {
            bytes: self.weight_bytes(batch, touched) + batch * context * self.latent_bytes,
            flops: batch * (row + context * self.decode_key_flops),
        }
    }

    /// A lone prompt of `tokens`, `step_rows` at a time, that touches so many experts in all; its last row wants a token.
    pub(crate) fn prompt(&self, tokens: u32, step_rows: usize, touched: f64) -> Work {
        let n = f64::from(tokens);
        // A step reads what is stored before it and, as new rows are keys too, its own.
        let ends = chunk_ends(tokens as usize, step_rows);
        let steps = ends.len() as f64;
        let latents: usize = ends.iter().sum();
        Work {
            bytes: steps * self.rows.bytes
                + self.head.bytes
                + self.expert.bytes * touched
                + self.embedding_row_bytes * n
                + latents as f64 * self.latent_bytes,
            flops: n * (2.0 * self.rows.numbers + self.expert_flops())
                + 2.0 * self.head.numbers
                + n * (n + 1.0) / 2.0 * self.prompt_key_flops,
        }
    }

    /// Experts that a lone prompt touches when routing is uniform.
    pub(crate) fn prompt_touched_if_uniform(&self, tokens: u32, step_rows: usize) -> f64 {
        let ends = chunk_ends(tokens as usize, step_rows);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        ends.iter()
            .zip(starts)
            .map(|(end, start)| self.touched_if_uniform((end - start) as f64))
            .sum()
    }

    /// Operations of a row's routed experts.
    fn expert_flops(&self) -> f64 {
        2.0 * self.expert.numbers * self.chosen * self.moe_layers
    }
}

/// Where the steps of a prompt end.
fn chunk_ends(tokens: usize, step_rows: usize) -> Vec<usize> {
    let step_rows = step_rows.max(1);
    (1..=tokens.div_ceil(step_rows)).map(|step| (step * step_rows).min(tokens)).collect()
}

/// `2 H (c + r)` for a score, `2 H c` for a value.
fn decode_key_flops(config: &ModelConfig) -> f64 {
    let per_head = 2 * config.kv_lora_rank + config.qk_rope_head_dim;
    (2 * config.num_attention_heads * per_head) as f64
}

/// `2 H (n + r)` for a score, `2 H v` for a value.
fn prompt_key_flops(config: &ModelConfig) -> f64 {
    let per_head = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim;
    (2 * config.num_attention_heads * per_head) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of weights, one of a head, 8 experts in each of 3 layers of which 2 are chosen.
    const SIZES: Sizes = Sizes {
        rows: Matrices { bytes: 100.0, numbers: 50.0 },
        head: Matrices { bytes: 40.0, numbers: 20.0 },
        expert: Matrices { bytes: 10.0, numbers: 5.0 },
        moe_layers: 3.0,
        experts: 8.0,
        chosen: 2.0,
        embedding_row_bytes: 1.0,
        latent_bytes: 7.0,
        decode_key_flops: 11.0,
        prompt_key_flops: 13.0,
    };

    #[test]
    fn experts_are_touched_once_however_many_rows_choose_them() {
        assert_eq!(SIZES.touched_if_uniform(1.0), 6.0);
        // A quarter of the experts by one, and a quarter of the rest by the other.
        assert_eq!(SIZES.touched_if_uniform(2.0), 3.0 * 3.5);
        assert!((SIZES.touched_if_uniform(1000.0) - 24.0).abs() < 1e-9);
        assert_eq!(Sizes { experts: 0.0, chosen: 0.0, ..SIZES }.touched_if_uniform(4.0), 0.0);
    }

    #[test]
    fn a_decode_step_reads_weights_once_and_each_sequences_latents() {
        let work = SIZES.decode_step(4.0, 9.0, 12.0);
        assert_eq!(work.bytes, 100.0 + 40.0 + 120.0 + 4.0 + 4.0 * 9.0 * 7.0);
        // A row: 50 + 20 numbers, and 2 experts of 5 in 3 layers; 9 keys.
        assert_eq!(work.flops, 4.0 * (2.0 * (70.0 + 30.0) + 9.0 * 11.0));
    }

    #[test]
    fn a_prompt_reads_weights_once_a_step_and_sees_every_earlier_token() {
        let work = SIZES.prompt(10, 4, 33.0);
        // Three steps, ending after 4, 8 and 10 tokens.
        assert_eq!(work.bytes, 3.0 * 100.0 + 40.0 + 330.0 + 10.0 + 22.0 * 7.0);
        // One head row; 55 pairs of a row and a key.
        assert_eq!(work.flops, 10.0 * 2.0 * (50.0 + 30.0) + 40.0 + 55.0 * 13.0);
        let touched = 2.0 * SIZES.touched_if_uniform(4.0) + SIZES.touched_if_uniform(2.0);
        assert_eq!(SIZES.prompt_touched_if_uniform(10, 4), touched);
        assert_eq!(chunk_ends(8, 4), [4, 8]);
    }

    #[test]
    fn sizes_are_those_of_the_checkpoint() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v3-moe-bf16");
        let source = hadal_engine::checkpoint::Source::Directory(golden.into());
        let checkpoint = Checkpoint::open(&source).unwrap();
        let sizes = Sizes::of(&checkpoint, &CpuOptions::default()).unwrap();
        let config = &checkpoint.config;
        let (moe, d) = (config.moe.as_ref().unwrap(), config.hidden_size);
        let (h, c, r) = (config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim);
        let (n, v) = (config.qk_nope_head_dim, config.v_head_dim);
        assert_eq!(sizes.expert.numbers, (3 * d * moe.moe_intermediate_size) as f64);
        assert_eq!(sizes.expert.bytes, 2.0 * sizes.expert.numbers);
        assert_eq!(sizes.head.numbers, (config.vocab_size * d) as f64);
        assert_eq!(sizes.embedding_row_bytes, (2 * d) as f64);
        let layers = config.num_hidden_layers;
        assert_eq!(sizes.latent_bytes, (4 * layers * (c + r)) as f64);
        assert_eq!(sizes.decode_key_flops, (layers * 2 * h * (c + r + c)) as f64);
        assert_eq!(sizes.prompt_key_flops, (layers * 2 * h * (n + r + v)) as f64);
        // All matrices of attention, by hand; norms are a thousandth of the rest.
        let q = config.q_lora_rank.map_or(d * h * (n + r), |rank| rank * (d + h * (n + r)));
        let attention = q + d * (c + r) + c * h * (n + v) + h * v * d;
        let n_moe = sizes.moe_layers as usize;
        let shared = 3 * d * moe.moe_intermediate_size * moe.n_shared_experts;
        let dense = (layers - n_moe) * 3 * d * config.intermediate_size;
        let gates = n_moe * moe.route.n_routed_experts * d;
        let want = (layers * attention + n_moe * shared + dense + gates) as f64;
        assert!((sizes.rows.numbers / want - 1.0).abs() < 0.02, "{} {want}", sizes.rows.numbers);
    }
}
