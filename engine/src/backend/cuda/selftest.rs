//! A card as the kernels' own checks see one, and the report of a self-test.

use std::fmt::Write as _;

use hadal_kernels::check::{Check, Shrink, all};
use hadal_kernels::{Caps, Card, Failure, Grid, Kernel};

use super::device::{Device, Memory};
use super::times::times;
use crate::error::Result;

/// A device as checks see a card.
pub struct CheckCard {
    device: Device,
    held: Vec<Memory>,
}

impl CheckCard {
    /// Takes a device.
    pub fn new(device: Device) -> Self {
        Self { device, held: Vec::new() }
    }

    /// The memory that holds `bytes` bytes from `at` on, and where in it they begin.
    fn find(&self, at: u64, bytes: usize) -> hadal_kernels::Result<(&Memory, usize)> {
        let found = self.held.iter().find_map(|memory| {
            let first = usize::try_from(at.checked_sub(memory.at::<u8>() as u64)?).ok()?;
            (first.checked_add(bytes)? <= memory.bytes()).then_some((memory, first))
        });
        found.ok_or_else(|| Failure(format!("{bytes} bytes at {at:#x} were not given out")))
    }
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

impl Card for CheckCard {
    fn caps(&self) -> Caps {
        *self.device.caps()
    }

    fn alloc(&mut self, bytes: usize) -> hadal_kernels::Result<u64> {
        let memory = self.device.room(bytes).map_err(failure)?;
        let at = memory.at::<u8>() as u64;
        self.held.push(memory);
        Ok(at)
    }

    fn free(&mut self, at: u64) -> hadal_kernels::Result<()> {
        let index = self.held.iter().position(|memory| memory.at::<u8>() as u64 == at);
        let index = index.ok_or_else(|| Failure(format!("{at:#x} was not given out")))?;
        self.held.swap_remove(index);
        Ok(())
    }

    fn upload(&mut self, at: u64, bytes: &[u8]) -> hadal_kernels::Result<()> {
        let (memory, first) = self.find(at, bytes.len())?;
        self.device.upload(memory, first, bytes).map_err(failure)
    }

    fn download(&mut self, at: u64, bytes: &mut [u8]) -> hadal_kernels::Result<()> {
        let (memory, first) = self.find(at, bytes.len())?;
        self.device.download(memory, first, bytes).map_err(failure)
    }

    unsafe fn launch(
        &mut self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
    ) -> hadal_kernels::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.device.launch_bytes(kernel, grid, params) }.map_err(failure)
    }

    unsafe fn time(
        &mut self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
        n: u32,
    ) -> hadal_kernels::Result<Option<f64>> {
        // SAFETY: the caller's promise.
        unsafe { self.device.time_bytes(kernel, grid, params, n) }.map(Some).map_err(failure)
    }
}

/// What a self-test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// Checks that were run.
    pub n_check: usize,
    /// `family: check: what differed`, of those that failed.
    pub failures: Vec<String>,
    /// All of it, to be read and pasted.
    pub text: String,
}

/// How much of a self-test is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every check.
    All,
    /// One check in so many of those of a family, its first in any case.
    OneIn(usize),
}

/// Runs the kernels' own checks on a card and times every kernel; `progress(done, of)` after each check. `shrink` as in
/// [`time_kernels`](super::time_kernels).
///
/// # Errors
/// What the device refuses before the first check.
pub fn report(
    ordinal: usize,
    depth: Depth,
    shrink: Shrink,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<DeviceReport> {
    let device = Device::open(ordinal)?;
    let caps = *device.caps();
    let (free, total) = device.memory()?;
    let peaks = device.peaks();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", device.name());
    let _ = writeln!(
        text,
        "compute capability {}.{}, {} multiprocessors, {} KiB of shared memory a block, {:.1} of {:.1} GB free\n",
        caps.arch / 10,
        caps.arch % 10,
        caps.multiprocessors,
        caps.shared_optin_bytes / 1024,
        free as f64 / 1e9,
        total as f64 / 1e9,
    );
    let mut card = CheckCard::new(device);
    let (checks, mut failures) = (chosen(depth), Vec::new());
    let mut counts: Vec<(&str, usize, usize)> = Vec::new();
    for (done, check) in checks.iter().enumerate() {
        let family = check.family.name();
        if counts.last().is_none_or(|(last, ..)| *last != family) {
            counts.push((family, 0, 0));
        }
        let outcome = check.run(&mut card);
        if let Some((_, passed, failed)) = counts.last_mut() {
            *(if outcome.is_ok() { passed } else { failed }) += 1;
        }
        if let Err(why) = outcome {
            failures.push(format!("{family}: {}: {why}", check.name));
        }
        progress(done + 1, checks.len());
    }
    for (family, passed, failed) in counts {
        let _ = writeln!(text, "{family:16} {passed:5} passed {failed:5} failed");
    }
    for failure in &failures {
        let _ = writeln!(text, "FAILED {failure}");
    }
    let _ = writeln!(text);
    failures.extend(times(&mut card, peaks, shrink, &mut |line| {
        let _ = writeln!(text, "{line}");
    }));
    Ok(DeviceReport { n_check: checks.len(), failures, text })
}

/// The checks of a depth, families in turn.
fn chosen(depth: Depth) -> Vec<Check> {
    let mut checks = all();
    if let Depth::OneIn(every) = depth {
        let (mut family, mut n) = (None, 0);
        checks.retain(|check| {
            n = if family == Some(check.family) { n + 1 } else { 0 };
            family = Some(check.family);
            n % every.max(1) == 0
        });
    }
    checks
}
