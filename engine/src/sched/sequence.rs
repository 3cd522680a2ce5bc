//! One request's life: its tokens so far, how many of them are in the cache, and what ends it.
//!
//! A sequence knows no step and no neighbour. What it wants next follows from its own content alone: the form of a
//! row is a function of the request and the row's position (`docs/decisions/0003-attention-form.md`), so that the
//! same request gives the same tokens whatever runs beside it, and however often it is preempted and replayed.

use std::ops::{ControlFlow, Range};

use crate::cache::pages::{PagePool, PageTable, pages_for};
use crate::request::{Event, FinishReason, Request, Sampling, Sink, Usage};
use crate::step::{Penalty, SampleRow, TokenId};

/// How attention of a row is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Absorbed: tokens that a model wrote, now or in an earlier turn.
    Decode,
    /// Multi-head: all other rows of a prompt.
    Prompt,
}

/// The parts of a step, in their order. The first two are in decode form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// One row, and the token after it: an answer being written.
    Decoding,
    /// Several rows of an answer: an earlier turn's, or its own after a preemption.
    Replaying,
    /// A chunk of a prompt.
    Prompt,
}

/// What becomes of a running sequence when the step's bookkeeping is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Stays,
    /// Its pages are gone; it waits again.
    Preempted,
    /// It has said its last word.
    Ended,
}

/// A request between `enqueue` and its last event.
pub(super) struct Sequence {
    /// Number of its arrival: smaller is older.
    pub(super) arrival: u64,
    /// Prompt, then answer.
    pub(super) tokens: Vec<TokenId>,
    /// Tokens of the prompt.
    pub(super) prompt_len: usize,
    /// Rows in the cache.
    pub(super) computed: usize,
    /// Rows of the step in flight.
    pub(super) planned: usize,
    /// Whether it owed more rows than a step takes when some were planned; those left go on in parts.
    pub(super) is_long: bool,
    /// Pages held.
    pub(super) table: PageTable,
    /// No room in its sink when the plan began.
    pub(super) paused: bool,
    /// Decided while a step is planned or committed, carried out at its end.
    pub(super) fate: Fate,
    decode_spans: Vec<Range<u32>>,
    sampling: Sampling,
    stop_tokens: Vec<TokenId>,
    /// Tokens of the answer at most: `max_tokens`, cut to what the context leaves.
    answer_max: usize,
    /// Tokens seen, ascending, when the sampling penalises any.
    penalties: Vec<Penalty>,
    sink: Box<dyn Sink>,
    submitted_ns: u64,
    first_row_ns: Option<u64>,
    first_token_ns: Option<u64>,
}

impl Sequence {
    /// Of a request that [`EngineHandle::submit`](crate::worker::EngineHandle::submit) would take; another one is a bug of the caller.
    pub(super) fn new(request: Request, arrival: u64, context_tokens: usize, now: u64) -> Self {
        let prompt_len = request.tokens.len();
        assert!(prompt_len > 0, "an empty prompt has no last row");
        assert!(prompt_len < context_tokens, "a prompt leaves room to answer");
        assert_ne!(request.max_tokens, 0, "an answer has a token");
        let room = context_tokens.saturating_sub(prompt_len);
        Self {
            arrival,
            prompt_len,
            tokens: request.tokens,
            computed: 0,
            planned: 0,
            is_long: false,
            table: PageTable::default(),
            paused: false,
            fate: Fate::Stays,
            decode_spans: request.decode_spans,
            sampling: request.sampling,
            stop_tokens: request.stop_tokens,
            answer_max: room.min(request.max_tokens as usize),
            penalties: Vec::new(),
            sink: request.sink,
            submitted_ns: now,
            first_row_ns: None,
            first_token_ns: None,
        }
    }

    /// Makes room for everything the sequence can become, so that its steps allocate nothing. Once, on admission.
    pub(super) fn reserve(&mut self) {
        let longest = self.prompt_len + self.answer_max;
        self.tokens.reserve_exact(longest.saturating_sub(self.tokens.len()));
        self.table.reserve(longest);
        if self.penalties.is_empty() && self.sampling.penalises() {
            self.penalties = count_tokens(&self.tokens);
            self.penalties.reserve_exact(self.answer_max);
        }
    }

    /// Entries that its penalties can grow to.
    pub(super) fn penalties_max(&self) -> usize {
        self.penalties.capacity()
    }

    /// Pages for all tokens known now: what it takes to draw the next one.
    pub(super) fn pages_needed(&self) -> usize {
        pages_for(self.tokens.len())
    }

    /// Pages for all tokens known now that are not held yet.
    pub(super) fn pages_owed(&self) -> usize {
        self.pages_needed().saturating_sub(self.table.pages().len())
    }

    /// The form of the next row, and where the run of rows of that form ends.
    pub(super) fn next_run(&self) -> (Form, usize) {
        let from = self.computed;
        if from >= self.prompt_len {
            return (Form::Decode, self.tokens.len());
        }
        let at = self.decode_spans.partition_point(|span| span.end as usize <= from);
        match self.decode_spans.get(at) {
            Some(span) if span.start as usize <= from => (Form::Decode, span.end as usize),
            Some(span) => (Form::Prompt, span.start as usize),
            None => (Form::Prompt, self.prompt_len),
        }
    }

    /// Rows of known tokens that are not computed.
    pub(super) fn owed(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it may have rows in the next step.
    pub(super) fn goes_on(&self) -> bool {
        !self.paused && self.fate == Fate::Stays
    }

    /// Whether its next row is for a token that somebody waits for.
    pub(super) fn is_answering(&self) -> bool {
        self.goes_on() && self.lane() == Lane::Decoding
    }

    /// Which part of a step its next rows belong to.
    pub(super) fn lane(&self) -> Lane {
        match self.next_run() {
            (Form::Prompt, _) => Lane::Prompt,
            (Form::Decode, end) if end == self.tokens.len() && end - self.computed == 1 => {
                Lane::Decoding
            }
            (Form::Decode, _) => Lane::Replaying,
        }
    }

    /// Whether the planned rows reach the last token known, so that the next one is to be drawn.
    pub(super) fn wants_sample(&self) -> bool {
        self.planned > 0 && self.computed + self.planned == self.tokens.len()
    }

    /// How the token after the step's `row` is drawn.
    pub(super) fn sample_row(&self, row: u32) -> SampleRow {
        let sampling = &self.sampling;
        SampleRow {
            row,
            seed: sampling.seed,
            position: self.tokens.len() as u32,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition: sampling.repetition,
            presence: sampling.presence,
            frequency: sampling.frequency,
        }
    }

    /// Tokens seen, with their counts; empty when nothing is penalised.
    pub(super) fn penalties(&self) -> &[Penalty] {
        &self.penalties
    }

    /// Amounts added to a token's logit.
    pub(super) fn biases(&self) -> &[(TokenId, f32)] {
        &self.sampling.biases
    }

    /// Whether nobody listens any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sink.is_closed()
    }

    /// Asks the sink for room. Once a plan: a reader may empty it meanwhile, and a plan sees one answer.
    pub(super) fn ask_room(&mut self) {
        self.paused = !self.sink.has_room();
    }

    /// Notes the time of its first row; `true` the first time.
    pub(super) fn begin(&mut self, now: u64) -> bool {
        let first = self.first_row_ns.is_none();
        self.first_row_ns.get_or_insert(now);
        first
    }

    /// Gives up every page and all that was computed; what was said stays said.
    pub(super) fn preempt(&mut self, pool: &mut PagePool) {
        self.table.release(pool);
        self.computed = 0;
        (self.planned, self.is_long) = (0, false);
        self.fate = Fate::Preempted;
    }

    /// Appends a drawn token and hands it out. `Break`: nobody listens any more.
    pub(super) fn accept(&mut self, token: TokenId, now: u64) -> ControlFlow<()> {
        self.tokens.push(token);
        if self.sampling.penalises() {
            count_output(&mut self.penalties, token);
        }
        self.first_token_ns.get_or_insert(now);
        if self.sink.emit(Event::Token(token)).is_break() {
            self.fate = Fate::Ended;
            return ControlFlow::Break(());
        }
        if self.stop_tokens.contains(&token) {
            self.finish(FinishReason::Stop, now);
        } else if self.tokens.len() - self.prompt_len >= self.answer_max {
            self.finish(FinishReason::Length, now);
        }
        ControlFlow::Continue(())
    }

    /// Says that the answer is complete.
    pub(super) fn finish(&mut self, reason: FinishReason, now: u64) {
        let since = |then: Option<u64>| then.map_or(0, |at| at.saturating_sub(self.submitted_ns));
        let usage = Usage {
            prompt_tokens: self.prompt_len as u32,
            completion_tokens: (self.tokens.len() - self.prompt_len) as u32,
            queue_ns: since(self.first_row_ns.or(Some(now))),
            first_token_ns: since(self.first_token_ns),
            total_ns: since(Some(now)),
        };
        // Whether anybody still listens makes no difference to what has ended.
        let _ = self.sink.emit(Event::Done(reason, usage));
        self.fate = Fate::Ended;
    }

    /// Says that the answer cannot be completed.
    pub(super) fn fail(&mut self, sentence: &str) {
        let _ = self.sink.emit(Event::Failed(sentence.to_owned()));
        self.fate = Fate::Ended;
    }
}

/// Every token of a prompt once, ascending, with its count.
fn count_tokens(prompt: &[TokenId]) -> Vec<Penalty> {
    let mut sorted = prompt.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|a, b| a == b)
        .map(|same| Penalty { token: same[0], in_prompt: same.len() as u32, in_output: 0 })
        .collect()
}

/// Counts one more token of the answer.
fn count_output(penalties: &mut Vec<Penalty>, token: TokenId) {
    match penalties.binary_search_by_key(&token, |penalty| penalty.token) {
        Ok(at) => penalties[at].in_output += 1,
        Err(at) => penalties.insert(at, Penalty { token, in_prompt: 0, in_output: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    struct Deaf;

    impl Sink for Deaf {
        fn emit(&mut self, _: Event) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
        fn is_closed(&self) -> bool {
            false
        }
        fn has_room(&self) -> bool {
            true
        }
    }

    fn sequence(prompt: &[u32], spans: &[Range<u32>]) -> Sequence {
        let request = Request {
            tokens: prompt.iter().copied().map(TokenId).collect(),
            decode_spans: spans.to_vec(),
            sampling: Sampling { repetition: 1.1, ..Sampling::greedy() },
            max_tokens: 100,
            stop_tokens: Vec::new(),
            sink: Box::new(Deaf),
        };
        Sequence::new(request, 0, 64, 0)
    }

    #[test]
    fn a_run_ends_where_the_form_changes() {
        let mut sequence = sequence(&[0; 10], &[2..4, 4..5, 8..10]);
        let mut runs = Vec::new();
        while sequence.computed < 10 {
            let (form, end) = sequence.next_run();
            runs.push((form, sequence.computed..end));
            sequence.computed = end;
        }
        let (decode, prompt) = (Form::Decode, Form::Prompt);
        let want =
            [(prompt, 0..2), (decode, 2..4), (decode, 4..5), (prompt, 5..8), (decode, 8..10)];
        assert_eq!(runs, want);
    }

    #[test]
    fn an_empty_span_changes_no_form() {
        let mut sequence = sequence(&[0; 6], &[3..3, 4..5]);
        assert_eq!(sequence.next_run(), (Form::Prompt, 3));
        sequence.computed = 3;
        assert_eq!(sequence.next_run(), (Form::Prompt, 4));
    }

    #[test]
    fn tokens_are_counted_in_prompt_and_answer() {
        let mut sequence = sequence(&[7, 3, 7], &[]);
        sequence.reserve();
        for token in [5, 7, 5] {
            assert!(sequence.accept(TokenId(token), 0).is_continue());
        }
        let want = [(3, 1, 0), (5, 0, 2), (7, 2, 1)].map(|(token, in_prompt, in_output)| Penalty {
            token: TokenId(token),
            in_prompt,
            in_output,
        });
        assert_eq!(sequence.penalties(), want);
    }

    #[test]
    fn an_answer_is_cut_to_what_the_context_leaves() {
        let mut sequence = sequence(&[0; 62], &[]);
        let fates = [0, 1].map(|_| {
            assert!(sequence.accept(TokenId(1), 0).is_continue());
            sequence.fate
        });
        assert_eq!(fates, [Fate::Stays, Fate::Ended]);
    }
}
