//! 8-bit float matrices whose factors are missing, mis-shaped or of another type; and factors of whole matrices.

use std::path::Path;

use hadal_engine::TokenId;
use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::trace::{self, TraceData, TraceOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const MATRIX: &str = "model.layers.0.self_attn.q_a_proj.weight";

fn case() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v3-fp8")
}

/// The case with its header and its tensors' bytes changed.
fn changed(change: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(case().join(name), folder.path().join(name)).unwrap();
    }
    let file = std::fs::read(case().join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let mut data = file[8 + header_len..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

fn refusal(change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let folder = changed(|header, _| change(header));
    let error = Checkpoint::open(&Source::Directory(folder.path().to_owned())).err().unwrap();
    error.to_string().replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn what_is_wrong_with_factors_is_named() {
    let scale = format!("{MATRIX}_scale_inv");
    assert_eq!(
        refusal(|header| drop(header.remove(&scale))),
        format!("DIR: tensor `{scale}` is missing, the config asks for it with shape [2, 2]")
    );
    assert_eq!(
        refusal(|header| header[&scale]["shape"] = json!([4, 1])),
        format!("DIR: tensor `{scale}` is [4, 1], the config asks for [2, 2]")
    );
    assert_eq!(
        refusal(|header| header[&scale]["dtype"] = json!("I32")),
        format!("DIR: tensor `{scale}` has dtype I32, wanted float32, bfloat16 or float16")
    );
}

fn logits(folder: &Path) -> Vec<f32> {
    let options = TraceOptions {
        tokens: [1, 5, 9, 20].map(TokenId).to_vec(),
        n_greedy: 0,
        all: false,
        step_rows: 16,
        cpu: CpuOptions { activations: Some(Activations::F32), ..CpuOptions::default() },
        cuda: None,
    };
    let trace = trace::run(&Source::Directory(folder.to_owned()), &options).unwrap();
    let logits = trace.tensors.into_iter().find(|tensor| tensor.name == "logits").unwrap();
    let TraceData::F32(values) = logits.data else { panic!("logits are numbers") };
    values
}

/// Sets all factors of the matrix to one, stored with `shape`.
fn with_equal_factors(shape: &[usize]) -> TempDir {
    changed(|header, data| {
        let entry = &mut header[&format!("{MATRIX}_scale_inv")];
        let offsets = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
        let n: usize = shape.iter().product();
        let at = if n * 4 == offsets[1] - offsets[0] { offsets[0] } else { data.len() };
        data.resize(data.len().max(at + n * 4), 0);
        for factor in data[at..at + n * 4].chunks_exact_mut(4) {
            factor.copy_from_slice(&0.003f32.to_le_bytes());
        }
        entry["shape"] = json!(shape);
        entry["data_offsets"] = json!([at, at + n * 4]);
    })
}

#[test]
fn one_factor_a_matrix_or_a_row_is_as_good_as_one_a_block() {
    let config: Value =
        serde_json::from_slice(&std::fs::read(case().join("config.json")).unwrap()).unwrap();
    let rows = config["q_lora_rank"].as_u64().unwrap() as usize;
    let blocks = logits(with_equal_factors(&[2, 2]).path());
    for shape in [vec![], vec![1], vec![rows], vec![rows, 1]] {
        assert_eq!(logits(with_equal_factors(&shape).path()), blocks, "{shape:?}");
    }
}
