//! `config.json` beside weights that it does not describe.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, bounded};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new("config");
    let weights = include_bytes!("../../tests/golden/v3-tied-bf16/model.safetensors");
    folder.write("model.safetensors", weights);
    folder
});

fuzz_target!(|input: &[u8]| {
    FOLDER.write("config.json", input);
    // The weights' header is read too.
    bounded(input.len(), 4 << 20, || FOLDER.open());
});
