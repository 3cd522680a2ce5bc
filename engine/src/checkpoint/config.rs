//! `config.json` as a model needs it: sizes, rules, and every refusal with its reason.

use std::path::Path;

use serde_json::{Map, Value};

use super::family::{Family, refuse_unsupported};
use super::json::{Fields, parse_object};
use super::scales;
use crate::error::{Error, Result};

/// A model's sizes and rules, in `config.json`'s words. Everything is checked: past this, nobody looks again.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which forward pass the sizes are for.
    pub architecture: Architecture,
    /// `deepseek_v3`, `deepseek_v2`, `kimi_k2`, `glm4_moe_lite` or `mini_deepseek`.
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
    /// Which two channels of a rotary head turn together (`rope_interleave`).
    pub rope_pairs: RopePairs,
    /// `None`: plain rotation.
    pub yarn: Option<Yarn>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `max_position_embeddings`: the longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// MTP layers that may follow the last layer in the checkpoint. The first is checked when it is there and kept for
    /// speculation; an ordinary pass runs none.
    pub num_nextn_predict_layers: usize,
    /// Rows and columns of a block of an 8-bit float matrix that share a factor.
    pub fp8_block: [usize; 2],
}

/// Which forward pass a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// DeepSeek-V2 and V3.
    DeepSeek,
    /// mini-deepseek: rotary keys per head, no norm on latents, averaged shared experts.
    Mini(MiniConfig),
}

/// What mini-deepseek has beside the common sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MiniConfig {
    /// Router logits have a bias.
    pub router_bias: bool,
    /// Draft heads in the checkpoint. Checked, kept for speculation, not run.
    pub n_draft_heads: usize,
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

/// How experts are scored and chosen (`ARCHITECTURES`: V3 `noaux_tc`, V2 `greedy` and `group_limited_greedy`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteRule {
    /// Sigmoid with bias (V3) or softmax over all experts (V2).
    pub scoring: Scoring,
    /// `E`.
    pub n_routed_experts: usize,
    /// `K`.
    pub num_experts_per_tok: usize,
    /// Groups of consecutive experts; 1 is no groups.
    pub n_group: usize,
    /// Groups kept.
    pub topk_group: usize,
    /// Divide the chosen weights by their sum (+ 1e-20) before scaling.
    pub norm_topk_prob: bool,
    /// Multiplies every weight, last.
    pub routed_scaling_factor: f32,
}

/// Score function of a router; it also decides how groups are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// V3: sigmoid; a bias for choosing only; a group counts the sum of its two best.
    Sigmoid,
    /// V2: softmax; a group counts its best.
    Softmax,
}

/// Which two of a rotary head's `r` channels turn together. Channels keep their places either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `2j` with `2j + 1` (`rope_interleave: true`): every released DeepSeek model.
    Neighbours,
    /// `j` with `j + r / 2` (`rope_interleave: false`): half-rotated heads.
    Halves,
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

/// Sizes that products of which must stay below this many numbers, so that no later arithmetic can overflow.
const TENSOR_MAX: usize = 1 << 42;

impl ModelConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names field, found and wanted; [`Error::Unsupported`] names what this build lacks.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of(path, &parse_object(path, bytes)?)
    }

    /// [`ModelConfig::parse`] of an object that was read already.
    pub(super) fn of(path: &Path, object: &Map<String, Value>) -> Result<Self> {
        let fields = Fields { path, object };
        let family = Family::of(&fields)?;
        refuse_unsupported(&fields)?;
        let config = Self {
            architecture: Architecture::DeepSeek,
            model_type: family.name().to_owned(),
            vocab_size: fields.size("vocab_size")?,
            hidden_size: fields.size("hidden_size")?,
            num_hidden_layers: fields.size("num_hidden_layers")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            q_lora_rank: fields
                .get("q_lora_rank")
                .map(|_| fields.size("q_lora_rank"))
                .transpose()?,
            kv_lora_rank: fields.size("kv_lora_rank")?,
            qk_nope_head_dim: fields.size("qk_nope_head_dim")?,
            qk_rope_head_dim: fields.size("qk_rope_head_dim")?,
            v_head_dim: fields.size("v_head_dim")?,
            intermediate_size: fields.size("intermediate_size")?,
            is_moe_layer: moe_layers(&fields, family)?,
            moe: None,
            rms_norm_eps: fields.positive_or("rms_norm_eps", Some(family.rms_norm_eps()))? as f32,
            rope_theta: rope_theta(&fields)?,
            rope_pairs: match fields.flag_or("rope_interleave", true)? {
                true => RopePairs::Neighbours,
                false => RopePairs::Halves,
            },
            yarn: yarn(&fields)?,
            tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
            max_position_embeddings: fields.size_or("max_position_embeddings", Some(2048))?,
            num_nextn_predict_layers: fields.count_or("num_nextn_predict_layers", 0)?,
            fp8_block: scales::block(&fields)?,
        };
        // The MTP layer is a mixture too, wherever there are experts.
        let has_moe = config.is_moe_layer.contains(&true)
            || config.num_nextn_predict_layers > 0 && fields.get("n_routed_experts").is_some();
        let moe = if has_moe { Some(moe(&fields, family)?) } else { None };
        let config = Self { moe, ..config };
        config.check(&fields)?;
        Ok(config)
    }

    /// What no single field shows.
    pub(super) fn check(&self, fields: &Fields<'_>) -> Result<()> {
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            return Err(fields.error("qk_rope_head_dim", "an even number: channels turn in pairs"));
        }
        if self.num_nextn_predict_layers > 64 {
            return Err(fields.error("num_nextn_predict_layers", "at most 64"));
        }
        if self.num_hidden_layers > 4096 {
            return Err(fields.error("num_hidden_layers", "at most 4096"));
        }
        if self.max_position_embeddings > 1 << 24 {
            return Err(fields.error("max_position_embeddings", "at most 16777216"));
        }
        let experts = self.moe.as_ref().map_or(0, |moe| moe.route.n_routed_experts);
        if self.num_hidden_layers * experts > 1 << 18 {
            return Err(fields.error("n_routed_experts", "at most 262144 experts over all layers"));
        }
        let head = self.qk_nope_head_dim.max(self.v_head_dim) + self.qk_rope_head_dim;
        let widths = [
            ("vocab_size", Some(self.vocab_size)),
            ("intermediate_size", Some(self.intermediate_size)),
            ("num_attention_heads", self.num_attention_heads.checked_mul(head)),
            ("q_lora_rank", Some(self.q_lora_rank.unwrap_or(1))),
            ("kv_lora_rank", self.kv_lora_rank.checked_add(self.qk_rope_head_dim)),
        ];
        for (field, width) in widths {
            let product =
                width.and_then(|width| width.checked_mul(self.hidden_size.max(self.kv_lora_rank)));
            if product.is_none_or(|product| product > TENSOR_MAX) {
                return Err(fields.error(field, "a matrix of at most 2^42 numbers"));
            }
        }
        Ok(())
    }
}

/// Which layers are mixtures.
fn moe_layers(fields: &Fields<'_>, family: Family) -> Result<Vec<bool>> {
    let layers = fields.size("num_hidden_layers")?;
    if layers > 4096 {
        return Err(fields.error("num_hidden_layers", "at most 4096"));
    }
    if fields.get("n_routed_experts").is_none() {
        return Ok(vec![false; layers]);
    }
    if let Some(kinds) = fields.get("mlp_layer_types") {
        let kind = |kind: &Value| match kind.as_str() {
            Some("dense") => Some(false),
            Some("sparse") => Some(true),
            _ => None,
        };
        let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers);
        return kinds.and_then(|kinds| kinds.iter().map(kind).collect()).ok_or_else(|| {
            fields.error("mlp_layer_types", "`dense` or `sparse` for each of `num_hidden_layers`")
        });
    }
    let first = fields.count_or("first_k_dense_replace", family.first_k_dense_replace())?;
    let every = fields.size_or("moe_layer_freq", Some(1))?;
    Ok((0..layers).map(|layer| layer >= first && layer % every == 0).collect())
}

/// Sizes and rules of the mixtures.
fn moe(fields: &Fields<'_>, family: Family) -> Result<MoeConfig> {
    let is_v3 = family.routes_as_v3();
    let experts = fields.size("n_routed_experts")?;
    let chosen = fields.size("num_experts_per_tok")?;
    let method = fields.text("topk_method")?.unwrap_or(if is_v3 { "noaux_tc" } else { "greedy" });
    let scoring = fields.text("scoring_func")?.unwrap_or(if is_v3 { "sigmoid" } else { "softmax" });
    let has_groups = match (is_v3, method) {
        (true, "noaux_tc") | (false, "group_limited_greedy") => true,
        (false, "greedy") => false,
        (true, _) => return Err(fields.error("topk_method", "`noaux_tc`")),
        (false, _) => {
            return Err(fields.error("topk_method", "`greedy` or `group_limited_greedy`"));
        }
    };
    let wanted = if is_v3 { "sigmoid" } else { "softmax" };
    if scoring != wanted {
        return Err(fields.error("scoring_func", &format!("`{wanted}`")));
    }
    // The reference ignores the flag for V2 and the models' own code does something else: refused, not guessed.
    let norm_topk_prob = fields.flag_or("norm_topk_prob", is_v3)?;
    if !is_v3 && norm_topk_prob {
        return Err(fields
            .error("norm_topk_prob", "false: implementations of deepseek_v2 disagree about true"));
    }
    let n_group = if has_groups { fields.size_or("n_group", Some(1))? } else { 1 };
    let topk_group = if has_groups { fields.size_or("topk_group", Some(n_group))? } else { 1 };
    if experts > 1 << 16 {
        return Err(fields.error("n_routed_experts", "at most 65536"));
    }
    if experts % n_group != 0 {
        return Err(fields.error("n_group", &format!("a divisor of `n_routed_experts`, {experts}")));
    }
    if topk_group > n_group {
        return Err(fields.error("topk_group", &format!("at most `n_group`, {n_group}")));
    }
    if chosen > experts / n_group * topk_group {
        return Err(fields.error("num_experts_per_tok", "at most the experts in the groups kept"));
    }
    let route = RouteRule {
        scoring: if is_v3 { Scoring::Sigmoid } else { Scoring::Softmax },
        n_routed_experts: experts,
        num_experts_per_tok: chosen,
        n_group,
        topk_group,
        norm_topk_prob,
        routed_scaling_factor: fields
            .positive_or("routed_scaling_factor", Some(family.routed_scaling_factor()))?
            as f32,
    };
    let moe_intermediate_size = fields.size("moe_intermediate_size")?;
    let n_shared_experts = fields.count_or("n_shared_experts", 0)?;
    let shared_width = n_shared_experts.checked_mul(moe_intermediate_size);
    if shared_width.is_none_or(|width| width > 1 << 24) {
        return Err(fields.error("n_shared_experts", "at most 2^24 columns together"));
    }
    Ok(MoeConfig { route, moe_intermediate_size, n_shared_experts, has_correction_bias: is_v3 })
}

/// The rotary base, in either spelling.
fn rope_theta(fields: &Fields<'_>) -> Result<f64> {
    let places = [fields.object("rope_parameters")?, fields.object("rope_scaling")?];
    let theta = match places.into_iter().flatten().find(|place| place.get("rope_theta").is_some()) {
        Some(place) => place.positive_or("rope_theta", None)?,
        None => fields.positive_or("rope_theta", Some(10_000.0))?,
    };
    if theta <= 1.0 { Err(fields.error("rope_theta", "a number above 1")) } else { Ok(theta) }
}

/// YaRN's constants, in either spelling; `None` for plain rotation.
fn yarn(fields: &Fields<'_>) -> Result<Option<Yarn>> {
    let older = fields.object("rope_scaling")?;
    let Some(scaling) = older.or(fields.object("rope_parameters")?) else { return Ok(None) };
    let kind = scaling.text("rope_type")?.or(scaling.text("type")?).unwrap_or("default");
    match kind {
        "default" => return Ok(None),
        "yarn" => {}
        other => {
            let what = format!("rotary scaling `{other}` is not supported; `yarn` is");
            return Err(Error::Unsupported { path: fields.path.to_owned(), what });
        }
    }
    // The reference's own additions, which no released file of these models uses.
    if scaling.get("attention_factor").is_some() || !scaling.flag_or("truncate", true)? {
        let what =
            "YaRN with an `attention_factor` of its own or with `truncate` off is not supported";
        return Err(Error::Unsupported { path: fields.path.to_owned(), what: what.to_owned() });
    }
    let original = scaling.get("original_max_position_embeddings").map(|_| ());
    let original_max_position_embeddings = match original {
        Some(()) => scaling.size("original_max_position_embeddings")?,
        None => fields.size("max_position_embeddings")?,
    };
    Ok(Some(Yarn {
        factor: scaling.positive_or("factor", None)?,
        original_max_position_embeddings,
        beta_fast: scaling.positive_or("beta_fast", Some(32.0))?,
        beta_slow: scaling.positive_or("beta_slow", Some(1.0))?,
        mscale: scaling.number_or_zero("mscale")?,
        mscale_all_dim: scaling.number_or_zero("mscale_all_dim")?,
    }))
}
