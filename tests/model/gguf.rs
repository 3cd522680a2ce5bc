//! GGUF files of golden checkpoints, written with the public `gguf` package (`tests/golden/gguf/write.py`): one in a
//! file, its `kv_b_proj` in halves; one in two files with the keys of older writers. `cargo xtask gguf` has all others.

use std::path::{Path, PathBuf};

use hadal_engine::backend::cpu::{Activations, CpuOptions, Isa};
use hadal_engine::checkpoint::{Checkpoint, Source, discover};
use hadal_engine::text::{Message, Role, Text};

use super::compare;
use super::golden::{check_source, folder};

/// File, and the case it was made from.
const FILES: [(&str, &str); 2] =
    [("v3-tied-bf16.gguf", "v3-tied-bf16"), ("v3-yarn-bf16-00001-of-00002.gguf", "v3-yarn-bf16")];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gguf").join(file)
}

#[test]
fn their_numbers_are_the_references_on_every_instruction_set() {
    for (file, case) in FILES {
        let source = Source::File(path(file));
        for isa in Isa::ALL {
            if !isa.is_available() {
                println!("skipped: this processor has no {isa:?}");
                continue;
            }
            for (activations, limits) in
                [(Activations::F32, compare::F32), (Activations::Bf16, compare::BF16)]
            {
                let cpu = CpuOptions {
                    threads: Some(2),
                    isa: Some(isa),
                    activations: Some(activations),
                    ..CpuOptions::default()
                };
                check_source(&source, case, &["hidden.final"], &cpu, 64, &limits);
            }
            let cpu = CpuOptions {
                threads: Some(1),
                isa: Some(isa),
                activations: Some(Activations::F32),
                ..CpuOptions::default()
            };
            check_source(&source, case, &["hidden.final"], &cpu, 7, &compare::F32);
        }
    }
}

#[test]
fn their_configuration_is_the_one_they_were_made_from() {
    for (file, case) in FILES {
        let made = Checkpoint::open(&Source::File(path(file))).unwrap();
        let from = Checkpoint::open(&Source::Directory(folder(case))).unwrap();
        assert_eq!(made.config, from.config, "{case}");
        assert_eq!(made.generation.bos_token_id, from.generation.bos_token_id, "{case}");
        assert_eq!(made.generation.eos_token_ids, from.generation.eos_token_ids, "{case}");
        assert_eq!(made.parameters(), from.parameters(), "{case}");
    }
}

#[test]
fn their_tokenizer_and_template_are_the_ones_they_were_made_from() {
    for (file, case) in FILES {
        let made = Checkpoint::open(&Source::File(path(file))).unwrap();
        let from = Checkpoint::open(&Source::Directory(folder(case))).unwrap();
        let (made, from) = (Text::open(&made.text).unwrap(), Text::open(&from.text).unwrap());
        for text in [
            "",
            "Hello, world! 12345 67",
            "  two  spaces\n\n\tand a tab \r\n",
            "汉字とかな 漢字",
            "naïve café \u{1f600} e\u{301}",
            "<｜User｜>hi<｜Assistant｜><think>",
            "don't stop--now... [x] (y) {z} $5.00 #tag",
        ] {
            let (got, want) = (made.encode_raw(text).unwrap(), from.encode_raw(text).unwrap());
            assert_eq!(got, want, "{case}: {text:?}");
            assert_eq!(made.decode(&got.tokens), from.decode(&want.tokens), "{case}: {text:?}");
        }
        let say = |role, content: &str| Message { role, content: content.into() };
        let turns = [
            say(Role::System, "Be brief."),
            say(Role::User, "Is <｜Assistant｜> a word?"),
            say(Role::Assistant, "No."),
            say(Role::User, "Why?"),
        ];
        assert_eq!(made.encode_chat(&turns).unwrap(), from.encode_chat(&turns).unwrap(), "{case}");
    }
}

#[test]
fn a_folder_of_them_is_listed_by_first_files() {
    let found = discover(&path("").join(".."));
    let listed: Vec<(&str, bool)> = found
        .iter()
        .filter(|found| found.format == "gguf")
        .map(|found| (found.name.as_str(), found.summary.is_ok()))
        .collect();
    let wanted = [
        ("gguf/v3-fp8-ue8m0-mixture.gguf", true),
        ("gguf/v3-fp8-ue8m0-q4_0.gguf", true),
        ("gguf/v3-fp8-ue8m0-q8_0.gguf", true),
        ("gguf/v3-tied-bf16.gguf", true),
        ("gguf/v3-yarn-bf16-00001-of-00002.gguf", true),
    ];
    assert_eq!(listed, wanted);
}
