//! Memory maps: the only place that maps files, and what happens when a mapped file shrinks.
//!
//! Reading a page of a map beyond the file's end raises SIGBUS, which ends the process without a word. Our handler
//! looks the address up among the maps registered here; if it is one of ours, it puts zero pages in place of the
//! lost ones and marks the map as damaged. The read goes on with zeros, and the model's thread, which asks after
//! every step, fails that model with the file's name. See docs/decisions/0002.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::{Error, Result};

mod arena;

use arena::Chunk;
pub use arena::{Arena, Near, Room};

/// Maps that can be watched at once. A checkpoint of a thousand shards would still leave room for others.
const TABLE_LEN: usize = 4096;

/// Bytes of the smallest page.
const PAGE: usize = 4096;

/// A watched map, readable from a signal handler. `start` is 0 while the row is free or being filled.
struct Row {
    start: AtomicUsize,
    end: AtomicUsize,
    is_damaged: AtomicBool,
    is_taken: AtomicBool,
}

static TABLE: [Row; TABLE_LEN] = [const {
    Row {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_damaged: AtomicBool::new(false),
        is_taken: AtomicBool::new(false),
    }
}; TABLE_LEN];

/// A place in the table, given back when the map goes.
#[derive(Debug)]
struct Registration(usize);

impl Registration {
    /// Takes a free row. `None` when all are taken: the map works, unwatched.
    fn take(start: usize, len: usize) -> Option<Self> {
        let index = TABLE.iter().position(|row| !row.is_taken.swap(true, Ordering::AcqRel))?;
        let row = &TABLE[index];
        row.is_damaged.store(false, Ordering::Relaxed);
        row.end.store(start + len, Ordering::Relaxed);
        // Publishes `end`: whoever sees this start sees that end.
        row.start.store(start, Ordering::Release);
        Some(Self(index))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let row = &TABLE[self.0];
        row.start.store(0, Ordering::SeqCst);
        row.is_taken.store(false, Ordering::Release);
    }
}

/// The watched row that holds `address`. `start` is read again after `end`, so that a row freed and taken anew in
/// between cannot pair one map's start with another's end.
fn find(address: usize) -> Option<&'static Row> {
    TABLE.iter().find(|row| {
        let start = row.start.load(Ordering::Acquire);
        let end = row.end.load(Ordering::Acquire);
        start != 0 && (start..end).contains(&address) && row.start.load(Ordering::Acquire) == start
    })
}

mod signal {
    //! The SIGBUS handler.

    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::Once;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::find;

    static INSTALL: Once = Once::new();
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);
    /// What SIGBUS did before: a function, or one of the two constants.
    static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

    /// Installs the handler, once a process.
    pub(super) fn install() {
        INSTALL.call_once(|| {
            // SAFETY: plain queries and one registration; the structs are zeroed before use and the handler calls only
            // async-signal-safe functions.
            unsafe {
                let page = libc::sysconf(libc::_SC_PAGESIZE);
                PAGE_BYTES.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
                let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
                let mut previous: libc::sigaction = MaybeUninit::zeroed().assume_init();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) == 0 {
                    PREVIOUS.store(previous.sa_sigaction, Ordering::Relaxed);
                }
            }
        });
    }

    /// Puts zero pages in place of a watched map's lost ones; leaves every other fault to what was there before.
    extern "C" fn handle(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the system hands a valid `siginfo_t`; mmap over part of a private, read-only map of ours replaces
        // pages that nobody can read any more; errno is put back as it was.
        unsafe {
            let address = (*info).si_addr() as usize;
            let errno = *libc::__errno_location();
            if let Some(row) = find(address) {
                let page = PAGE_BYTES.load(Ordering::Relaxed);
                let from = address / page * page;
                let end = row.end.load(Ordering::Acquire).next_multiple_of(page);
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                let made = libc::mmap(
                    ptr::with_exposed_provenance_mut(from),
                    end - from,
                    libc::PROT_READ,
                    flags,
                    -1,
                    0,
                );
                *libc::__errno_location() = errno;
                if made != libc::MAP_FAILED {
                    row.is_damaged.store(true, Ordering::Release);
                    return;
                }
            }
            // Not ours: the previous handling takes over when the faulting instruction runs again.
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = PREVIOUS.load(Ordering::Relaxed);
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// A read-only file in memory.
#[derive(Debug)]
pub(super) struct Map {
    // Dropped first: the row must be free before the addresses are.
    registration: Option<Registration>,
    bytes: Mmap,
    path: PathBuf,
}

impl Map {
    /// Maps a regular file of at least one byte.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() || metadata.len() == 0 {
            let problem =
                if metadata.is_file() { "the file is empty" } else { "not a regular file" };
            return Err(Error::Format { path: path.to_owned(), problem: problem.into() });
        }
        let file = File::open(path).map_err(io)?;
        signal::install();
        // SAFETY: the map is private and read-only. Another process may change the file: its bytes are only ever read
        // as numbers, for which every pattern is valid; a lost page becomes zeros through the handler above.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|source| Error::Map { path: path.to_owned(), source })?;
        let registration = Registration::take(map.as_ptr().addr(), map.len());
        Ok(Self { registration, bytes: map, path: path.to_owned() })
    }

    /// Gives the pages of a range back to the system, which reads them again when they are wanted.
    fn release(&self, range: &Range<usize>) {
        // SAFETY: a read-only map of a file: its pages come back with the same bytes (where the file lost some, with the
        // zeros of the handler above or a signal that it takes). A refusal only leaves the pages where they are.
        drop(unsafe {
            self.bytes.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        });
    }

    /// Maps the pages of a range, and reads those that are not in memory yet: at once instead of some at each fault.
    fn populate(&self, range: &Range<usize>) {
        let at_once = self.bytes.advise_range(Advice::PopulateRead, range.start, range.len());
        if at_once.is_err() {
            // An older system, or a file that has lost bytes: then page by page, through the handler above.
            let bytes = self.bytes.get(range.clone()).unwrap_or_default();
            let touched = bytes.iter().step_by(PAGE).fold(0u8, |sum, byte| sum ^ byte);
            std::hint::black_box(touched);
        }
    }

    fn is_damaged(&self) -> bool {
        self.registration
            .as_ref()
            .is_some_and(|row| TABLE[row.0].is_damaged.load(Ordering::Acquire))
    }
}

/// Who keeps bytes alive.
#[derive(Debug, Clone)]
enum Owner {
    Map(Arc<Map>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
    Chunk(Arc<Chunk>),
}

/// A range of a mapped file, of the binary itself, or of memory of our own. Cheap to clone; keeps its owner alive.
#[derive(Debug, Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Map(map) => &map.bytes[..],
            Owner::Static(bytes) => bytes,
            Owner::Owned(bytes) => bytes,
            // SAFETY: frozen when these bytes were made, so nobody writes there.
            Owner::Chunk(chunk) => return unsafe { chunk.part(&self.range) },
        };
        all.get(self.range.clone()).unwrap_or_default()
    }
}

impl Bytes {
    /// Bytes of our own: tests and synthetic weights.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Owned(Arc::new(bytes)) }
    }

    /// Bytes inside the binary.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Static(bytes) }
    }

    /// A whole file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        Ok(Self { range: 0..map.bytes.len(), owner: Owner::Map(Arc::new(map)) })
    }

    /// The file they are mapped from; `None` for memory of our own.
    pub fn path(&self) -> Option<&Path> {
        match &self.owner {
            Owner::Map(map) => Some(&map.path),
            Owner::Static(_) | Owner::Owned(_) | Owner::Chunk(_) => None,
        }
    }

    /// Has mapped bytes in memory, ready to be read without a fault for every few pages.
    pub fn populate(&self) {
        if let Owner::Map(map) = &self.owner {
            map.populate(&self.range);
        }
    }

    /// Gives mapped pages back to the system once the bytes are copied; they can still be read.
    pub fn release(&self) {
        if let Owner::Map(map) = &self.owner {
            map.release(&self.range);
        }
    }

    /// A part, by offsets into these bytes; `None` when it is outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Self { owner: self.owner.clone(), range: start..end })
    }

    fn map(&self) -> Option<Arc<Map>> {
        match &self.owner {
            Owner::Map(map) => Some(Arc::clone(map)),
            _ => None,
        }
    }
}

/// Says whether mapped files are still whole. Cheap: one flag a file.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    maps: Vec<Arc<Map>>,
}

impl Watch {
    pub(super) fn over<'a>(files: impl Iterator<Item = &'a Bytes>) -> Self {
        Self { maps: files.filter_map(Bytes::map).collect() }
    }

    /// # Errors
    /// [`Error::Damaged`] naming the file that lost bytes under the map.
    pub fn check(&self) -> Result<()> {
        match self.maps.iter().find(|map| map.is_damaged()) {
            Some(map) => Err(Error::Damaged { path: map.path.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_truncated_under_its_map_is_reported_and_the_process_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7u8; 64 * 4096]).unwrap();
        let bytes = Bytes::open(&path).unwrap();
        let watch = Watch::over([&bytes].into_iter());
        assert_eq!(bytes[63 * 4096], 7);
        watch.check().unwrap();

        File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(bytes[40 * 4096], 0, "a lost page reads as zeros");
        assert_eq!(bytes[100], 7, "what is left is left");
        let error = watch.check().unwrap_err().to_string();
        assert!(error.contains("weights") && error.contains("truncated"), "{error}");
    }

    #[test]
    fn released_bytes_can_still_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let numbers: Vec<u8> = (0..5 * 4096).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &numbers).unwrap();
        let bytes = Bytes::open(&path).unwrap();
        for range in [0..numbers.len(), 5000..9000, 4096..8192, 7..7] {
            bytes.slice(range).unwrap().release();
            assert!(bytes[..] == numbers[..]);
        }
        Watch::over([&bytes].into_iter()).check().unwrap();
        Bytes::owned(vec![1, 2]).release();
    }

    #[test]
    fn populated_bytes_are_the_same_and_lost_ones_are_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let numbers: Vec<u8> = (0..5 * PAGE + 77).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &numbers).unwrap();
        let bytes = Bytes::open(&path).unwrap();
        for range in [0..numbers.len(), 5000..9000, 4096..8192, 7..7] {
            bytes.slice(range).unwrap().populate();
            assert!(bytes[..] == numbers[..]);
        }
        Bytes::owned(vec![1, 2]).populate();

        let watch = Watch::over([&bytes].into_iter());
        bytes.release();
        File::options().write(true).open(&path).unwrap().set_len(PAGE as u64).unwrap();
        bytes.populate();
        assert!(watch.check().is_err() && bytes[..PAGE] == numbers[..PAGE]);
        assert!(bytes[PAGE..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_row_of_the_table_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [1u8; 10]).unwrap();
        for _ in 0..2 * TABLE_LEN {
            assert!(Map::open(&path).unwrap().registration.is_some());
        }
    }

    #[test]
    fn an_empty_file_and_a_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, []).unwrap();
        assert!(Map::open(&path).unwrap_err().to_string().contains("empty"));
        assert!(Map::open(folder.path()).unwrap_err().to_string().contains("regular"));
        assert!(Map::open(&folder.path().join("nothing")).is_err());
    }

    #[test]
    fn a_slice_outside_is_none() {
        let bytes = Bytes::owned(vec![1, 2, 3, 4]).slice(1..3).unwrap();
        assert_eq!(&bytes[..], [2, 3]);
        assert!(bytes.slice(0..3).is_none() && bytes.slice(usize::MAX..usize::MAX).is_none());
    }
}
