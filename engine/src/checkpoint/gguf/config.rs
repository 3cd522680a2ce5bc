//! `deepseek2` metadata as the `config.json` it was made from, so that one place checks every model.
//!
//! Keys are llama.cpp's. Two generations of files are about: older ones name the widths of a head `key_length` and
//! `value_length`; newer ones, whose `kv_b_proj` is split, add `key_length_mla` and `value_length_mla` and use the
//! former for the latent.

use serde_json::{Map, Value, json};

use super::super::ModelConfig;
use super::container::Container;
use crate::error::{Error, Result};

/// `expert_gating_func` of a softmax.
const SOFTMAX: u64 = 1;
/// `expert_gating_func` of a sigmoid.
const SIGMOID: u64 = 2;

/// The architecture's name.
///
/// # Errors
/// [`Error::Unsupported`] for any other than `deepseek2`, by name.
pub(super) fn architecture(file: &Container) -> Result<&str> {
    let name = file
        .text("general.architecture")?
        .ok_or_else(|| file.wrong("general.architecture", "`deepseek2`"))?;
    let lacks = match name {
        "deepseek2" => return Ok(name),
        "deepseek" => "the first DeepSeek models have another attention",
        "deepseek32" | "glm-dsa" => "its sparse attention needs an indexer",
        "deepseek2-ocr" | "clip" => "it is a part of a model that sees images",
        "deepseek4" => "its attention and residual streams are another architecture",
        _ => "hadal runs `deepseek2`: DeepSeek-V2, V3, R1 and their kin",
    };
    let name: String = name.chars().take(60).collect();
    Err(Error::Unsupported {
        path: file.path.clone(),
        what: format!("architecture `{name}` is not supported: {lacks}"),
    })
}

/// The model's sizes and rules. `tensors` says whether a tensor is in any of the model's files.
///
/// # Errors
/// Names the key, or the field of `config.json` it stands for, with what was found and wanted.
pub(super) fn config(file: &Container, has: impl Fn(&str) -> bool) -> Result<ModelConfig> {
    let architecture = architecture(file)?;
    let keys = Keys { file, architecture };
    let object = Value::Object(keys.object(has)?);
    let bytes = serde_json::to_vec(&object)
        .map_err(|source| Error::Json { path: file.path.clone(), source })?;
    ModelConfig::parse(&file.path, &bytes)
}

/// Keys that begin with the architecture's name.
struct Keys<'a> {
    file: &'a Container,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn required(&self, name: &str) -> Result<u64> {
        self.file.required(&self.key(name))
    }

    fn count(&self, name: &str) -> Result<Option<u64>> {
        self.file.count(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.file.number(&self.key(name)).map(|number| number.map(shortest))
    }

    fn uniform(&self, name: &str) -> Result<u64> {
        let key = self.key(name);
        self.file.uniform(&key)?.ok_or_else(|| self.file.wrong(&key, "a whole number"))
    }

    fn object(&self, has: impl Fn(&str) -> bool) -> Result<Map<String, Value>> {
        if self.number("attention.temperature_scale")?.is_some_and(|scale| scale != 0.0) {
            let want = "0 or nothing: queries that grow with their position are another attention";
            return Err(self.file.wrong(&self.key("attention.temperature_scale"), want));
        }
        let rope = self.required("rope.dimension_count")?;
        let (key_length, value_length) = match self.count("attention.key_length_mla")? {
            Some(key) => (key, self.required("attention.value_length_mla")?),
            None => {
                (self.required("attention.key_length")?, self.required("attention.value_length")?)
            }
        };
        let Some(nope) = key_length.checked_sub(rope).filter(|nope| *nope > 0) else {
            let want = format!("less than the {key_length} numbers of a key");
            return Err(self.file.wrong(&self.key("rope.dimension_count"), &want));
        };
        // Layers that predict further tokens are counted among the blocks, behind the others.
        let blocks = self.required("block_count")?;
        let further = self.count("nextn_predict_layers")?.unwrap_or(0);
        let Some(layers) = blocks.checked_sub(further).filter(|layers| *layers > 0) else {
            let want = format!("less than the {blocks} blocks");
            return Err(self.file.wrong(&self.key("nextn_predict_layers"), &want));
        };
        let mut object = Map::new();
        let mut put = |field: &str, value: Value| object.insert(field.to_owned(), value);
        put("vocab_size", json!(self.vocab_size()?));
        put("hidden_size", json!(self.required("embedding_length")?));
        put("num_hidden_layers", json!(layers));
        put("num_nextn_predict_layers", json!(further));
        put("num_attention_heads", json!(self.uniform("attention.head_count")?));
        put("kv_lora_rank", json!(self.required("attention.kv_lora_rank")?));
        put("qk_nope_head_dim", json!(nope));
        put("qk_rope_head_dim", json!(rope));
        put("v_head_dim", json!(value_length));
        put("intermediate_size", json!(self.uniform("feed_forward_length")?));
        put("max_position_embeddings", json!(self.required("context_length")?));
        put("tie_word_embeddings", json!(!has("output.weight")));
        // Some writers give a rank of 0, and some the rank of another model's, where there is one query matrix.
        if let Some(rank) = self.count("attention.q_lora_rank")?
            && has("blk.0.attn_q_a.weight")
        {
            put("q_lora_rank", json!(rank));
        }
        if let Some(eps) = self.number("attention.layer_norm_rms_epsilon")? {
            put("rms_norm_eps", json!(eps));
        }
        if let Some(theta) = self.number("rope.freq_base")? {
            put("rope_theta", json!(theta));
        }
        if let Some(scaling) = self.rope_scaling()? {
            put("rope_scaling", scaling);
        }
        self.experts(has, &mut object)?;
        Ok(object)
    }

    /// Rows of the embedding: newer files say, older ones have as many tokens.
    fn vocab_size(&self) -> Result<u64> {
        if let Some(size) = self.count("vocab_size")? {
            return Ok(size);
        }
        let embedding = self.file.tensors.get("token_embd.weight");
        let rows = embedding.and_then(|entry| entry.shape.first());
        rows.map(|rows| *rows as u64)
            .ok_or_else(|| self.file.wrong(&self.key("vocab_size"), "a whole number"))
    }

    /// YaRN's dictionary. llama.cpp keeps `0.1 * mscale_all_dim` alone and takes `mscale` to be the same, as it is in
    /// every released model.
    fn rope_scaling(&self) -> Result<Option<Value>> {
        let key = self.key("rope.scaling.type");
        let factor = self.number("rope.scaling.factor")?;
        let kind = match self.file.text(&key)? {
            Some("none") => return Ok(None),
            Some(kind) => kind,
            // A factor without a type is that of evenly stretched positions.
            None if factor.is_some_and(|factor| factor != 0.0 && factor != 1.0) => "linear",
            None => return Ok(None),
        };
        let mut scaling = Map::new();
        scaling.insert("type".into(), json!(kind));
        for (name, field) in [
            ("rope.scaling.factor", "factor"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ] {
            if let Some(number) = self.number(name)? {
                scaling.insert(field.into(), json!(number));
            }
        }
        if let Some(original) = self.count("rope.scaling.original_context_length")? {
            scaling.insert("original_max_position_embeddings".into(), json!(original));
        }
        if let Some(tenth) = self.number("rope.scaling.yarn_log_multiplier")? {
            let mscale = shortest(tenth / 0.1);
            scaling.insert("mscale".into(), json!(mscale));
            scaling.insert("mscale_all_dim".into(), json!(mscale));
        }
        for name in [
            "rope.scaling.attn_factor",
            "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_ext_factor",
        ] {
            if self.number(name)?.is_some_and(|factor| factor != 1.0) {
                let want = "1 or nothing: YaRN's own factors are used";
                return Err(self.file.wrong(&self.key(name), want));
            }
        }
        Ok(Some(Value::Object(scaling)))
    }

    /// Sizes and rules of the mixtures, and with them the family.
    fn experts(&self, has: impl Fn(&str) -> bool, object: &mut Map<String, Value>) -> Result<()> {
        let layers = object.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        let mut put = |field: &str, value: Value| object.insert(field.to_owned(), value);
        let experts = self.count("expert_count")?.unwrap_or(0);
        // Without the key a router with a bias is V3's: no softmax router has one.
        let has_bias = || {
            (0..layers.min(4096)).any(|layer| {
                has(&format!("blk.{layer}.exp_probs_b.bias"))
                    || has(&format!("blk.{layer}.exp_probs_b"))
            })
        };
        let is_v3 = match self.count("expert_gating_func")? {
            Some(SIGMOID) => true,
            Some(SOFTMAX) => false,
            None | Some(0) => experts > 0 && has_bias(),
            Some(_) => {
                let want = "1 (softmax) or 2 (sigmoid)";
                return Err(self.file.wrong(&self.key("expert_gating_func"), want));
            }
        };
        put("model_type", json!(if is_v3 { "deepseek_v3" } else { "deepseek_v2" }));
        if experts == 0 {
            return Ok(());
        }
        let groups = self.count("expert_group_count")?.filter(|groups| *groups > 0).unwrap_or(1);
        let method = match (is_v3, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        put("topk_method", json!(method));
        put("n_group", json!(groups));
        put("topk_group", json!(self.count("expert_group_used_count")?.unwrap_or(groups).max(1)));
        put("n_routed_experts", json!(experts));
        put("num_experts_per_tok", json!(self.required("expert_used_count")?));
        put("moe_intermediate_size", json!(self.uniform("expert_feed_forward_length")?));
        put("n_shared_experts", json!(self.count("expert_shared_count")?.unwrap_or(0)));
        put("first_k_dense_replace", json!(self.count("leading_dense_block_count")?.unwrap_or(0)));
        let norm = self.file.flag(&self.key("expert_weights_norm"))?.unwrap_or(false);
        put("norm_topk_prob", json!(norm));
        // 0 is how a file says that there is no factor.
        let scale = self.number("expert_weights_scale")?.filter(|scale| *scale != 0.0);
        put("routed_scaling_factor", json!(scale.unwrap_or(1.0)));
        Ok(())
    }
}

/// The shortest decimal that is the same in f32: metadata is f32, and what it was written from had few digits.
fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}
