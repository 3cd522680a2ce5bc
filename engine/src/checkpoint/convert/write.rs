//! The weights themselves: rows are encoded on all threads and written where they belong, in whatever order they are
//! ready.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::join::Halves;
use super::layout::{Content, Item, Layout, Shard};
use crate::checkpoint::{Bytes, Checkpoint, scale_entry};
use crate::error::{Error, Result};
use crate::quant::fp8;

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

/// A file that is open from its first piece to its last: a model may have more files than a process may open.
struct Out {
    path: PathBuf,
    /// Pieces to come.
    left: AtomicUsize,
    file: Mutex<Option<Arc<File>>>,
}

impl Out {
    /// A file with its header, as long as it will be.
    fn make(folder: &Path, shard: &Shard, n_piece: usize) -> Result<Self> {
        let path = folder.join(&shard.name);
        let make = || {
            let file = File::create_new(&path)?;
            file.set_len(shard.header.len() as u64 + shard.bytes)?;
            file.write_all_at(&shard.header, 0)?;
            // Nothing else will come: it is whole.
            if n_piece == 0 { file.sync_all() } else { Ok(()) }
        };
        make().map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Self { path, left: AtomicUsize::new(n_piece), file: Mutex::new(None) })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let write = || self.open()?.write_all_at(bytes, at);
        write().map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn open(&self) -> std::io::Result<Arc<File>> {
        let mut place = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*place {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::options().write(true).open(&self.path)?);
        *place = Some(Arc::clone(&file));
        Ok(file)
    }

    /// A piece is written. After the last one all of it goes to the disk, before anything names the file.
    fn done(&self) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let synced = file.map_or(Ok(()), |file| file.sync_all());
        synced.map_err(|source| Error::Write { path: self.path.clone(), source })
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
    let pieces = pieces(layout);
    let mut outs = Vec::with_capacity(layout.shards.len());
    let mut counts = vec![0; layout.shards.len()];
    for piece in &pieces {
        counts[piece.shard] += 1;
    }
    for (shard, n_piece) in layout.shards.iter().zip(counts) {
        outs.push(Out::make(folder, shard, n_piece)?);
    }
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
                    let Some(out) = outs.get(piece.shard) else { return };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let written = write(checkpoint, piece, out).and_then(|()| out.done());
                    let result = written.map(|()| read_bytes(checkpoint, piece));
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
    first_error.map_or(Ok(()), Err)
}

/// Cuts every item into pieces of whole rows, FP8 ones of whole blocks.
fn pieces(layout: &Layout) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    for (index, shard) in layout.shards.iter().enumerate() {
        let factors: HashMap<&str, &Item> = shard
            .items
            .iter()
            .filter(|item| item.content == Content::Factors)
            .filter_map(|item| Some((item.name.strip_suffix("_scale_inv")?, item)))
            .collect();
        for item in shard.items.iter().filter(|item| item.content != Content::Factors) {
            let factors = factors.get(item.name.as_str()).copied();
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
    let item = piece.item;
    let rows: usize = item.shape.iter().rev().skip(1).product();
    let bytes = match item.content {
        Content::OwnFactors => owner(item)
            .and_then(|owner| scale_entry(owner, &checkpoint.tensors))
            .map_or(0, |(_, factors)| factors.bytes.len()),
        Content::Joined(_) => {
            Halves::of(checkpoint, &item.name).map_or(0, |halves| halves.stored_bytes())
        }
        _ => checkpoint.tensors.get(&item.name).map_or(0, |entry| entry.bytes.len()),
    };
    (bytes / rows.max(1) * piece.n) as u64
}

/// The matrix whose factors an item holds.
fn owner(item: &Item) -> Option<&str> {
    item.name.strip_suffix("_scale_inv")
}

fn write(checkpoint: &Checkpoint, piece: &Piece<'_>, out: &Out) -> Result<()> {
    let Piece { item, factors, first, n, .. } = *piece;
    let rows: usize = item.shape.iter().rev().skip(1).product();
    let row_bytes = item.bytes / rows.max(1) as u64;
    let at = item.offset + first as u64 * row_bytes;
    let missing = || Error::TensorMissing {
        path: checkpoint.path.clone(),
        name: item.name.clone(),
        want: item.shape.clone(),
    };
    let encoded = match item.content {
        Content::Same(_) | Content::OwnFactors => {
            let bytes = stored(checkpoint, item)?.ok_or_else(missing)?;
            let row_bytes = row_bytes as usize;
            let rows = bytes.get(first * row_bytes..(first + n) * row_bytes);
            return out.write(rows.ok_or_else(missing)?, at);
        }
        Content::Factors => return Ok(()),
        Content::Encoded(dtype) => checkpoint.tensor(&item.name)?.encode_rows(first, n, dtype)?,
        Content::Joined(dtype) => {
            let halves = Halves::of(checkpoint, &item.name).ok_or_else(missing)?;
            halves.encode_rows(&item.name, first, n, dtype)?
        }
    };
    out.write(&encoded.bytes, at)?;
    if let Some(factors) = factors {
        let per_row = factors.shape.last().copied().unwrap_or(0) as u64 * size_of::<f32>() as u64;
        let scales: Vec<u8> = encoded.scales.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write(&scales, factors.offset + (first / fp8::BLOCK[0]) as u64 * per_row)?;
    }
    Ok(())
}

/// All bytes of an item that is written as the source has it.
fn stored(checkpoint: &Checkpoint, item: &Item) -> Result<Option<Bytes>> {
    let Some(owner) = owner(item).filter(|_| item.content == Content::OwnFactors) else {
        return Ok(checkpoint.tensors.get(&item.name).map(|entry| entry.bytes.clone()));
    };
    Ok(checkpoint.tensor(owner)?.scales.map(|scales| scales.bytes))
}
