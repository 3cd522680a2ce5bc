//! Device memory and its shadow: where every byte belongs, whether it was written, and who touched it last.
//!
//! Addresses are never given out twice, and every allocation is followed by a gap: an access past an end, or to memory that
//! was given back, finds no allocation and can say which one it missed.

pub(crate) mod clock;
pub(crate) mod shared;
pub(crate) mod track;

use std::collections::HashMap;

use crate::fault::{Error, FaultKind, Result};
use track::{Actor, Kind, Track};

/// Generic addresses of shared memory: offset from here.
pub(crate) const SHARED_WINDOW: u64 = 0x1000_0000_0000;
/// Generic addresses of local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x2000_0000_0000;
/// Generic addresses of parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x3000_0000_0000;
/// Bytes of each window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
/// What an allocation's address is a multiple of, as the driver promises 256.
const ALIGN: u64 = 512;
/// Bytes behind every allocation that belong to nobody.
const GAP: u64 = 1 << 16;
/// What fresh memory holds: NaN as f32, f16 and bf16. Large allocations hold zeros, which the host's own pages give without
/// being touched: a cache that is sized from the card's memory costs what is used of it.
const FRESH: u8 = 0xff;
const FRESH_BYTES_MAX: u64 = 64 << 20;
/// Bytes whose accesses are tracked together: pages appear where a kernel touches.
const PAGE: usize = 1024;

/// A finding without its place: the thread is the caller's to add.
pub(crate) type Finding<T> = std::result::Result<T, (FaultKind, String)>;

/// The memory of one card.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In order of their addresses.
    allocations: Vec<Allocation>,
    next: u64,
    capacity: u64,
    used: u64,
    /// Where the last access was: the next one is mostly there too.
    last: usize,
    /// Numbers launches: tracks of an earlier one are void.
    launch: u64,
}

#[derive(Debug)]
struct Allocation {
    base: u64,
    bytes: Vec<u8>,
    written: Vec<bool>,
    size: u64,
    freed: bool,
    pages: HashMap<usize, (u64, Track)>,
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { allocations: Vec::new(), next: FIRST_ADDRESS, capacity, used: 0, last: 0, launch: 0 }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.capacity - self.used
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Allocations that nobody gave back: their number and bytes.
    pub(crate) fn live(&self) -> (usize, u64) {
        let live = self.allocations.iter().filter(|a| !a.freed);
        live.fold((0, 0), |(n, bytes), a| (n + 1, bytes + a.size))
    }

    pub(crate) fn alloc(&mut self, size: u64) -> Result<u64> {
        let free = self.free_bytes();
        if size == 0 {
            return Err(Error::Invalid("an allocation of 0 bytes".into()));
        }
        if size > free {
            return Err(Error::OutOfMemory { wanted: size, free });
        }
        let len = size as usize;
        let allocation = Allocation {
            base: self.next,
            bytes: if size <= FRESH_BYTES_MAX { vec![FRESH; len] } else { vec![0; len] },
            written: vec![false; len],
            size,
            freed: false,
            pages: HashMap::new(),
        };
        self.used += size;
        self.next = (self.next + size + GAP).next_multiple_of(ALIGN);
        self.allocations.push(allocation);
        Ok(self.allocations[self.allocations.len() - 1].base)
    }

    /// Gives an allocation back. Only its address and size are kept, for those who use it still.
    pub(crate) fn free(&mut self, address: u64) -> Result<()> {
        let found = self.allocations.binary_search_by_key(&address, |a| a.base).ok();
        let allocation = found.and_then(|at| self.allocations.get_mut(at)).filter(|a| !a.freed);
        let Some(allocation) = allocation else {
            return Err(Error::Invalid(format!(
                "{address:#x} is given back and is no live allocation"
            )));
        };
        allocation.freed = true;
        self.used -= allocation.size;
        (allocation.bytes, allocation.written) = (Vec::new(), Vec::new());
        allocation.pages = HashMap::new();
        Ok(())
    }

    /// Starts a launch: what earlier ones touched orders nothing any more.
    pub(crate) fn begin_launch(&mut self) {
        self.launch += 1;
    }

    /// Frees what the tracks of the last launch take.
    pub(crate) fn end_launch(&mut self) {
        for allocation in &mut self.allocations {
            allocation.pages = HashMap::new();
        }
    }

    /// The allocation that holds a range, and the range's start in it.
    fn find(&mut self, address: u64, len: u64) -> Finding<(usize, usize)> {
        let inside = |a: &Allocation| {
            let offset = address.wrapping_sub(a.base);
            let fits = offset < a.size && len <= a.size - offset && !a.freed;
            fits.then_some(offset as usize)
        };
        if let Some(offset) = self.allocations.get(self.last).and_then(inside) {
            return Ok((self.last, offset));
        }
        let at = self.allocations.partition_point(|a| a.base <= address).checked_sub(1);
        let Some(at) = at else {
            return Err((
                FaultKind::OutOfBounds,
                format!("address {address:#x} is below all allocations"),
            ));
        };
        match inside(&self.allocations[at]) {
            Some(offset) => {
                self.last = at;
                Ok((at, offset))
            }
            None => Err(self.missed(at, address, len)),
        }
    }

    /// Words for an access that no allocation holds; `at` is the nearest one below it.
    fn missed(&self, at: usize, address: u64, len: u64) -> (FaultKind, String) {
        let a = &self.allocations[at];
        let offset = address - a.base;
        if a.freed && offset < a.size {
            let what = format!(
                "byte {offset} of allocation {at} of {} bytes, which was given back",
                a.size
            );
            return (FaultKind::UseAfterFree, what);
        }
        let what = format!(
            "{len} bytes at {address:#x}: {} bytes past the end of allocation {at} of {} bytes",
            (offset + len).saturating_sub(a.size),
            a.size
        );
        (FaultKind::OutOfBounds, what)
    }

    /// Bytes for the host, with no look at whether they were written.
    pub(crate) fn read(&mut self, address: u64, into: &mut [u8]) -> Finding<()> {
        if !into.is_empty() {
            let (at, offset) = self.find(address, into.len() as u64)?;
            into.copy_from_slice(&self.allocations[at].bytes[offset..offset + into.len()]);
        }
        Ok(())
    }

    /// Bytes from the host.
    pub(crate) fn write(&mut self, address: u64, from: &[u8]) -> Finding<()> {
        if !from.is_empty() {
            let (at, offset) = self.find(address, from.len() as u64)?;
            let a = &mut self.allocations[at];
            a.bytes[offset..offset + from.len()].copy_from_slice(from);
            a.written[offset..offset + from.len()].fill(true);
        }
        Ok(())
    }

    /// A pattern over a range: `value` repeated.
    pub(crate) fn fill(&mut self, address: u64, value: &[u8], count: u64) -> Finding<()> {
        let bytes = (value.len() as u64).saturating_mul(count);
        if bytes == 0 {
            return Ok(());
        }
        let (at, offset) = self.find(address, bytes)?;
        let a = &mut self.allocations[at];
        let range = offset..offset + bytes as usize;
        a.bytes[range.clone()]
            .chunks_exact_mut(value.len())
            .for_each(|chunk| chunk.copy_from_slice(value));
        a.written[range].fill(true);
        Ok(())
    }

    /// Bytes from device to device: what was not written stays so.
    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Finding<()> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, start) = self.find(from, bytes)?;
        let range = start..start + bytes as usize;
        let data = self.allocations[source].bytes[range.clone()].to_vec();
        let written = self.allocations[source].written[range].to_vec();
        let (at, offset) = self.find(to, bytes)?;
        let a = &mut self.allocations[at];
        a.bytes[offset..offset + data.len()].copy_from_slice(&data);
        a.written[offset..offset + data.len()].copy_from_slice(&written);
        Ok(())
    }

    /// A kernel's read. `races` is off where a caller has chosen speed.
    pub(crate) fn load(
        &mut self,
        address: u64,
        into: &mut [u8],
        who: &Actor<'_>,
        kind: Kind,
    ) -> Finding<()> {
        let (at, offset) = self.find(address, into.len() as u64)?;
        let launch = self.launch;
        let a = &mut self.allocations[at];
        let range = offset..offset + into.len();
        if !a.written[range.clone()].iter().all(|w| *w) {
            let first = a.written[range].iter().position(|w| !w).unwrap_or(0);
            let what = format!("byte {} of allocation {at} of {} bytes", offset + first, a.size);
            return Err((FaultKind::Uninitialised, what));
        }
        into.copy_from_slice(&a.bytes[range]);
        if who.races {
            a.track(offset, launch)
                .read(offset % PAGE, into.len(), who, kind)
                .map_err(|what| a.race(offset, what))?;
        }
        Ok(())
    }

    /// A read that takes what was never written along: an asynchronous copy's.
    pub(crate) fn load_any(
        &mut self,
        address: u64,
        into: &mut [u8],
        written: &mut [bool],
        who: &Actor<'_>,
    ) -> Finding<()> {
        let (at, offset) = self.find(address, into.len() as u64)?;
        let launch = self.launch;
        let a = &mut self.allocations[at];
        into.copy_from_slice(&a.bytes[offset..offset + into.len()]);
        written.copy_from_slice(&a.written[offset..offset + into.len()]);
        if who.races {
            let track = a.track(offset, launch);
            track
                .read(offset % PAGE, into.len(), who, Kind::Plain)
                .map_err(|what| a.race(offset, what))?;
        }
        Ok(())
    }

    /// A kernel's write.
    pub(crate) fn store(
        &mut self,
        address: u64,
        from: &[u8],
        who: &Actor<'_>,
        kind: Kind,
    ) -> Finding<()> {
        let (at, offset) = self.find(address, from.len() as u64)?;
        let launch = self.launch;
        let a = &mut self.allocations[at];
        let range = offset..offset + from.len();
        if who.races {
            let same = a.bytes[range.clone()] == *from;
            let track = a.track(offset, launch);
            track
                .write(offset % PAGE, from.len(), who, kind, same)
                .map_err(|what| a.race(offset, what))?;
        }
        a.bytes[range.clone()].copy_from_slice(from);
        a.written[range].fill(true);
        Ok(())
    }
}

impl Allocation {
    fn track(&mut self, offset: usize, launch: u64) -> &mut Track {
        let page = self.pages.entry(offset / PAGE).or_insert_with(|| (launch, Track::new(PAGE)));
        if page.0 != launch {
            *page = (launch, Track::new(PAGE));
        }
        &mut page.1
    }

    fn race(&self, offset: usize, what: String) -> (FaultKind, String) {
        (FaultKind::Race, format!("global memory, byte {offset} of {} bytes: {what}", self.size))
    }
}
