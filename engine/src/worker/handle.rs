//! The way to a running model: what a caller holds, and what is checked before a request crosses the channel.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use super::Command;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::request::{Event, Request, Sampling, Sink};
use crate::step::TokenId;

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("{waiting} requests wait already, the queue holds {max}")]
    Busy {
        /// Requests waiting.
        waiting: usize,
        /// The queue's size.
        max: usize,
    },
    /// The model cannot take this request, ever.
    #[error(transparent)]
    Invalid(#[from] Error),
}

/// What a handle checks before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandleLimits {
    /// Tokens of one sequence.
    pub context_tokens: usize,
    /// Ids below this exist.
    pub vocab_size: usize,
    /// Requests that may wait.
    pub queue_max: usize,
}

/// What handles and the model's thread know of each other beside the channel.
#[derive(Debug)]
pub(super) struct Door {
    /// Requests submitted and not ended.
    live: AtomicUsize,
    live_max: usize,
    alive: AtomicBool,
}

impl Door {
    /// A door for at most `live_max` requests at a time.
    pub(super) fn new(live_max: usize) -> Arc<Self> {
        Arc::new(Self { live: AtomicUsize::new(0), live_max, alive: AtomicBool::new(true) })
    }

    /// The model's thread takes no more requests.
    pub(super) fn close(&self) {
        self.alive.store(false, Ordering::Release);
    }
}

/// The way to a running model; cheap to clone. The model ends when all handles are gone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    limits: HandleLimits,
    biases_max: usize,
    stop_tokens_max: usize,
    door: Arc<Door>,
}

impl EngineHandle {
    /// A handle over any receiver of commands: a scripted engine in tests is one. At most `queue_max` requests are live
    /// at a time, as many as the channel has room for may wait in it.
    pub fn new(commands: SyncSender<Command>, limits: HandleLimits) -> Self {
        let Limits { biases_max, stop_tokens_max, .. } = Limits::default();
        let door = Door::new(limits.queue_max);
        Self { commands, limits, biases_max, stop_tokens_max, door }
    }

    /// A handle to a model's thread.
    pub(super) fn to_thread(
        commands: SyncSender<Command>,
        limits: &Limits,
        vocab_size: usize,
        door: Arc<Door>,
    ) -> Self {
        let handle_limits = HandleLimits {
            context_tokens: limits.context_tokens_max,
            vocab_size,
            queue_max: limits.queue_max,
        };
        Self {
            commands,
            limits: handle_limits,
            biases_max: limits.biases_max,
            stop_tokens_max: limits.stop_tokens_max,
            door,
        }
    }

    /// Queues a request; never blocks. Whatever becomes of the model, the sink of a request that was taken hears
    /// exactly one `Done` or `Failed`, unless it said itself that nobody listens.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn submit(&self, request: Request) -> std::result::Result<(), Refused> {
        self.check(&request)?;
        self.send(self.reserve()?, request)
    }

    /// Takes a place in the queue for a request that is still being prepared, so that who finds no place need not
    /// prepare any.
    ///
    /// # Errors
    /// [`Refused::Busy`], or [`Error::Closed`].
    pub fn reserve(&self) -> std::result::Result<Place, Refused> {
        if !self.is_alive() {
            return Err(Error::Closed.into());
        }
        Place::take(&self.door).ok_or(self.busy())
    }

    /// Queues a request at a place that this handle, or a clone of it, has reserved; otherwise as [`Self::submit`].
    ///
    /// # Errors
    /// [`Refused`].
    ///
    /// # Panics
    /// When the place is in another model's queue: a bug of the caller.
    pub fn submit_at(&self, place: Place, request: Request) -> std::result::Result<(), Refused> {
        assert!(Arc::ptr_eq(&place.0, &self.door), "a place in another model's queue");
        self.check(&request)?;
        if !self.is_alive() {
            return Err(Error::Closed.into());
        }
        self.send(place, request)
    }

    fn busy(&self) -> Refused {
        Refused::Busy { waiting: self.limits.queue_max, max: self.limits.queue_max }
    }

    fn send(&self, place: Place, mut request: Request) -> std::result::Result<(), Refused> {
        let busy = self.busy();
        let (place, is_live) = (Some(place), Arc::new(AtomicBool::new(true)));
        request.sink = Box::new(LiveSink { inner: request.sink, is_live: is_live.clone(), place });
        self.commands.try_send(Command::Submit(request)).map_err(|error| {
            // The request is still in our hands, inside the error: its sink has nothing to say.
            is_live.store(false, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => busy,
                TrySendError::Disconnected(_) => Error::Closed.into(),
            }
        })
    }

    /// Ends everything that runs or waits, with `FinishReason::Cancelled`.
    pub fn cancel_all(&self) {
        // Blocks only while the channel is full, which is a step at most. A model that has gone has nothing to end.
        let _ = self.commands.send(Command::CancelAll);
    }

    /// Whether the model's thread takes requests; `false` once it was lost, or ended.
    pub fn is_alive(&self) -> bool {
        self.door.alive.load(Ordering::Acquire)
    }

    /// Everything that the engine behind the channel relies on.
    fn check(&self, request: &Request) -> Result<()> {
        let HandleLimits { context_tokens, vocab_size, .. } = self.limits;
        let prompt_len = request.tokens.len();
        if prompt_len == 0 {
            return Err(Error::PromptEmpty);
        }
        if prompt_len >= context_tokens {
            return Err(Error::PromptTooLong {
                got: prompt_len,
                max: context_tokens.saturating_sub(1),
            });
        }
        let biases = &request.sampling.biases;
        let named = request.tokens.iter().chain(biases.iter().map(|(token, _)| token));
        if let Some(&TokenId(got)) = named.into_iter().find(|it| it.0 as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { got, vocab_size });
        }
        check_spans(request)?;
        check_count("max_tokens", request.max_tokens as usize, 1..=usize::MAX)?;
        check_count("stop_tokens", request.stop_tokens.len(), 0..=self.stop_tokens_max)?;
        check_count("logit_bias", biases.len(), 0..=self.biases_max)?;
        check_sampling(&request.sampling)
    }
}

/// Earlier answers lie in the prompt, ascending and apart.
fn check_spans(request: &Request) -> Result<()> {
    let mut from = 0;
    for span in &request.decode_spans {
        let (start, end) = (span.start, span.end);
        if start < from || end < start || end as usize > request.tokens.len() {
            return Err(Error::Setting {
                name: "decode_spans",
                got: format!("{start}..{end}"),
                want: format!("ascending ranges from {from} to {}", request.tokens.len()),
            });
        }
        from = end;
    }
    Ok(())
}

fn check_count(name: &'static str, got: usize, range: RangeInclusive<usize>) -> Result<()> {
    if range.contains(&got) {
        return Ok(());
    }
    let want = match (range.start(), range.end()) {
        (low, &usize::MAX) => format!("at least {low}"),
        (_, high) => format!("at most {high}"),
    };
    Err(Error::Setting { name, got: got.to_string(), want })
}

/// Numbers that sampling can work with: finite, and where a user can mean them.
fn check_sampling(sampling: &Sampling) -> Result<()> {
    /// Beyond this a logit's own size is lost.
    const AMOUNT_MAX: f32 = 1000.0;
    let within = |name, got: f32, range: RangeInclusive<f32>| {
        if range.contains(&got) {
            return Ok(());
        }
        let want = format!("{} to {}", range.start(), range.end());
        Err(Error::Setting { name, got: got.to_string(), want })
    };
    let above_zero = |name, got: f32, high: f32| {
        if got > 0.0 && got <= high {
            return Ok(());
        }
        Err(Error::Setting { name, got: got.to_string(), want: format!("above 0, at most {high}") })
    };
    within("temperature", sampling.temperature, 0.0..=100.0)?;
    above_zero("top_p", sampling.top_p, 1.0)?;
    within("min_p", sampling.min_p, 0.0..=1.0)?;
    above_zero("repetition_penalty", sampling.repetition, 100.0)?;
    within("presence_penalty", sampling.presence, -AMOUNT_MAX..=AMOUNT_MAX)?;
    within("frequency_penalty", sampling.frequency, -AMOUNT_MAX..=AMOUNT_MAX)?;
    let mut biases = sampling.biases.iter();
    biases.try_for_each(|(_, amount)| within("logit_bias", *amount, -AMOUNT_MAX..=AMOUNT_MAX))
}

/// One of the requests that may be live; given back when dropped, or when the request that took it has ended.
pub struct Place(Arc<Door>);

impl Place {
    fn take(door: &Arc<Door>) -> Option<Self> {
        let place = Self(door.clone());
        // Counted before it is compared: two callers never take the last place together.
        let live = door.live.fetch_add(1, Ordering::AcqRel);
        (live < door.live_max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request's sink while it is live: gives its place back with the last event, and says so itself if the model
/// went away without one.
struct LiveSink {
    inner: Box<dyn Sink>,
    is_live: Arc<AtomicBool>,
    place: Option<Place>,
}

impl LiveSink {
    fn end(&mut self) {
        self.is_live.store(false, Ordering::Relaxed);
        // Before the event: who hears of the end may submit again at once.
        self.place = None;
    }
}

impl Sink for LiveSink {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        if !matches!(event, Event::Token(_)) {
            self.end();
        }
        let flow = self.inner.emit(event);
        if flow.is_break() {
            self.end();
        }
        flow
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn has_room(&self) -> bool {
        self.inner.has_room()
    }
}

impl Drop for LiveSink {
    fn drop(&mut self) {
        if self.is_live.load(Ordering::Relaxed) && !self.inner.is_closed() {
            self.end();
            let _ = self.inner.emit(Event::Failed(Error::Closed.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::sched::fake::{Order, Reader};

    const LIMITS: HandleLimits = HandleLimits { context_tokens: 10, vocab_size: 40, queue_max: 4 };

    /// What a handle says to an order changed by `spoil`.
    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Order), want: &str) {
        let (sender, _receiver) = sync_channel(4);
        let mut order = Order::plain(5, 5);
        spoil(&mut order);
        let reader = Reader::new(1);
        let refused = EngineHandle::new(sender, LIMITS).submit(order.request(reader.sink()));
        assert_eq!(refused.unwrap_err().to_string(), want);
        assert_eq!(reader.heard().end, None, "who is refused hears it once");
    }

    #[test]
    fn prompts_are_held_to_context_and_vocabulary() {
        check(|order| order.tokens.clear(), "the prompt is empty");
        check(
            |order| order.tokens = vec![TokenId(1); 10],
            "prompt of 10 tokens is over this model's 9: shorten it, or leave out earlier messages",
        );
        check(|order| order.tokens[2] = TokenId(40), "token 40 is outside the vocabulary of 40");
        check(
            |order| order.sampling.biases.push((TokenId(77), 1.0)),
            "token 77 is outside the vocabulary of 40",
        );
    }

    #[test]
    fn spans_lie_in_the_prompt_ascending_and_apart() {
        let want = "`decode_spans` is 2..4, wanted ascending ranges from 3 to 5";
        check(|order| order.decode_spans = vec![0..3, 2..4], want);
        let want = "`decode_spans` is 4..6, wanted ascending ranges from 0 to 5";
        check(|order| order.decode_spans.push(4..6), want);
        let reversed = std::ops::Range { start: 3, end: 1 };
        let want = "`decode_spans` is 3..1, wanted ascending ranges from 0 to 5";
        check(|order| order.decode_spans.push(reversed), want);
    }

    #[test]
    fn counts_are_bounded() {
        check(|order| order.max_tokens = 0, "`max_tokens` is 0, wanted at least 1");
        let stops = vec![TokenId(1); 65];
        check(|order| order.stop_tokens = stops, "`stop_tokens` is 65, wanted at most 64");
        let biases = vec![(TokenId(1), 0.0); 301];
        check(|order| order.sampling.biases = biases, "`logit_bias` is 301, wanted at most 300");
    }

    #[test]
    fn sampling_is_finite_and_in_range() {
        let want = "`temperature` is NaN, wanted 0 to 100";
        check(|order| order.sampling.temperature = f32::NAN, want);
        check(|order| order.sampling.top_p = 0.0, "`top_p` is 0, wanted above 0, at most 1");
        check(|order| order.sampling.min_p = 1.5, "`min_p` is 1.5, wanted 0 to 1");
        let want = "`repetition_penalty` is 0, wanted above 0, at most 100";
        check(|order| order.sampling.repetition = 0.0, want);
        let want = "`presence_penalty` is inf, wanted -1000 to 1000";
        check(|order| order.sampling.presence = f32::INFINITY, want);
        let want = "`frequency_penalty` is -inf, wanted -1000 to 1000";
        check(|order| order.sampling.frequency = f32::NEG_INFINITY, want);
        let want = "`logit_bias` is NaN, wanted -1000 to 1000";
        check(|order| order.sampling.biases.push((TokenId(1), f32::NAN)), want);
    }

    #[test]
    fn a_reserved_place_counts_until_it_is_dropped_or_its_request_has_ended() {
        let (sender, receiver) = sync_channel(8);
        let handle = EngineHandle::new(sender, HandleLimits { queue_max: 2, ..LIMITS });
        let (first, second) = (handle.reserve().unwrap(), handle.reserve().unwrap());
        let readers = [(); 3].map(|()| Reader::new(4));
        let request = |n: usize| Order::plain(5, 5).request(readers[n].sink());
        let is_full = || matches!(handle.reserve(), Err(Refused::Busy { .. }));
        assert!(is_full());
        assert!(matches!(handle.submit(request(0)), Err(Refused::Busy { .. })));
        drop(first);
        handle.submit(request(1)).unwrap();
        assert!(is_full());
        handle.submit_at(second, request(2)).unwrap();
        assert!(is_full());
        drop(receiver.recv());
        let _third = handle.reserve().unwrap();
        handle.door.close();
        assert!(matches!(handle.reserve(), Err(Refused::Invalid(Error::Closed))));
    }

    #[test]
    fn a_scripted_engine_receives_what_was_submitted() {
        let (sender, receiver) = sync_channel(1);
        let handle = EngineHandle::new(sender, LIMITS);
        let readers = [(); 2].map(|()| Reader::new(4));
        let submit = |reader: &Reader| handle.submit(Order::plain(5, 5).request(reader.sink()));
        submit(&readers[0]).unwrap();
        assert!(matches!(submit(&readers[1]), Err(Refused::Busy { .. })));
        let Ok(Command::Submit(request)) = receiver.recv() else { panic!("a request was sent") };
        drop(request);
        let closed = Event::Failed("the model is no longer running".into());
        assert_eq!(readers[0].heard().end, Some(closed));
        drop(receiver);
        assert!(matches!(submit(&readers[1]), Err(Refused::Invalid(Error::Closed))));
        assert_eq!(readers[1].heard().end, None, "who is refused hears it once");
    }
}
