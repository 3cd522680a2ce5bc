//! What a file's vocabulary becomes, and what of it is refused.

use super::super::super::{Checkpoint, Source, describe};
use super::file::{File, texts, typed};
use super::open;

#[test]
fn tokenizers_are_built_or_refused_by_name() {
    let mut file = File::model();
    file.words("tokenizer.ggml.model", "gpt2").words("tokenizer.ggml.pre", "deepseek-v3");
    file.key("tokenizer.ggml.tokens", texts(&["a", "b", "<end>"]));
    file.key("tokenizer.ggml.merges", texts(&[]));
    file.number("tokenizer.ggml.eos_token_id", 2).number("tokenizer.ggml.eot_token_id", 2);
    file.words("tokenizer.chat_template", "{{ messages }}");
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.generation.eos_token_ids, [2]);
    let read = |bytes: &Option<Vec<u8>>| -> serde_json::Value {
        serde_json::from_slice(bytes.as_ref().unwrap()).unwrap()
    };
    let tokenizer = read(&checkpoint.text.tokenizer);
    assert_eq!(tokenizer["model"]["vocab"]["b"], 1);
    assert_eq!(tokenizer["added_tokens"][0]["content"], "<end>");
    assert_eq!(read(&checkpoint.text.tokenizer_config)["eos_token"], "<end>");
    let problem = |change: &dyn Fn(&mut File)| {
        let mut file = file.clone();
        change(&mut file);
        open(&file).err().unwrap()
    };
    for (pre, whole_first, begins) in [
        ("deepseek-v3", false, false),
        ("glm4", true, false),
        ("chatglm-bpe", false, false),
        ("llama-bpe", true, true),
    ] {
        let mut file = file.clone();
        file.words("tokenizer.ggml.pre", pre);
        let text = open(&file).unwrap().text;
        assert_eq!(read(&text.tokenizer)["model"]["ignore_merges"], whole_first, "{pre}");
        assert_eq!(read(&text.tokenizer_config)["add_bos_token"], begins, "{pre}");
        file.key("tokenizer.ggml.add_bos_token", typed(7, &[u8::from(!begins)]));
        let text = open(&file).unwrap().text;
        assert_eq!(read(&text.tokenizer_config)["add_bos_token"], !begins, "{pre}");
    }
    let error = problem(&|file| {
        file.words("tokenizer.ggml.model", "llama");
    });
    assert!(error.contains("`llama`") && error.contains("gpt2"), "{error}");
    let error = problem(&|file| {
        file.words("tokenizer.ggml.pre", "qwen2");
    });
    assert!(error.contains("qwen2") && error.contains("deepseek-v3"), "{error}");
    let error = problem(&|file| {
        file.number("tokenizer.ggml.merges", 1);
    });
    assert!(error.contains("`tokenizer.ggml.merges`"), "{error}");
}

/// A listing says of a vocabulary what loading would.
#[test]
fn vocabularies_that_are_none_are_listed_as_such() {
    let mut whole = File::model();
    whole.words("tokenizer.ggml.model", "gpt2").words("tokenizer.ggml.pre", "deepseek-v3");
    whole.key("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<end>"]));
    let kinds = |kind: u8, n: u64| {
        typed(9, &[&0u32.to_le_bytes()[..], &n.to_le_bytes(), &vec![kind; n as usize]].concat())
    };
    let merges = |file: &mut File| {
        file.key("tokenizer.ggml.merges", texts(&["a b"]));
    };
    let check = |change: &dyn Fn(&mut File), words: Option<&str>| {
        let mut file = whole.clone();
        change(&mut file);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        let source = Source::File(path);
        let reason = describe(&source).err();
        let opened = Checkpoint::open(&source).err().map(|error| error.to_string());
        assert_eq!(reason.is_some(), opened.is_some(), "{reason:?} {opened:?}");
        match (reason, words) {
            (Some(reason), Some(words)) => assert!(reason.contains(words), "{reason}"),
            (reason, words) => assert_eq!(reason.as_deref(), words),
        }
    };
    check(&merges, None);
    let with = |key: &'static str, value: Vec<u8>| {
        move |file: &mut File| {
            merges(file);
            file.keys.retain(|(name, _)| name != key);
            file.key(key, value.clone());
        }
    };
    check(&with("tokenizer.ggml.token_type", kinds(4, 1 << 16)), None);
    let many = with("tokenizer.ggml.token_type", kinds(4, (1 << 16) + 1));
    check(&many, Some("at most 65536 tokens of types 2, 3 and 4, not 65537"));
    check(&with("tokenizer.ggml.token_type", texts(&["x"])), Some("whole numbers"));
    check(&with("tokenizer.ggml.tokens", typed(4, &[0; 4])), Some("`tokenizer.ggml.tokens` is 0"));
    check(&with("tokenizer.ggml.merges", typed(4, &[0; 4])), Some("`tokenizer.ggml.merges` is 0"));
    check(&|_| {}, Some("`tokenizer.ggml.merges` is missing"));
    // Nothing is left to merge.
    let controls = |file: &mut File| {
        file.key("tokenizer.ggml.token_type", kinds(3, 4));
    };
    check(&controls, None);
}
