use serde_json::json;

use super::*;
use crate::checkpoint::Bytes;
use crate::quant::DType;

/// Shapes of a small model, without a byte of weights: two layers, the second a mixture.
fn tensors(shapes: &[(&str, &[usize])]) -> Tensors {
    let common: &[(&str, &[usize])] = &[
        ("embed_tokens.weight", &[50, 8]),
        ("norm.weight", &[8]),
        ("layers.0.input_layernorm.weight", &[8]),
        ("layers.0.attention.q_down_proj.weight", &[7, 8]),
        ("layers.0.attention.kv_down_proj.weight", &[5, 8]),
        ("layers.0.attention.k_up_proj.weight", &[20, 5]),
        ("layers.0.attention.v_up_proj.weight", &[12, 5]),
        ("layers.0.ffn.gate_proj.weight", &[30, 8]),
        ("layers.1.input_layernorm.weight", &[8]),
        ("layers.1.ffn.gate.gate.weight", &[6, 8]),
        ("layers.1.ffn.experts.0.ffn.gate_proj.weight", &[9, 8]),
        ("layers.1.ffn.shared_experts.0.ffn.gate_proj.weight", &[9, 8]),
    ];
    let entry = |shape: &[usize]| Entry {
        dtype_name: "F32".into(),
        dtype: Some(DType::F32),
        shape: shape.to_vec(),
        bytes: Bytes::owned(Vec::new()),
    };
    common.iter().chain(shapes).map(|(name, shape)| ((*name).to_owned(), entry(shape))).collect()
}

fn parse(settings: &Value, tensors: &Tensors) -> Result<ModelConfig> {
    config(Path::new("config.yaml"), settings.as_object(), tensors)
}

#[track_caller]
fn refused(settings: &Value, tensors: &Tensors, want: &str) {
    let error = parse(settings, tensors).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
}

#[test]
fn shapes_tell_what_settings_do_not() {
    let config =
        parse(&json!({"num_attention_heads": 2, "qk_rope_head_dim": 4}), &tensors(&[])).unwrap();
    assert_eq!((config.vocab_size, config.hidden_size, config.num_hidden_layers), (50, 8, 2));
    assert_eq!((config.q_lora_rank, config.kv_lora_rank), (Some(7), 5));
    assert_eq!((config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim), (6, 4, 6));
    assert_eq!((config.is_moe_layer, config.intermediate_size), (vec![false, true], 30));
    let moe = config.moe.unwrap();
    assert_eq!((moe.route.n_routed_experts, moe.route.num_experts_per_tok), (6, 2));
    assert_eq!((moe.moe_intermediate_size, moe.n_shared_experts), (9, 1));
    assert_eq!(
        (config.rope_theta, config.rms_norm_eps, moe.route.routed_scaling_factor),
        (10_000.0, 1e-6, 1.0)
    );
    let mini = MiniConfig { router_bias: false, n_draft_heads: 0 };
    assert_eq!((config.architecture, config.tie_word_embeddings), (Architecture::Mini(mini), true));
}

#[test]
fn a_trainers_settings_stand_under_model() {
    let settings = json!({"model": {
        "vocab_size": 99, "num_attention_heads": 2, "qk_nope_head_dim": 6, "first_moe_layer": 1, "moe_layer_freq": 1,
        "max_position_embeddings": 48, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
        "moe": {"enabled": true, "num_experts_per_tok": 1, "routed_scaling_factor": 0.8, "router_bias": true}
    }});
    let biased = tensors(&[
        ("layers.1.ffn.gate.gate.bias", &[6]),
        ("mtp_head.projections.0.weight", &[8, 8]),
    ]);
    let config = parse(&settings, &biased).unwrap();
    assert_eq!(
        (config.vocab_size, config.qk_rope_head_dim),
        (50, 4),
        "the tensors' own vocabulary"
    );
    assert_eq!(
        config.max_position_embeddings, CONTEXT_MIN,
        "nothing is cut at what it was trained on"
    );
    let mini = MiniConfig { router_bias: true, n_draft_heads: 1 };
    assert_eq!(config.architecture, Architecture::Mini(mini));
    let moe = config.moe.unwrap();
    assert_eq!((moe.route.num_experts_per_tok, moe.route.routed_scaling_factor), (1, 0.8));
    assert!(is_settings(settings.as_object().unwrap()));
    assert!(!is_settings(json!({"model_type": "deepseek_v3", "moe": {}}).as_object().unwrap()));
}

#[test]
fn what_neither_tells_is_asked_for_by_name() {
    refused(&json!({}), &tensors(&[]), "`num_attention_heads` is missing");
    refused(&json!({"num_attention_heads": 2}), &tensors(&[]), "`qk_rope_head_dim` is missing");
    refused(&json!({"num_attention_heads": 0}), &tensors(&[]), "`num_attention_heads`");
    // Heads that leave no room: 20 rows of 2 heads are 10, all of them turning.
    let settings = json!({"num_attention_heads": 2, "qk_rope_head_dim": 10});
    refused(&settings, &tensors(&[]), "`qk_nope_head_dim` is missing");
}

#[test]
fn settings_that_the_tensors_contradict_or_that_cannot_be_are_refused() {
    let with = |field: &str, value: Value| {
        let mut settings = json!({"num_attention_heads": 2, "qk_rope_head_dim": 4, "moe": {}});
        match field.strip_prefix("moe.") {
            Some(field) => settings["moe"][field] = value,
            None => settings[field] = value,
        }
        settings
    };
    refused(
        &with("moe.router_bias", json!(true)),
        &tensors(&[]),
        "`router_bias` is true, wanted false",
    );
    refused(&with("moe.num_experts_per_tok", json!(7)), &tensors(&[]), "at most `num_experts`, 6");
    refused(&with("moe.num_experts", json!(1 << 20)), &tensors(&[]), "`num_experts`");
    refused(&with("num_hidden_layers", json!(5000)), &tensors(&[]), "at most 4096");
    refused(&with("qk_rope_head_dim", json!(3)), &tensors(&[]), "even");
    refused(&with("rope_theta", json!(0.5)), &tensors(&[]), "above 1");
    refused(
        &with("moe.num_shared_experts", json!(1 << 18)),
        &tensors(&[]),
        "262144 experts over all layers",
    );
}

#[test]
fn draft_heads_are_asked_for_and_not_used() {
    let drafted = tensors(&[("mtp_head.projections.0.weight", &[8, 8])]);
    let config =
        parse(&json!({"num_attention_heads": 2, "qk_rope_head_dim": 4}), &drafted).unwrap();
    let Architecture::Mini(mini) = config.architecture else { panic!("another architecture") };
    let all = expected(&config, &mini);
    let unused: Vec<&str> = all.iter().filter(|e| !e.is_used).map(|e| e.name.as_str()).collect();
    assert_eq!(
        unused,
        [
            "mtp_head.projections.0.weight",
            "mtp_head.projections.0.bias",
            "mtp_head.layer_norms.0.weight"
        ]
    );
    assert!(all.iter().all(|e| e.name != "lm_head.weight"), "the head is the embedding");
}
