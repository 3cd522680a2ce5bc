//! The bridge between text and tokens: the only file that sees both.

mod encoders;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hadal_engine::text::stop::StopStrings;
use hadal_engine::text::{Detokenizer, Encoded, Message, Text};
use hadal_engine::{Event, FinishReason, Place, Refused, Request, Sampling, TokenId};
use tokio::sync::Notify;

use crate::app::App;
use crate::models::Lease;
pub(crate) use encoders::Encoders;
use ring::{Emitted, Reader};

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

impl Prompt {
    /// Bytes of its text.
    fn n_byte(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
            Self::Raw(text) => text.len(),
        }
    }
}

/// Why a generation did not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The queue is full; a sentence.
    Busy(String),
    /// The request can never run; a sentence.
    Invalid(hadal_engine::Error),
    /// It was ended before it began.
    Ended(Ended),
}

impl From<Refused> for NotBegun {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy { .. } => Self::Busy(refused.to_string()),
            Refused::Invalid(error) => Self::Invalid(error),
        }
    }
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
            _ => Some(Ended::Stopping),
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
    /// The server stops, and waits no longer.
    Stopping,
    Error(String),
}

impl Ended {
    /// What went wrong, if something did.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Stop | Self::Length | Self::Cancelled => None,
            Self::Stopping => Some("the server is stopping"),
            Self::Error(sentence) => Some(sentence),
        }
    }

    /// The wire's word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Stopping | Self::Error(_) => "error",
        }
    }
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// From the request to the first and to the last token, as the model drew them: a reader may be behind.
    pub(crate) first_token: Option<Duration>,
    pub(crate) last_token: Option<Duration>,
    /// From the request to the end as its reader saw it.
    pub(crate) total: Duration,
}

impl Cost {
    /// Tokens a second after the first one.
    pub(crate) fn tokens_per_second(&self) -> f64 {
        let first = self.first_token.unwrap_or_default();
        let after = self.last_token.unwrap_or_default().saturating_sub(first);
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
    cost: Cost,
    app: Arc<App>,
    // Last: the model must not be unloaded under the ring.
    lease: Lease,
}

/// A place in a loaded model's queue.
pub(crate) struct Queued {
    place: Place,
    lease: Lease,
}

/// Takes a place in the queue. First of all: who finds none need not encode a prompt.
pub(crate) fn queue(lease: Lease) -> Result<Queued, NotBegun> {
    Ok(Queued { place: lease.loaded().handle.reserve()?, lease })
}

/// Renders and encodes when it is this prompt's turn, then submits.
pub(crate) async fn start(
    app: &Arc<App>,
    queued: Queued,
    ask: Ask,
    cancel: Cancel,
) -> Result<Generation, NotBegun> {
    let started = Instant::now();
    let Queued { place, lease } = queued;
    let Ask { prompt, sampling, max_tokens, mut stops } = ask;
    let loaded = Arc::clone(lease.loaded());
    if matches!(prompt, Prompt::Chat(_)) {
        stops.extend(loaded.text.default_stops().iter().cloned());
    }
    let encoded = tokio::select! {
        biased;
        ended = interrupted(&cancel, &lease) => return Err(NotBegun::Ended(ended)),
        encoded = encoded_in_turn(app, Arc::clone(&loaded.text), prompt) => encoded,
    };
    let encoded = encoded.map_err(NotBegun::Invalid)?;
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
    loaded.handle.submit_at(place, request)?;
    app.metrics.prompt_tokens.inc_by(cost.prompt_tokens as u64);
    Ok(Generation {
        ring: Some(reader),
        cancel,
        detokenizer: loaded.text.detokenizer(),
        stops: StopStrings::new(&stops),
        ended: None,
        started,
        cost,
        app: Arc::clone(app),
        lease,
    })
}

/// Waits until somebody else ends an answer: a cancel, or a forced unload of its model.
async fn interrupted(cancel: &Cancel, lease: &Lease) -> Ended {
    tokio::select! {
        biased;
        ended = cancel.wait() => ended,
        () = lease.revoked() => Ended::Cancelled,
    }
}

/// Encodes on a blocking thread when it is this prompt's turn; one whose client has gone by then is left out.
async fn encoded_in_turn(
    app: &App,
    text: Arc<Text>,
    prompt: Prompt,
) -> hadal_engine::Result<Encoded> {
    let failed = |message: &str| hadal_engine::Error::Internal { message: message.into() };
    let turn = app.encoders.turn(prompt.n_byte()).await;
    // Goes with this future, whoever drops it.
    let wanted = Arc::new(());
    let is_wanted = Arc::downgrade(&wanted);
    let encoding = tokio::task::spawn_blocking(move || {
        let encoded = match is_wanted.strong_count() {
            0 => Err(failed("nobody waits for this prompt")),
            _ => encode(&text, prompt),
        };
        // Not before the work is done, whether or not anybody still waits for it.
        drop(turn);
        encoded
    });
    let encoded = encoding.await.unwrap_or_else(|_| Err(failed("encoding the prompt failed")));
    drop(wanted);
    encoded
}

fn encode(text: &Text, prompt: Prompt) -> hadal_engine::Result<Encoded> {
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
            let emitted = tokio::select! {
                biased;
                ended = self.interrupted() => return self.end(ended),
                emitted = ring.next() => emitted,
            };
            let Some(Emitted { event, at }) = emitted else {
                return self.end(Ended::Error("the model is no longer running".into()));
            };
            let text = match event {
                Event::Token(id) => self.token(id, at),
                Event::Done(reason, _) => self.done(reason),
                Event::Failed(sentence) => {
                    return self.end(Ended::Error(self.app.models.shown(&sentence)));
                }
            };
            if !text.is_empty() {
                return Piece::Text(text);
            }
        }
    }

    /// Waits until somebody else ends the answer: a cancel, or a forced unload of its model.
    pub(crate) async fn interrupted(&self) -> Ended {
        interrupted(&self.cancel, &self.lease).await
    }

    /// Ends the answer, and says what it cost.
    pub(crate) fn interrupt(mut self) -> Cost {
        self.close()
    }

    fn token(&mut self, id: TokenId, at: Instant) -> String {
        let now = at.saturating_duration_since(self.started);
        match self.cost.last_token.replace(now) {
            None => {
                self.cost.first_token = Some(now);
                self.app.metrics.first_token.observe(now.as_secs_f64());
            }
            Some(last) => {
                let between = now.saturating_sub(last);
                self.app.metrics.inter_token.observe(between.as_secs_f64());
            }
        }
        self.cost.completion_tokens += 1;
        self.app.metrics.generated_tokens.inc();
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
        self.app.metrics.end_to_end.observe(self.cost.total.as_secs_f64());
        self.cost
    }
}
