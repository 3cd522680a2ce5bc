//! What orders the threads of a block: barriers for all, `bar.warp.sync` for the lanes of a warp.
//!
//! Every warp counts its synchronisations. Each warp knows up to which count it has seen every other warp (vector clocks),
//! and each lane the same of the lanes beside it. Shuffles and votes order no memory, as the manual says, and do not count.

/// Lanes of a warp.
const LANES: usize = 32;

/// The clocks of one block.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    warps: usize,
    now: Vec<u32>,
    /// `[warp, other]`: all that `other` did before this count happened before what `warp` does now.
    seen: Vec<u32>,
    /// `[warp, lane, other lane]`.
    lanes: Vec<u32>,
}

impl Clocks {
    /// A block's start: nothing is ordered, every count is 1.
    pub(crate) fn reset(&mut self, warps: usize) {
        self.warps = warps;
        self.now.clear();
        self.now.resize(warps, 1);
        self.seen.clear();
        self.seen.resize(warps * warps, 0);
        self.lanes.clear();
        self.lanes.resize(warps * LANES * LANES, 0);
    }

    pub(crate) fn now(&self, warp: usize) -> u32 {
        self.now[warp]
    }

    /// Whether what `(warp, lane)` did at `time` happened before what `(to_warp, to_lane)` does now.
    pub(crate) fn ordered(
        &self,
        warp: usize,
        lane: usize,
        time: u32,
        to_warp: usize,
        to_lane: usize,
    ) -> bool {
        if warp == to_warp {
            lane == to_lane || self.lanes[(warp * LANES + to_lane) * LANES + lane] > time
        } else {
            self.seen[to_warp * self.warps + warp] > time
        }
    }

    /// `bar.warp.sync` over the lanes of a mask.
    pub(crate) fn sync_lanes(&mut self, warp: usize, mask: u32) {
        self.now[warp] += 1;
        let now = self.now[warp];
        let lanes = &mut self.lanes[warp * LANES * LANES..(warp + 1) * LANES * LANES];
        if mask == u32::MAX {
            lanes.fill(now);
            return;
        }
        let member = |lane: usize| mask >> lane & 1 == 1;
        let mut known = [0; LANES];
        for lane in (0..LANES).filter(|lane| member(*lane)) {
            for (other, known) in known.iter_mut().enumerate() {
                *known = (*known).max(lanes[lane * LANES + other]);
            }
        }
        for (other, known) in known.iter_mut().enumerate() {
            if member(other) {
                *known = now;
            }
        }
        for lane in (0..LANES).filter(|lane| member(*lane)) {
            lanes[lane * LANES..(lane + 1) * LANES].copy_from_slice(&known);
        }
    }

    /// A barrier: those who wait see all that those who came have done. Who only arrives sees nothing.
    pub(crate) fn sync_warps(&mut self, waiting: &[usize], arrived: &[usize]) {
        let mut known = vec![0; self.warps];
        for &warp in waiting.iter().chain(arrived) {
            self.now[warp] += 1;
            for (known, seen) in known.iter_mut().zip(&self.seen[warp * self.warps..]) {
                *known = (*known).max(*seen);
            }
        }
        for &warp in waiting.iter().chain(arrived) {
            known[warp] = self.now[warp];
        }
        for &warp in waiting {
            self.seen[warp * self.warps..(warp + 1) * self.warps].copy_from_slice(&known);
            let now = self.now[warp];
            self.lanes[warp * LANES * LANES..(warp + 1) * LANES * LANES].fill(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_orders_those_who_wait_and_not_those_who_only_arrive() {
        let mut clocks = Clocks::default();
        clocks.reset(3);
        let time = clocks.now(0);
        assert!(!clocks.ordered(0, 5, time, 1, 5));
        clocks.sync_warps(&[1], &[0]);
        assert!(clocks.ordered(0, 5, time, 1, 9));
        assert!(!clocks.ordered(1, 0, 1, 0, 0));
        assert!(!clocks.ordered(0, 5, clocks.now(0), 1, 9));
        // What warp 1 has seen, warp 2 sees through it.
        clocks.sync_warps(&[1, 2], &[]);
        assert!(clocks.ordered(0, 5, time, 2, 0));
    }

    #[test]
    fn a_warps_sync_orders_its_members_alone() {
        let mut clocks = Clocks::default();
        clocks.reset(1);
        let time = clocks.now(0);
        clocks.sync_lanes(0, 0b11);
        assert!(clocks.ordered(0, 0, time, 0, 1));
        assert!(!clocks.ordered(0, 0, time, 0, 2));
        clocks.sync_lanes(0, 0b110);
        assert!(clocks.ordered(0, 0, time, 0, 2));
        assert!(!clocks.ordered(0, 2, time, 0, 0));
    }
}
