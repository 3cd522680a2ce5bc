//! A model's weights, taken from the checkpoint by their released names.

use crate::backend::{Backend, KvB, KvBPart, Use};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::config::MoeConfig;
use crate::error::Result;
use crate::model::loader::Loader;

/// All weights of an ordinary pass.
pub(super) struct Weights<B: Backend> {
    /// `[V, D]`; also the head when the two are tied.
    pub(super) embed: B::Weight,
    /// `[V, D]`.
    pub(super) head: Option<B::Weight>,
    /// `[D]`.
    pub(super) norm: B::Buf,
    /// `[L]`; the MTP layer stands behind them once it is loaded.
    pub(super) layers: Vec<Layer<B>>,
    /// Layers of an ordinary pass.
    pub(super) n_layer: usize,
}

impl<B: Backend> Weights<B> {
    /// The norm in front of an ordinary layer; behind the last one, the final norm.
    pub(super) fn input_norm(&self, layer: usize) -> &B::Buf {
        self.layers[..self.n_layer].get(layer).map_or(&self.norm, |layer| &layer.input_norm)
    }
}

/// What the MTP layer has beside a decoder layer.
pub(super) struct MtpWeights<B: Backend> {
    /// `[D]`, over the embedding.
    pub(super) enorm: B::Buf,
    /// `[D]`, over the state.
    pub(super) hnorm: B::Buf,
    /// `[D, 2 D]`, embedding first.
    pub(super) eh_proj: B::Weight,
    /// `shared_head.norm`, `[D]`.
    pub(super) norm: B::Buf,
}

/// One decoder layer.
pub(super) struct Layer<B: Backend> {
    pub(super) input_norm: B::Buf,
    pub(super) attention: Attention<B>,
    pub(super) post_norm: B::Buf,
    pub(super) ffn: Ffn<B>,
}

/// Multi-head latent attention.
pub(super) struct Attention<B: Backend> {
    pub(super) query: Query<B>,
    /// `[c + r, D]`.
    pub(super) kv_a: B::Weight,
    /// `[c]`.
    pub(super) kv_norm: B::Buf,
    /// `[H * (n + v), c]`, whole or in halves.
    pub(super) kv_b: KvB<B::Weight>,
    /// `[D, H * v]`.
    pub(super) o: B::Weight,
}

/// How queries are made.
pub(super) enum Query<B: Backend> {
    /// `[H * (n + r), D]`.
    Full(B::Weight),
    /// `[q, D]`, `[q]`, `[H * (n + r), q]`.
    LowRank { a: B::Weight, norm: B::Buf, b: B::Weight },
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
    /// `[E]`.
    pub(super) bias: Option<B::Buf>,
    pub(super) shared: Option<Mlp<B>>,
    pub(super) experts: B::Experts,
}

impl<B: Backend> Loader<'_, B> {
    /// Everything the configuration asks for.
    pub(super) fn weights(&mut self) -> Result<Weights<B>> {
        let config = &self.checkpoint.config;
        let embed = self.matrix_for("model.embed_tokens.weight", Use::Table)?;
        let kinds = config.is_moe_layer.iter().enumerate();
        let layers =
            kinds.map(|(i, is_moe)| self.layer(config, i, *is_moe)).collect::<Result<_>>()?;
        let norm = self.vector("model.norm.weight")?;
        let head =
            if config.tie_word_embeddings { None } else { Some(self.matrix("lm_head.weight")?) };
        Ok(Weights { embed, head, norm, layers, n_layer: config.num_hidden_layers })
    }

    /// The first MTP layer: what it has of its own, and its decoder layer, a mixture whatever the others are.
    pub(super) fn mtp(&mut self) -> Result<(MtpWeights<B>, Layer<B>)> {
        let config = &self.checkpoint.config;
        let at = format!("model.layers.{}", config.num_hidden_layers);
        let weights = MtpWeights {
            enorm: self.vector(&format!("{at}.enorm.weight"))?,
            hnorm: self.vector(&format!("{at}.hnorm.weight"))?,
            eh_proj: self.matrix(&format!("{at}.eh_proj.weight"))?,
            norm: self.vector(&format!("{at}.shared_head.norm.weight"))?,
        };
        Ok((weights, self.layer(config, config.num_hidden_layers, true)?))
    }

    fn layer(&mut self, config: &ModelConfig, index: usize, is_moe: bool) -> Result<Layer<B>> {
        let at = format!("model.layers.{index}");
        let input_norm = self.vector(&format!("{at}.input_layernorm.weight"))?;
        let attention = self.attention(config, &format!("{at}.self_attn"))?;
        let post_norm = self.vector(&format!("{at}.post_attention_layernorm.weight"))?;
        let ffn = match &config.moe {
            Some(moe) if is_moe => Ffn::Moe(self.moe(moe, &format!("{at}.mlp"))?),
            _ => Ffn::Dense(self.mlp(&format!("{at}.mlp"), config.intermediate_size)?),
        };
        Ok(Layer { input_norm, attention, post_norm, ffn })
    }

    fn attention(&mut self, config: &ModelConfig, at: &str) -> Result<Attention<B>> {
        let query = if config.q_lora_rank.is_none() {
            Query::Full(self.matrix(&format!("{at}.q_proj.weight"))?)
        } else {
            Query::LowRank {
                a: self.matrix(&format!("{at}.q_a_proj.weight"))?,
                norm: self.vector(&format!("{at}.q_a_layernorm.weight"))?,
                b: self.matrix(&format!("{at}.q_b_proj.weight"))?,
            }
        };
        Ok(Attention {
            query,
            kv_a: self.matrix(&format!("{at}.kv_a_proj_with_mqa.weight"))?,
            kv_norm: self.vector(&format!("{at}.kv_a_layernorm.weight"))?,
            kv_b: self.kv_b(at)?,
            o: self.matrix(&format!("{at}.o_proj.weight"))?,
        })
    }

    /// The one matrix where it is there, else its halves.
    fn kv_b(&mut self, at: &str) -> Result<KvB<B::Weight>> {
        let whole = format!("{at}.kv_b_proj.weight");
        let key = format!("{at}.k_b_proj.weight");
        if self.checkpoint.has(&whole) || !self.checkpoint.has(&key) {
            return Ok(KvB::Whole(self.matrix_for(&whole, Use::KvB(KvBPart::Whole))?));
        }
        let value = format!("{at}.v_b_proj.weight");
        Ok(KvB::Halves {
            key: self.matrix_for(&key, Use::KvB(KvBPart::KeyTurned))?,
            value: self.matrix_for(&value, Use::KvB(KvBPart::Value))?,
        })
    }

    fn mlp(&mut self, at: &str, dim: usize) -> Result<Mlp<B>> {
        Ok(Mlp {
            gate: self.matrix(&format!("{at}.gate_proj.weight"))?,
            up: self.matrix(&format!("{at}.up_proj.weight"))?,
            down: self.matrix(&format!("{at}.down_proj.weight"))?,
            dim,
        })
    }

    fn moe(&mut self, moe: &MoeConfig, at: &str) -> Result<Moe<B>> {
        let gate = self.matrix_for(&format!("{at}.gate.weight"), Use::Router)?;
        let bias = if moe.has_correction_bias {
            Some(self.vector(&format!("{at}.gate.e_score_correction_bias"))?)
        } else {
            None
        };
        let shared = match moe.n_shared_experts {
            0 => None,
            n => Some(self.mlp(&format!("{at}.shared_experts"), n * moe.moe_intermediate_size)?),
        };
        let n_expert = moe.route.n_routed_experts;
        let experts = self.experts(n_expert, |e| format!("{at}.experts.{e}"))?;
        Ok(Moe { gate, bias, shared, experts })
    }
}
