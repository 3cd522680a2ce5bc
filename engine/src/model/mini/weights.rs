//! The weights, by the names the model's own trainers save them under.

use crate::backend::{Backend, KvBPart, Use};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::config::{Architecture, MoeConfig};
use crate::error::Result;
use crate::model::loader::Loader;

/// All weights of the ordinary pass.
pub(super) struct Weights<B: Backend> {
    /// `[V, D]`; also the head when the two are tied.
    pub(super) embed: B::Weight,
    /// `[V, D]`.
    pub(super) head: Option<B::Weight>,
    /// `[D]`.
    pub(super) norm: B::Buf,
    /// `[L]`.
    pub(super) layers: Vec<Layer<B>>,
}

/// One decoder layer.
pub(super) struct Layer<B: Backend> {
    pub(super) input_norm: B::Buf,
    pub(super) attention: Attention<B>,
    pub(super) post_norm: B::Buf,
    pub(super) ffn: Ffn<B>,
}

/// Attention over latents without norms.
pub(super) struct Attention<B: Backend> {
    /// `[q, D]`.
    pub(super) q_down: B::Weight,
    /// `[H * (n + r), q]`.
    pub(super) q_up: B::Weight,
    /// `[c, D]`.
    pub(super) kv_down: B::Weight,
    /// `[H * (n + r), c]`.
    pub(super) k_up: B::Weight,
    /// `[H * v, c]`.
    pub(super) v_up: B::Weight,
    /// `[D, H * v]`.
    pub(super) o: B::Weight,
}

/// The second half of a layer.
pub(super) enum Ffn<B: Backend> {
    Dense(Mlp<B>),
    Moe(Moe<B>),
}

/// `down(silu(gate x) * up x)`, `dim` wide.
pub(super) struct Mlp<B: Backend> {
    pub(super) gate: B::Weight,
    pub(super) up: B::Weight,
    pub(super) down: B::Weight,
    pub(super) dim: usize,
}

/// A mixture of experts.
pub(super) struct Moe<B: Backend> {
    /// `[E, D]`.
    pub(super) gate: B::Weight,
    /// `[E]`, added to the router's logits.
    pub(super) bias: Option<B::Buf>,
    pub(super) shared: B::Experts,
    pub(super) experts: B::Experts,
}

/// Everything the configuration asks for.
pub(super) fn load<B: Backend>(
    loader: &mut Loader<'_, B>,
    config: &ModelConfig,
) -> Result<Weights<B>> {
    let embed = loader.matrix_for("embed_tokens.weight", Use::Table)?;
    let layers =
        (0..config.num_hidden_layers).map(|i| layer(loader, config, i)).collect::<Result<_>>()?;
    let norm = loader.vector("norm.weight")?;
    let head =
        if config.tie_word_embeddings { None } else { Some(loader.matrix("lm_head.weight")?) };
    Ok(Weights { embed, head, norm, layers })
}

fn layer<B: Backend>(
    loader: &mut Loader<'_, B>,
    config: &ModelConfig,
    index: usize,
) -> Result<Layer<B>> {
    let at = format!("layers.{index}");
    let input_norm = loader.vector(&format!("{at}.input_layernorm.weight"))?;
    let attention = attention(loader, &format!("{at}.attention"))?;
    let post_norm = loader.vector(&format!("{at}.post_attention_layernorm.weight"))?;
    let ffn = match &config.moe {
        Some(moe) if config.is_moe_layer[index] => {
            Ffn::Moe(mixture(loader, config, moe, &format!("{at}.ffn"))?)
        }
        _ => Ffn::Dense(mlp(loader, &format!("{at}.ffn"), config.intermediate_size)?),
    };
    Ok(Layer { input_norm, attention, post_norm, ffn })
}

fn attention<B: Backend>(loader: &mut Loader<'_, B>, at: &str) -> Result<Attention<B>> {
    Ok(Attention {
        q_down: loader.matrix(&format!("{at}.q_down_proj.weight"))?,
        q_up: loader.matrix(&format!("{at}.q_up_proj.weight"))?,
        kv_down: loader.matrix(&format!("{at}.kv_down_proj.weight"))?,
        k_up: loader.matrix_for(&format!("{at}.k_up_proj.weight"), Use::KvB(KvBPart::Key))?,
        v_up: loader.matrix_for(&format!("{at}.v_up_proj.weight"), Use::KvB(KvBPart::Value))?,
        o: loader.matrix(&format!("{at}.o_proj.weight"))?,
    })
}

fn mlp<B: Backend>(loader: &mut Loader<'_, B>, at: &str, dim: usize) -> Result<Mlp<B>> {
    Ok(Mlp {
        gate: loader.matrix(&format!("{at}.gate_proj.weight"))?,
        up: loader.matrix(&format!("{at}.up_proj.weight"))?,
        down: loader.matrix(&format!("{at}.down_proj.weight"))?,
        dim,
    })
}

fn mixture<B: Backend>(
    loader: &mut Loader<'_, B>,
    config: &ModelConfig,
    moe: &MoeConfig,
    at: &str,
) -> Result<Moe<B>> {
    let has_bias = matches!(config.architecture, Architecture::Mini(mini) if mini.router_bias);
    let gate = loader.matrix_for(&format!("{at}.gate.gate.weight"), Use::Router)?;
    let bias = if has_bias { Some(loader.vector(&format!("{at}.gate.gate.bias"))?) } else { None };
    let routed = |e: usize| format!("{at}.experts.{e}.ffn");
    let experts = loader.experts(moe.route.n_routed_experts, routed)?;
    let shared = |e: usize| format!("{at}.shared_experts.{e}.ffn");
    let shared = loader.experts(moe.n_shared_experts, shared)?;
    Ok(Moe { gate, bias, shared, experts })
}
