//! Runs requests through a model's handle and notes when each token came.

use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use hadal_engine::step::TokenId;
use hadal_engine::{EngineHandle, Event, Request, Sampling, Sink};

use crate::commands::Failure;

/// When a request was submitted and when each of its tokens came.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    submitted: Instant,
    tokens: Vec<Instant>,
}

impl Answer {
    /// Time to the first token; `None` when there was none.
    pub(super) fn first_token_seconds(&self) -> Option<f64> {
        self.tokens.first().map(|at| at.duration_since(self.submitted).as_secs_f64())
    }
}

/// A sink that sends every event on, with its time.
struct Stopwatch {
    sequence: usize,
    notes: Sender<(usize, Instant, Event)>,
}

impl Sink for Stopwatch {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        match self.notes.send((self.sequence, Instant::now(), event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        true
    }
}

/// Runs `batch` requests at once, each over its own random tokens, and waits for all of them.
///
/// Tokens are drawn at temperature 1, each sequence with its own seed: greedy answers fall into the same loops, and
/// then into the same experts.
pub(super) fn answers(
    handle: &EngineHandle,
    vocab_size: usize,
    batch: u32,
    prompt_tokens: u32,
    answer_tokens: u32,
    seed: u64,
) -> Result<Vec<Answer>, Failure> {
    let (notes, events) = channel();
    let mut random = Random(seed);
    let mut answers = Vec::new();
    for sequence in 0..batch as usize {
        let tokens = (0..prompt_tokens)
            .map(|_| TokenId((random.next() % vocab_size.max(1) as u64) as u32))
            .collect();
        let sampling = Sampling { temperature: 1.0, seed: random.next(), ..Sampling::greedy() };
        let sink = Box::new(Stopwatch { sequence, notes: notes.clone() });
        answers.push(Answer { submitted: Instant::now(), tokens: Vec::new() });
        let request = Request {
            tokens,
            decode_spans: Vec::new(),
            sampling,
            max_tokens: answer_tokens,
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
    let all_answered = answers.iter().all(|answer| answer.tokens.len() == answer_tokens as usize);
    if all_answered {
        Ok(answers)
    } else {
        Err(Failure::Failed("the model ended before its answers did".into()))
    }
}

/// Tokens a second over the time in which every sequence was decoding: from the last first token to the first last
/// one. `None` when there is no such time.
pub(super) fn decode_speed(answers: &[Answer]) -> Option<f64> {
    let begin = answers.iter().filter_map(|answer| answer.tokens.first()).max()?;
    let end = answers.iter().filter_map(|answer| answer.tokens.last()).min()?;
    let seconds = end.checked_duration_since(*begin)?.as_secs_f64();
    let n: usize = answers
        .iter()
        .map(|answer| answer.tokens.iter().filter(|at| *at > begin && *at <= end).count())
        .sum();
    (seconds > 0.0 && n > 0).then(|| n as f64 / seconds)
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
    use std::time::Duration;

    use hadal_engine::worker::{Command, HandleLimits};
    use hadal_engine::{FinishReason, request::Usage};

    /// Tokens every `step_ms`, the first one at `first_ms`.
    fn answer(start: Instant, first_ms: u64, step_ms: u64, n: u64) -> Answer {
        let at = |i| start + Duration::from_millis(first_ms + i * step_ms);
        Answer { submitted: start, tokens: (0..n).map(at).collect() }
    }

    #[test]
    fn only_the_time_in_which_all_decode_counts() {
        let start = Instant::now();
        // Two sequences, 10 ms a token; the second begins 50 ms later. Both decode from 60 to 110 ms: 10 tokens.
        let answers = [answer(start, 10, 10, 11), answer(start, 60, 10, 11)];
        assert!((decode_speed(&answers).unwrap() - 200.0).abs() < 1e-6);
        assert!((answers[1].first_token_seconds().unwrap() - 0.06).abs() < 1e-9);
    }

    #[test]
    fn sequences_that_never_meet_have_no_speed() {
        let start = Instant::now();
        assert_eq!(decode_speed(&[answer(start, 0, 1, 3), answer(start, 10, 1, 3)]), None);
        assert_eq!(decode_speed(&[answer(start, 0, 1, 1)]), None);
        assert_eq!(decode_speed(&[]), None);
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
        let answers = answers(&handle, 50, 3, 8, 5, 1).unwrap();
        assert!(answers.iter().all(|answer| answer.tokens.len() == 5));
        let prompts: std::collections::BTreeSet<Vec<TokenId>> = prompts.try_iter().collect();
        assert_eq!(prompts.len(), 3);
        assert!(prompts.iter().flatten().all(|token| token.0 < 50));
    }

    #[test]
    fn a_failure_and_an_early_end_are_reported() {
        let failing = handle_over(|mut request| {
            let _ = request.sink.emit(Event::Failed("not finite".into()));
        });
        assert_eq!(
            answers(&failing, 50, 1, 2, 2, 1).unwrap_err(),
            Failure::Failed("not finite".into())
        );
        let silent = handle_over(drop);
        assert!(answers(&silent, 50, 1, 2, 2, 1).is_err());
    }
}
