//! Anonymous memory for weights, in large pages.
//!
//! Rooms are cut one after another from chunks, so that a large page serves several small matrices; a chunk goes back to the
//! system when the last of its rooms is gone.

mod near;

use std::ops::Range;
use std::sync::Arc;

use memmap2::{Advice, MmapMut};

pub use near::Near;

use super::{Bytes, Owner};
use crate::error::{Error, Result};

/// Anonymous memory that rooms are cut from.
#[derive(Debug)]
pub(super) struct Chunk {
    map: MmapMut,
    /// Offset of the first address that is a multiple of [`HUGE_PAGE`].
    start: usize,
}

/// Bytes of the large pages that chunks ask for: a fifth more bandwidth than with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of the largest chunk that is made for several rooms. The first is a page, each one twice the last.
const CHUNK_MAX: usize = 256 << 20;

/// Every room begins at a multiple of this: whole cache lines.
const ROOM_ALIGN: usize = 64;

impl Chunk {
    fn new(len: usize) -> Result<Self> {
        // Room to begin at a large page; what is never touched takes no memory.
        let map = len.checked_add(HUGE_PAGE).ok_or(std::io::ErrorKind::OutOfMemory.into());
        let map = map.and_then(MmapMut::map_anon).map_err(|error| Error::Internal {
            message: format!("cannot get {len} bytes for weights: {error}"),
        })?;
        // Small pages do too.
        drop(map.advise(Advice::HugePage));
        let start = map.as_ptr().addr().next_multiple_of(HUGE_PAGE) - map.as_ptr().addr();
        Ok(Self { map, start })
    }

    /// # Safety
    /// The range was given out by [`Arena::room`], and nobody writes there while the slice lives.
    pub(super) unsafe fn part(&self, range: &Range<usize>) -> &[u8] {
        // SAFETY: inside the map, as rooms are.
        unsafe { std::slice::from_raw_parts(self.at(range.start), range.len()) }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.map.as_ptr().cast_mut().wrapping_add(self.start + offset)
    }
}

/// Memory of our own for weights, in large pages where the system has them.
#[derive(Debug, Default)]
pub struct Arena {
    chunk: Option<(Arc<Chunk>, usize)>,
    used: usize,
}

/// A part of an [`Arena`] to be written, zero at first.
#[derive(Debug)]
pub struct Room {
    chunk: Arc<Chunk>,
    range: Range<usize>,
}

impl Arena {
    /// Bytes of a large page. Chunks begin with one, so that a room's address says where the next begins.
    pub const HUGE_PAGE: usize = HUGE_PAGE;

    /// Room for `len` bytes at a whole cache line.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system has no more addresses to give.
    pub fn room(&mut self, len: usize) -> Result<Room> {
        let rounded = len.checked_next_multiple_of(ROOM_ALIGN).unwrap_or(usize::MAX);
        let last = self.chunk.as_ref().map_or(0, |(_, len)| *len);
        let chunk = match &self.chunk {
            Some((chunk, len)) if rounded <= len - self.used => Arc::clone(chunk),
            _ => {
                let chunk_len = rounded.max((2 * last).clamp(HUGE_PAGE, CHUNK_MAX));
                let chunk = Arc::new(Chunk::new(chunk_len)?);
                // One that a single room fills leaves the last chunk's rest for the next.
                if rounded == chunk_len && last > 0 {
                    return Ok(Room { chunk, range: 0..len });
                }
                (self.chunk, self.used) = (Some((Arc::clone(&chunk), chunk_len)), 0);
                chunk
            }
        };
        let range = self.used..self.used + len;
        self.used += rounded;
        Ok(Room { chunk, range })
    }
}

impl Room {
    /// To be written.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: rooms do not overlap, this one is not frozen yet, and it is borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.at(self.range.start), self.range.len()) }
    }

    /// As bytes that nobody writes any more.
    pub fn freeze(self) -> Bytes {
        Bytes { owner: Owner::Chunk(self.chunk), range: self.range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_zero_apart_and_keep_what_is_written() {
        let mut arena = Arena::default();
        // Small ones side by side, one larger than what is left, one larger than any chunk's second half.
        let lens = [1, 64, 65, 0, 3 << 20, 5, 1 << 20, 40 << 20, 7];
        let mut frozen = Vec::new();
        for (i, len) in lens.into_iter().enumerate() {
            let mut room = arena.room(len).unwrap();
            let bytes = room.bytes();
            assert_eq!(bytes.len(), len);
            assert!(bytes.as_ptr().addr().is_multiple_of(ROOM_ALIGN));
            assert!(bytes.iter().all(|byte| *byte == 0), "room {i}");
            bytes.fill(i as u8 + 1);
            frozen.push(room.freeze());
        }
        drop(arena);
        for (i, (bytes, len)) in frozen.iter().zip(lens).enumerate() {
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == i as u8 + 1));
            assert!(bytes.path().is_none());
        }
    }

    #[test]
    fn more_than_there_are_addresses_is_refused() {
        let mut arena = Arena::default();
        for len in [usize::MAX, usize::MAX - 63, 1 << 60] {
            assert!(arena.room(len).unwrap_err().to_string().contains("bytes for weights"));
        }
        assert_eq!(arena.room(10).unwrap().bytes().len(), 10);
    }
}
