//! Every bound of the engine, with its default and the reason for it.

use crate::error::{Error, Result};

/// Every bound of a loaded model. [`Limits::check`] holds them to sane ranges before anything is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one step: decode rows first, then prompt chunks. More rows reuse each weight better: a chunk of a prompt
    /// reads nearly every expert, however long it is.
    pub step_rows_max: usize,
    /// Rows of a step that has an answer in it and a part of a long prompt, for which the answer waits; never fewer than
    /// `sequences_max`. Four times as many with a prompt that ends in the step, two and a half times with
    /// several.
    pub answer_step_rows_max: usize,
    /// Sequences that run at once. Each costs a decode row a step.
    pub sequences_max: usize,
    /// Requests that wait for a place; one more is refused (429).
    pub queue_max: usize,
    /// Tokens of one sequence, prompt and answer; never more than the checkpoint's own context.
    pub context_tokens_max: usize,
    /// Bytes for the latent cache over all layers; `None` lets the loader choose from the memory that is free.
    pub cache_bytes: Option<u64>,
    /// Biases a request may carry.
    pub biases_max: usize,
    /// Stop tokens a request may carry beside the checkpoint's own end tokens.
    pub stop_tokens_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            step_rows_max: 512,
            answer_step_rows_max: 128,
            sequences_max: 32,
            queue_max: 256,
            context_tokens_max: 1 << 20,
            cache_bytes: None,
            biases_max: 300,
            stop_tokens_max: 64,
        }
    }
}

impl Limits {
    /// Holds every bound to its range.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the bound, the value and the range.
    pub fn check(&self) -> Result<()> {
        let within = |name, got: usize, low: usize, high: usize| {
            if (low..=high).contains(&got) {
                return Ok(());
            }
            Err(Error::Setting { name, got: got.to_string(), want: format!("{low} to {high}") })
        };
        within("step-rows", self.step_rows_max, 1, 8192)?;
        within("answer-step-rows", self.answer_step_rows_max, 1, 8192)?;
        within("sequences", self.sequences_max, 1, 1024)?;
        within("queue", self.queue_max, 1, 65_536)?;
        within("context", self.context_tokens_max, 2, 1 << 24)?;
        within("biases", self.biases_max, 0, 4096)?;
        within("stop-tokens", self.stop_tokens_max, 0, 4096)?;
        if self.sequences_max > self.step_rows_max {
            return Err(Error::Setting {
                name: "sequences",
                got: self.sequences_max.to_string(),
                want: format!(
                    "at most `step-rows` ({}): every running sequence has a row a step",
                    self.step_rows_max
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limits: &Limits, want: &str) {
        assert_eq!(limits.check().unwrap_err().to_string(), want);
    }

    #[test]
    fn the_defaults_are_in_range() {
        Limits::default().check().unwrap();
    }

    #[test]
    fn a_bound_out_of_range_is_named_with_what_is_wanted() {
        let default = Limits::default();
        let limits = Limits { step_rows_max: 0, ..default.clone() };
        check(&limits, "`step-rows` is 0, wanted 1 to 8192");
        let limits = Limits { biases_max: 5000, ..default.clone() };
        check(&limits, "`biases` is 5000, wanted 0 to 4096");
        let limits = Limits { sequences_max: 600, ..default };
        let want = "`sequences` is 600, wanted at most `step-rows` (512): every running sequence has a row a step";
        check(&limits, want);
    }
}
