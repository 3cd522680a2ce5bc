//! The shapes: a small one for tests, and real layers of released models, fewer of them.

use serde_json::{Value, json};

/// What there is to choose from.
pub(super) const NAMES: &[&str] = &[
    "tiny",
    "blocks",
    "v2-lite",
    "ds-lite-cut",
    "v3-mini",
    "ds-mini",
    "v3-layer",
    "moonlight-cut",
];

/// A model's sizes, in `config.json`'s words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) is_v3: bool,
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) q_lora_rank: Option<usize>,
    pub(super) kv_lora_rank: usize,
    pub(super) qk_nope_head_dim: usize,
    pub(super) qk_rope_head_dim: usize,
    pub(super) v_head_dim: usize,
    pub(super) intermediate_size: usize,
    pub(super) moe_intermediate_size: usize,
    pub(super) n_routed_experts: usize,
    pub(super) n_shared_experts: usize,
    pub(super) num_experts_per_tok: usize,
    pub(super) n_group: usize,
    pub(super) topk_group: usize,
    pub(super) first_k_dense_replace: usize,
    routed_scaling_factor: f64,
    rms_norm_eps: f64,
    rope_theta: f64,
    pub(super) max_position_embeddings: usize,
    has_yarn: bool,
}

/// A preset by its name.
pub(super) fn find(name: &str) -> Option<Shape> {
    let lite = v2_lite();
    let v3 = Shape { is_v3: true, n_group: 8, topk_group: 4, routed_scaling_factor: 2.5, ..lite };
    // Small enough for many quick runs, with V3's heads.
    let mini = Shape {
        vocab_size: 32_768,
        hidden_size: 1024,
        num_hidden_layers: 8,
        q_lora_rank: Some(512),
        intermediate_size: 4096,
        moe_intermediate_size: 256,
        n_shared_experts: 1,
        ..v3
    };
    Some(match name {
        // Other engines are measured with the same two shapes, under the names with `ds`.
        "v2-lite" | "ds-lite-cut" => lite,
        "v3-mini" => mini,
        "ds-mini" => Shape { max_position_embeddings: 16_384, has_yarn: false, ..mini },
        "tiny" => small(v3),
        // Rows of 256 numbers, as quantised formats want them, and heads that are shorter.
        "blocks" => Shape {
            hidden_size: 256,
            q_lora_rank: Some(256),
            kv_lora_rank: 256,
            qk_nope_head_dim: 32,
            v_head_dim: 64,
            intermediate_size: 512,
            moe_intermediate_size: 256,
            ..small(v3)
        },
        // One dense and one MoE layer with V3's widths. 32 of 256 experts and a short vocabulary, for memory's sake.
        "v3-layer" => Shape {
            vocab_size: 8192,
            hidden_size: 7168,
            num_hidden_layers: 2,
            num_attention_heads: 128,
            q_lora_rank: Some(1536),
            intermediate_size: 18_432,
            moe_intermediate_size: 2048,
            n_routed_experts: 32,
            n_shared_experts: 1,
            num_experts_per_tok: 8,
            ..v3
        },
        // Moonlight-16B-A3B, 4 of 27 layers.
        "moonlight-cut" => Shape {
            vocab_size: 163_840,
            num_hidden_layers: 4,
            intermediate_size: 11_264,
            n_group: 1,
            topk_group: 1,
            routed_scaling_factor: 2.446,
            rms_norm_eps: 1e-5,
            rope_theta: 50_000.0,
            max_position_embeddings: 8192,
            has_yarn: false,
            ..v3
        },
        _ => return None,
    })
}

/// DeepSeek-V2-Lite, 6 of 27 layers: 3.4 G parameters, 6.9 GB.
fn v2_lite() -> Shape {
    Shape {
        is_v3: false,
        vocab_size: 102_400,
        hidden_size: 2048,
        num_hidden_layers: 6,
        num_attention_heads: 16,
        q_lora_rank: None,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        intermediate_size: 10_944,
        moe_intermediate_size: 1408,
        n_routed_experts: 64,
        n_shared_experts: 2,
        num_experts_per_tok: 6,
        n_group: 1,
        topk_group: 1,
        first_k_dense_replace: 1,
        routed_scaling_factor: 1.0,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 163_840,
        has_yarn: true,
    }
}

/// For tests: every size odd in its own way, next to nothing to compute.
fn small(v3: Shape) -> Shape {
    Shape {
        vocab_size: 384,
        hidden_size: 64,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        q_lora_rank: Some(40),
        kv_lora_rank: 32,
        qk_nope_head_dim: 16,
        qk_rope_head_dim: 8,
        v_head_dim: 20,
        intermediate_size: 144,
        moe_intermediate_size: 24,
        n_routed_experts: 16,
        n_shared_experts: 1,
        num_experts_per_tok: 4,
        n_group: 4,
        topk_group: 2,
        max_position_embeddings: 512,
        has_yarn: false,
        ..v3
    }
}

impl Shape {
    /// `config.json`.
    pub(super) fn config(&self) -> Value {
        let (class, kind) = if self.is_v3 { ("V3", "deepseek_v3") } else { ("V2", "deepseek_v2") };
        let (scoring, method) =
            if self.is_v3 { ("sigmoid", "noaux_tc") } else { ("softmax", "greedy") };
        let mscale = if self.is_v3 { 1.0 } else { 0.707 };
        let yarn = json!({
            "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 32, "beta_slow": 1, "mscale": mscale, "mscale_all_dim": mscale,
        });
        json!({
            "architectures": [format!("Deepseek{class}ForCausalLM")],
            "model_type": kind,
            "torch_dtype": "bfloat16",
            "bos_token_id": 0,
            "eos_token_id": 1,
            "attention_bias": false,
            "hidden_act": "silu",
            "tie_word_embeddings": false,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_nope_head_dim,
            "qk_rope_head_dim": self.qk_rope_head_dim,
            "v_head_dim": self.v_head_dim,
            "intermediate_size": self.intermediate_size,
            "moe_intermediate_size": self.moe_intermediate_size,
            "n_routed_experts": self.n_routed_experts,
            "n_shared_experts": self.n_shared_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "n_group": self.n_group,
            "topk_group": self.topk_group,
            "first_k_dense_replace": self.first_k_dense_replace,
            "moe_layer_freq": 1,
            "scoring_func": scoring,
            "topk_method": method,
            "norm_topk_prob": self.is_v3,
            "routed_scaling_factor": self.routed_scaling_factor,
            "num_nextn_predict_layers": 0,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": if self.has_yarn { yarn } else { Value::Null },
            "max_position_embeddings": self.max_position_embeddings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::routing::Routing;
    use super::*;

    fn parameters(name: &str) -> usize {
        find(name)
            .unwrap()
            .tensors(Routing::Uniform)
            .iter()
            .map(|plan| plan.shape.iter().product::<usize>())
            .sum()
    }

    #[test]
    fn every_name_is_a_preset_of_about_its_size() {
        let sizes: Vec<usize> = NAMES.iter().map(|name| parameters(name) / 1_000_000).collect();
        assert_eq!(sizes, [0, 8, 3424, 3424, 493, 493, 2341, 2508]);
        assert!(find("v2").is_none());
    }
}
