//! A survey finds everything that is wrong, and says a checkpoint is whole exactly when it opens.

use std::path::Path;

use hadal_engine::checkpoint::{Checkpoint, Source, Survey};
use safetensors::tensor::Dtype;

use super::{copy, read, write};

fn survey(folder: &Path) -> Survey {
    let source = Source::Directory(folder.to_owned());
    let survey = Survey::of(&source);
    let opens = Checkpoint::open(&source);
    assert_eq!(
        opens.is_ok(),
        survey.problems.is_empty(),
        "{:?} {:?}",
        opens.err(),
        survey.problems
    );
    survey
}

#[track_caller]
fn finds(survey: &Survey, wanted: &[&str]) {
    for wanted in wanted {
        let found = survey.problems.iter().any(|problem| problem.contains(wanted));
        assert!(found, "`{wanted}` is not in {:#?}", survey.problems);
    }
    assert_eq!(survey.problems.len(), wanted.len(), "{:#?}", survey.problems);
}

#[test]
fn a_whole_checkpoint_has_every_tensor_of_its_files_and_no_problem() {
    for case in ["v3-fp8", "v3-yarn-bf16", "v3-mtp-f32", "v3-tied-f32", "v2-lite-bf16"] {
        let folder = copy(case);
        let survey = survey(folder.path());
        let mut wanted = std::collections::BTreeMap::new();
        for (name, bytes) in &survey.files {
            let path = folder.path().join(name);
            assert_eq!(*bytes, std::fs::metadata(&path).unwrap().len());
            wanted.extend(read(&path));
        }
        assert_eq!(survey.tensors.len(), wanted.len(), "{case}");
        for tensor in &survey.tensors {
            let raw = &wanted[&tensor.name];
            assert_eq!((&tensor.shape, &tensor.bytes[..]), (&raw.shape, &raw.bytes[..]));
            assert_eq!(
                tensor.is_used,
                !tensor.name.starts_with("model.layers.2.") || case != "v3-mtp-f32"
            );
        }
        assert_eq!(survey.notes, Vec::<String>::new(), "{case}");
    }
}

#[test]
fn every_damage_is_named_not_the_first_alone() {
    let folder = copy("v3-fp8");
    let path = folder.path().join("model.safetensors");
    let mut tensors = read(&path);
    tensors.remove("model.norm.weight").unwrap();
    tensors.remove("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv").unwrap();
    tensors.get_mut("lm_head.weight").unwrap().shape.reverse();
    let gate = tensors.get_mut("model.layers.1.mlp.gate.weight").unwrap();
    gate.dtype = Dtype::I16;
    write(&path, &tensors);
    std::fs::write(folder.path().join("chat_template.jinja"), [0xff]).unwrap();
    let survey = survey(folder.path());
    finds(
        &survey,
        &[
            "`model.norm.weight` is missing",
            "`model.layers.1.mlp.experts.3.up_proj.weight_scale_inv` is missing",
            "`lm_head.weight` is [192, 384]",
            "`model.layers.1.mlp.gate.weight` has dtype I16",
            "chat_template.jinja: not UTF-8",
        ],
    );
    assert_eq!(survey.tensors.len(), tensors.len(), "the sound ones are listed");
    let at = folder.path().display().to_string();
    assert!(survey.problems.iter().all(|problem| !problem.contains(&at)));
}

#[test]
fn a_cut_file_lists_what_is_left_of_it() {
    let folder = copy("v3-yarn-f32");
    let path = folder.path().join("model-00002-of-00002.safetensors");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(std::fs::metadata(&path).unwrap().len() - 1).unwrap();
    let survey = survey(folder.path());
    assert!(survey.problems.iter().any(|problem| problem.contains("truncated")), "{survey:?}");
    assert!(survey.tensors.len() > 40);
    assert!(survey.config.is_some());
}

#[test]
fn files_and_configurations_that_are_not_there_are_problems_too() {
    let folder = copy("v3-yarn-f32");
    std::fs::remove_file(folder.path().join("model-00001-of-00002.safetensors")).unwrap();
    let text = survey(folder.path());
    assert!(text.problems.iter().any(|p| p.contains("model-00001-of-00002")), "{text:?}");
    assert!(text.problems.len() > 10, "its tensors are missing as well");

    std::fs::write(folder.path().join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    let text = survey(folder.path());
    assert!(text.config.is_none() && !text.tensors.is_empty());
    finds(&text, &["config.json", "model-00001-of-00002"]);

    let empty = tempfile::tempdir().unwrap();
    finds(&survey(empty.path()), &["config.json", "no `*.safetensors`"]);
}

#[test]
fn an_index_that_lies_is_a_note() {
    let folder = copy("v3-yarn-f32");
    let path = folder.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object_mut().unwrap();
    map.remove("model.norm.weight").unwrap();
    map.insert("ghost".into(), "model-00001-of-00002.safetensors".into());
    map["lm_head.weight"] = "model-00001-of-00002.safetensors".into();
    map["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors".into();
    std::fs::write(&path, index.to_string()).unwrap();
    let survey = survey(folder.path());
    // One of the two stays where it was: it depends on the cut.
    let has = |text: &str| survey.notes.iter().any(|note| note.contains(text));
    assert!(has("`ghost`, no file has it") && has("1 tensors are not in the index"), "{survey:?}");
    assert!(has("is in `model-0000"), "{:?}", survey.notes);
}
