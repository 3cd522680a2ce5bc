//! What the fuzz targets share: a folder in memory that holds the file under test, and an allocator that knows the
//! peak. Every target holds its parser to three things: it returns, it does not panic, and it takes no more memory
//! than the input's own size allows.

use std::path::{Path, PathBuf};

use hadal_engine::checkpoint::{Checkpoint, Source};

/// Archives for the pickle under test.
#[path = "../../tests/archive.rs"]
pub mod archive;
#[path = "../../tests/counting.rs"]
mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Heap that reading `input_bytes` of untrusted data may take. A JSON value of two characters takes some 70 bytes as a
/// tree, maps double while they grow, and names are kept beside it; the rest is what reading takes at all.
const BYTES_PER_BYTE: usize = 200;
const BYTES_AT_LEAST: usize = 1 << 20;

/// Runs `work` and holds its peak of memory to the input's size and `extra`, which a target's fixed parts take.
///
/// # Panics
/// When it took more: that is the finding.
pub fn bounded<T>(input_bytes: usize, extra: usize, work: impl FnOnce() -> T) -> T {
    let (result, taken) = counting::peak(work);
    let allowed = input_bytes * BYTES_PER_BYTE + BYTES_AT_LEAST + extra;
    assert!(taken <= allowed, "{input_bytes} bytes of input took {taken}, allowed {allowed}");
    result
}

/// A folder for this process's files, in memory where the system has such a place.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes an empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        let shared = Path::new("/dev/shm");
        let root = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = root.join(format!("hadal-fuzz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the files under test");
        Self(path)
    }

    /// Writes a file into it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        std::fs::write(self.0.join(name), bytes).expect("a file under test");
        self
    }

    /// Makes a file longer with zeros that take no room.
    ///
    /// # Panics
    /// When it cannot be made longer.
    pub fn extend(&self, name: &str, bytes: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.0.join(name));
        file.and_then(|file| file.set_len(bytes)).expect("a longer file");
    }

    /// Opens the folder as a checkpoint and reads what it lists.
    pub fn open(&self) {
        read(&Source::Directory(self.0.clone()));
    }

    /// Opens a file of it that is a model by itself, and its text.
    pub fn open_file(&self, name: &str) {
        read(&Source::File(self.0.join(name)));
    }
}

/// Opens a checkpoint and looks at every tensor, as a load does.
fn read(source: &Source) {
    match Checkpoint::open(source) {
        Ok(checkpoint) => {
            let names: Vec<String> = checkpoint.stored().map(|(name, _)| name.to_owned()).collect();
            for name in names {
                let tensor = checkpoint.tensor(&name).expect("what `open` checked is there");
                assert!(!tensor.bytes.is_empty(), "{name} is empty");
            }
        }
        // A refusal has words, and they are no longer than a person reads.
        Err(error) => assert!(error.to_string().len() < 100_000, "an endless message"),
    }
}
