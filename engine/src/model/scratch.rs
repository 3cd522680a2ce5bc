//! Activations of one step, made once at load and sized for the largest step.

use super::rope;
use crate::backend::{Backend, MlaShape, Role, ScratchShape};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::config::{Architecture, MoeConfig};
use crate::error::Result;
use crate::limits::Limits;

/// Every activation buffer of a step; shapes with `R` the step's rows and `P` its sample rows.
pub(super) struct Scratch<B: Backend> {
    /// The residual stream, `[R, D]`.
    pub(super) x: B::Buf,
    /// Its norm: what attention and MLP see, `[R, D]`.
    pub(super) y: B::Buf,
    /// What attention or MLP add to the stream, `[R, D]`.
    pub(super) delta: B::Buf,
    /// Query latents before and after their norm, `[R, q]`.
    pub(super) q_a: B::Buf,
    /// See `q_a`.
    pub(super) q_a_norm: B::Buf,
    /// Queries, `[R, H, n + r]`.
    pub(super) q: B::Buf,
    /// Latent and rotary key before norm and rotation, `[R, c + r]`; the latent alone where heads have keys of their own.
    pub(super) kv: B::Buf,
    /// Keys of heads that have rotary keys of their own, `[R, H, n + r]`.
    pub(super) k: B::Buf,
    /// Queries with the key half folded in, `[R, H, c]`.
    pub(super) q_latent: B::Buf,
    /// Absorbed attention's output, `[R, H, c]`.
    pub(super) o_latent: B::Buf,
    /// The heads' outputs, `[R, H, v]`.
    pub(super) heads: B::Buf,
    /// The MLP's two halves, `[R, max(I, S * M)]`; the product replaces the first.
    pub(super) gate: B::Buf,
    /// See `gate`.
    pub(super) up: B::Buf,
    /// `silu(gate) * up`.
    pub(super) product: B::Buf,
    /// The shared experts' output, `[R, D]`.
    pub(super) shared: B::Buf,
    /// The rows that want a token, `[P, D]`.
    pub(super) last: B::Buf,
    /// Their logits, `[P, V]`.
    pub(super) logits: B::Buf,
}

/// Whether each head has a rotary key, expanded from the latent.
fn has_own_keys(config: &ModelConfig) -> bool {
    matches!(config.architecture, Architecture::Mini(_))
}

/// Attention's sizes.
pub(super) fn mla_shape(config: &ModelConfig) -> MlaShape {
    MlaShape {
        n_head: config.num_attention_heads,
        qk_nope_head_dim: config.qk_nope_head_dim,
        qk_rope_head_dim: config.qk_rope_head_dim,
        v_head_dim: config.v_head_dim,
        kv_lora_rank: config.kv_lora_rank,
        n_k_pe: if has_own_keys(config) { config.num_attention_heads } else { 1 },
        softmax_scale: rope::softmax_scale(config),
    }
}

/// Width of the widest MLP that runs through `gate` and `up`: a dense layer's, or the shared experts'.
fn mlp_width(config: &ModelConfig) -> usize {
    let dense =
        if config.is_moe_layer.iter().all(|moe| *moe) { 0 } else { config.intermediate_size };
    dense.max(config.moe.as_ref().map_or(0, |moe| match config.architecture {
        Architecture::DeepSeek => moe.n_shared_experts * moe.moe_intermediate_size,
        // Averaged ones run as routed experts do.
        Architecture::Mini(_) => 0,
    }))
}

/// Most experts of one kind a layer has, and most that a row goes to: mini-deepseek's shared experts count, all of them.
fn expert_counts(config: &ModelConfig, moe: &MoeConfig) -> (usize, usize) {
    let (experts, chosen) = (moe.route.n_routed_experts, moe.route.num_experts_per_tok);
    match config.architecture {
        Architecture::DeepSeek => (experts, chosen),
        Architecture::Mini(_) => {
            (experts.max(moe.n_shared_experts), chosen.max(moe.n_shared_experts))
        }
    }
}

/// Rows and widths of all buffers, in the order of [`Scratch`]'s fields.
fn sizes(config: &ModelConfig, limits: &Limits) -> [(usize, usize); 17] {
    let (rows, samples) = (limits.step_rows_max, limits.sequences_max);
    let mla = mla_shape(config);
    let hidden = (rows, config.hidden_size);
    let q_a = config.q_lora_rank.unwrap_or(0);
    let latent = (rows, mla.n_head * mla.kv_lora_rank);
    let mlp = (rows, mlp_width(config));
    let keys = mla.n_head * mla.qk_head_dim();
    let (kv, own_keys, q_a_norm) = match config.architecture {
        Architecture::DeepSeek => (mla.latent_dim(), 0, q_a),
        Architecture::Mini(_) => (mla.kv_lora_rank, keys, 0),
    };
    [
        hidden,
        hidden,
        hidden,
        (rows, q_a),
        (rows, q_a_norm),
        (rows, keys),
        (rows, kv),
        (rows, own_keys),
        latent,
        latent,
        (rows, mla.n_head * mla.v_head_dim),
        mlp,
        mlp,
        mlp,
        hidden,
        (samples, config.hidden_size),
        (samples, config.vocab_size),
    ]
}

/// Bytes of all buffers.
pub(super) fn bytes(config: &ModelConfig, limits: &Limits) -> u64 {
    let each = sizes(config, limits);
    each.iter().map(|(rows, dim)| (rows * dim * size_of::<f32>()) as u64).sum()
}

impl<B: Backend> Scratch<B> {
    /// Makes all buffers.
    pub(super) fn alloc(backend: &mut B, config: &ModelConfig, limits: &Limits) -> Result<Self> {
        let [
            x,
            y,
            delta,
            q_a,
            q_a_norm,
            q,
            kv,
            k,
            q_latent,
            o_latent,
            heads,
            gate,
            up,
            product,
            shared,
            last,
            logits,
        ] = sizes(config, limits);
        let mut make = |(rows, dim), role| backend.alloc(rows, dim, role);
        Ok(Self {
            x: make(x, Role::Sum)?,
            y: make(y, Role::Inner)?,
            delta: make(delta, Role::Inner)?,
            q_a: make(q_a, Role::Inner)?,
            q_a_norm: make(q_a_norm, Role::Inner)?,
            q: make(q, Role::Inner)?,
            kv: make(kv, Role::Inner)?,
            k: make(k, Role::Inner)?,
            q_latent: make(q_latent, Role::Inner)?,
            o_latent: make(o_latent, Role::Inner)?,
            heads: make(heads, Role::Inner)?,
            gate: make(gate, Role::Inner)?,
            up: make(up, Role::Inner)?,
            product: make(product, Role::Inner)?,
            shared: make(shared, Role::Inner)?,
            last: make(last, Role::Inner)?,
            logits: make(logits, Role::Sum)?,
        })
    }
}

/// What the backend has to be ready for.
pub(super) fn shape(config: &ModelConfig, limits: &Limits, n_page: usize) -> ScratchShape {
    let mla = mla_shape(config);
    let moe_width = config.moe.as_ref().map_or(0, |moe| moe.moe_intermediate_size);
    let (n_expert, n_chosen) = config.moe.as_ref().map_or((0, 0), |moe| expert_counts(config, moe));
    let inputs = [
        config.hidden_size,
        config.q_lora_rank.unwrap_or(0),
        mla.kv_lora_rank,
        mla.n_head * mla.v_head_dim,
        mlp_width(config),
        moe_width,
    ];
    ScratchShape {
        step_rows_max: limits.step_rows_max,
        sequences_max: limits.sequences_max,
        context_tokens_max: rope::context(config, limits),
        n_page,
        input_dim_max: inputs.into_iter().max().unwrap_or(0),
        hidden_size: config.hidden_size,
        moe_intermediate_size: moe_width,
        num_experts_per_tok: n_chosen,
        n_routed_experts: n_expert,
        vocab_size: config.vocab_size,
        mla,
    }
}
