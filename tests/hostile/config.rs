//! `config.json` with fields that no model has, beside weights that are whole.

use serde_json::{Value, json};

use crate::{Corpus, golden};

const CASE: &str = "v3-tied-bf16";

/// Sizes that the tensors' shapes follow from.
const SIZES: [&str; 13] = [
    "hidden_size",
    "intermediate_size",
    "kv_lora_rank",
    "max_position_embeddings",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
];

pub(crate) fn add(corpus: &mut Corpus) {
    let whole: Value =
        serde_json::from_slice(&std::fs::read(golden(CASE).join("config.json")).unwrap()).unwrap();
    let mut field = |field: &'static str, value: Value, words: &'static str| {
        let mut config = whole.clone();
        let name = format!("config-{field}-{}", value.to_string().len());
        config[field] = value;
        let bytes = serde_json::to_vec(&config).unwrap();
        corpus.folder(&name, words, CASE, &[("config.json", Some(&bytes))]);
    };
    for size in SIZES {
        field(size, json!(0), size);
        field(size, json!(-1), size);
        field(size, json!("forty-eight"), size);
        field(size, json!(1.5), size);
        field(size, json!(u64::MAX), size);
        field(size, json!([48]), size);
    }
    field("hidden_size", json!(1u64 << 31), "the config asks for");
    field("vocab_size", json!(1u64 << 32), "the config asks for");
    field("num_hidden_layers", json!(4096), "tensor");
    field("num_hidden_layers", json!(1_000_000), "num_hidden_layers");
    field("n_routed_experts", json!(65536), "tensor");
    field("n_group", json!(3), "n_group");
    field("topk_group", json!(2), "topk_group");
    field("qk_rope_head_dim", json!(15), "even");
    field("rms_norm_eps", json!(0), "rms_norm_eps");
    field("rms_norm_eps", json!(-1e-6), "rms_norm_eps");
    field("rope_parameters", json!({ "rope_type": "default", "rope_theta": 0 }), "rope_theta");
    field("rope_parameters", json!({ "rope_type": "yarn" }), "factor");
    field("rope_parameters", json!({ "rope_type": "linear", "factor": 2 }), "linear");
    field("rope_parameters", json!([]), "rope_parameters");
    field("tie_word_embeddings", json!("yes"), "tie_word_embeddings");
    field("model_type", json!("llama"), "llama");
    field("model_type", json!("deepseek_v32"), "deepseek_v32");
    field("model_type", json!("deepseek_v4"), "deepseek_v4");
    field("model_type", json!(3), "model_type");
    field("topk_method", json!("random"), "topk_method");
    field("scoring_func", json!("relu"), "scoring_func");
    field("hidden_act", json!("gelu"), "gelu");
    field("num_nextn_predict_layers", json!("one"), "num_nextn_predict_layers");
    field("quantization_config", json!({ "quant_method": "gptq", "bits": 4 }), "gptq");
    field("quantization_config", json!({ "quant_method": "fp8", "fmt": "e5m2" }), "e5m2");
    text(corpus);
}

/// Files that are no JSON object at all.
fn text(corpus: &mut Corpus) {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let files: [(&str, &[u8], &'static str); 7] = [
        ("empty", b"", "JSON"),
        ("array", b"[1, 2, 3]", "object"),
        ("half", b"{\"model_type\": \"deepseek_v3\", \"hidden_si", "JSON"),
        ("binary", &[0xff, 0xfe, 0x00, 0x7b], "JSON"),
        ("deep", deep.as_bytes(), "JSON"),
        ("only-braces", b"{}", "model_type"),
        ("utf-16", b"{\0\"\0a\0\"\0:\x001\0}\0", "JSON"),
    ];
    for (name, bytes, words) in files {
        corpus.folder(&format!("config-{name}"), words, CASE, &[("config.json", Some(bytes))]);
    }
    let large = format!("{{\"a\":[0{}]}}", ",0".repeat(1 << 19));
    let large = [("config.json", Some(large.as_bytes()))];
    corpus.folder("config-large", "at most 1048576 are read", CASE, &large);
    corpus.folder("config-missing", "config.json", CASE, &[("config.json", None)]);
}
