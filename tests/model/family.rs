//! Configurations of the whole family: what is read, what is refused and in which words, which tensors may be absent.

use std::path::{Path, PathBuf};

use hadal_engine::TokenId;
use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::config::RopePairs;
use hadal_engine::checkpoint::{Checkpoint, ModelConfig, Source};
use hadal_engine::trace::{self, TraceData, TraceOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

type Object = Map<String, Value>;

/// A case's configuration with some fields changed; null takes one out.
fn config(case: &str, changes: &Value) -> Object {
    let bytes = std::fs::read(golden(case).join("config.json")).unwrap();
    let mut config: Object = serde_json::from_slice(&bytes).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.remove(field)),
            value => drop(config.insert(field.clone(), value.clone())),
        }
    }
    config
}

fn parsed(case: &str, changes: &Value) -> Result<ModelConfig, String> {
    let bytes = serde_json::to_vec(&config(case, changes)).unwrap();
    ModelConfig::parse(Path::new("config.json"), &bytes).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(case: &str, changes: &Value, want: &str) {
    let error = parsed(case, changes).unwrap_err();
    assert!(error.contains(want), "{changes}: {error}");
}

#[test]
fn other_models_are_refused_by_name_with_what_they_lack() {
    for (name, lacks) in [
        ("deepseek_v32", "lightning indexer"),
        ("deepseek_v4", "another architecture"),
        ("glm_moe_dsa", "indexer"),
        ("kimi_k25", "text_config"),
        ("longcat_flash", "shortcut"),
        ("kimi_linear", "recurrent state"),
        ("llama", "grouped-query"),
        ("qwen3_moe", "grouped-query"),
        ("glm4_moe", "grouped-query"),
        ("gpt_oss", "grouped-query"),
        ("something_new", "hadal runs DeepSeek-V2"),
    ] {
        refused("v3-moe-f32", &json!({"model_type": name}), &format!("`{name}` is not supported"));
        refused("v3-moe-f32", &json!({"model_type": name}), lacks);
    }
    let v4 = json!({"model_type": null, "architectures": ["DeepseekV4ForCausalLM"]});
    refused("v3-moe-f32", &v4, "DeepseekV4ForCausalLM");
    refused("v3-moe-f32", &json!({"index_topk": 2048}), "`index_topk` is set");
}

#[test]
fn settings_that_nothing_here_computes_are_refused() {
    for (changes, want) in [
        (json!({"attention_bias": true}), "`attention_bias` is true"),
        (json!({"hidden_act": "gelu"}), "`gelu`"),
        (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "`partial_rotary_factor` is 0.5",
        ),
        (json!({"rope_scaling": {"type": "llama3"}}), "`llama3`"),
        (json!({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": false}}), "`truncate`"),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": 1.5}}),
            "`attention_factor`",
        ),
        (json!({"mlp_layer_types": ["dense", "sparse"]}), "mlp_layer_types"),
        (json!({"mlp_layer_types": ["dense", "sparse", "odd"]}), "mlp_layer_types"),
        (json!({"num_nextn_predict_layers": 100}), "num_nextn_predict_layers"),
    ] {
        refused("v3-moe-f32", &changes, want);
    }
}

#[test]
fn fields_are_read_in_every_spelling() {
    let of = |changes| parsed("v3-moe-f32", &changes).unwrap();
    assert_eq!(of(json!({})).rope_pairs, RopePairs::Neighbours);
    assert_eq!(of(json!({"rope_interleave": false})).rope_pairs, RopePairs::Halves);
    let kinds = json!({"mlp_layer_types": ["sparse", "dense", "sparse"]});
    assert_eq!(of(kinds).is_moe_layer, [true, false, true]);
    assert_eq!(of(json!({"first_k_dense_replace": 2})).is_moe_layer, [false, false, true]);
    for changes in [
        json!({"rope_theta": 7e4}),
        json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}),
        json!({"rope_theta": null, "rope_scaling": {"rope_type": "default", "rope_theta": 7e4}}),
    ] {
        let config = of(changes);
        assert_eq!((config.rope_theta, config.yarn), (7e4, None));
    }
    let glm = json!({"mlp_layer_types": null, "routed_scaling_factor": null, "rms_norm_eps": null});
    let glm = parsed("glm-lite-f32", &glm).unwrap();
    assert_eq!((glm.model_type.as_str(), glm.rms_norm_eps), ("glm4_moe_lite", 1e-5));
    assert_eq!(glm.is_moe_layer, [false, true, true]);
    assert_eq!(glm.moe.unwrap().route.routed_scaling_factor, 1.8);
    assert_eq!(parsed("kimi-k2-f32", &json!({})).unwrap().model_type, "kimi_k2");
}

/// Writes a case with another configuration and other tensors.
fn written(case: &str, changes: &Value, change: impl FnOnce(&mut Object, &mut Vec<u8>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_vec(&config(case, changes)).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let file = std::fs::read(golden(case).join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Object = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let mut data = file[8 + header_len..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

fn opened(folder: &TempDir) -> Result<Checkpoint, String> {
    Checkpoint::open(&Source::Directory(folder.path().to_owned())).map_err(|e| e.to_string())
}

#[test]
fn an_mtp_layer_is_whole_or_absent_and_further_ones_are_left_alone() {
    let without = |prefix: &'static str| {
        move |header: &mut Object, _: &mut Vec<u8>| {
            header.retain(|name, _| !name.starts_with(prefix))
        }
    };
    let whole = opened(&written("v3-mtp-f32", &json!({}), |_, _| {})).unwrap();
    assert!(whole.has_mtp());
    let absent = opened(&written("v3-mtp-f32", &json!({}), without("model.layers.2."))).unwrap();
    assert!(!absent.has_mtp());
    // An ordinary load counts nothing of it.
    assert_eq!(whole.weight_bytes(), absent.weight_bytes());
    assert!(whole.stored().all(|(name, _)| !name.starts_with("model.layers.2.")));
    let copies = ["model.layers.2.embed_tokens", "model.layers.2.shared_head.head"];
    let copies = opened(&written("v3-mtp-f32", &json!({}), |header, _| {
        header.retain(|name, _| !copies.iter().any(|copy| name.starts_with(copy)));
    }));
    assert!(copies.unwrap().has_mtp());
    let part = opened(&written("v3-mtp-f32", &json!({}), without("model.layers.2.eh_proj")));
    assert!(part.err().unwrap().contains("`model.layers.2.eh_proj.weight`"));
    for count in [0, 3] {
        let changes = json!({"num_nextn_predict_layers": count});
        let opened = opened(&written("v3-mtp-f32", &changes, |_, _| {})).unwrap();
        assert_eq!(opened.has_mtp(), count > 0);
    }
}

fn logits(folder: &TempDir) -> Vec<f32> {
    let options = TraceOptions {
        tokens: [1, 5, 9, 20].map(TokenId).to_vec(),
        step_rows: 16,
        cpu: CpuOptions { activations: Some(Activations::F32), ..CpuOptions::default() },
        ..TraceOptions::default()
    };
    let trace = trace::run(&Source::Directory(folder.path().to_owned()), &options).unwrap();
    match trace.tensors.into_iter().find(|tensor| tensor.name == "logits").map(|t| t.data) {
        Some(TraceData::F32(values)) => values,
        other => panic!("logits are numbers, not {other:?}"),
    }
}

/// The bfloat16 bytes of an f32 tensor whose numbers have no lower half.
fn halved(header: &mut Object, data: &mut Vec<u8>, name: &str) {
    let entry = header.get_mut(name).unwrap();
    let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
    let halves: Vec<u8> = data[from..to].chunks_exact(4).flat_map(|x| [x[2], x[3]]).collect();
    for x in data[from..to].chunks_exact_mut(4) {
        x[..2].fill(0);
    }
    let at = data.len();
    data.extend(&halves);
    entry["dtype"] = json!("BF16");
    entry["data_offsets"] = json!([at, at + halves.len()]);
}

#[test]
fn factors_and_biases_in_bfloat16_are_the_same_numbers() {
    let (scale, bias) = (
        "model.layers.0.self_attn.o_proj.weight_scale_inv",
        "model.layers.1.mlp.gate.e_score_correction_bias",
    );
    // Rounded and stored as f32, and rounded and stored as bfloat16.
    let rounded = written("v3-fp8", &json!({}), |header, data| {
        let original = header.clone();
        for name in [scale, bias] {
            halved(header, data, name);
        }
        *header = original;
    });
    let stored = written("v3-fp8", &json!({}), |header, data| {
        for name in [scale, bias] {
            halved(header, data, name);
        }
    });
    assert_eq!(logits(&stored), logits(&rounded));
}

/// Factors under compressed-tensors' name, and what it and others say of activations.
#[test]
fn fp8_is_the_same_under_every_name() {
    let weights = |strategy: &str| {
        json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": strategy,
            "block_structure": [128, 128], "dynamic": false})
    };
    let compressed = |weights: Value| {
        json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"],
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor"}}}}})
    };
    let renamed = |header: &mut Object, data: &mut Vec<u8>| {
        let names: Vec<String> = header.keys().cloned().collect();
        for name in names {
            if let Some(matrix) = name.strip_suffix("_scale_inv") {
                let entry = header.remove(&name).unwrap();
                header.insert(format!("{matrix}_scale"), entry);
                let at = data.len();
                data.extend(7f32.to_le_bytes());
                let input = matrix.replace(".weight", ".input_scale");
                header.insert(
                    input,
                    json!({"dtype": "F32", "shape": [], "data_offsets": [at, at + 4]}),
                );
            }
        }
    };
    let plain = logits(&written("v3-fp8", &json!({}), |_, _| {}));
    assert_eq!(logits(&written("v3-fp8", &compressed(weights("block")), renamed)), plain);
    let fixed = json!({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static",
        "weight_block_size": [128, 128]}});
    assert_eq!(logits(&written("v3-fp8", &fixed, renamed)), plain);
    let with = |field: &str, value: Value| {
        let mut weights = weights("tensor");
        weights[field] = value;
        compressed(weights)
    };
    for (changes, want) in [
        (with("num_bits", json!(4)), "4 bits"),
        (with("type", json!("int")), "`int`"),
        (with("strategy", json!("group")), "`group`"),
        (
            json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}}),
            "`pack-quantized`",
        ),
        (json!({"quantization_config": {"quant_method": "awq"}}), "`awq`"),
        (json!({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}), "`e5m2`"),
    ] {
        refused("v3-fp8", &changes, want);
    }
}
