//! A model's weights, taken from the checkpoint by their released names.

use crate::backend::{Backend, ExpertWeights};
use crate::checkpoint::config::MoeConfig;
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::error::{Error, Result};

/// All weights. The MTP layer stays in the checkpoint: nothing here runs it.
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

/// Multi-head latent attention.
pub(super) struct Attention<B: Backend> {
    pub(super) query: Query<B>,
    /// `[c + r, D]`.
    pub(super) kv_a: B::Weight,
    /// `[c]`.
    pub(super) kv_norm: B::Buf,
    /// `[H * (n + v), c]`.
    pub(super) kv_b: B::Weight,
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
    pub(super) experts: ExpertWeights<B::Weight>,
}

/// Takes tensors out of a checkpoint and counts their bytes.
pub(super) struct Loader<'a, B: Backend> {
    pub(super) backend: &'a mut B,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) progress: &'a mut dyn FnMut(u64, u64),
    done_bytes: u64,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub(super) fn new(
        backend: &'a mut B,
        checkpoint: &'a Checkpoint,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        Self { backend, checkpoint, progress, done_bytes: 0 }
    }

    fn count(&mut self, bytes: usize) {
        self.done_bytes += bytes as u64;
        (self.progress)(self.done_bytes, self.checkpoint.weight_bytes());
    }

    fn matrix(&mut self, name: &str) -> Result<B::Weight> {
        let tensor = self.checkpoint.tensor(name)?;
        let weight = self.backend.weight(&tensor)?;
        self.count(tensor.stored_bytes());
        Ok(weight)
    }

    fn vector(&mut self, name: &str) -> Result<B::Buf> {
        let tensor = self.checkpoint.tensor(name)?;
        let values = tensor.to_f32();
        // Short enough to look through. A correction bias that is no number would choose the same experts for every
        // token without a word; a norm's would fail every request.
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let problem = format!("value {at} is {}, wanted finite numbers", values[at]);
            let (path, name) = (self.checkpoint.path().to_owned(), name.to_owned());
            return Err(Error::TensorRange { path, name, problem });
        }
        let values = self.backend.vector(&values)?;
        self.count(tensor.stored_bytes());
        Ok(values)
    }

    /// Everything the configuration asks for.
    pub(super) fn weights(&mut self) -> Result<Weights<B>> {
        let config = &self.checkpoint.config;
        let embed = self.matrix("model.embed_tokens.weight")?;
        let layers =
            (0..config.num_hidden_layers).map(|i| self.layer(config, i)).collect::<Result<_>>()?;
        let norm = self.vector("model.norm.weight")?;
        let head =
            if config.tie_word_embeddings { None } else { Some(self.matrix("lm_head.weight")?) };
        Ok(Weights { embed, head, norm, layers })
    }

    fn layer(&mut self, config: &ModelConfig, index: usize) -> Result<Layer<B>> {
        let at = format!("model.layers.{index}");
        let input_norm = self.vector(&format!("{at}.input_layernorm.weight"))?;
        let attention = self.attention(config, &format!("{at}.self_attn"))?;
        let post_norm = self.vector(&format!("{at}.post_attention_layernorm.weight"))?;
        let ffn = match &config.moe {
            Some(moe) if config.is_moe_layer[index] => {
                Ffn::Moe(self.moe(moe, &format!("{at}.mlp"))?)
            }
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
            kv_b: self.matrix(&format!("{at}.kv_b_proj.weight"))?,
            o: self.matrix(&format!("{at}.o_proj.weight"))?,
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
        let gate = self.matrix(&format!("{at}.gate.weight"))?;
        let bias = if moe.has_correction_bias {
            Some(self.vector(&format!("{at}.gate.e_score_correction_bias"))?)
        } else {
            None
        };
        let shared = match moe.n_shared_experts {
            0 => None,
            n => Some(self.mlp(&format!("{at}.shared_experts"), n * moe.moe_intermediate_size)?),
        };
        let mut experts = ExpertWeights { gate: Vec::new(), up: Vec::new(), down: Vec::new() };
        for e in 0..moe.route.n_routed_experts {
            let expert = self.mlp(&format!("{at}.experts.{e}"), moe.moe_intermediate_size)?;
            experts.gate.push(expert.gate);
            experts.up.push(expert.up);
            experts.down.push(expert.down);
        }
        Ok(Moe { gate, bias, shared, experts })
    }
}
