//! The figures: lone prompts, and batches that decode.

use std::cell::Cell;

use hadal_engine::step::PAGE_TOKENS;
use hadal_engine::{Engine, Limits, ModelInfo};

use super::BenchArgs;
use super::clock::{Clock, Others};
use super::log::Log;
use super::measure::{Answer, Batch, answers, window};
use super::report::{Decode, Figure, Prompt};
use super::spread::Spread;
use super::work::Sizes;
use crate::commands::{Failure, tell};

/// A loaded model and what is needed to measure it.
pub(super) struct Bench<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) engine: Engine,
    pub(super) sizes: Sizes,
    pub(super) clock: Clock,
    pub(super) log: Log,
    /// Requests so far.
    pub(super) requests: Cell<u64>,
    pub(super) limits: Limits,
}

/// Why so many sequences of so many tokens cannot be measured.
fn misfit(info: &ModelInfo, sequences: u32, tokens: u32) -> Option<String> {
    let pages = sequences as usize * (tokens as usize).div_ceil(PAGE_TOKENS);
    if tokens as usize > info.context_length {
        Some(format!("{tokens} tokens, this model's context is {}", info.context_length))
    } else if pages > info.n_page {
        Some(format!("{pages} pages of latent cache, there is memory for {}", info.n_page))
    } else {
        None
    }
}

/// A step without its counters.
fn lost() -> Failure {
    Failure::Failed("a step was not counted".into())
}

impl Bench<'_> {
    /// Lone prompts, each size `runs` times.
    pub(super) fn prompts(&self) -> Result<Vec<Prompt>, Failure> {
        let mut prompts = Vec::new();
        for tokens in self.args.prompts() {
            match misfit(&self.engine.info, 1, tokens + 1) {
                None => prompts.push(self.prompt(tokens)?),
                Some(why) => tell(format_args!("prompt of {tokens} left out: it needs {why}")),
            }
        }
        Ok(prompts)
    }

    fn prompt(&self, tokens: u32) -> Result<Prompt, Failure> {
        let (mut seconds, mut touched) = (Vec::new(), Vec::new());
        let others = Others::begin();
        for run in 0..self.args.runs {
            let answers = self.answers(Batch {
                sequences: 1,
                prompt_tokens: tokens,
                answer_tokens: 1,
                seed: u64::from(run) << 32 | u64::from(tokens),
            })?;
            seconds.extend(answers.iter().filter_map(Answer::first_token_seconds));
            let counted = answers.first().and_then(|answer| self.log.of_first_token(answer));
            touched.push(counted.ok_or_else(lost)?.experts_touched as f64);
        }
        let (first_token_seconds, touched) = (Spread::of(&seconds), Spread::of(&touched).median);
        let step_rows = self.limits.step_rows_max;
        Ok(Prompt {
            tokens,
            first_token_seconds,
            figure: Figure {
                per_second: first_token_seconds.map(|seconds| f64::from(tokens) / seconds),
                work: self.sizes.prompt(tokens, step_rows, touched),
                tokens_per_work: f64::from(tokens),
                touched,
                touched_if_uniform: self.sizes.prompt_touched_if_uniform(tokens, step_rows),
                others: others.share(),
            },
        })
    }

    /// Every batch over every context.
    pub(super) fn decodes(&self) -> Result<Vec<Decode>, Failure> {
        let mut decodes = Vec::new();
        for (batch, context) in self.args.decodes() {
            let tokens = context.max(1) + self.args.answer_tokens();
            match misfit(&self.engine.info, batch, tokens) {
                None => decodes.push(self.decode(batch, context)?),
                Some(why) => {
                    tell(format_args!("batch {batch} over {context} left out: it needs {why}"));
                }
            }
        }
        Ok(decodes)
    }

    /// One prompt each, then `runs` times `tokens` tokens of all sequences together.
    fn decode(&self, batch: u32, context: u32) -> Result<Decode, Failure> {
        let (args, prompt_tokens) = (self.args, context.max(1));
        let others = Others::begin();
        let answers = self.answers(Batch {
            sequences: batch,
            prompt_tokens,
            answer_tokens: args.answer_tokens(),
            seed: u64::from(context) << 32 | u64::from(batch),
        })?;
        let mut speeds = Vec::new();
        for run in 0..args.runs {
            let (begin, end) = window(&answers, run * args.tokens, args.tokens).ok_or_else(lost)?;
            let seconds = end.saturating_sub(begin).as_secs_f64();
            speeds.push(f64::from(batch * args.tokens) / seconds);
        }
        let n_step = args.runs * args.tokens;
        let (begin, end) = window(&answers, 0, n_step).ok_or_else(lost)?;
        let counted = self.log.between(begin, end).ok_or_else(lost)?;
        if counted.steps != u64::from(n_step) || counted.preemptions > 0 {
            let problem = format!("{batch} sequences did not decode side by side");
            return Err(Failure::Failed(problem));
        }
        let touched = counted.experts_touched as f64 / f64::from(n_step);
        let sequences = f64::from(batch);
        // The first of these rows sees the prompt and itself, the last one all rows before it too.
        let keys = f64::from(prompt_tokens) + f64::from(n_step + 1) / 2.0;
        Ok(Decode {
            batch,
            context,
            figure: Figure {
                per_second: Spread::of(&speeds),
                work: self.sizes.decode_step(sequences, keys, touched),
                tokens_per_work: sequences,
                touched,
                touched_if_uniform: self.sizes.touched_if_uniform(sequences),
                others: others.share(),
            },
        })
    }

    fn answers(&self, batch: Batch) -> Result<Vec<Answer>, Failure> {
        self.log.clear();
        let vocab_size = self.engine.info.vocab_size;
        let answers = answers(&self.engine.handle, vocab_size, self.clock, batch)?;
        self.requests.set(self.requests.get() + u64::from(batch.sequences));
        self.log.settle(self.requests.get());
        Ok(answers)
    }
}

#[cfg(test)]
mod tests;
