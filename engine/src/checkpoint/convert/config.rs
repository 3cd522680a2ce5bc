//! `config.json` of a converted checkpoint: the source's own with other weights, or one written from what a single file
//! says.

use serde_json::{Map, Value, json};

use super::ConvertOptions;
use super::layout::Layout;
use crate::checkpoint::config::{Architecture, MoeConfig, RopePairs, Scoring};
use crate::checkpoint::files::Files;
use crate::checkpoint::json::parse_object;
use crate::checkpoint::{Checkpoint, GenerationConfig, ModelConfig, Source, Target, mini};
use crate::error::{Error, Result};
use crate::quant::{DType, fp8};

/// The text of `config.json`.
///
/// # Errors
/// [`Error::Unsupported`] when the source's sizes cannot be said in one.
pub(super) fn config_json(
    source: &Source,
    checkpoint: &Checkpoint,
    layout: &Layout,
    options: &ConvertOptions,
) -> Result<String> {
    let mut object = match source {
        Source::Directory(_) | Source::Embedded(_) => {
            let (path, bytes) = Files::new(source).required("config.json")?;
            parse_object(&path, &bytes)?
        }
        Source::File(_) => written(checkpoint),
    };
    let has_fp8 = layout.has(|dtype| dtype == DType::Fp8E4m3);
    // Halves in a format of our own mean nothing to others either, blocks or not.
    let is_ours =
        layout.has(|dtype| dtype.block_len() > 1) || options.to.is_blocks() && layout.has_halves();
    let block = if options.to == Target::Fp8 { fp8::BLOCK } else { checkpoint.config.fp8_block };
    let quantization = match (has_fp8, is_ours) {
        (false, false) => None,
        (true, false) => Some(json!({
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": block,
        })),
        // Other readers must refuse it, not take the bytes for numbers: a method that only we know.
        (_, true) => Some(
            json!({ "quant_method": "hadal", "target": options.to.name(), "weight_block_size": block }),
        ),
    };
    match quantization {
        Some(quantization) => drop(object.insert("quantization_config".into(), quantization)),
        None => drop(object.remove("quantization_config")),
    }
    if !options.to.is_blocks() {
        let dtype = match options.to {
            Target::F32 => "float32",
            Target::F16 => "float16",
            _ => "bfloat16",
        };
        // Newer files say `dtype`.
        let field = if object.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        object.insert(field.into(), json!(dtype));
    }
    check(checkpoint, &object)?;
    Ok(format!("{:#}\n", Value::Object(object)))
}

/// What is written must read as what was read.
fn check(checkpoint: &Checkpoint, object: &Map<String, Value>) -> Result<()> {
    let path = checkpoint.path.join("config.json");
    let read = if mini::is_settings(object) {
        mini::config(&path, Some(object), &checkpoint.tensors)?
    } else {
        ModelConfig::of(&path, object)?
    };
    let want = ModelConfig { fp8_block: read.fp8_block, ..checkpoint.config.clone() };
    if read == want {
        return Ok(());
    }
    let what = "its sizes cannot be written as a `config.json` that reads back the same".to_owned();
    Err(Error::Unsupported { path: checkpoint.path.clone(), what })
}

/// A configuration from what was read of a file that has none in Hugging Face form.
fn written(checkpoint: &Checkpoint) -> Map<String, Value> {
    let c = &checkpoint.config;
    let mut object = common(c);
    match &c.architecture {
        Architecture::DeepSeek => deepseek(c, &mut object),
        Architecture::Mini(own) => {
            let first = c.is_moe_layer.iter().position(|is_moe| *is_moe);
            let every = first
                .and_then(|first| c.is_moe_layer.iter().skip(first + 1).position(|is_moe| *is_moe));
            object.insert("head_dim".into(), json!(c.qk_nope_head_dim));
            object.insert("first_moe_layer".into(), json!(first.unwrap_or(c.num_hidden_layers)));
            object.insert("moe_layer_freq".into(), json!(every.map_or(1, |every| every + 1)));
            let moe = c.moe.as_ref().map(|moe| mini_moe(moe, own.router_bias));
            object.insert("moe".into(), moe.unwrap_or_else(|| json!({ "enabled": false })));
        }
    }
    let generation = &checkpoint.generation;
    object.insert("bos_token_id".into(), json!(generation.bos_token_id));
    object.insert("eos_token_id".into(), json!(generation.eos_token_ids));
    object
}

/// Fields of both lines of models.
fn common(c: &ModelConfig) -> Map<String, Value> {
    let fields = json!({
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "q_lora_rank": c.q_lora_rank,
        "kv_lora_rank": c.kv_lora_rank,
        "qk_nope_head_dim": c.qk_nope_head_dim,
        "qk_rope_head_dim": c.qk_rope_head_dim,
        "v_head_dim": c.v_head_dim,
        "intermediate_size": c.intermediate_size,
        "rms_norm_eps": shortest(c.rms_norm_eps),
        "rope_theta": c.rope_theta,
        "tie_word_embeddings": c.tie_word_embeddings,
        "max_position_embeddings": c.max_position_embeddings,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// An f32 as people write it: 1e-6, not the 9.99999997e-7 that widening gives.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn mini_moe(moe: &MoeConfig, router_bias: bool) -> Value {
    json!({
        "enabled": true,
        "num_experts": moe.route.n_routed_experts,
        "num_experts_per_tok": moe.route.num_experts_per_tok,
        "num_shared_experts": moe.n_shared_experts,
        "expert_hidden_size": moe.moe_intermediate_size,
        "routed_scaling_factor": shortest(moe.route.routed_scaling_factor),
        "router_bias": router_bias,
    })
}

/// Fields of DeepSeek-V2 and V3.
fn deepseek(c: &ModelConfig, object: &mut Map<String, Value>) {
    let class = if c.model_type == "deepseek_v2" {
        "DeepseekV2ForCausalLM"
    } else {
        "DeepseekV3ForCausalLM"
    };
    let dense = c.is_moe_layer.iter().take_while(|is_moe| !**is_moe).count();
    let mut fields = vec![
        ("architectures", json!([class])),
        ("model_type", json!(c.model_type)),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("num_key_value_heads", json!(c.num_attention_heads)),
        ("rope_interleave", json!(c.rope_pairs == RopePairs::Neighbours)),
        ("first_k_dense_replace", json!(dense)),
        ("moe_layer_freq", json!(1)),
        ("num_nextn_predict_layers", json!(c.num_nextn_predict_layers)),
    ];
    if let Some(moe) = &c.moe {
        let route = &moe.route;
        let is_sigmoid = route.scoring == Scoring::Sigmoid;
        let method = match (is_sigmoid, route.n_group) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        fields.extend([
            ("n_routed_experts", json!(route.n_routed_experts)),
            ("num_experts_per_tok", json!(route.num_experts_per_tok)),
            ("n_shared_experts", json!(moe.n_shared_experts)),
            ("moe_intermediate_size", json!(moe.moe_intermediate_size)),
            ("scoring_func", json!(if is_sigmoid { "sigmoid" } else { "softmax" })),
            ("topk_method", json!(method)),
            ("n_group", json!(route.n_group)),
            ("topk_group", json!(route.topk_group)),
            ("norm_topk_prob", json!(route.norm_topk_prob)),
            ("routed_scaling_factor", json!(shortest(route.routed_scaling_factor))),
        ]);
    }
    if let Some(yarn) = &c.yarn {
        let scaling = json!({
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "mscale": yarn.mscale,
            "mscale_all_dim": yarn.mscale_all_dim,
        });
        fields.push(("rope_scaling", scaling));
    }
    object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
}

/// `generation_config.json`.
pub(super) fn generation_json(generation: &GenerationConfig) -> String {
    let fields = [
        ("bos_token_id", json!(generation.bos_token_id)),
        ("eos_token_id", json!(generation.eos_token_ids)),
        ("temperature", json!(generation.temperature.map(shortest))),
        ("top_p", json!(generation.top_p.map(shortest))),
        ("top_k", json!(generation.top_k)),
        ("repetition_penalty", json!(generation.repetition_penalty.map(shortest))),
    ];
    let there = fields.into_iter().filter(|(_, value)| !value.is_null());
    let object = there.map(|(name, value)| (name.to_owned(), value)).collect();
    format!("{:#}\n", Value::Object(object))
}
