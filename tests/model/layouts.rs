//! Which files of a folder are its weights: names that several programs write, copies beside, indexes out of date.

use std::path::Path;

use hadal_engine::checkpoint::{Checkpoint, Source, Survey};
use safetensors::tensor::Dtype;

use crate::tools::{Raw, copy, golden, read, write};

const CASE: &str = "v3-tied-f32";
const WEIGHTS: &str = "model.safetensors";

/// The files it is read from; `Err`: why it is refused.
fn files(folder: &Path) -> Result<Vec<String>, String> {
    let survey = Survey::of(&Source::Directory(folder.to_owned()));
    match survey.problems.first() {
        None => Ok(survey.files.into_iter().map(|(name, _)| name).collect()),
        Some(problem) => Err(problem.clone()),
    }
}

fn write_index(folder: &Path, files: [&str; 2]) {
    let tensors = read(&golden(CASE).join(WEIGHTS));
    let map: serde_json::Map<String, serde_json::Value> = tensors
        .keys()
        .zip(files.into_iter().cycle())
        .map(|(tensor, file)| (tensor.clone(), file.into()))
        .collect();
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn copies_adapters_and_indexes_out_of_date_beside_whole_weights_are_not_read() {
    let folder = copy(CASE);
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(at(WEIGHTS), at("consolidated.safetensors")).unwrap();
    std::fs::write(at("adapter_model.safetensors"), "x").unwrap();
    assert_eq!(files(folder.path()).unwrap(), [WEIGHTS]);
    write_index(
        folder.path(),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    );
    assert_eq!(files(folder.path()).unwrap(), [WEIGHTS]);
    let notes = Survey::of(&Source::Directory(folder.path().to_owned())).notes;
    assert_eq!(notes, ["the index is not used: it does not name `model.safetensors`"]);
    std::fs::write(at("model.safetensors.index.json"), "{").unwrap();
    assert_eq!(files(folder.path()).unwrap(), [WEIGHTS]);
    // Without the whole file the index decides, and then it has to be right.
    std::fs::rename(at(WEIGHTS), at("model-00001-of-00001.safetensors")).unwrap();
    assert!(files(folder.path()).unwrap_err().contains("JSON"));
    std::fs::remove_file(at("model.safetensors.index.json")).unwrap();
    assert_eq!(files(folder.path()).unwrap(), ["model-00001-of-00001.safetensors"]);
    // A copy by itself is as good as any.
    std::fs::remove_file(at("model-00001-of-00001.safetensors")).unwrap();
    std::fs::remove_file(at("adapter_model.safetensors")).unwrap();
    assert_eq!(files(folder.path()).unwrap(), ["consolidated.safetensors"]);
}

#[test]
fn an_index_that_names_the_whole_file_among_others_is_followed() {
    let folder = copy(CASE);
    let mut first = read(&folder.path().join(WEIGHTS));
    let second = first.split_off("model.layers.1");
    write(&folder.path().join(WEIGHTS), &first);
    write(&folder.path().join("more.safetensors"), &second);
    assert!(files(folder.path()).unwrap_err().contains("missing"));
    write_index(folder.path(), [WEIGHTS, "more.safetensors"]);
    assert_eq!(files(folder.path()).unwrap(), [WEIGHTS, "more.safetensors"]);
}

#[test]
fn a_vector_of_8_bit_floats_is_refused_for_what_it_is() {
    let folder = copy("v3-fp8");
    let path = folder.path().join(WEIGHTS);
    let mut tensors = read(&path);
    let norm: &mut Raw = tensors.get_mut("model.norm.weight").unwrap();
    norm.dtype = Dtype::F8_E4M3;
    norm.bytes.truncate(norm.shape[0]);
    write(&path, &tensors);
    let error = Checkpoint::open(&Source::Directory(folder.path().to_owned())).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("`model.norm.weight` has dtype F8_E4M3 for 1 dimensions"), "{error}");
    assert!(error.ends_with("8-bit floats are read in matrices"), "{error}");
}
