use super::*;
use serde_json::json;

fn report() -> Value {
    json!({ "pass": true, "keys": {
        "logits": { "max_abs": 1.5e-5, "kl_max": 2e-10, "failures": [] },
        "decode_logits": { "failures": [] },
        "decode_tokens": { "matching_prefix": 32, "of": 32, "failures": [] },
    }})
}

#[test]
fn a_passing_report_is_one_row_of_numbers() {
    let row = row(&report(), Wanted::Ordinary);
    assert!(row.verdict.is_ok());
    assert_eq!(row.numbers, "   1.5e-5   2.0e-10   32/32");
}

#[test]
fn failures_and_missing_tensors_fail_the_row() {
    let mut wrong = report();
    wrong["keys"]["hidden.1"] = json!({ "failures": ["rms > 5e-05"] });
    assert_eq!(row(&wrong, Wanted::Ordinary).verdict.unwrap_err(), "hidden.1: rms > 5e-05");
    let mut missing = report();
    missing["keys"].as_object_mut().unwrap().remove("decode_logits");
    assert_eq!(
        row(&missing, Wanted::Ordinary).verdict.unwrap_err(),
        "decode_logits was not produced"
    );
    assert!(
        row(&report(), Wanted::Drafts).verdict.unwrap_err().contains("mtp.logits was not produced")
    );
    let mut silent = report();
    silent["pass"] = json!(false);
    assert!(row(&silent, Wanted::Ordinary).verdict.is_err());
    let rounded = row(&report(), Wanted::Rounded).verdict.unwrap_err();
    assert_eq!(rounded, "logits_bf16_weights was not produced");
}

#[test]
fn cases_are_found_and_unknown_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b", "a"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("golden.json"), r#"{"weights_dtype":"bf16"}"#)
            .unwrap();
    }
    assert_eq!(cases(folder.path(), &[]).unwrap(), ["a", "b"]);
    assert_eq!(cases(folder.path(), &["b"]).unwrap(), ["b"]);
    assert!(cases(folder.path(), &["c"]).unwrap_err().contains("no case `c`"));
    let runs = runs_of(folder.path(), "a").unwrap();
    assert_eq!((runs.len(), runs[0].model.as_str(), runs[0].modes.len()), (1, "a", 4));
    let notes = r#"{"files": {"legacy.pt": {}, "reject_x.pt": {}, "state_bf16.pt": {}}}"#;
    std::fs::write(folder.path().join("a/golden.json"), notes).unwrap();
    let runs = runs_of(folder.path(), "a").unwrap();
    let models: Vec<_> = runs.iter().map(|run| (run.model.as_str(), run.wanted)).collect();
    assert_eq!(models, [("a/legacy.pt", Wanted::Ordinary), ("a/state_bf16.pt", Wanted::Rounded)]);
}
