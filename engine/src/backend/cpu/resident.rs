//! Matrices made ready at load, on all threads: in another format, in another order, copied into larger pages, or where they
//! lie, their pages mapped.
//!
//! What that costs at least, of a byte: the system clears a page for it, it is read from the file's pages, and written. So
//! a thread has a large page to itself as long as it fills it (two that touch the same one both clear one), the file's
//! pages are mapped some thousand at a time instead of sixteen a fault, and go back as soon as they are copied: what is
//! being loaded is never in memory twice. Many matrices are one loop, so that no thread waits at the end of each.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::simd::{narrow, panels::pack_on};
use super::topology::home;
use super::{Cpu, Isa, Weight};
use crate::checkpoint::{Arena, Bytes, Kept, Near, Place, Tensor};
use crate::error::{Error, Result};
use crate::quant::narrow::{Stray, Strays, is_worth_it, panel_bytes};
use crate::quant::panels;

/// Bytes of a large page.
const HUGE_PAGE: usize = Arena::HUGE_PAGE;

/// Numbers that a thread encodes at once.
const PIECE_LEN: usize = 1 << 18;

/// Bytes of a loop: of so many that the wait at its end is little, and of so few that progress shows.
const LOOP_BYTES: usize = 64 << 20;
/// The same for each thread, where there are many.
const THREAD_BYTES: usize = 8 * HUGE_PAGE;

/// Matrices begin at whole cache lines.
const ALIGN: usize = 64;

/// Makes matrices ready, as the backend keeps them; `done(bytes)` for each, of those that it takes in its file.
///
/// # Errors
/// [`Error::TensorRange`] for a number that the format cannot hold.
pub(super) fn weights(
    cpu: &mut Cpu,
    tensors: &[Tensor],
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Weight>> {
    let kept = |tensor: &Tensor| cpu.keep.of(&tensor.name, tensor.dtype, &tensor.shape);
    let all: Vec<(&Tensor, Kept)> = tensors.iter().map(|tensor| (tensor, kept(tensor))).collect();
    let loop_bytes = LOOP_BYTES.max(cpu.pool.threads().saturating_mul(THREAD_BYTES));
    let (mut made, mut rest) = (Vec::with_capacity(all.len()), &all[..]);
    while !rest.is_empty() {
        let mut bytes = 0;
        let n = rest.iter().take_while(|(tensor, _)| {
            let is_more = bytes < loop_bytes;
            bytes += tensor.bytes.len();
            is_more
        });
        let (first, others) = rest.split_at(n.count());
        made.extend(together(cpu, first)?);
        for (tensor, _) in first {
            done(tensor.stored_bytes());
        }
        rest = others;
    }
    Ok(made)
}

/// Matrices in one loop. The same bytes on any number of threads: panels know nothing of each other.
pub(super) fn together(cpu: &mut Cpu, all: &[(&Tensor, Kept)]) -> Result<Vec<Weight>> {
    let mut len = 0;
    let mut cuts = Vec::with_capacity(all.len());
    for (tensor, kept) in all {
        let cut = Cut::new(tensor, *kept, len)?;
        len = cut.place.end;
        cuts.push(cut);
    }
    let mut room = cpu.arena.room(len)?;
    let out = room.bytes();
    let tasks = tasks(&cuts, out.as_ptr().addr() % HUGE_PAGE);
    let problem = Mutex::new(None);
    // Threads have nothing of their own to work in.
    let mut scratch = vec![(); cpu.pool.threads()];
    let work = all.iter().map(|(tensor, _)| tensor.bytes.len()).sum();
    let (isa, part) = (cpu.isa, |task: usize| tasks[task].out.clone());
    let nodes = cpu.pool.nodes().to_vec();
    let base = out.as_ptr().addr();
    // What only maps pages of the file is at home anywhere.
    let home = |task: usize| match &tasks[task].out {
        out if out.is_empty() => task % nodes.len(),
        out => home(base + out.start, nodes.len()),
    };
    cpu.pool.run_parts_at(work, out, &mut scratch, tasks.len(), home, part, |task, out, ()| {
        let start = tasks[task].out.start;
        let is_placed = nodes.len() > 1 && !out.is_empty();
        let _near = is_placed.then(|| Near::node(nodes[home(task)]));
        for piece in &tasks[task].pieces {
            let cut = &cuts[piece.cut];
            let out = &mut out[piece.out.start - start..piece.out.end - start];
            if let Err(error) = cut.make(isa, &piece.rows, out) {
                problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    });
    if let Some(error) = problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let copied = cuts.iter().filter(|cut| cut.kept.place != Place::Stored);
    cpu.copied.extend(copied.map(|cut| cut.tensor.bytes.clone()));
    let bytes = room.freeze();
    cuts.iter().map(|cut| cut.finish(&bytes)).collect()
}

/// Gives back the file's pages that came again after they were copied: a fault beside them maps some of its neighbours.
pub(super) fn release_copied(cpu: &mut Cpu) {
    cpu.copied.drain(..).for_each(|bytes| bytes.release());
}

/// Strays of panels, in any order.
type Found = Vec<(usize, Vec<Stray>)>;

/// How one matrix is cut for threads.
struct Cut<'a> {
    tensor: &'a Tensor,
    kept: Kept,
    /// Bytes of a row as it is stored; what is neither copied nor encoded may have any shape, and is one.
    stored_row_bytes: usize,
    n_row: usize,
    /// Rows that stand together, and their bytes as kept: a panel's, or one.
    unit: (usize, usize),
    /// Its bytes in the room of all; none where it lies.
    place: Range<usize>,
    /// Of numbers in twelve bits, those that have more; `None` once there are too many.
    strays: Mutex<Option<Found>>,
}

impl<'a> Cut<'a> {
    /// Behind what ends at `end`.
    fn new(tensor: &'a Tensor, kept: Kept, end: usize) -> Result<Self> {
        if kept.place == Place::Stored {
            let len = tensor.bytes.len();
            return Ok(Self {
                tensor,
                kept,
                stored_row_bytes: 1,
                n_row: len,
                unit: (1, 0),
                place: end..end,
                strays: Mutex::default(),
            });
        }
        let (n_row, dim) = (tensor.n_row(), tensor.dim());
        let unit = match kept.place {
            Place::Panels => panels::Layout::of(kept.dtype)
                .and_then(|layout| layout.panel_bytes(dim))
                .map(|bytes| (panels::OUTS, bytes)),
            Place::Narrow => panel_bytes(dim).map(|bytes| (panels::OUTS, bytes)),
            Place::Copied | Place::Stored => kept.dtype.row_bytes(dim).map(|bytes| (1, bytes)),
        };
        let sizes = || {
            let start = end.checked_next_multiple_of(ALIGN)?;
            let end = start.checked_add(kept.bytes(&[n_row, dim])?)?;
            let stored_row_bytes = tensor.dtype.row_bytes(dim)?;
            let unit = unit.filter(|(_, bytes)| *bytes > 0 && stored_row_bytes > 0)?;
            let strays = Mutex::new((kept.place == Place::Narrow).then(Vec::new));
            Some(Self { tensor, kept, stored_row_bytes, n_row, unit, place: start..end, strays })
        };
        sizes().ok_or_else(|| {
            let (name, shape) = (&tensor.name, &tensor.shape);
            let message = format!("`{name}` {shape:?} has no rows of {}", kept.dtype.name());
            Error::Internal { message }
        })
    }

    /// Where row `row` begins, a multiple of a unit's, or where the last one ends.
    fn at(&self, row: usize) -> usize {
        self.place.start + row.div_ceil(self.unit.0) * self.unit.1
    }

    /// The row up to which a piece from `row` on goes: to the end of its large page, or of as much of the file.
    fn end(&self, row: usize, base: usize) -> usize {
        let (rows, bytes) = self.unit;
        if bytes == 0 {
            return (row + HUGE_PAGE).min(self.n_row);
        }
        let at = base + self.at(row);
        let left = (at + 1).next_multiple_of(HUGE_PAGE) - at;
        (row + left.div_ceil(bytes) * rows).min(self.n_row)
    }

    /// Makes some rows, the file's pages mapped before and given back after.
    fn make(&self, isa: Isa, rows: &Range<usize>, out: &mut [u8]) -> Result<()> {
        let per_row = self.stored_row_bytes;
        let stored = self.tensor.bytes.slice(rows.start * per_row..rows.end * per_row);
        let stored = stored.unwrap_or_else(|| Bytes::owned(Vec::new()));
        stored.populate();
        if self.kept.place == Place::Stored {
            return Ok(());
        }
        let made = if self.kept.place == Place::Narrow {
            self.narrow(isa, rows.start / panels::OUTS, &stored, out);
            Ok(())
        } else if self.kept.dtype == self.tensor.dtype {
            self.put(isa, &stored, out);
            Ok(())
        } else {
            self.encode(isa, rows, out)
        };
        stored.release();
        made
    }

    /// The same in another format, some rows at a time.
    fn encode(&self, isa: Isa, rows: &Range<usize>, out: &mut [u8]) -> Result<()> {
        let (per, bytes) = self.unit;
        let units = (PIECE_LEN / self.tensor.dim().max(1) / per).max(1);
        for (i, out) in out.chunks_mut(units * bytes).enumerate() {
            let first = rows.start + i * units * per;
            let n = (units * per).min(rows.end.saturating_sub(first));
            let encoded = self.tensor.encode_rows(first, n, self.kept.dtype)?;
            self.put(isa, &encoded.bytes, out);
        }
        Ok(())
    }

    /// Rows of the format that is kept, into their place.
    fn put(&self, isa: Isa, rows: &[u8], out: &mut [u8]) {
        if self.kept.place != Place::Panels {
            return out.copy_from_slice(rows);
        }
        let (dtype, dim) = (self.kept.dtype, self.tensor.dim());
        let panel_rows = panels::OUTS * dtype.row_bytes(dim).unwrap_or(0).max(1);
        for (rows, panel) in rows.chunks(panel_rows).zip(out.chunks_exact_mut(self.unit.1)) {
            pack_on(isa, dtype, rows, dim, panel);
        }
    }

    /// bf16 rows in twelve bits a number, the first in panel `first`; nothing more once there are too many strays.
    fn narrow(&self, isa: Isa, first: usize, rows: &[u8], out: &mut [u8]) {
        let found = || self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        if found().is_none() {
            return;
        }
        let dim = self.tensor.dim();
        let rows = rows.chunks((panels::OUTS * self.stored_row_bytes).max(1));
        let panels = rows.zip(out.chunks_exact_mut(self.unit.1)).map(|(rows, out)| {
            let mut strays = Vec::new();
            narrow::pack_on(isa, rows, dim, out, &mut strays);
            strays
        });
        let some: Vec<_> = (first..).zip(panels).filter(|(_, strays)| !strays.is_empty()).collect();
        let mut found = found();
        if let Some(all) = found.as_mut() {
            all.extend(some);
            let n = all.iter().map(|(_, strays)| strays.len()).sum();
            if !is_worth_it(n, self.n_row * dim) {
                *found = None;
            }
        }
    }

    /// The strays of the whole matrix; `None` where numbers have sixteen bits after all.
    fn strays(&self) -> Option<Strays> {
        let all = self.strays.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Strays::new(self.n_row.div_ceil(panels::OUTS), all)
    }

    /// The matrix, once all of it is made; `room` is that of all.
    fn finish(&self, room: &Bytes) -> Result<Weight> {
        let strays = self.strays();
        let is_refused = self.kept.place == Place::Narrow && strays.is_none();
        if self.kept.place == Place::Stored || is_refused {
            return Weight::new(self.tensor);
        }
        // Pages that pieces share came back with the later one.
        self.tensor.bytes.release();
        let bytes = room.slice(self.place.clone()).unwrap_or_else(|| Bytes::owned(Vec::new()));
        Weight::resident(self.tensor, self.kept, bytes, strays)
    }
}

/// Rows of one matrix, and their bytes in the room of all.
struct Piece {
    cut: usize,
    rows: Range<usize>,
    out: Range<usize>,
}

/// What one thread makes at once: a large page, whatever it is made of.
struct Task {
    pieces: Vec<Piece>,
    out: Range<usize>,
}

/// Cuts matrices at the large pages of their room, which begins `base` bytes behind the beginning of one.
fn tasks(cuts: &[Cut<'_>], base: usize) -> Vec<Task> {
    let page = |at: usize| (base + at) / HUGE_PAGE;
    let mut tasks: Vec<Task> = Vec::new();
    for (i, cut) in cuts.iter().enumerate() {
        let mut row = 0;
        while row < cut.n_row {
            let end = cut.end(row, base);
            let out = cut.at(row)..cut.at(end);
            let piece = Piece { cut: i, rows: row..end, out: out.clone() };
            match tasks.last_mut() {
                // One that only maps pages of the file has no large page to share.
                Some(task) if cut.unit.1 > 0 && !task.out.is_empty() => {
                    let is_same = page(task.out.start) == page(out.start);
                    if is_same {
                        task.out.end = out.end;
                        task.pieces.push(piece);
                    } else {
                        tasks.push(Task { pieces: vec![piece], out });
                    }
                }
                _ => tasks.push(Task { pieces: vec![piece], out }),
            }
            row = end;
        }
    }
    tasks
}

#[cfg(test)]
mod tests;
