//! A GGUF file: header, keys and tensors' entries; behind them zeros that take no room.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, bounded};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder::new("gguf"));

fuzz_target!(|input: &[u8]| {
    let file = "model.gguf";
    FOLDER.write(file, input).extend(file, input.len() as u64 + (1 << 20));
    bounded(input.len(), 0, || FOLDER.open_file(file));
});
