//! What the tools say of checkpoints and make of them, held to the files themselves.

mod cache;
mod convert;
mod narrow;
mod others;
mod perplexity;
mod quant;
mod survey;
mod unfinished;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// A golden checkpoint.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

/// A tensor as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A safetensors file through the reference reader, which shares no code with the engine.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Raw> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |view: &TensorView<'_>| Raw {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.iter().map(|(name, view)| (name.to_owned(), raw(&view))).collect()
}

/// Writes one.
pub(crate) fn write(path: &Path, tensors: &BTreeMap<String, Raw>) {
    let views = tensors.iter().map(|(name, raw)| {
        (name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A copy of a golden checkpoint alone, without what it is compared with.
pub(crate) fn copy(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(case)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("golden.") {
            std::fs::copy(entry.path(), folder.path().join(name)).unwrap();
        }
    }
    folder
}
