//! `config.json` as a model needs it.

use crate::backend::RouteRule;

/// A model's sizes and rules, in `config.json`'s words. Everything is checked: past this, nobody looks again.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `deepseek_v3` or `deepseek_v2`.
    pub model_type: String,
    /// `V`.
    pub vocab_size: usize,
    /// `D`.
    pub hidden_size: usize,
    /// `L`.
    pub num_hidden_layers: usize,
    /// `H`.
    pub num_attention_heads: usize,
    /// `None`: one query matrix.
    pub q_lora_rank: Option<usize>,
    /// `c`.
    pub kv_lora_rank: usize,
    /// `n`.
    pub qk_nope_head_dim: usize,
    /// `r`, even.
    pub qk_rope_head_dim: usize,
    /// `v`.
    pub v_head_dim: usize,
    /// Width of a dense layer's MLP.
    pub intermediate_size: usize,
    /// Which layers are mixtures; `[L]`.
    pub is_moe_layer: Vec<bool>,
    /// Mixture sizes; `None` in a model without any.
    pub moe: Option<MoeConfig>,
    /// Of the layer norms and the final norm; the latent norms always use 1e-6.
    pub rms_norm_eps: f32,
    /// Rotary base.
    pub rope_theta: f64,
    /// `None`: plain rotation.
    pub yarn: Option<Yarn>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `max_position_embeddings`: the longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// 1: one MTP layer follows the last layer in the checkpoint. Checked, kept for speculation, not run.
    pub num_nextn_predict_layers: usize,
}

/// Sizes and rules of the mixture layers.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Scoring and choice; includes `E` and `K`.
    pub route: RouteRule,
    /// `M`.
    pub moe_intermediate_size: usize,
    /// `S`; the shared block is `S * M` wide. May be 0.
    pub n_shared_experts: usize,
    /// The router has `e_score_correction_bias`.
    pub has_correction_bias: bool,
}

/// YaRN's constants (`rope_scaling`), defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// `s`.
    pub factor: f64,
    /// `P`.
    pub original_max_position_embeddings: usize,
    /// 32 when absent.
    pub beta_fast: f64,
    /// 1 when absent.
    pub beta_slow: f64,
    /// 0 when absent.
    pub mscale: f64,
    /// 0 when absent.
    pub mscale_all_dim: f64,
}
