//! The counts that the kernels' tests leave: what each launch did on the simulated cards, and floors at models' shapes.

use std::collections::BTreeMap;

use crate::Result;

/// A kernel's launch on one card.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Run {
    pub(super) shape: String,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    pub(super) blocks: u64,
    /// Bytes in sectors, and what was counted by hand.
    pub(super) read: [u64; 2],
    pub(super) written: [u64; 2],
    /// Passes over shared memory, and without conflicts.
    pub(super) passes: [u64; 2],
    pub(super) barriers: u64,
    pub(super) instructions: u64,
    pub(super) mma: u64,
}

/// A kernel at a shape of a released model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) shape: String,
    pub(super) memory_bytes: u64,
    pub(super) flops: u64,
    pub(super) is_mma: bool,
}

/// All of them, by kernel.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By kernel and card.
    pub(super) runs: BTreeMap<(String, String), Run>,
    pub(super) models: BTreeMap<String, Vec<Model>>,
}

/// Reads the file that `kernels/tests/all/counters.rs` writes.
pub(super) fn read(text: &str) -> Result<Counters> {
    let mut counters = Counters::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| {
            let word = words.get(at).copied().unwrap_or_default();
            word.parse::<u64>().map_err(|_| format!("counters: `{word}` in `{line}`"))
        };
        match words.as_slice() {
            ["run", kernel, card, shape, ..] => {
                let run = Run {
                    shape: (*shape).into(),
                    threads: number(4)? as u32,
                    shared_bytes: number(5)? as u32,
                    blocks: number(6)?,
                    read: [number(7)?, number(8)?],
                    written: [number(9)?, number(10)?],
                    passes: [number(11)?, number(12)?],
                    barriers: number(13)?,
                    instructions: number(14)?,
                    mma: number(15)?,
                };
                counters.runs.insert(((*kernel).into(), (*card).into()), run);
            }
            ["model", kernel, shape, ..] => {
                let model = Model {
                    shape: (*shape).into(),
                    memory_bytes: number(3)?,
                    flops: number(4)?,
                    is_mma: number(5)? == 1,
                };
                counters.models.entry((*kernel).into()).or_default().push(model);
            }
            _ => return Err(format!("counters: `{line}` is neither a run nor a model")),
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_runs_and_models() {
        let text = "run\tembed\ta100\t6 rows\t256\t0\t12\t1\t2\t3\t4\t5\t6\t7\t8\t9\nmodel\tembed\tV3\t10\t20\t1\n";
        let counters = read(text).unwrap();
        let run = &counters.runs[&("embed".to_owned(), "a100".to_owned())];
        assert_eq!((run.threads, run.blocks, run.read, run.mma), (256, 12, [1, 2], 9));
        assert!(counters.models["embed"][0].is_mma);
        assert!(read("run\tembed\ta100\t6 rows\tx").is_err());
        assert!(read("walk").is_err());
    }
}
