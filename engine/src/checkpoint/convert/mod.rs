//! A checkpoint written anew in another format: tensor by tensor, so that memory stays small whatever the model's size.
//!
//! Everything goes into a hidden folder beside the wanted one, `config.json` last, and the folder is renamed at the
//! end: what is interrupted never looks like a checkpoint. What is left of it goes when a signal ends the process
//! ([`give_up`]), else when the next conversion to the same place begins.

mod code;
mod config;
mod join;
mod layout;
mod place;
mod unfinished;
mod write;

use std::path::PathBuf;

use super::{Checkpoint, Source, Target};
use crate::error::Result;
use layout::Layout;
use place::Place;
pub use unfinished::give_up;

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The format.
    pub to: Target,
    /// The folder to make.
    pub out: PathBuf,
    /// Bytes of one weights file at most; a tensor that is larger has one of its own.
    pub shard_bytes: u64,
    /// Threads that encode.
    pub threads: usize,
    /// Replace a checkpoint that is there.
    pub force: bool,
    /// A file to write beside the rest, name and text.
    pub note: Option<(&'static str, String)>,
}

impl ConvertOptions {
    /// Whether `kv_b_proj` is made of its halves. In blocks it cannot be exactly, nobody else reads those, and
    /// quantising at load has the halves.
    fn joins(&self) -> bool {
        !self.to.is_blocks()
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Converted {
    /// Weight files.
    pub n_file: usize,
    /// Tensors, factors included.
    pub n_tensor: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors that the model does not use and that were left out.
    pub left_out: usize,
    /// Matrices whose rows are no whole blocks, and what they stayed.
    pub kept: usize,
}

/// Converts; `progress(done_bytes, total_bytes)` counts stored bytes of the source.
///
/// # Errors
/// What the source refuses, a place that is taken, a disk that is full, a number that the format cannot hold. Nothing
/// is left behind then.
pub fn convert(
    source: &Source,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    let checkpoint = Checkpoint::open(source)?;
    let layout = Layout::of(&checkpoint, options)?;
    let config = config::config_json(source, &checkpoint, &layout, options)?;
    let place = Place::prepare(source, &options.out, layout.file_bytes(), options.force)?;
    write::weights(&checkpoint, &layout, place.folder(), options.threads, progress)?;
    place.text(source, &checkpoint)?;
    if let Some(index) = layout.index() {
        place.write("model.safetensors.index.json", index.as_bytes())?;
    }
    if let Some((name, text)) = &options.note {
        place.write(name, text.as_bytes())?;
    }
    // A file that was cut while it was read gave zeros from there on.
    checkpoint.watch().check()?;
    place.write("config.json", config.as_bytes())?;
    place.finish()?;
    Ok(layout.converted())
}
