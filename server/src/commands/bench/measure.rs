//! Runs requests through a model's handle and notes when each token came.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use hadal_engine::step::TokenId;
use hadal_engine::{EngineHandle, Event, Request, Sampling, Sink};

use super::clock::Clock;
use crate::commands::Failure;

/// When a request was submitted and when each of its tokens came.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) submitted: Duration,
    pub(super) tokens: Vec<Duration>,
}

impl Answer {
    /// Time to the first token; `None` when there was none.
    pub(super) fn first_token_seconds(&self) -> Option<f64> {
        Some(self.tokens.first()?.saturating_sub(self.submitted).as_secs_f64())
    }
}

/// Requests that run at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) sequences: u32,
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
    pub(super) seed: u64,
}

/// A sink that sends every event on, with its time.
///
/// A sequence that has its first token waits for the others': as long as its sink says that it is full. Prompts are
/// then no part of the time in which all decode, and no sequence is longer than another.
struct Stopwatch {
    sequence: usize,
    sequences: usize,
    clock: Clock,
    has_begun: bool,
    begun: Arc<AtomicUsize>,
    notes: Sender<(usize, Duration, Event)>,
}

impl Sink for Stopwatch {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        if !self.has_begun {
            self.has_begun = true;
            self.begun.fetch_add(1, Ordering::Relaxed);
        }
        match self.notes.send((self.sequence, self.clock.now(), event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        !self.has_begun || self.begun.load(Ordering::Relaxed) >= self.sequences
    }
}

/// Runs a batch, each sequence over its own random tokens, and waits for all of them.
///
/// Tokens are drawn at temperature 1, each sequence with its own seed: greedy answers fall into the same loops, and
/// then into the same experts.
pub(super) fn answers(
    handle: &EngineHandle,
    vocab_size: usize,
    clock: Clock,
    batch: Batch,
) -> Result<Vec<Answer>, Failure> {
    let (notes, events) = channel();
    let (mut random, begun) = (Random(batch.seed), Arc::new(AtomicUsize::new(0)));
    let mut answers = Vec::new();
    for sequence in 0..batch.sequences as usize {
        let tokens = (0..batch.prompt_tokens)
            .map(|_| TokenId((random.next() % vocab_size.max(1) as u64) as u32))
            .collect();
        let sampling = Sampling { temperature: 1.0, seed: random.next(), ..Sampling::greedy() };
        let sink = Box::new(Stopwatch {
            sequence,
            sequences: batch.sequences as usize,
            clock,
            has_begun: false,
            begun: Arc::clone(&begun),
            notes: notes.clone(),
        });
        answers.push(Answer { submitted: clock.now(), tokens: Vec::new() });
        let request = Request {
            tokens,
            decode_spans: Vec::new(),
            sampling,
            max_tokens: batch.answer_tokens,
            stop_tokens: Vec::new(),
            sink,
        };
        handle.submit(request).map_err(|refused| Failure::Failed(refused.to_string()))?;
    }
    drop(notes);
    // Ends when the last sink is gone, so a model that stops early cannot leave this waiting.
    for (sequence, at, event) in events {
        match event {
            Event::Token(_) => answers[sequence].tokens.push(at),
            Event::Done(..) => {}
            Event::Failed(problem) => return Err(Failure::Failed(problem)),
        }
    }
    let n_token = batch.answer_tokens as usize;
    if answers.iter().all(|answer| answer.tokens.len() == n_token) {
        Ok(answers)
    } else {
        Err(Failure::Failed("the model ended before its answers did".into()))
    }
}

/// From token `first` to token `first + n` of every answer: when the last sequence had the one and the other. Token 0
/// is the prompt's. `None` when answers are too short.
pub(super) fn window(answers: &[Answer], first: u32, n: u32) -> Option<(Duration, Duration)> {
    let last = |token: u32| {
        let at = |answer: &Answer| answer.tokens.get(token as usize).copied();
        answers.iter().map(at).collect::<Option<Vec<_>>>()?.into_iter().max()
    };
    Some((last(first)?, last(first + n)?))
}

/// `SplitMix64`: prompts are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::time::Instant;

    use hadal_engine::worker::{Command, HandleLimits};
    use hadal_engine::{FinishReason, request::Usage};

    const BATCH: Batch = Batch { sequences: 3, prompt_tokens: 8, answer_tokens: 5, seed: 1 };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn answer(submitted: u64, tokens: &[u64]) -> Answer {
        Answer { submitted: ms(submitted), tokens: tokens.iter().map(|at| ms(*at)).collect() }
    }

    #[test]
    fn a_window_is_from_the_last_sequence_to_the_last_sequence() {
        let answers = [answer(0, &[10, 60, 70, 80]), answer(1, &[50, 61, 71, 81])];
        assert_eq!(window(&answers, 0, 2), Some((ms(50), ms(71))));
        assert_eq!(window(&answers, 2, 1), Some((ms(71), ms(81))));
        assert_eq!(window(&answers, 2, 2), None, "no such token");
        assert_eq!(window(&[], 0, 1), None);
        assert_eq!(answers[1].first_token_seconds(), Some(0.049));
        assert_eq!(answer(0, &[]).first_token_seconds(), None);
    }

    fn handle_over(script: impl Fn(Request) + Send + 'static) -> EngineHandle {
        let (commands, received) = sync_channel(16);
        std::thread::spawn(move || {
            for command in received {
                if let Command::Submit(request) = command {
                    script(request);
                }
            }
        });
        EngineHandle::new(
            commands,
            HandleLimits { context_tokens: 100, vocab_size: 50, queue_max: 16 },
        )
    }

    #[test]
    fn every_sequence_has_its_own_tokens_and_is_waited_for() {
        let (seen, prompts) = channel();
        let handle = handle_over(move |mut request| {
            seen.send(request.tokens.clone()).unwrap();
            for _ in 0..request.max_tokens {
                assert!(request.sink.emit(Event::Token(TokenId(1))).is_continue());
            }
            let _ = request.sink.emit(Event::Done(FinishReason::Length, Usage::default()));
        });
        let answers = answers(&handle, 50, Clock::Wall(Instant::now()), BATCH).unwrap();
        assert!(answers.iter().all(|answer| answer.tokens.len() == 5));
        let prompts: std::collections::BTreeSet<Vec<TokenId>> = prompts.try_iter().collect();
        assert_eq!(prompts.len(), 3);
        assert!(prompts.iter().flatten().all(|token| token.0 < 50));
    }

    #[test]
    fn nobody_goes_on_before_all_have_begun() {
        let begun = Arc::new(AtomicUsize::new(0));
        let (notes, events) = channel();
        let sink = |sequence| Stopwatch {
            sequence,
            sequences: 2,
            clock: Clock::Cpu,
            has_begun: false,
            begun: Arc::clone(&begun),
            notes: notes.clone(),
        };
        let (mut one, mut two) = (sink(0), sink(1));
        assert!(one.has_room() && two.has_room(), "prompts are computed");
        assert!(one.emit(Event::Token(TokenId(1))).is_continue());
        assert!(!one.has_room() && two.has_room());
        assert!(two.emit(Event::Token(TokenId(1))).is_continue());
        assert!(one.has_room() && two.has_room());
        drop(events);
        assert!(one.emit(Event::Token(TokenId(1))).is_break());
    }

    #[test]
    fn a_failure_and_an_early_end_are_reported() {
        let failing = handle_over(|mut request| {
            let _ = request.sink.emit(Event::Failed("not finite".into()));
        });
        let one = Batch { sequences: 1, ..BATCH };
        assert_eq!(
            answers(&failing, 50, Clock::Cpu, one).unwrap_err(),
            Failure::Failed("not finite".into())
        );
        let silent = handle_over(drop);
        assert!(answers(&silent, 50, Clock::Cpu, one).is_err());
    }
}
