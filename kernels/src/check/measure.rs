//! What a kernel moves, and what it should: one representative launch of every kernel.
//!
//! A simulated card counts a launch's sectors and shared-memory passes; a real one can time it. Beside them stands what the
//! kernel's author counted by hand, here at the shape that is run and at the shapes of released models.

use super::Bench;
use crate::{Card, Kernel, Result};

/// What a launch moves and computes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Traffic {
    /// Bytes that memory must move at least: everything read once, everything written once.
    pub memory_bytes: u64,
    /// Bytes that warps ask for, in whole sectors of 32: reads that come out of a cache a second time, and indices, included.
    pub read_bytes: u64,
    /// Bytes that warps write, in whole sectors.
    pub write_bytes: u64,
    /// Multiplications and additions.
    pub flops: u64,
    /// Whether tensor cores do them.
    pub is_mma: bool,
}

/// One launch of a kernel, small enough for a simulated card.
pub struct Measure {
    /// The kernel that is launched; what else the launch needs runs before it.
    pub kernel: Kernel,
    /// The launch's shape, in words.
    pub shape: String,
    /// What it should move.
    pub traffic: Traffic,
    /// The same at shapes of released models.
    pub models: Vec<(&'static str, Traffic)>,
    run: super::Run,
}

impl Measure {
    /// A measure of a kernel.
    pub(crate) fn new(
        kernel: Kernel,
        shape: impl Into<String>,
        traffic: Traffic,
        models: Vec<(&'static str, Traffic)>,
        run: impl Fn(&mut Bench<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { kernel, shape: shape.into(), traffic, models, run: Box::new(run) }
    }

    /// Runs it once on a card.
    ///
    /// # Errors
    /// What the card said.
    pub fn run(&self, card: &mut dyn Card) -> Result<()> {
        let mut bench = Bench::new(card);
        let result = (self.run)(&mut bench);
        bench.finish()?;
        result
    }

    /// Seconds that a launch takes on a card with a clock, on average over `n` in a row.
    ///
    /// # Errors
    /// What the card said.
    pub fn time(&self, card: &mut dyn Card, n: u32) -> Result<Option<f64>> {
        let mut bench = Bench::timing(card, self.kernel, n);
        let result = (self.run)(&mut bench);
        let seconds = bench.seconds();
        bench.finish()?;
        match seconds {
            // Kernels that work in place have gone on n times: what they leave is not what a check wants.
            Some(seconds) => Ok(Some(seconds)),
            None => result.map(|()| None),
        }
    }
}

/// Whole sectors of `bytes` bytes.
pub(crate) fn sectors(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(32)
}
