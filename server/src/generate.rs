//! The bridge between text and tokens: the only file that sees both.

mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hadal_engine::text::stop::StopStrings;
use hadal_engine::text::{Detokenizer, Encoded, Message};
use hadal_engine::{Event, FinishReason, Refused, Request, Sampling, TokenId};
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::models::Lease;
use ring::Reader;

/// Events that may wait for a reader; a sequence whose reader is further behind pauses.
const EVENTS_MAX: usize = 1024;

/// What to generate.
pub(crate) struct Ask {
    pub(crate) prompt: Prompt,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: u32,
    pub(crate) stops: Vec<String>,
}

/// What the model goes on from.
pub(crate) enum Prompt {
    /// A conversation, through the model's template.
    Chat(Vec<Message>),
    /// A text as it is.
    Raw(String),
}

/// Why a generation did not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The queue is full; a sentence.
    Busy(String),
    /// The request can never run; a sentence.
    Invalid(hadal_engine::Error),
}

/// A random number, for seeds and ids.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        // No source of randomness: the time is unguessable enough for a seed.
        u64::try_from(
            std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() & u128::from(u64::MAX),
        )
        .unwrap_or(0)
    })
}

/// Ends a generation from elsewhere.
#[derive(Clone, Default)]
pub(crate) struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    /// 0: running; 1: cancelled; 2: failed because the server stops.
    state: AtomicU8,
    notify: Notify,
}

impl Cancel {
    pub(crate) fn cancel(&self) {
        self.end(1);
    }

    pub(crate) fn fail(&self) {
        self.end(2);
    }

    fn end(&self, how: u8) {
        // The first reason stays.
        let _ = self.0.state.compare_exchange(0, how, Ordering::AcqRel, Ordering::Acquire);
        self.0.notify.notify_one();
    }

    /// How it was ended, if it was.
    pub(crate) fn ended(&self) -> Option<Ended> {
        match self.0.state.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Ended::Cancelled),
            _ => Some(Ended::Error("the server is stopping".to_owned())),
        }
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Ended {
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            self.0.notify.notified().await;
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Stop,
    Length,
    Cancelled,
    Error(String),
}

impl Ended {
    /// The wire's word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error(_) => "error",
        }
    }
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) first_token: Option<Duration>,
    pub(crate) total: Duration,
}

impl Cost {
    /// Tokens a second after the first one.
    pub(crate) fn tokens_per_second(&self) -> f64 {
        let after =
            self.first_token.map_or(Duration::ZERO, |first| self.total.saturating_sub(first));
        let tokens = self.completion_tokens.saturating_sub(1);
        if after.is_zero() { 0.0 } else { tokens as f64 / after.as_secs_f64() }
    }
}

/// A part of an answer.
#[derive(Debug)]
pub(crate) enum Piece {
    Text(String),
    End(Ended, Cost),
}

/// A running answer. Dropping it frees its place within a step.
pub(crate) struct Generation {
    ring: Option<Reader>,
    cancel: Cancel,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// How it ended, while its last text is shown.
    ended: Option<Ended>,
    started: Instant,
    last_token: Option<Instant>,
    cost: Cost,
    metrics: Arc<Metrics>,
    // Last: the model must not be unloaded under the ring.
    lease: Lease,
}

/// Renders and encodes on a blocking thread, then queues.
pub(crate) async fn start(
    lease: Lease,
    ask: Ask,
    cancel: Cancel,
    metrics: Arc<Metrics>,
) -> Result<Generation, NotBegun> {
    let started = Instant::now();
    let Ask { prompt, sampling, max_tokens, mut stops } = ask;
    let loaded = Arc::clone(lease.loaded());
    let text = Arc::clone(&loaded.text);
    if matches!(prompt, Prompt::Chat(_)) {
        stops.extend(text.default_stops().iter().cloned());
    }
    let encoding = tokio::task::spawn_blocking(move || encode(&text, prompt)).await;
    let encoded = match encoding {
        Ok(encoded) => encoded.map_err(NotBegun::Invalid)?,
        Err(_) => {
            return Err(NotBegun::Invalid(hadal_engine::Error::Internal {
                message: "encoding the prompt failed".into(),
            }));
        }
    };
    let (sink, reader) = ring::ring(EVENTS_MAX);
    let cost = Cost { prompt_tokens: encoded.tokens.len(), ..Cost::default() };
    let request = Request {
        tokens: encoded.tokens,
        decode_spans: encoded.decode_spans,
        sampling,
        max_tokens,
        stop_tokens: loaded.text.end_tokens(&loaded.info.generation.eos_token_ids),
        sink: Box::new(sink),
    };
    loaded.handle.submit(request).map_err(|refused| match refused {
        Refused::Busy { .. } => NotBegun::Busy(refused.to_string()),
        Refused::Invalid(error) => NotBegun::Invalid(error),
    })?;
    metrics.prompt_tokens.inc_by(cost.prompt_tokens as u64);
    Ok(Generation {
        ring: Some(reader),
        cancel,
        detokenizer: loaded.text.detokenizer(),
        stops: StopStrings::new(&stops),
        ended: None,
        started,
        last_token: None,
        cost,
        metrics,
        lease,
    })
}

fn encode(text: &hadal_engine::text::Text, prompt: Prompt) -> hadal_engine::Result<Encoded> {
    match prompt {
        Prompt::Chat(messages) => text.encode_chat(&messages),
        Prompt::Raw(prompt) => text.encode_raw(&prompt),
    }
}

impl Generation {
    /// The next part of the answer: text, then exactly one end. Nothing comes after the end.
    pub(crate) async fn next(&mut self) -> Piece {
        loop {
            if let Some(ended) = self.ended.take() {
                return self.end(ended);
            }
            let Some(ring) = &self.ring else { return self.end(Ended::Cancelled) };
            let event = tokio::select! {
                biased;
                ended = self.interrupted() => return self.end(ended),
                event = ring.next() => event,
            };
            let text = match event {
                Some(Event::Token(id)) => self.token(id),
                Some(Event::Done(reason, _)) => self.done(reason),
                Some(Event::Failed(sentence)) => return self.end(Ended::Error(sentence)),
                None => return self.end(Ended::Error("the model is no longer running".into())),
            };
            if !text.is_empty() {
                return Piece::Text(text);
            }
        }
    }

    /// Waits until somebody else ends the answer: a cancel, or a forced unload of its model.
    pub(crate) async fn interrupted(&self) -> Ended {
        tokio::select! {
            biased;
            ended = self.cancel.wait() => ended,
            () = self.lease.revoked() => Ended::Cancelled,
        }
    }

    /// Ends the answer, and says what it cost.
    pub(crate) fn interrupt(mut self) -> Cost {
        self.close()
    }

    fn token(&mut self, id: TokenId) -> String {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => {
                let first = now.duration_since(self.started);
                self.cost.first_token = Some(first);
                self.metrics.first_token.observe(first.as_secs_f64());
            }
            Some(last) => self.metrics.inter_token.observe(now.duration_since(last).as_secs_f64()),
        }
        self.cost.completion_tokens += 1;
        self.metrics.generated_tokens.inc();
        let scan = self.stops.push(&self.detokenizer.push(id));
        if scan.stopped.is_some() {
            // The sequence ends now, not when this struct goes.
            self.ring = None;
            self.ended = Some(Ended::Stop);
        }
        scan.text
    }

    /// The engine is done: what was held back is shown, unless a stop string is in it.
    fn done(&mut self, reason: FinishReason) -> String {
        let scan = self.stops.push(&self.detokenizer.finish());
        self.ended = Some(match (scan.stopped, reason) {
            (Some(_), _) | (None, FinishReason::Stop) => Ended::Stop,
            (None, FinishReason::Length) => Ended::Length,
            (None, FinishReason::Cancelled) => Ended::Cancelled,
        });
        scan.text + &self.stops.finish()
    }

    fn end(&mut self, ended: Ended) -> Piece {
        Piece::End(ended, self.close())
    }

    fn close(&mut self) -> Cost {
        self.ring = None;
        self.cost.total = self.started.elapsed();
        self.metrics.end_to_end.observe(self.cost.total.as_secs_f64());
        self.cost
    }
}
