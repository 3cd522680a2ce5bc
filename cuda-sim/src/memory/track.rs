//! Who touched which bytes last: the finder of races.
//!
//! Writers are kept for every byte. Readers are kept for every four bytes, the last two with the bytes they read: a write
//! is held against them. Of more than two readers only two are kept, of different warps where there are such: a race with
//! a forgotten one is missed; no race is ever made up.

use super::clock::Clocks;

/// One thread at its place.
#[derive(Debug)]
pub(crate) struct Actor<'a> {
    pub(crate) clocks: &'a Clocks,
    /// The block's number in its grid.
    pub(crate) block: u32,
    pub(crate) warp: usize,
    pub(crate) lane: usize,
    /// Whether races are looked for.
    pub(crate) races: bool,
}

/// How an access counts against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Atomic and volatile accesses: two of them are no race.
    Strong,
}

/// An access in one word: block 24 bits, thread 10, count of synchronisations 25, bytes 4, strong 1. Zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mark(u64);

impl Mark {
    fn new(who: &Actor<'_>, bytes: u64, kind: Kind) -> Self {
        let thread = (who.warp * 32 + who.lane) as u64;
        let time = u64::from(who.clocks.now(who.warp)) & 0x1ff_ffff;
        let strong = u64::from(kind == Kind::Strong);
        Self(
            u64::from(who.block & 0xff_ffff) << 40 | thread << 30 | time << 5 | bytes << 1 | strong,
        )
    }

    fn block(self) -> u32 {
        (self.0 >> 40) as u32
    }

    fn thread(self) -> usize {
        (self.0 >> 30 & 0x3ff) as usize
    }

    fn bytes(self) -> u64 {
        self.0 >> 1 & 0xf
    }

    /// Whether this earlier access and one that `who` does now have nothing between them.
    fn races(self, who: &Actor<'_>, kind: Kind) -> bool {
        if self.0 == 0 || self.0 & 1 == 1 && kind == Kind::Strong {
            return false;
        }
        if self.block() != who.block & 0xff_ffff {
            return true;
        }
        let (warp, lane) = (self.thread() / 32, self.thread() % 32);
        !who.clocks.ordered(warp, lane, (self.0 >> 5 & 0x1ff_ffff) as u32, who.warp, who.lane)
    }

    /// The same access whatever its bytes.
    fn is_of(self, other: Self) -> bool {
        self.0 >> 30 == other.0 >> 30
    }
}

/// The accesses to one range of bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    writers: Vec<Mark>,
    readers: Vec<[Mark; 2]>,
}

impl Track {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { writers: vec![Mark(0); bytes], readers: vec![[Mark(0); 2]; bytes.div_ceil(4)] }
    }

    pub(crate) fn reset(&mut self, bytes: usize) {
        self.writers.clear();
        self.writers.resize(bytes, Mark(0));
        self.readers.clear();
        self.readers.resize(bytes.div_ceil(4), [Mark(0); 2]);
    }

    /// A read of `len` bytes; words for the race where there is one.
    pub(crate) fn read(
        &mut self,
        at: usize,
        len: usize,
        who: &Actor<'_>,
        kind: Kind,
    ) -> Result<(), String> {
        let mut last = Mark(0);
        for writer in &self.writers[at..at + len] {
            if *writer != last {
                last = *writer;
                if last.races(who, kind) {
                    return Err(describe("read", "written", last, who));
                }
            }
        }
        for word in at / 4..(at + len).div_ceil(4) {
            let mark = Mark::new(who, covered(word, at, len), kind);
            let [newest, other] = &mut self.readers[word];
            if *newest == mark {
                continue;
            }
            if newest.is_of(mark) {
                *newest = Mark(mark.0 | newest.bytes() << 1);
                continue;
            }
            // The one of another warp is the one worth keeping.
            let own_warp = |m: &Mark| m.thread() / 32 == who.warp && m.block() == mark.block();
            if !own_warp(newest) || own_warp(other) {
                *other = *newest;
            }
            *newest = mark;
        }
        Ok(())
    }

    /// A write of `len` bytes. Two lanes of one instruction that write the same value are no race: `same` says that the
    /// bytes already hold it.
    pub(crate) fn write(
        &mut self,
        at: usize,
        len: usize,
        who: &Actor<'_>,
        kind: Kind,
        same: bool,
    ) -> Result<(), String> {
        let now = Mark::new(who, 0xf, kind);
        let mut last = Mark(0);
        for writer in &self.writers[at..at + len] {
            if *writer != last {
                last = *writer;
                let one_step =
                    last.0 >> 35 == now.0 >> 35 && last.0 & 0x3fff_ffff == now.0 & 0x3fff_ffff;
                if last.races(who, kind) && !(same && one_step) {
                    return Err(describe("written", "written", last, who));
                }
            }
        }
        for word in at / 4..(at + len).div_ceil(4) {
            let bytes = covered(word, at, len);
            for reader in self.readers[word] {
                if reader.bytes() & bytes != 0 && reader.races(who, kind) {
                    return Err(describe("written", "read", reader, who));
                }
            }
        }
        self.writers[at..at + len].fill(now);
        Ok(())
    }
}

/// Which of a word's four bytes a range covers.
fn covered(word: usize, at: usize, len: usize) -> u64 {
    let (from, to) = (at.saturating_sub(word * 4), (at + len - word * 4).min(4));
    (0xf << from) & 0xf & (0xf >> (4 - to))
}

fn describe(now: &str, before: &str, mark: Mark, who: &Actor<'_>) -> String {
    let place = if mark.block() == who.block & 0xff_ffff {
        format!("thread {} of the same block", mark.thread())
    } else {
        format!("thread {} of block {}", mark.thread(), mark.block())
    };
    format!("{now} here, {before} by {place}, and nothing orders the two")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(clocks: &Clocks, warp: usize, lane: usize) -> Actor<'_> {
        Actor { clocks, block: 0, warp, lane, races: true }
    }

    fn clocks() -> Clocks {
        let mut clocks = Clocks::default();
        clocks.reset(2);
        clocks
    }

    #[test]
    fn unordered_accesses_race_when_one_writes() {
        let mut clocks = clocks();
        let mut track = Track::new(16);
        track.read(0, 4, &actor(&clocks, 0, 0), Kind::Plain).unwrap();
        track.read(0, 4, &actor(&clocks, 1, 0), Kind::Plain).unwrap();
        assert!(track.write(0, 4, &actor(&clocks, 0, 0), Kind::Plain, false).is_err());
        clocks.sync_warps(&[0, 1], &[]);
        track.write(0, 4, &actor(&clocks, 0, 0), Kind::Plain, false).unwrap();
        assert!(track.read(3, 1, &actor(&clocks, 1, 3), Kind::Plain).is_err());
        track.read(4, 4, &actor(&clocks, 1, 3), Kind::Plain).unwrap();
    }

    #[test]
    fn neighbours_in_one_word_do_not_race() {
        let clocks = clocks();
        let mut track = Track::new(16);
        for lane in 0..4 {
            let who = actor(&clocks, 0, lane);
            track.read(lane, 1, &who, Kind::Plain).unwrap();
            track.write(lane, 1, &who, Kind::Plain, false).unwrap();
        }
        assert!(track.write(3, 1, &actor(&clocks, 0, 0), Kind::Plain, false).is_err());
    }

    #[test]
    fn strong_accesses_race_only_with_plain_ones() {
        let clocks = clocks();
        let mut track = Track::new(16);
        track.write(0, 4, &actor(&clocks, 0, 0), Kind::Strong, false).unwrap();
        track.write(0, 4, &actor(&clocks, 1, 0), Kind::Strong, false).unwrap();
        assert!(track.read(0, 4, &actor(&clocks, 0, 0), Kind::Plain).is_err());
    }

    #[test]
    fn blocks_are_never_ordered() {
        let clocks = clocks();
        let mut track = Track::new(16);
        track.write(0, 4, &actor(&clocks, 0, 0), Kind::Plain, false).unwrap();
        let other = Actor { block: 7, ..actor(&clocks, 0, 0) };
        assert!(track.read(0, 4, &other, Kind::Plain).unwrap_err().contains("block 0"));
    }
}
