//! What a model counted in each of its steps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hadal_engine::Stats;

use super::clock::Clock;
use super::measure::Answer;

/// How long a model may take to count what has ended, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

/// A model's counters after each of its steps.
#[derive(Clone)]
pub(super) struct Log {
    clock: Clock,
    steps: Arc<Mutex<Vec<(Duration, Stats)>>>,
}

impl Log {
    /// An empty one.
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, steps: Arc::default() }
    }

    /// Notes the counters; called on the model's thread, after a step's tokens were handed out.
    pub(super) fn note(&self, stats: &Stats) {
        self.lock().push((self.clock.now(), *stats));
    }

    /// Waits until the model has counted the end of so many requests: it does so after their last tokens.
    pub(super) fn settle(&self, requests: u64) {
        let end = Instant::now() + PATIENCE;
        let has_counted =
            || self.lock().last().is_some_and(|(_, it)| it.finished_total >= requests);
        while !has_counted() && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
    }

    /// Forgets all steps but the last.
    pub(super) fn clear(&self) {
        let mut steps = self.lock();
        let last = steps.pop();
        steps.clear();
        steps.extend(last);
    }

    /// Steps, experts touched and preemptions from one token to another, that is from the end of the step that gave
    /// the first to the end of the step that gave the second.
    pub(super) fn between(&self, begin: Duration, end: Duration) -> Option<Counted> {
        let steps = self.lock();
        let after = |at: Duration| steps.iter().find(|(noted, _)| *noted >= at).map(|(_, it)| *it);
        Some(Counted::between(&after(begin)?, &after(end)?))
    }

    /// The same from before a request to its first token.
    pub(super) fn of_first_token(&self, answer: &Answer) -> Option<Counted> {
        let steps = self.lock();
        let first = *answer.tokens.first()?;
        let before = steps.iter().rev().find(|(noted, _)| *noted <= answer.submitted);
        let (_, after) = steps.iter().find(|(noted, _)| *noted >= first)?;
        Some(Counted::between(&before.map_or(Stats::default(), |(_, it)| *it), after))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Duration, Stats)>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) steps: u64,
    pub(super) experts_touched: u64,
    pub(super) preemptions: u64,
}

impl Counted {
    fn between(begin: &Stats, end: &Stats) -> Self {
        let since = |of: fn(&Stats) -> u64| of(end).saturating_sub(of(begin));
        Self {
            steps: since(|stats| stats.steps_total),
            experts_touched: since(|stats| stats.experts_touched_total),
            preemptions: since(|stats| stats.preemptions_total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn answer(submitted: u64, tokens: &[u64]) -> Answer {
        Answer { submitted: ms(submitted), tokens: tokens.iter().map(|at| ms(*at)).collect() }
    }

    #[test]
    fn counters_are_of_the_steps_that_gave_the_tokens() {
        let log = Log::new(Clock::Cpu);
        for (at, steps_total, experts_touched_total) in
            [(3, 5, 50), (51, 6, 60), (62, 7, 75), (72, 8, 80)]
        {
            let stats = Stats { steps_total, experts_touched_total, ..Stats::default() };
            log.lock().push((ms(at), stats));
        }
        let counted = Counted { steps: 2, experts_touched: 20, preemptions: 0 };
        assert_eq!(log.between(ms(50), ms(71)), Some(counted));
        assert_eq!(log.between(ms(50), ms(73)), None, "not noted yet");
        let first = Counted { steps: 1, experts_touched: 10, preemptions: 0 };
        assert_eq!(log.of_first_token(&answer(4, &[50])), Some(first));
        assert_eq!(log.of_first_token(&answer(4, &[])), None);
        log.clear();
        assert_eq!(log.of_first_token(&answer(80, &[50])), Some(Counted::default()));
    }

    #[test]
    fn a_model_is_waited_for_until_it_has_counted_every_request() {
        let log = Log::new(Clock::Cpu);
        log.note(&Stats { finished_total: 2, ..Stats::default() });
        log.settle(2);
        let other = log.clone();
        let late = std::thread::spawn(move || {
            std::thread::sleep(ms(20));
            other.note(&Stats { finished_total: 3, steps_total: 9, ..Stats::default() });
        });
        log.settle(3);
        assert_eq!(log.lock().last().unwrap().1.steps_total, 9);
        late.join().unwrap();
    }
}
