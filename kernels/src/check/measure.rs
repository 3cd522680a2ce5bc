//! What a kernel moves, and what it should: one representative launch of every kernel.
//!
//! A simulated card counts a launch's sectors and shared-memory passes; a real one can time it. Beside them stands what the
//! kernel's author counted by hand, here at the shape that is run and at the shapes of released models, which a real card
//! runs, too.

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
    pub models: Vec<Model>,
    run: super::Run,
}

/// The same launch at the shape of a released model.
pub struct Model {
    /// The model and the shape, in words.
    pub name: &'static str,
    /// What the launch should move.
    pub traffic: Traffic,
    run: Option<Launch>,
}

type Launch = Box<dyn Fn(&mut Bench<'_>, Shrink) -> Result<()> + Send + Sync>;

/// By how much rows, heads and widths of a model's launch are divided, so that a simulated card can run it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrink(pub usize);

impl Shrink {
    /// The model's own shape.
    pub const NONE: Self = Self(1);

    /// A size, divided; never none.
    pub(crate) fn of(self, size: usize) -> usize {
        (size / self.0.max(1)).max(1)
    }
}

impl Model {
    /// A shape that can be launched.
    pub(crate) fn new(
        name: &'static str,
        traffic: Traffic,
        run: impl Fn(&mut Bench<'_>, Shrink) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { name, traffic, run: Some(Box::new(run)) }
    }

    /// A shape whose matrices are too many for most cards.
    pub(crate) fn counted(name: &'static str, traffic: Traffic) -> Self {
        Self { name, traffic, run: None }
    }

    /// Whether it can be launched.
    pub fn is_launched(&self) -> bool {
        self.run.is_some()
    }
}

impl Measure {
    /// A measure of a kernel.
    pub(crate) fn new(
        kernel: Kernel,
        shape: impl Into<String>,
        traffic: Traffic,
        models: Vec<Model>,
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

    /// Seconds that a launch takes on a card with a clock: see [`Card::time`].
    ///
    /// # Errors
    /// What the card said.
    pub fn time(&self, card: &mut dyn Card, n: u32) -> Result<Option<f64>> {
        self.timed(card, n, |bench| (self.run)(bench))
    }

    /// The same at the shape of a model, divided by `shrink`; none where that shape is not launched.
    ///
    /// # Errors
    /// As [`Measure::time`].
    pub fn time_model(
        &self,
        card: &mut dyn Card,
        n: u32,
        model: &Model,
        shrink: Shrink,
    ) -> Result<Option<f64>> {
        match &model.run {
            Some(run) => self.timed(card, n, |bench| run(bench, shrink)),
            None => Ok(None),
        }
    }

    fn timed(
        &self,
        card: &mut dyn Card,
        n: u32,
        run: impl FnOnce(&mut Bench<'_>) -> Result<()>,
    ) -> Result<Option<f64>> {
        let mut bench = Bench::timing(card, self.kernel, n);
        let result = run(&mut bench);
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
