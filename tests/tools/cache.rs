//! The cache of quantised weights: used when it fits what it was made of, made anew when any of it has changed, and
//! planned as what it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Opened, Quant, Source, Target, open_with_cache};
use hadal_engine::{Limits, MemoryPlan};

use super::quant::{F32, logits, quant, tokens};
use super::{copy, golden, read, write};

pub(super) fn open(source: &Source, target: Target) -> Opened {
    open_with_cache(source, Some(Quant { target, cache: true }), 2, &mut |_, _| {}).unwrap()
}

#[test]
fn a_cache_is_written_once_and_anew_when_the_source_changes() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let cache = from.path().join(".hadal-q8");
    let opened = open(&source, Target::Q8);
    assert!(opened.warning.is_none(), "{:?}", opened.warning);
    assert_eq!(opened.checkpoint.path(), cache);
    let weights = cache.join("model.safetensors");
    let made = || std::fs::metadata(&weights).unwrap().modified().unwrap();
    let first = made();
    assert_eq!(open(&source, Target::Q8).checkpoint.path(), cache);
    assert_eq!(made(), first, "used as it is");

    // The cache gives what quantising at load gives.
    let cpu = CpuOptions { quant: Some(quant(Target::Q8)), ..F32 };
    let want = logits(&source, &tokens(12), &cpu);
    let cached = CpuOptions { quant: Some(Quant { target: Target::Q8, cache: true }), ..F32 };
    assert!(logits(&source, &tokens(12), &cached) == want);

    // Other bytes of the same length, another time: stale.
    let path = from.path().join("model.safetensors");
    let mut tensors = read(&path);
    let head = tensors.get_mut("lm_head.weight").unwrap();
    head.bytes.chunks_mut(2).for_each(|pair| pair[1] ^= 0x80);
    write(&path, &tensors);
    let turned = logits(&source, &tokens(12), &cached);
    assert!(
        turned[..384].iter().zip(&want).all(|(a, b)| *a == -*b),
        "the head has turned its sign"
    );
    // Cut short: not used, written anew.
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(1000).unwrap();
    assert!(logits(&source, &tokens(12), &cached) == turned);
    // Each format has its own.
    assert_eq!(open(&source, Target::Q4).checkpoint.path(), from.path().join(".hadal-q4"));
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    std::fs::write(from.path().join(".hadal-q8"), "not a folder").unwrap();
    let opened = open(&source, Target::Q8);
    assert_eq!(opened.checkpoint.path(), from.path());
    assert!(opened.warning.unwrap().contains("no cache"));
    assert!(
        open_with_cache(
            &Source::Directory(from.path().join("none")),
            Some(Quant { target: Target::Q8, cache: true }),
            1,
            &mut |_, _| {}
        )
        .is_err()
    );
}

/// The file that was written last in a cache: another one each time.
fn made(cache: &Path) -> u64 {
    std::fs::metadata(cache.join("config.json")).unwrap().ino()
}

/// Opens twice, changes a file, opens twice: made anew once.
#[track_caller]
fn is_made_anew(source: &Source, cache: &Path, changed: &Path, text: &[u8]) {
    let first = {
        open(source, Target::Q8);
        made(cache)
    };
    open(source, Target::Q8);
    assert_eq!(made(cache), first, "{}: used as it is", changed.display());
    std::fs::write(changed, text).unwrap();
    let opened = open(source, Target::Q8);
    assert!(opened.warning.is_none() && opened.checkpoint.path() == cache, "{:?}", opened.warning);
    let second = made(cache);
    assert_ne!(second, first, "{} has changed", changed.display());
    open(source, Target::Q8);
    assert_eq!(made(cache), second, "{}: used as it is", changed.display());
}

#[test]
fn whatever_opening_a_folder_reads_makes_its_cache_stale() {
    let from = copy("v3-moe-bf16");
    let source = Source::Directory(from.path().to_owned());
    let cache = from.path().join(".hadal-q8");
    for name in ["tiktoken.model", "merges.txt", "vocab.json", "chat_template.jinja"] {
        is_made_anew(&source, &cache, &from.path().join(name), b"{}");
    }
    let same = std::fs::read(from.path().join("model.safetensors")).unwrap();
    is_made_anew(&source, &cache, &from.path().join("model.safetensors"), &same);
}

#[test]
fn a_cache_of_a_torch_file_knows_the_settings_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["state_dict.pt", "config.yaml"] {
        std::fs::copy(golden("mini-tied").join(name), at(name)).unwrap();
    }
    let source = Source::File(at("state_dict.pt"));
    let cache = at(".state_dict.pt.hadal-q8");
    let settings = std::fs::read_to_string(at("config.yaml")).unwrap();
    let other = settings.replace("rope_theta: 10000.0", "rope_theta: 77.0");
    assert_ne!(other, settings);
    let cached = CpuOptions { quant: Some(Quant { target: Target::Q8, cache: true }), ..F32 };
    let plain = CpuOptions { quant: Some(quant(Target::Q8)), ..F32 };
    let before = logits(&source, &tokens(20), &cached);
    is_made_anew(&source, &cache, &at("config.yaml"), other.as_bytes());
    let after = logits(&source, &tokens(20), &cached);
    assert!(after != before && after == logits(&source, &tokens(20), &plain));
    is_made_anew(&source, &cache, &at("generation_config.json"), br#"{"top_k": 4}"#);
    is_made_anew(&source, &cache, &at("chat_template.jinja"), b"{{ messages[0].content }}");
}

#[test]
fn a_cache_of_a_gguf_file_knows_all_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number| format!("v3-yarn-bf16-0000{number}-of-00002.gguf");
    for number in [1, 2] {
        let name = part(number);
        std::fs::copy(golden("gguf").join(&name), folder.path().join(&name)).unwrap();
    }
    let source = Source::File(folder.path().join(part(1)));
    let cache = folder.path().join(format!(".{}.hadal-q8", part(1)));
    for number in [1, 2] {
        let path = folder.path().join(part(number));
        let same = std::fs::read(&path).unwrap();
        is_made_anew(&source, &cache, &path, &same);
    }
}

#[test]
fn what_is_in_a_cache_is_planned_as_mapped() {
    let from = copy("v3-realdims");
    let source = Source::Directory(from.path().to_owned());
    let plan = |cache: bool| {
        let quant = Some(Quant { target: Target::Q8, cache });
        MemoryPlan::of(&source, &Limits::default(), &CpuOptions { quant, ..F32 }).unwrap()
    };
    let before = plan(true);
    assert!(before.encoded_bytes > 0);
    assert_eq!((before.encoded_bytes, before.mapped_bytes), {
        let plain = plan(false);
        (plain.encoded_bytes, plain.mapped_bytes)
    });
    assert!(!from.path().join(".hadal-q8").exists(), "a plan writes nothing");
    open(&source, Target::Q8);
    let (cached, plain) = (plan(true), plan(false));
    assert_eq!((cached.encoded_bytes, plain.encoded_bytes), (0, before.encoded_bytes));
    assert_eq!(cached.mapped_bytes, before.mapped_bytes + before.encoded_bytes);
}
