//! A file of `torch.save`, an archive or the older container.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, bounded};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new("pt");
    folder.write("config.yaml", include_bytes!("../../tests/golden/mini-tied/config.yaml"));
    folder
});

fuzz_target!(|input: &[u8]| {
    FOLDER.write("model.pt", input);
    bounded(input.len(), 0, || FOLDER.open_file("model.pt"));
});
