//! What this machine's memory gives: how fast it is read, and how much of it this process used.

use std::hint::black_box;
use std::time::Instant;

use super::report::Spread;

/// Big enough that no cache holds it, small enough for a laptop.
const BUFFER_BYTES: usize = 512 << 20;

/// A huge page. Where the system makes them by itself, an aligned buffer gets them whole.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Bytes a second with which `threads` threads read memory, each its own part.
pub(crate) fn read_bandwidth(threads: usize, runs: u32) -> Spread {
    let words = BUFFER_BYTES / size_of::<u64>();
    // Written once, so that every page is there; not zero, so that none is shared.
    let buffer: Vec<u64> =
        (0..words as u64 + (HUGE_PAGE_BYTES / size_of::<u64>()) as u64).collect();
    let skip = buffer.as_ptr().align_offset(HUGE_PAGE_BYTES).min(buffer.len() - words);
    let aligned = &buffer[skip..skip + words];
    let part = words.div_ceil(threads.max(1));
    let mut speeds = Vec::new();
    // The first pass warms up and is not counted.
    for run in 0..=runs {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for words in aligned.chunks(part) {
                scope.spawn(move || black_box(sum(words)));
            }
        });
        if run > 0 {
            speeds.push(BUFFER_BYTES as f64 / start.elapsed().as_secs_f64());
        }
    }
    Spread::of(&speeds)
}

/// Independent sums, so that reading and not adding is what takes the time.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let chunks = words.chunks_exact(sums.len());
    let rest: u64 = chunks.remainder().iter().fold(0, |sum, word| sum.wrapping_add(*word));
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(rest, |sum, part| sum.wrapping_add(*part))
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
    fn the_sum_is_over_every_word() {
        let words: Vec<u64> = (1..=100).collect();
        assert_eq!(sum(&words), 5050);
        assert_eq!(sum(&words[..7]), 28);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(peak_of("VmPeak:\t 9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_of("VmPeak: 9 kB"), None);
        assert_eq!(peak_of("VmHWM: many kB"), None);
    }
}
