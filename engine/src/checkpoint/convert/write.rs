//! The weights themselves: rows are encoded on all threads and written where they belong, in whatever order they are
//! ready.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::layout::{Content, Item, Layout, Shard};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::quant::{DType, fp8};

/// Numbers that a thread encodes at once: some 4 MB of f32.
const PIECE_LEN: usize = 1 << 20;

/// Some rows of one item.
struct Piece<'a> {
    shard: usize,
    item: &'a Item,
    /// Where the factors go that come with them.
    factors: Option<&'a Item>,
    first: usize,
    n: usize,
}

/// An open file and its path, for errors.
struct Out {
    path: PathBuf,
    file: File,
}

impl Out {
    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let path = || self.path.clone();
        self.file.write_all_at(bytes, at).map_err(|source| Error::Write { path: path(), source })
    }
}

/// Writes every file of the layout into `folder`.
pub(super) fn weights(
    checkpoint: &Checkpoint,
    layout: &Layout,
    folder: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let outs = layout.shards.iter().map(|shard| open(folder, shard)).collect::<Result<Vec<_>>>()?;
    let pieces = pieces(layout);
    let total = pieces.iter().map(|piece| read_bytes(checkpoint, piece)).sum();
    progress(0, total);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (results, done) = channel();
    let mut first_error = None;
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, pieces.len().max(1)) {
            let results: Sender<Result<u64>> = results.clone();
            let (pieces, outs, next, stop) = (&pieces, &outs, &next, &stop);
            scope.spawn(move || {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let result =
                        write(checkpoint, piece, outs).map(|()| read_bytes(checkpoint, piece));
                    if results.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut done_bytes = 0;
        for result in done {
            match result {
                Ok(bytes) => {
                    done_bytes += bytes;
                    progress(done_bytes, total);
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
            }
        }
    });
    if let Some(error) = first_error {
        return Err(error);
    }
    // On the disk before anything names them.
    for Out { path, file } in &outs {
        file.sync_all().map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    Ok(())
}

/// A file with its header, as long as it will be.
fn open(folder: &Path, shard: &Shard) -> Result<Out> {
    let path = folder.join(&shard.name);
    let io = |source| Error::Write { path: folder.join(&shard.name), source };
    let file = File::create_new(&path).map_err(io)?;
    file.set_len(shard.header.len() as u64 + shard.bytes).map_err(io)?;
    let out = Out { path, file };
    out.write(&shard.header, 0)?;
    Ok(out)
}

/// Cuts every item into pieces of whole rows, FP8 ones of whole blocks.
fn pieces(layout: &Layout) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    for (index, shard) in layout.shards.iter().enumerate() {
        for item in shard.items.iter().filter(|item| item.content != Content::Factors) {
            let factors = shard.items.iter().find(|factors| {
                factors.content == Content::Factors
                    && factors.name.strip_suffix("_scale_inv") == Some(&item.name)
            });
            let dim = item.shape.last().copied().unwrap_or(1).max(1);
            let rows: usize = item.shape.iter().rev().skip(1).product();
            let step = (PIECE_LEN / dim).max(1).next_multiple_of(fp8::BLOCK[0]);
            pieces.extend((0..rows).step_by(step).map(|first| Piece {
                shard: index,
                item,
                factors,
                first,
                n: step.min(rows - first),
            }));
        }
    }
    pieces
}

/// Stored bytes of the source that a piece is made from.
fn read_bytes(checkpoint: &Checkpoint, piece: &Piece<'_>) -> u64 {
    let rows: usize = piece.item.shape.iter().rev().skip(1).product();
    let bytes = checkpoint.tensors.get(&piece.item.name).map_or(0, |entry| entry.bytes.len());
    (bytes / rows.max(1) * piece.n) as u64
}

fn write(checkpoint: &Checkpoint, piece: &Piece<'_>, outs: &[Out]) -> Result<()> {
    let Piece { shard, item, factors, first, n } = *piece;
    let Some(out) = outs.get(shard) else { return Ok(()) };
    let rows: usize = item.shape.iter().rev().skip(1).product();
    let row_bytes = item.bytes / rows.max(1) as u64;
    let at = item.offset + first as u64 * row_bytes;
    let dtype = match item.content {
        Content::Same(_) => return out.write(&same(checkpoint, item, first, n)?, at),
        Content::Encoded(dtype) => dtype,
        Content::Factors => return Ok(()),
    };
    let tensor: Tensor = checkpoint.tensor(&item.name)?;
    let encoded = tensor.encode_rows(first, n, dtype)?;
    out.write(&encoded.bytes, at)?;
    if let (DType::Fp8E4m3, Some(factors)) = (dtype, factors) {
        let per_row = factors.shape.last().copied().unwrap_or(0) as u64 * 4;
        let scales: Vec<u8> = encoded.scales.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write(&scales, factors.offset + (first / fp8::BLOCK[0]) as u64 * per_row)?;
    }
    Ok(())
}

/// Rows as the source has them; also of tensors that are only factors.
fn same(checkpoint: &Checkpoint, item: &Item, first: usize, n: usize) -> Result<Vec<u8>> {
    let missing = || Error::TensorMissing {
        path: checkpoint.path.clone(),
        name: item.name.clone(),
        want: item.shape.clone(),
    };
    let entry = checkpoint.tensors.get(&item.name).ok_or_else(missing)?;
    let rows: usize = item.shape.iter().rev().skip(1).product();
    let row_bytes = entry.bytes.len() / rows.max(1);
    let bytes = entry.bytes.get(first * row_bytes..(first + n) * row_bytes);
    Ok(bytes.ok_or_else(missing)?.to_vec())
}
