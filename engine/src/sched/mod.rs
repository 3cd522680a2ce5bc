//! The scheduler: continuous batching, chunked prefill, preemption. Sees pages and counts, never a tensor.
//!
//! ```text
//! enqueue ──> waiting ──admit──> running ──plan──> Step ──forward──> commit ──> ended
//!                ^                  |
//!                └──── preempt ─────┘      pages ran out: the youngest gives its own back and is replayed
//! ```
//!
//! A step's rows are spent on answers being written first, one row each, so that no prompt can starve them; what is
//! left goes to prompts (and answers replayed), oldest request first, whole or in parts ([`Budget`]). Sequences are
//! admitted in the order of their arrival, when the free pages cover everything they have to compute before their next
//! token: a sequence that was preempted does not come back only to be preempted again.
//!
//! Nobody waits for a reader: a sequence whose sink is full keeps its pages but is left out of the steps, and is the
//! first to give them up when another needs them. A reader that went away is noticed before the next plan.
//!
//! Both lists stay in the order of arrival, so "the youngest" is the last. A warmed step allocates nothing.

mod budget;
mod sequence;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::cache::pages::{PagePool, pages_for};
use crate::error::Error;
use crate::limits::Limits;
use crate::request::{FinishReason, Request};
use crate::stats::Stats;
use crate::step::{SampleRow, Sampled, Step, TokenId};
use budget::{Budget, Whose};
use sequence::{Fate, Lane, Sequence};

/// All requests of a model, from arrival to their last event.
pub struct Scheduler {
    step_rows_max: usize,
    /// The same for a step with an answer in it.
    answer_step_rows_max: usize,
    sequences_max: usize,
    context_tokens: usize,
    /// Not admitted yet, or preempted; by arrival.
    waiting: VecDeque<Sequence>,
    /// Those that may hold pages; by arrival.
    running: Vec<Sequence>,
    /// Arrivals of the sequences in the step in flight, in the step's order.
    in_step: Vec<u64>,
    n_arrival: u64,
    /// The step's buffers while no step is in flight.
    spare: Step,
    stats: Stats,
}

impl Scheduler {
    /// Bytes of the lists that [`Scheduler::new`] makes, without those that grow with the pages.
    pub fn bytes(limits: &Limits) -> u64 {
        let (rows, sequences) = (limits.step_rows_max, limits.sequences_max);
        let queues = (limits.queue_max + 2 * sequences) * size_of::<Sequence>();
        let indices = 3 * rows + 5 * sequences;
        let samples = sequences * size_of::<SampleRow>();
        let biases = sequences * limits.biases_max * size_of::<(TokenId, f32)>();
        (queues + indices * size_of::<u32>() + samples + biases) as u64
    }

    /// A scheduler without requests. `limits` are checked, `context_tokens_max` is the model's own or less, and
    /// `n_page` is the size of the pool that every later call is given.
    pub fn new(limits: &Limits, n_page: usize) -> Self {
        let (rows, sequences) = (limits.step_rows_max, limits.sequences_max);
        Self {
            step_rows_max: rows,
            answer_step_rows_max: rows.min(limits.answer_step_rows_max.max(sequences)),
            sequences_max: sequences,
            context_tokens: limits.context_tokens_max,
            waiting: VecDeque::with_capacity(limits.queue_max + sequences),
            running: Vec::with_capacity(sequences),
            in_step: Vec::with_capacity(sequences),
            n_arrival: 0,
            spare: Step {
                tokens: Vec::with_capacity(rows),
                positions: Vec::with_capacity(rows),
                slots: Vec::with_capacity(rows),
                row_start: Vec::with_capacity(sequences + 1),
                n_decode: 0,
                page_start: Vec::with_capacity(sequences + 1),
                pages: Vec::with_capacity(n_page),
                context_len: Vec::with_capacity(sequences),
                samples: Vec::with_capacity(sequences),
                penalty_start: Vec::with_capacity(sequences + 1),
                // Grows on admission, by what the admitted can come to need.
                penalties: Vec::new(),
                bias_start: Vec::with_capacity(sequences + 1),
                biases: Vec::with_capacity(sequences * limits.biases_max),
            },
            stats: Stats { pages_total: n_page as u32, ..Stats::default() },
        }
    }

    /// Takes a request into the queue. Whoever calls has checked it (`EngineHandle::submit` does) and bounds the
    /// queue's length.
    pub fn enqueue(&mut self, request: Request, now: u64) {
        self.waiting.push_back(Sequence::new(request, self.n_arrival, self.context_tokens, now));
        self.n_arrival += 1;
    }

    /// Whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Requests that wait: new ones and preempted ones.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The counters as they are now.
    pub fn stats(&self, pool: &PagePool) -> Stats {
        Stats {
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            pages_used: (pool.n_page() - pool.n_free()) as u32,
            ..self.stats
        }
    }

    /// The next step; [`Scheduler::commit`] takes it back. `None` when no sequence can go on: there is none, or
    /// every reader is behind.
    pub fn plan(&mut self, pool: &mut PagePool, now: u64) -> Option<Step> {
        self.drop_closed(pool);
        self.running.iter_mut().for_each(Sequence::ask_room);
        self.waiting.iter_mut().for_each(Sequence::ask_room);
        self.admit(pool);
        self.assign_rows(pool);
        self.settle(pool);
        self.fill(now)
    }

    /// Takes a step's results: hands out tokens, ends what is complete, frees its pages and keeps the buffers.
    ///
    /// # Panics
    /// When there is not one result for each sample row: a bug of the caller.
    pub fn commit(&mut self, step: Step, sampled: &[Sampled], pool: &mut PagePool, now: u64) {
        assert_eq!(sampled.len(), step.samples.len(), "one result a sample row");
        let mut results = step.samples.iter().zip(sampled).peekable();
        for (arrival, rows) in self.in_step.iter().zip(step.row_start.windows(2)) {
            let result = results.next_if(|(sample, _)| sample.row + 1 == rows[1]);
            // It is gone if everything was cancelled while the step was computed.
            let Ok(at) = self.running.binary_search_by_key(arrival, |sequence| sequence.arrival)
            else {
                continue;
            };
            let sequence = &mut self.running[at];
            let n_row = rows[1] - rows[0];
            if n_row > 1 || sequence.computed < sequence.prompt_len {
                self.stats.prompt_rows_total += u64::from(n_row);
            }
            sequence.computed += std::mem::take(&mut sequence.planned);
            match result {
                Some((_, Sampled::Token(token))) => {
                    self.stats.generated_tokens_total += 1;
                    if sequence.accept(*token, now).is_break() {
                        self.stats.abandoned_total += 1;
                    }
                }
                Some((sample, Sampled::NotFinite)) => {
                    // The position whose row came out wrong, not the one to be drawn.
                    let position = sample.position - 1;
                    sequence.fail(&Error::NotFinite { position }.to_string());
                }
                None => {}
            }
        }
        self.in_step.clear();
        self.stats.steps_total += 1;
        self.spare = step;
        self.settle(pool);
    }

    /// Ends everything that runs or waits, with `FinishReason::Cancelled`.
    pub fn cancel_all(&mut self, pool: &mut PagePool, now: u64) {
        self.end_all(pool, |sequence| sequence.finish(FinishReason::Cancelled, now));
    }

    /// Fails everything that runs or waits: the model is lost.
    pub fn fail_all(&mut self, pool: &mut PagePool, sentence: &str) {
        self.end_all(pool, |sequence| sequence.fail(sentence));
    }

    fn end_all(&mut self, pool: &mut PagePool, mut end: impl FnMut(&mut Sequence)) {
        self.running.iter_mut().chain(&mut self.waiting).for_each(&mut end);
        self.stats.finished_total += self.waiting.len() as u64;
        self.waiting.clear();
        self.settle(pool);
    }

    /// Ends the sequences whose reader went away.
    fn drop_closed(&mut self, pool: &mut PagePool) {
        let n_waiting = self.waiting.len();
        self.waiting.retain(|sequence| !sequence.is_closed());
        let mut n_closed = (n_waiting - self.waiting.len()) as u64;
        self.stats.finished_total += n_closed;
        for sequence in self.running.iter_mut().filter(|sequence| sequence.is_closed()) {
            sequence.fate = Fate::Ended;
            n_closed += 1;
        }
        self.stats.abandoned_total += n_closed;
        self.settle(pool);
    }

    /// Moves sequences from waiting to running, oldest first, while there are places and pages.
    fn admit(&mut self, pool: &mut PagePool) {
        while let Some(at) = self.waiting.iter().position(|sequence| !sequence.paused) {
            let needed = self.waiting[at].pages_needed();
            if needed > pool.n_page() {
                self.fail_waiting(at, pool.n_page());
                continue;
            }
            let owed: usize = self.running.iter().map(Sequence::pages_owed).sum();
            if self.running.len() < self.sequences_max && needed + owed <= pool.n_free() {
                self.start(at);
                continue;
            }
            // Where only paused ones stand in the way, the youngest goes, or all would wait for a reader.
            if self.running.iter().any(|sequence| !sequence.paused) {
                break;
            }
            let Some(youngest) = self.running.last_mut() else { break };
            youngest.preempt(pool);
            self.settle(pool);
        }
    }

    /// Ends a waiting sequence that no preemption can make fit.
    fn fail_waiting(&mut self, at: usize, n_page: usize) {
        if let Some(mut sequence) = self.waiting.remove(at) {
            sequence.fail(&too_long_for_cache(sequence.tokens.len(), n_page));
            self.stats.finished_total += 1;
        }
    }

    /// Lets a waiting sequence run; the one place where a request costs memory beside its own.
    fn start(&mut self, at: usize) {
        let Some(mut sequence) = self.waiting.remove(at) else { return };
        sequence.reserve();
        let place = self.running.partition_point(|it| it.arrival < sequence.arrival);
        self.running.insert(place, sequence);
        let penalties_max = self.running.iter().map(Sequence::penalties_max).sum();
        self.spare.penalties.clear();
        self.spare.penalties.reserve(penalties_max);
    }

    /// Spends the step's rows: answers first, then prompts, the oldest request first.
    fn assign_rows(&mut self, pool: &mut PagePool) {
        let mut budget = self.budget();
        for decoding in [true, false] {
            for at in 0..self.running.len() {
                let sequence = &self.running[at];
                let waits = !sequence.goes_on() || sequence.planned > 0;
                if waits || (sequence.lane() == Lane::Decoding) != decoding {
                    continue;
                }
                let left = sequence.next_run().1 - sequence.computed;
                let whose = budget.whose(decoding, sequence.is_long, sequence.owed());
                let rows = budget.of_run(left, sequence.owed(), whose);
                if rows == 0 {
                    continue;
                }
                budget.take_back(self.give_pages(at, rows, pool));
                let sequence = &mut self.running[at];
                if sequence.fate == Fate::Stays {
                    (sequence.planned, sequence.is_long) = (rows, whose == Whose::Long);
                    budget.spend(rows, whose);
                }
            }
        }
    }

    /// Rows of the next step.
    fn budget(&self) -> Budget {
        if self.running.iter().any(Sequence::is_answering) {
            Budget::beside_answers(self.step_rows_max, self.answer_step_rows_max)
        } else {
            Budget::alone(self.step_rows_max, self.answer_step_rows_max)
        }
    }

    /// Sees to the pages of the next `rows` rows of a running sequence. Others, or itself, are preempted where there
    /// are too few. Returns the rows that those others had been given.
    fn give_pages(&mut self, at: usize, rows: usize, pool: &mut PagePool) -> usize {
        let tokens = self.running[at].computed + rows;
        if pages_for(tokens) > pool.n_page() {
            self.running[at].fail(&too_long_for_cache(tokens, pool.n_page()));
            return 0;
        }
        let mut given_up = 0;
        while !self.running[at].table.grow(tokens, pool) {
            let victim = self.victim().filter(|&it| it > at || self.running[it].paused);
            let victim = &mut self.running[victim.unwrap_or(at)];
            given_up += victim.planned;
            victim.preempt(pool);
            if self.running[at].fate == Fate::Preempted {
                break;
            }
        }
        given_up
    }

    /// Who gives up its pages: the youngest of the paused that hold any, else the youngest that does.
    fn victim(&self) -> Option<usize> {
        let holds = |sequence: &Sequence| !sequence.table.pages().is_empty();
        let paused = self.running.iter().rposition(|it| holds(it) && it.paused);
        paused.or_else(|| self.running.iter().rposition(holds))
    }

    /// Carries out what was decided: ended sequences go and free their pages, preempted ones wait again.
    fn settle(&mut self, pool: &mut PagePool) {
        let mut at = 0;
        while let Some(sequence) = self.running.get_mut(at) {
            match sequence.fate {
                Fate::Stays => at += 1,
                Fate::Ended => {
                    sequence.table.release(pool);
                    self.running.remove(at);
                    self.stats.finished_total += 1;
                }
                Fate::Preempted => {
                    let mut sequence = self.running.remove(at);
                    sequence.fate = Fate::Stays;
                    let place = self.waiting.partition_point(|it| it.arrival < sequence.arrival);
                    self.waiting.insert(place, sequence);
                    self.stats.preemptions_total += 1;
                }
            }
        }
    }

    /// Writes the planned rows into a step; `None` when there are none.
    fn fill(&mut self, now: u64) -> Option<Step> {
        let mut step = std::mem::take(&mut self.spare);
        step.clear();
        self.in_step.clear();
        step.row_start.push(0);
        step.page_start.push(0);
        step.penalty_start.push(0);
        step.bias_start.push(0);
        for lane in [Lane::Decoding, Lane::Replaying, Lane::Prompt] {
            for sequence in &mut self.running {
                if sequence.planned > 0 && sequence.lane() == lane {
                    if sequence.begin(now) {
                        self.stats.prompt_tokens_total += sequence.prompt_len as u64;
                    }
                    push_rows(&mut step, sequence);
                    push_sample(&mut step, sequence);
                    self.in_step.push(sequence.arrival);
                }
            }
            if lane != Lane::Prompt {
                step.n_decode = step.n_seq();
            }
        }
        if step.n_row() > 0 {
            return Some(step);
        }
        self.spare = step;
        None
    }
}

/// What a user reads when a sequence outgrows the latent cache.
fn too_long_for_cache(tokens: usize, n_page: usize) -> String {
    let needed = pages_for(tokens);
    format!("{tokens} tokens need {needed} pages of the latent cache, this model has {n_page}")
}

/// A sequence's planned rows, their slots and all its pages.
fn push_rows(step: &mut Step, sequence: &Sequence) {
    let context_len = sequence.computed + sequence.planned;
    let rows = sequence.computed..context_len;
    step.tokens.extend_from_slice(&sequence.tokens[rows.clone()]);
    step.slots.extend(rows.clone().map(|position| sequence.table.slot(position)));
    step.positions.extend(rows.map(|position| position as u32));
    step.row_start.push(step.tokens.len() as u32);
    step.pages.extend_from_slice(sequence.table.pages());
    step.page_start.push(step.pages.len() as u32);
    step.context_len.push(context_len as u32);
}

/// How the token after the planned rows is drawn, where they reach the last one known.
fn push_sample(step: &mut Step, sequence: &Sequence) {
    if !sequence.wants_sample() {
        return;
    }
    step.samples.push(sequence.sample_row(step.tokens.len() as u32 - 1));
    step.penalties.extend_from_slice(sequence.penalties());
    step.penalty_start.push(step.penalties.len() as u32);
    step.biases.extend_from_slice(sequence.biases());
    step.bias_start.push(step.biases.len() as u32);
}
