//! Checkpoints that are whole as files and hold numbers no model can work with.

use std::path::Path;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::{Engine, Limits, LoadOptions};
use hadal_tests::scripted::golden;
use safetensors::SafeTensors;

/// Copies a golden checkpoint and overwrites one element of a tensor.
fn spoilt(to: &Path, case: &str, tensor: &str, at: usize, value: f32) {
    for file in std::fs::read_dir(golden(case)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let path = to.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header_len, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let place = 8 + header_len + header.info(tensor).unwrap().data_offsets.0 + 4 * at;
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}

#[track_caller]
fn check(tensor: &str, at: usize, value: f32, want: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    spoilt(folder.path(), "v3-moe-f32", tensor, at, value);
    let options = LoadOptions {
        limits: Limits::default(),
        cpu: CpuOptions::default(),
        device: hadal_engine::DeviceChoice::Cpu,
        now: Box::new(|| 0),
        on_stats: Box::new(|_| {}),
    };
    let loaded = Engine::load(&Source::Directory(folder.path().into()), options, &mut |_| {});
    match (loaded, want) {
        (Ok(engine), None) => engine.join(),
        (Err(problem), Some(want)) => {
            let problem = problem.to_string();
            assert!(problem.contains(tensor) && problem.contains(want), "{problem}");
        }
        (Ok(_), Some(want)) => panic!("loaded, wanted: {want}"),
        (Err(problem), None) => panic!("{problem}"),
    }
}

/// Opens a copy of a golden checkpoint after a change to a field of its configuration.
fn opened(case: &str, field: &str, value: u32) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden(case)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let opened = Checkpoint::open(&Source::Directory(folder.path().into()));
    opened.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_configuration_smaller_than_its_tensors_is_refused() {
    let layers = opened("v3-moe-f32", "num_hidden_layers", 2).unwrap_err();
    assert!(layers.contains("layer 2") && layers.contains("has 2"), "{layers}");
    let experts = opened("v3-moe-f32", "n_shared_experts", 0).unwrap_err();
    assert!(experts.contains("shared_experts") && experts.contains("no such weight"), "{experts}");
    // A draft layer that the configuration does not count is known by its own projection.
    opened("v3-mtp-f32", "num_nextn_predict_layers", 0).unwrap();
}

#[test]
fn a_router_bias_or_a_norm_that_is_no_number_is_refused_at_load() {
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    check(bias, 3, f32::NAN, Some("value 3 is NaN"));
    check(bias, 0, f32::INFINITY, Some("value 0 is inf"));
    check(bias, 0, -3e38, None);
    check("model.layers.2.input_layernorm.weight", 5, f32::NAN, Some("value 5 is NaN"));
}
