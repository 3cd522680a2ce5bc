//! A card as the driver keeps it: its context's streams, events, modules and graphs.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::Config;
use super::graph::{Capture, Node};
use super::queue::Queued;
use crate::Counters;
use crate::device::{Device, Function, Loaded};
use crate::profile::Profile;

/// Handles are numbers that no two things share, far from small integers and from addresses.
static NEXT_HANDLE: AtomicU64 = AtomicU64::new(0x5100_0000_0000);

pub(crate) fn handle() -> u64 {
    NEXT_HANDLE.fetch_add(16, Ordering::Relaxed)
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) queue: VecDeque<Queued>,
    /// Keeps the order of calls with the null stream.
    pub(crate) blocking: bool,
    /// Commands that were ever put in, and that have run.
    pub(crate) issued: u64,
    pub(crate) done: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Event {
    /// How often it was recorded, and which of these have happened.
    pub(crate) issued: u64,
    pub(crate) done: u64,
    /// The command count when it happened: the only clock there is.
    pub(crate) at: u64,
    /// Given back while something waits for it: it is kept until it has happened.
    pub(crate) destroyed: bool,
    /// The nodes it stands for, where it was recorded in a capture that began on this stream.
    pub(crate) captured: Option<(u64, Vec<usize>)>,
}

/// A card.
pub(crate) struct Card {
    pub(crate) device: Device,
    pub(crate) config: Config,
    /// How often the primary context is held.
    pub(crate) retained: u32,
    /// The code of a fault, which every call gives from then on.
    pub(crate) failed: Option<u32>,
    pub(crate) message: String,
    /// Stream 0 is the null stream.
    pub(crate) streams: HashMap<u64, Stream>,
    pub(crate) events: HashMap<u64, Event>,
    pub(crate) modules: HashMap<u64, Loaded>,
    /// Functions, and the module each is of.
    pub(crate) functions: HashMap<u64, (u64, Function)>,
    pub(crate) captures: Vec<Capture>,
    pub(crate) graphs: HashMap<u64, Arc<Vec<Node>>>,
    pub(crate) executables: HashMap<u64, Arc<Vec<Node>>>,
    /// Pinned host memory, by address.
    pub(crate) pinned: BTreeMap<usize, Vec<u64>>,
    /// Pinned memory that was given back, whose address has not been given out again.
    pub(crate) unpinned: HashSet<usize>,
    pub(crate) counters: BTreeMap<String, Counters>,
    pub(crate) n_allocs: u64,
    pub(crate) n_launches: u64,
    pub(crate) n_graph_launches: u64,
    pub(crate) n_commands: u64,
    random: u64,
}

impl Card {
    pub(crate) fn new(profile: &'static Profile, config: &Config) -> Self {
        let bytes = config.memory.unwrap_or(profile.memory_bytes);
        let mut device = Device::with_memory(profile, bytes);
        device.checks.races = config.races;
        let null = Stream { blocking: true, ..Stream::default() };
        Self {
            device,
            config: config.clone(),
            retained: 0,
            failed: None,
            message: String::new(),
            streams: HashMap::from([(0, null)]),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: Vec::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            pinned: BTreeMap::new(),
            unpinned: HashSet::new(),
            counters: BTreeMap::new(),
            n_allocs: 0,
            n_launches: 0,
            n_graph_launches: 0,
            n_commands: 0,
            random: config.seed,
        }
    }

    /// The next number of the seed's sequence: a counter through a mixer, so that near seeds differ at once.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Takes device memory, unless the configuration makes this one fail.
    pub(crate) fn alloc(&mut self, bytes: u64) -> Result<u64, u32> {
        use super::code;
        self.n_allocs += 1;
        if self.config.fail_alloc == Some(self.n_allocs) {
            self.message = format!("allocation {} fails, as the configuration asks", self.n_allocs);
            return Err(code::OUT_OF_MEMORY);
        }
        self.device.alloc(bytes).map_err(|error| {
            self.message = error.to_string();
            if bytes == 0 { code::INVALID_VALUE } else { code::OUT_OF_MEMORY }
        })
    }

    /// A call that no capture bears: all captures are void from now on.
    pub(crate) fn capture_breaks(&mut self, code: u32) -> u32 {
        self.captures.iter_mut().for_each(|capture| capture.invalid = true);
        self.message = "a call that is not allowed while a stream is being captured".into();
        code
    }

    /// Refuses what waits, allocates or loads while a capture goes on.
    pub(crate) fn outside_capture(&mut self) -> super::Outcome {
        if self.captures.iter().any(|capture| !capture.relaxed) {
            return Err(self.capture_breaks(super::code::CAPTURE_UNSUPPORTED));
        }
        Ok(())
    }

    /// The pinned range that holds an address range.
    pub(crate) fn is_pinned(&self, address: usize, len: usize) -> bool {
        let below = self.pinned.range(..=address).next_back();
        below.is_some_and(|(start, words)| address + len <= start + words.len() * 8)
    }
}
