//! The index of a checkpoint in several files.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, bounded};
use libfuzzer_sys::fuzz_target;

const SHARDS: [(&str, &[u8]); 2] = [
    (
        "model-00001-of-00002.safetensors",
        include_bytes!("../../tests/golden/v3-yarn-bf16/model-00001-of-00002.safetensors"),
    ),
    (
        "model-00002-of-00002.safetensors",
        include_bytes!("../../tests/golden/v3-yarn-bf16/model-00002-of-00002.safetensors"),
    ),
];

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new("index");
    folder.write("config.json", include_bytes!("../../tests/golden/v3-yarn-bf16/config.json"));
    for (name, bytes) in SHARDS {
        folder.write(name, bytes);
    }
    folder
});

fuzz_target!(|input: &[u8]| {
    FOLDER.write("model.safetensors.index.json", input);
    // The shards' own headers are read too.
    bounded(input.len(), 4 << 20, || FOLDER.open());
});
