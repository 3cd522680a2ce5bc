//! What a launch did, in numbers that a card's profiler would show too.

use crate::ptx::instr::{CLASSES, Class};

/// Counts of one launch, or of many added up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Launches in these counts.
    pub launches: u64,
    /// Blocks that ran.
    pub blocks: u64,
    /// Warp instructions by class.
    classes: [u64; CLASSES],
    /// Lane instructions: active lanes over all warp instructions.
    pub lane_instructions: u64,
    /// Bytes that lanes asked global memory for.
    pub global_read_bytes: u64,
    /// Bytes that lanes wrote to global memory.
    pub global_write_bytes: u64,
    /// Sectors of 32 bytes that reads touched, request by request.
    pub global_read_sectors: u64,
    /// The least sectors that could hold the bytes of the same requests.
    pub global_read_sectors_ideal: u64,
    /// Sectors of writes.
    pub global_write_sectors: u64,
    /// The least sectors of the same writes.
    pub global_write_sectors_ideal: u64,
    /// Passes over the banks that shared-memory requests took.
    pub shared_wavefronts: u64,
    /// Passes they would take without conflicts.
    pub shared_wavefronts_ideal: u64,
    /// Bytes read from or written to local memory.
    pub local_bytes: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
}

impl Counters {
    /// The counts of a launch that begins.
    pub(crate) fn launch() -> Self {
        Self { launches: 1, ..Self::default() }
    }

    /// Warp instructions of a class.
    pub fn instructions(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }

    /// Warp instructions of all classes.
    pub fn instructions_total(&self) -> u64 {
        self.classes.iter().sum()
    }

    pub(crate) fn instruction(&mut self, class: Class, lanes: u32) {
        self.classes[class as usize] += 1;
        self.lane_instructions += u64::from(lanes);
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(sum, n)| *sum += n);
        for (sum, n) in self.numbers_mut().into_iter().zip(other.clone().numbers_mut()) {
            *sum += *n;
        }
    }

    fn numbers_mut(&mut self) -> [&mut u64; 13] {
        [
            &mut self.launches,
            &mut self.blocks,
            &mut self.lane_instructions,
            &mut self.global_read_bytes,
            &mut self.global_write_bytes,
            &mut self.global_read_sectors,
            &mut self.global_read_sectors_ideal,
            &mut self.global_write_sectors,
            &mut self.global_write_sectors_ideal,
            &mut self.shared_wavefronts,
            &mut self.shared_wavefronts_ideal,
            &mut self.local_bytes,
            &mut self.barriers,
        ]
    }

    /// One request to global memory: `bytes` at each address.
    pub(crate) fn global(&mut self, addresses: &[u64], bytes: u64, write: bool) {
        let mut ranges: Vec<u64> = addresses.to_vec();
        if !ranges.is_sorted() {
            ranges.sort_unstable();
        }
        let (mut sectors, mut distinct, mut end, mut sector_end) = (0, 0, 0, 0);
        for at in ranges {
            let to = at + bytes;
            distinct += to.saturating_sub(at.max(end));
            end = end.max(to);
            let (first, last) = (at / 32, (to - 1) / 32 + 1);
            sectors += last.saturating_sub(first.max(sector_end));
            sector_end = sector_end.max(last);
        }
        let (total, ideal) = (bytes * addresses.len() as u64, u64::div_ceil(distinct, 32));
        if write {
            self.global_write_bytes += total;
            self.global_write_sectors += sectors;
            self.global_write_sectors_ideal += ideal;
        } else {
            self.global_read_bytes += total;
            self.global_read_sectors += sectors;
            self.global_read_sectors_ideal += ideal;
        }
    }

    /// One request to shared memory. Banks are 4 bytes wide; wide accesses go in phases of 16 or 8 lanes, which lanes
    /// (by `phase`) share.
    pub(crate) fn shared(&mut self, addresses: &[(usize, u32)], bytes: u32) {
        let per_phase = match bytes {
            0..=4 => 32,
            5..=8 => 16,
            _ => 8,
        };
        let mut at = 0;
        while at < addresses.len() {
            let phase = addresses[at].0 / per_phase;
            let until = addresses[at..].iter().position(|(lane, _)| lane / per_phase != phase);
            let end = until.map_or(addresses.len(), |n| at + n);
            self.shared_wavefronts += passes(&addresses[at..end], bytes);
            self.shared_wavefronts_ideal += 1;
            at = end;
        }
    }
}

/// The most different words that one bank has to give.
fn passes(addresses: &[(usize, u32)], bytes: u32) -> u64 {
    let mut words: [[u32; 8]; 32] = [[u32::MAX; 8]; 32];
    let mut counts = [0usize; 32];
    let mut most = 0;
    for (_, address) in addresses {
        for word in address / 4..(address + bytes).div_ceil(4) {
            let bank = (word % 32) as usize;
            let known = &mut words[bank];
            let n = counts[bank];
            if known[..n.min(8)].contains(&word) {
                continue;
            }
            // Beyond eight words of a bank a repetition may be counted twice; it is a bad pattern either way.
            if let Some(slot) = known.get_mut(n) {
                *slot = word;
            }
            counts[bank] = n + 1;
            most = most.max(n + 1);
        }
    }
    most.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_follow_the_addresses() {
        let mut counters = Counters::default();
        let dense: Vec<u64> = (0..32).map(|lane| 0x1000 + lane * 4).collect();
        counters.global(&dense, 4, false);
        assert_eq!((counters.global_read_sectors, counters.global_read_sectors_ideal), (4, 4));
        let strided: Vec<u64> = (0..32).map(|lane| 0x1000 + lane * 64).collect();
        counters.global(&strided, 4, true);
        assert_eq!((counters.global_write_sectors, counters.global_write_sectors_ideal), (32, 4));
        let same = [0x1000; 32];
        counters.global(&same, 4, false);
        assert_eq!((counters.global_read_sectors, counters.global_read_sectors_ideal), (5, 5));
    }

    #[test]
    fn wavefronts_are_a_banks_different_words() {
        let request = |stride: u32, bytes: u32| {
            let mut counters = Counters::default();
            let addresses: Vec<(usize, u32)> =
                (0..32).map(|lane| (lane, 1024 + lane as u32 * stride)).collect();
            counters.shared(&addresses, bytes);
            (counters.shared_wavefronts, counters.shared_wavefronts_ideal)
        };
        assert_eq!(request(4, 4), (1, 1));
        assert_eq!(request(0, 4), (1, 1));
        assert_eq!(request(8, 4), (2, 1));
        assert_eq!(request(128, 4), (32, 1));
        assert_eq!(request(8, 8), (2, 2));
        assert_eq!(request(16, 16), (4, 4));
        assert_eq!(request(128, 16), (32, 4));
    }
}
