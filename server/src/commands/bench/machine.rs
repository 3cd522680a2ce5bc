//! What this machine gives: how fast memory is read, how fast numbers are multiplied, and how much memory this process
//! used.
//!
//! Rates are work over each thread's own processor time, added up over the threads: on a machine that does nothing else
//! the same as on the wall, and on a busy one still what the machine can do.

use std::sync::Barrier;
use std::time::Duration;

use hadal_engine::backend::cpu::peak::{Arithmetic, Memory, Pages};

use super::clock::thread_time;
use super::spread::Spread;

/// Big enough that no cache holds it, small enough for a laptop.
const MEMORY_BYTES: usize = 512 << 20;

/// The least that one thread reads, however many there are.
const PART_BYTES: usize = 64 << 20;

/// Processor time of one sample.
const SAMPLE: Duration = Duration::from_millis(80);

/// Times around an arithmetic loop between two looks at the clock: some hundred microseconds.
const ROUNDS: usize = 20_000;

/// What some threads can do at most.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Bytes a second, through 4 KiB pages.
    pub(super) small_pages: Spread,
    /// The same through 2 MiB pages.
    pub(super) huge_pages: Spread,
    /// Operations a second of each instruction that the processor has.
    pub(super) arithmetic: Vec<(Arithmetic, Spread)>,
}

impl Machine {
    /// Measures `threads` threads at once, `runs` times.
    pub(super) fn measure(threads: usize, runs: u32) -> Self {
        let has = |arithmetic: &Arithmetic| arithmetic.work(1).is_some();
        let peak = |arithmetic: Arithmetic| {
            (arithmetic, rate(threads, runs, |_| arithmetic.work(ROUNDS).unwrap_or(0)))
        };
        Self {
            small_pages: bandwidth(threads, runs, Pages::Small),
            huge_pages: bandwidth(threads, runs, Pages::Huge),
            arithmetic: Arithmetic::ALL.into_iter().filter(has).map(peak).collect(),
        }
    }

    /// The peak of an instruction, as a median.
    pub(super) fn peak(&self, arithmetic: Arithmetic) -> Option<f64> {
        let found = self.arithmetic.iter().find(|(it, _)| *it == arithmetic)?;
        Some(found.1.median)
    }
}

/// Bytes a second with which `threads` threads read memory at best, each its own part.
pub(crate) fn read_bandwidth(threads: usize, runs: u32) -> Spread {
    bandwidth(threads, runs, Pages::Huge)
}

fn bandwidth(threads: usize, runs: u32, pages: Pages) -> Spread {
    let bytes = MEMORY_BYTES.max(threads.saturating_mul(PART_BYTES));
    let memory = Memory::new(bytes, pages);
    rate(threads, runs, |thread| memory.read(thread, threads))
}

/// Work a second of `threads` threads at once; `work(thread)` does some and says how much. The first sample warms up
/// and is not counted.
fn rate(threads: usize, runs: u32, work: impl Fn(usize) -> u64 + Sync) -> Spread {
    let sample = || -> f64 {
        let (work, together) = (&work, Barrier::new(threads));
        std::thread::scope(|scope| {
            let begin = |thread| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    one_thread(|| work(thread))
                })
            };
            let running: Vec<_> = (0..threads).map(begin).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).sum()
        })
    };
    sample();
    Spread::of(&(0..runs).map(|_| sample()).collect::<Vec<f64>>())
}

fn one_thread(work: impl Fn() -> u64) -> f64 {
    let (start, mut done) = (thread_time(), 0);
    loop {
        done += work();
        let taken = thread_time().saturating_sub(start);
        if taken >= SAMPLE {
            return done as f64 / taken.as_secs_f64();
        }
        // No work at all would never take its time.
        if done == 0 {
            return 0.0;
        }
    }
}

/// The most memory this process had at once; `None` where the system does not say.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_threads_are_added_up() {
        // 1000 units in at least 20 ms of processor time.
        let work = || {
            let start = thread_time();
            while thread_time().saturating_sub(start) < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            1000
        };
        let one = rate(1, 1, |_| work()).median;
        let three = rate(3, 1, |_| work()).median;
        assert!(one <= 50_000.0 && one > 0.0, "{one}");
        assert!(three <= 150_000.0 && three > 1.5 * one, "{three}, one thread {one}");
        assert_eq!(rate(1, 1, |_| 0).median, 0.0);
    }

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(peak_of("VmPeak:\t 9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_of("VmPeak: 9 kB"), None);
        assert_eq!(peak_of("VmHWM: many kB"), None);
    }
}
