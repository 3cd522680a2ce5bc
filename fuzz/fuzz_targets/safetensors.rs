//! A weights file: the input is its JSON header (or, after a byte 0xff, the whole file), the data behind it zeros.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, bounded};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new("safetensors");
    folder.write("config.json", include_bytes!("../../tests/golden/v3-yarn-f32/config.json"));
    folder
});

fuzz_target!(|input: &[u8]| {
    let file = "model.safetensors";
    if let Some(whole) = input.strip_prefix(&[0xff]) {
        FOLDER.write(file, whole);
    } else {
        let mut bytes = (input.len() as u64).to_le_bytes().to_vec();
        bytes.extend(input);
        FOLDER.write(file, &bytes).extend(file, bytes.len() as u64 + (1 << 20));
    }
    bounded(input.len(), 0, || FOLDER.open());
});
