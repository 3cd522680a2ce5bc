//! mini-deepseek: an educational variant whose `.pt` files hold no configuration. Sizes come from settings where there
//! are any, else from the tensors' shapes; what shapes cannot tell has a default, or is asked for by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::{
    Architecture, MiniConfig, ModelConfig, MoeConfig, RopePairs, RouteRule, Scoring,
};
use super::expected::Expected;
use super::json::Fields;
use super::safetensors::Entry;
use crate::error::{Error, Result};
use crate::quant::fp8;

/// The network has no longest sequence: its rotations are functions of the position, and the reference cuts nothing.
/// A shorter `max_position_embeddings` than this is what it was trained on, not what it can do.
const CONTEXT_MIN: usize = 2048;

/// Defaults of what shapes cannot tell and nobody would notice at once.
const ROPE_THETA: f64 = 10_000.0;
const RMS_NORM_EPS: f64 = 1e-6;
const EXPERTS_PER_TOKEN: usize = 2;

type Tensors = BTreeMap<String, Entry>;

/// Whether tensors are named as this architecture names them.
pub(super) fn is_mini(tensors: &Tensors) -> bool {
    tensors.contains_key("embed_tokens.weight")
        && tensors.contains_key("layers.0.attention.kv_down_proj.weight")
}

/// Whether settings are this architecture's: a trainer's file has them under `model`.
pub(super) fn is_settings(object: &Map<String, Value>) -> bool {
    let model = section(object);
    !model.contains_key("model_type")
        && !model.contains_key("architectures")
        && (model.contains_key("first_moe_layer") || model.get("moe").is_some_and(Value::is_object))
}

/// The model's part of a trainer's settings.
pub(super) fn section(object: &Map<String, Value>) -> &Map<String, Value> {
    object.get("model").and_then(Value::as_object).unwrap_or(object)
}

/// What the shapes tell.
struct Shapes<'a> {
    tensors: &'a Tensors,
    n_layer: usize,
    first_dense: Option<usize>,
    first_moe: Option<usize>,
}

impl<'a> Shapes<'a> {
    fn of(tensors: &'a Tensors) -> Self {
        let has =
            |layer: usize, name: &str| tensors.contains_key(&format!("layers.{layer}.{name}"));
        let n_layer = (0..tensors.len()).take_while(|i| has(*i, "input_layernorm.weight")).count();
        let first = |name: &str| (0..n_layer).find(|i| has(*i, name));
        let (first_dense, first_moe) =
            (first("ffn.gate_proj.weight"), first("ffn.gate.gate.weight"));
        Self { tensors, n_layer, first_dense, first_moe }
    }

    /// Rows of a matrix.
    fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.get(name)?.shape.first().copied()
    }

    fn attention(&self, name: &str) -> Option<usize> {
        self.rows(&format!("layers.0.attention.{name}.weight"))
    }

    /// Rows of a tensor of the first mixture.
    fn moe(&self, name: &str) -> Option<usize> {
        self.rows(&format!("layers.{}.ffn.{name}", self.first_moe?))
    }

    /// How many of `{start}.0.{end}`, `{start}.1.{end}`, ... there are.
    fn count(&self, start: &str, end: &str) -> usize {
        let has = |i: &usize| self.tensors.contains_key(&format!("{start}.{i}.{end}"));
        (0..self.tensors.len()).take_while(has).count()
    }

    fn is_moe_layer(&self, layer: usize) -> bool {
        self.tensors.contains_key(&format!("layers.{layer}.ffn.gate.gate.weight"))
    }

    /// Whether head and embedding are one storage, or there is only the one.
    fn is_tied(&self) -> bool {
        match (self.tensors.get("lm_head.weight"), self.tensors.get("embed_tokens.weight")) {
            (Some(head), Some(embed)) => std::ptr::eq(head.bytes.as_ptr(), embed.bytes.as_ptr()),
            _ => true,
        }
    }
}

/// The configuration of a model whose tensors are `tensors`; `settings` are those that were found at `path`, if any.
///
/// # Errors
/// [`Error::Config`] for settings that are wrong, or missing and told by no shape.
pub(super) fn config(
    path: &Path,
    settings: Option<&Map<String, Value>>,
    tensors: &Tensors,
) -> Result<ModelConfig> {
    let none = Map::new();
    let fields = Fields { path, object: settings.map_or(&none, section) };
    let shapes = Shapes::of(tensors);
    let hidden_size = fields.size_or(
        "hidden_size",
        tensors.get("norm.weight").and_then(|norm| norm.shape.first().copied()),
    )?;
    // The settings' own is overwritten by the tokenizer's length when training begins.
    let vocab_size = match shapes.rows("embed_tokens.weight") {
        Some(vocab_size) => vocab_size,
        None => fields.size("vocab_size")?,
    };
    let num_hidden_layers = fields.size_or("num_hidden_layers", Some(shapes.n_layer))?;
    let num_attention_heads =
        fields.size("num_attention_heads").map_err(|_| not_told(&fields, "num_attention_heads"))?;
    let (nope, rope) = key_dims(&fields, &shapes, num_attention_heads)?;
    let (moe, is_moe_layer) = moe(&fields, &shapes, num_hidden_layers)?;
    let router_bias = router_bias(&fields, &shapes)?;
    let rope_theta = fields.positive_or("rope_theta", Some(ROPE_THETA))?;
    if rope_theta <= 1.0 {
        return Err(fields.error("rope_theta", "a number above 1"));
    }
    let mini =
        MiniConfig { router_bias, n_draft_heads: shapes.count("mtp_head.projections", "weight") };
    let config = ModelConfig {
        architecture: Architecture::Mini(mini),
        model_type: "mini_deepseek".to_owned(),
        vocab_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        q_lora_rank: Some(fields.size_or("q_lora_rank", shapes.attention("q_down_proj"))?),
        kv_lora_rank: fields.size_or("kv_lora_rank", shapes.attention("kv_down_proj"))?,
        qk_nope_head_dim: nope,
        qk_rope_head_dim: rope,
        v_head_dim: fields.size_or(
            "v_head_dim",
            shapes.attention("v_up_proj").map(|rows| rows / num_attention_heads),
        )?,
        intermediate_size: intermediate_size(&fields, &shapes, &is_moe_layer)?,
        is_moe_layer,
        moe,
        rms_norm_eps: fields.positive_or("rms_norm_eps", Some(RMS_NORM_EPS))? as f32,
        rope_theta,
        rope_pairs: RopePairs::Halves,
        yarn: None,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", shapes.is_tied())?,
        max_position_embeddings: fields
            .size_or("max_position_embeddings", Some(CONTEXT_MIN))?
            .max(CONTEXT_MIN),
        num_nextn_predict_layers: 0,
        fp8_block: fp8::BLOCK,
    };
    config.check(&fields)?;
    Ok(config)
}

fn not_told(fields: &Fields<'_>, field: &str) -> Error {
    fields.error(
        field,
        "a number: the tensors' shapes do not tell it; a `config.yaml` or `config.json` beside the file does",
    )
}

/// `n` and `r`: shapes tell their sum.
fn key_dims(fields: &Fields<'_>, shapes: &Shapes<'_>, heads: usize) -> Result<(usize, usize)> {
    let width = shapes.attention("k_up_proj").map(|rows| rows / heads);
    let rest =
        |other: usize| width.and_then(|width| width.checked_sub(other)).filter(|rest| *rest > 0);
    let (nope, rope) = ("qk_nope_head_dim", "qk_rope_head_dim");
    match (fields.get(nope).is_some(), fields.get(rope).is_some()) {
        (false, false) => Err(not_told(fields, rope)),
        (true, false) => {
            let size = fields.size(nope)?;
            Ok((size, fields.size_or(rope, rest(size))?))
        }
        (_, true) => {
            let size = fields.size(rope)?;
            Ok((fields.size_or(nope, rest(size))?, size))
        }
    }
}

/// Width of the dense layers; a model without any has none, and nobody reads it.
fn intermediate_size(
    fields: &Fields<'_>,
    shapes: &Shapes<'_>,
    is_moe_layer: &[bool],
) -> Result<usize> {
    if is_moe_layer.iter().all(|moe| *moe) {
        return Ok(1);
    }
    let found =
        shapes.first_dense.and_then(|i| shapes.rows(&format!("layers.{i}.ffn.gate_proj.weight")));
    fields.size_or("intermediate_size", found)
}

/// Whether routers have a bias: the tensors say it, and settings must not say otherwise.
fn router_bias(fields: &Fields<'_>, shapes: &Shapes<'_>) -> Result<bool> {
    let is_there = shapes.moe("gate.gate.bias").is_some();
    match fields.object("moe")? {
        Some(moe)
            if moe.flag_or("router_bias", is_there)? != is_there && shapes.first_moe.is_some() =>
        {
            Err(moe.error(
                "router_bias",
                if is_there { "true: the file has biases" } else { "false: the file has no bias" },
            ))
        }
        _ => Ok(is_there),
    }
}

/// Sizes and rules of the mixtures, and which layers they are.
fn moe(
    fields: &Fields<'_>,
    shapes: &Shapes<'_>,
    layers: usize,
) -> Result<(Option<MoeConfig>, Vec<bool>)> {
    if layers > 4096 {
        return Err(fields.error("num_hidden_layers", "at most 4096"));
    }
    let none = Map::new();
    let moe = fields.object("moe")?.unwrap_or(Fields { path: fields.path, object: &none });
    if !moe.flag_or("enabled", shapes.first_moe.is_some())? {
        return Ok((None, vec![false; layers]));
    }
    let first =
        fields.get("first_moe_layer").map(|_| fields.count_or("first_moe_layer", 0)).transpose()?;
    let every = fields.get("moe_layer_freq").map(|_| fields.size("moe_layer_freq")).transpose()?;
    let is_moe_layer: Vec<bool> = (0..layers)
        .map(|layer| match (first, every) {
            (Some(first), Some(every)) => layer >= first && (layer - first).is_multiple_of(every),
            _ => shapes.is_moe_layer(layer),
        })
        .collect();
    if !is_moe_layer.contains(&true) {
        return Ok((None, is_moe_layer));
    }
    let experts = moe.size_or("num_experts", shapes.moe("gate.gate.weight"))?;
    let chosen = moe.size_or("num_experts_per_tok", Some(EXPERTS_PER_TOKEN.min(experts)))?;
    let width = moe.size_or("expert_hidden_size", shapes.moe("experts.0.ffn.gate_proj.weight"))?;
    let at = format!("layers.{}.ffn.shared_experts", shapes.first_moe.unwrap_or(0));
    let shared = moe.count_or("num_shared_experts", shapes.count(&at, "ffn.gate_proj.weight"))?;
    // As many as there are names to make of them.
    if layers.saturating_mul(experts.max(shared)) > 1 << 18 || experts.max(shared) > 1 << 16 {
        let field = if shared > experts { "num_shared_experts" } else { "num_experts" };
        return Err(moe.error(field, "at most 65536, and at most 262144 experts over all layers"));
    }
    if chosen > experts {
        return Err(moe.error("num_experts_per_tok", &format!("at most `num_experts`, {experts}")));
    }
    let route = RouteRule {
        scoring: Scoring::Softmax,
        n_routed_experts: experts,
        num_experts_per_tok: chosen,
        n_group: 1,
        topk_group: 1,
        norm_topk_prob: true,
        routed_scaling_factor: moe.positive_or("routed_scaling_factor", Some(1.0))? as f32,
    };
    let moe = MoeConfig {
        route,
        moe_intermediate_size: width,
        n_shared_experts: shared,
        has_correction_bias: false,
    };
    Ok((Some(moe), is_moe_layer))
}

/// Every tensor the configuration asks for. Draft heads are checked and kept, the ordinary pass does without.
pub(super) fn expected(config: &ModelConfig, mini: &MiniConfig) -> Vec<Expected> {
    let mut list = List { config, tensors: Vec::new(), is_used: true };
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    list.add("embed_tokens.weight", &[vocab, hidden]);
    for layer in 0..config.num_hidden_layers {
        list.layer(layer, mini);
    }
    list.add("norm.weight", &[hidden]);
    if !config.tie_word_embeddings {
        list.add("lm_head.weight", &[vocab, hidden]);
    }
    list.is_used = false;
    for d in 0..mini.n_draft_heads {
        list.add(&format!("mtp_head.projections.{d}.weight"), &[hidden, hidden]);
        list.add(&format!("mtp_head.projections.{d}.bias"), &[hidden]);
        list.add(&format!("mtp_head.layer_norms.{d}.weight"), &[hidden]);
        if !config.tie_word_embeddings {
            list.add(&format!("mtp_head.output_heads.{d}.weight"), &[vocab, hidden]);
        }
    }
    list.tensors
}

struct List<'a> {
    config: &'a ModelConfig,
    tensors: Vec<Expected>,
    is_used: bool,
}

impl List<'_> {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push(Expected {
            name: name.to_owned(),
            shape: shape.to_vec(),
            is_used: self.is_used,
        });
    }

    fn layer(&mut self, layer: usize, mini: &MiniConfig) {
        let c = self.config;
        let (hidden, heads) = (c.hidden_size, c.num_attention_heads);
        let (query, q_rank) =
            (heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), c.q_lora_rank.unwrap_or(0));
        let at = format!("layers.{layer}");
        self.add(&format!("{at}.input_layernorm.weight"), &[hidden]);
        self.add(&format!("{at}.attention.q_down_proj.weight"), &[q_rank, hidden]);
        self.add(&format!("{at}.attention.q_up_proj.weight"), &[query, q_rank]);
        self.add(&format!("{at}.attention.kv_down_proj.weight"), &[c.kv_lora_rank, hidden]);
        self.add(&format!("{at}.attention.k_up_proj.weight"), &[query, c.kv_lora_rank]);
        self.add(
            &format!("{at}.attention.v_up_proj.weight"),
            &[heads * c.v_head_dim, c.kv_lora_rank],
        );
        self.add(&format!("{at}.attention.o_proj.weight"), &[hidden, heads * c.v_head_dim]);
        self.add(&format!("{at}.post_attention_layernorm.weight"), &[hidden]);
        match c.moe.as_ref().filter(|_| c.is_moe_layer.get(layer) == Some(&true)) {
            Some(moe) => self.moe(&format!("{at}.ffn"), moe, mini),
            None => self.mlp(&format!("{at}.ffn"), c.intermediate_size),
        }
    }

    fn mlp(&mut self, at: &str, width: usize) {
        let hidden = self.config.hidden_size;
        self.add(&format!("{at}.gate_proj.weight"), &[width, hidden]);
        self.add(&format!("{at}.up_proj.weight"), &[width, hidden]);
        self.add(&format!("{at}.down_proj.weight"), &[hidden, width]);
    }

    fn moe(&mut self, at: &str, moe: &MoeConfig, mini: &MiniConfig) {
        let experts = moe.route.n_routed_experts;
        self.add(&format!("{at}.gate.gate.weight"), &[experts, self.config.hidden_size]);
        if mini.router_bias {
            self.add(&format!("{at}.gate.gate.bias"), &[experts]);
        }
        for e in 0..experts {
            self.mlp(&format!("{at}.experts.{e}.ffn"), moe.moe_intermediate_size);
        }
        for e in 0..moe.n_shared_experts {
            self.mlp(&format!("{at}.shared_experts.{e}.ffn"), moe.moe_intermediate_size);
        }
    }
}

#[cfg(test)]
mod tests;
