//! An open stream of the chat page: loading, the pieces of the answer, one last event.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::older;
use crate::api::openai::chat::refused;
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Cost, Ended, Generation, NotBegun, Piece};
use crate::generations::{Form, Task};
use crate::http::reply::Refusal;
use crate::http::sse::{ALIVE, Events, HEARTBEAT, ReaderGone};

/// The comment that a stream carries while its model is loaded, and how often.
const LOADING: &str = "loading";
const LOADING_EVERY: Duration = Duration::from_secs(1);
/// How far a generation is when the stream opens.
pub(super) enum Beginning {
    /// The model must be loaded first.
    Load(Ask),
    Running(Box<Generation>),
    /// It will never run; the reason becomes the last event.
    Refused(NotBegun),
}

/// How a stream ends.
pub(super) struct Last {
    pub(super) ended: Ended,
    /// For programs, when it ended in an error.
    pub(super) code: Option<&'static str>,
    pub(super) cost: Cost,
}

impl Last {
    fn new(ended: Ended, cost: Cost) -> Self {
        let code = matches!(ended, Ended::Error(_)).then_some("generation_failed");
        Self { ended, code, cost }
    }

    fn refused(refusal: Refusal, cost: Cost) -> Self {
        Self { ended: Ended::Error(refusal.sentence), code: Some(refusal.code), cost }
    }

    /// A generation that did not begin. A client that is told how long its prompt was knows how much to leave out.
    fn not_begun(reason: NotBegun) -> Self {
        let prompt_tokens = match &reason {
            NotBegun::Invalid(hadal_engine::Error::PromptTooLong { got, .. }) => *got,
            _ => 0,
        };
        Self::refused(refused(reason), Cost { prompt_tokens, ..Cost::default() })
    }
}

/// An open stream.
pub(super) struct Stream {
    pub(super) app: Arc<App>,
    pub(super) model: String,
    pub(super) form: Form,
    pub(super) events: Events,
    pub(super) cancel: Cancel,
    /// In the table of running generations until the stream ends.
    pub(super) task: Task,
}

impl Stream {
    /// Loads when it must, answers, and says how it ended.
    pub(super) async fn run(self, beginning: Beginning) -> Result<(), ReaderGone> {
        let generation = match beginning {
            Beginning::Running(generation) => *generation,
            Beginning::Refused(reason) => return self.end(&Last::not_begun(reason)).await,
            Beginning::Load(ask) => match self.load(ask).await? {
                Ok(generation) => generation,
                Err(last) => return self.end(&last).await,
            },
        };
        self.answer(generation).await
    }

    /// Loads the model, saying so, and begins.
    async fn load(&self, ask: Ask) -> Result<Result<Generation, Last>, ReaderGone> {
        let beginning = async {
            let leased = tokio::select! {
                leased = self.app.models.lease(&self.model) => leased,
                ended = self.cancel.wait() => return Err(Last::new(ended, Cost::default())),
            };
            let lease = leased.map_err(|problem| Last::refused(problem.into(), Cost::default()))?;
            let metrics = Arc::clone(&self.app.metrics);
            let started = generate::start(lease, ask, self.cancel.clone(), metrics).await;
            started.map_err(Last::not_begun)
        };
        self.events.comment(LOADING);
        self.events.while_waiting(LOADING, LOADING_EVERY, beginning).await
    }

    /// Streams the answer; when the reader goes, the generation goes with it.
    async fn answer(&self, mut generation: Generation) -> Result<(), ReaderGone> {
        loop {
            let next = generation.next();
            let text = match self.events.while_waiting(ALIVE, HEARTBEAT, next).await? {
                Piece::Text(text) => text,
                Piece::End(ended, cost) => {
                    // The place is free before the client hears the end.
                    drop(generation);
                    return self.end(&Last::new(ended, cost)).await;
                }
            };
            let event = self.token(&text);
            let sent = self.events.json_unless(&event, generation.interrupted());
            if let Some(ended) = sent.await? {
                return self.end(&Last::new(ended, generation.interrupt())).await;
            }
        }
    }

    fn token(&self, text: &str) -> Value {
        match self.form {
            Form::Current => json!({ "token": text, "done": false }),
            Form::Older => json!({ "type": "token", "content": text }),
        }
    }

    async fn end(&self, last: &Last) -> Result<(), ReaderGone> {
        tracing::debug!("generation {} ended: {}", self.task.id, last.ended.reason());
        let value = match self.form {
            Form::Current => last_event(last),
            Form::Older => older::last_event(last),
        };
        self.events.json(&value).await
    }
}

fn last_event(last: &Last) -> Value {
    let Last { ended, code, cost } = last;
    let cost = *cost;
    let mut event = json!({ "token": "", "done": true, "finish_reason": ended.reason(), "usage": usage(cost), "timings": timings(cost) });
    if let (Ended::Error(sentence), Some(object)) = (ended, event.as_object_mut()) {
        object.insert("error".into(), json!(sentence));
        object.insert("code".into(), json!(code));
    }
    event
}

/// Tokens of an answer.
pub(crate) fn usage(cost: Cost) -> Value {
    json!({
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        // No prompt's cache outlives its request yet.
        "prompt_tokens_details": { "cached_tokens": 0 },
    })
}

/// Times of an answer, in milliseconds.
pub(super) fn timings(cost: Cost) -> Value {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "first_token_ms": cost.first_token.map(ms),
        "total_ms": ms(cost.total),
        "tokens_per_second": (cost.tokens_per_second() * 100.0).round() / 100.0,
    })
}
