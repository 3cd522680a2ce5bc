//! An open stream of the chat page: loading, the pieces of the answer, one last event.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::older;
use crate::api::openai::chat::refused;
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Cost, Ended, Generation, NotBegun, Piece, Queued};
use crate::generations::{Form, Task};
use crate::http::reply::Refusal;
use crate::http::sse::{ALIVE, Events, HEARTBEAT, ReaderGone};
use crate::models::Problem;

/// The comment that a stream carries while its model is loaded, and how often.
const LOADING: &str = "loading";
const LOADING_EVERY: Duration = Duration::from_secs(1);
/// How far a generation is when the stream opens.
pub(super) enum Beginning {
    /// The model must be loaded first.
    Load(Ask),
    /// The model is loaded; the prompt is encoded next.
    Queued(Queued, Ask),
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
        let code = match ended {
            Ended::Stop | Ended::Length | Ended::Cancelled => None,
            Ended::Stopping => Some("draining"),
            Ended::Error(_) => Some("generation_failed"),
        };
        Self { ended, code, cost }
    }

    fn refused(refusal: Refusal, cost: Cost) -> Self {
        Self { ended: Ended::Error(refusal.sentence), code: Some(refusal.code), cost }
    }

    /// A generation that did not begin. A client that is told how long its prompt was knows how much to leave out.
    fn not_begun(reason: NotBegun) -> Self {
        let prompt_tokens = match &reason {
            NotBegun::Ended(ended) => return Self::new(ended.clone(), Cost::default()),
            NotBegun::Invalid(hadal_engine::Error::PromptTooLong { got, .. }) => *got,
            NotBegun::Invalid(_) | NotBegun::Busy(_) => 0,
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
        let begun = match beginning {
            Beginning::Load(ask) => self.load(ask).await?,
            Beginning::Queued(queued, ask) => {
                let starting = self.start(queued, ask);
                self.events.while_waiting(ALIVE, HEARTBEAT, starting).await?
            }
        };
        match begun {
            Ok(generation) => self.answer(generation).await,
            Err(last) => self.end(&last).await,
        }
    }

    /// Loads the model, saying so, and begins.
    async fn load(&self, ask: Ask) -> Result<Result<Generation, Last>, ReaderGone> {
        let beginning = async {
            let leased = tokio::select! {
                leased = self.app.models.lease(&self.model) => leased,
                ended = self.cancel.wait() => return Err(Last::new(ended, Cost::default())),
            };
            let lease = leased.map_err(|problem| match problem {
                Problem::Withdrawn(_) => Last::new(Ended::Cancelled, Cost::default()),
                problem => Last::refused(problem.into(), Cost::default()),
            })?;
            self.start(generate::queue(lease).map_err(Last::not_begun)?, ask).await
        };
        self.events.comment(LOADING);
        self.events.while_waiting(LOADING, LOADING_EVERY, beginning).await
    }

    /// Encodes and begins.
    async fn start(&self, queued: Queued, ask: Ask) -> Result<Generation, Last> {
        generate::start(&self.app, queued, ask, self.cancel.clone()).await.map_err(Last::not_begun)
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
    if let (Some(sentence), Some(object)) = (ended.error(), event.as_object_mut()) {
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
