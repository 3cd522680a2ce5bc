//! The pickle inside an archive of `torch.save`, one storage of zeros beside it.
#![no_main]

use std::sync::LazyLock;

use hadal_fuzz::{Folder, archive, bounded};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new("pickle");
    folder.write("config.yaml", include_bytes!("../../tests/golden/mini-tied/config.yaml"));
    folder
});

static STORAGE: [u8; 1 << 16] = [0; 1 << 16];

fuzz_target!(|input: &[u8]| {
    let file =
        archive::stored(&[("x/data.pkl", input), ("x/data/0", &STORAGE), ("x/data/1", &STORAGE)]);
    FOLDER.write("model.pt", &file);
    bounded(file.len(), 0, || FOLDER.open_file("model.pt"));
});
