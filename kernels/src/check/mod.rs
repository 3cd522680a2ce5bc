//! Checks: every kernel against a float64 oracle that shares no code with it, on whatever card is at hand.
//!
//! A family's file makes cases: edge shapes, ragged batches, every format, and the invariance of rows. Inputs are
//! rounded to what the card is given before the oracle sees them, so that a tolerance is about the kernel's own arithmetic.

mod bench;
mod compare;
mod experts;
mod experts_measures;
mod head_linear;
mod linear;
mod measure;
mod mla_decode;
mod mla_prefill;
mod random;
mod rms_norm;
mod rope;
mod route;
mod rows;
mod sample;
mod tiles;
mod weights;

pub use bench::{Bench, Plain};
pub use compare::{Tolerance, close, same};
pub use measure::{Measure, Model, Shrink, Traffic};
pub use random::{Random, Rows, bf16, from_bf16};

use crate::{Card, Family, Result};

/// Row counts at which a row's bits must not change.
pub const ROW_COUNTS: [usize; 6] = [1, 8, 9, 64, 65, 512];

/// One thing that is held against its oracle.
pub struct Check {
    /// Whose kernels it runs.
    pub family: Family,
    /// What is checked, in a few words.
    pub name: String,
    run: Run,
}

type Run = Box<dyn Fn(&mut Bench<'_>) -> Result<()> + Send + Sync>;

impl Check {
    /// A check of a family.
    pub(crate) fn new(
        family: Family,
        name: impl Into<String>,
        run: impl Fn(&mut Bench<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { family, name: name.into(), run: Box::new(run) }
    }

    /// Runs it on a card and gives the card its memory back.
    ///
    /// # Errors
    /// What differed and by how much, or what the card said.
    pub fn run(&self, card: &mut dyn Card) -> Result<()> {
        let mut bench = Bench::new(card);
        let result = (self.run)(&mut bench);
        bench.finish()?;
        result
    }
}

/// Every check of every family.
pub fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(experts::checks());
    checks.extend(head_linear::checks());
    checks.extend(linear::checks());
    checks.extend(mla_decode::checks());
    checks.extend(mla_prefill::checks());
    checks.extend(rms_norm::checks());
    checks.extend(rope::checks());
    checks.extend(route::checks());
    checks.extend(rows::checks());
    checks.extend(sample::checks());
    checks
}

/// One launch of every kernel, with what it should move.
pub fn measures() -> Vec<Measure> {
    let mut measures = Vec::new();
    measures.extend(experts_measures::measures());
    measures.extend(head_linear::measures());
    measures.extend(linear::measures());
    measures.extend(mla_decode::measures());
    measures.extend(mla_prefill::measures());
    measures.extend(rms_norm::measures());
    measures.extend(rope::measures());
    measures.extend(route::measures());
    measures.extend(rows::measures());
    measures.extend(sample::measures());
    measures
}
