//! An open stream of the chat page: loading, the pieces of the answer, one last event.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::older;
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Cost, Ended, Generation, NotBegun, Piece, Queued};
use crate::generations::{Form, Task};
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
            Err(ended) => self.end(&ended, Cost::default()).await,
        }
    }

    /// Loads the model, saying so, and begins.
    async fn load(&self, ask: Ask) -> Result<Result<Generation, Ended>, ReaderGone> {
        let beginning = async {
            let leased = tokio::select! {
                leased = self.app.models.lease(&self.model) => leased,
                ended = self.cancel.wait() => return Err(ended),
            };
            let lease = leased.map_err(|problem| match problem {
                Problem::Withdrawn(_) => Ended::Cancelled,
                problem => Ended::Error(problem.sentence().to_owned()),
            })?;
            self.start(generate::queue(lease).map_err(ended)?, ask).await
        };
        self.events.comment(LOADING);
        self.events.while_waiting(LOADING, LOADING_EVERY, beginning).await
    }

    /// Encodes and begins.
    async fn start(&self, queued: Queued, ask: Ask) -> Result<Generation, Ended> {
        generate::start(&self.app, queued, ask, self.cancel.clone()).await.map_err(ended)
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
                    return self.end(&ended, cost).await;
                }
            };
            let event = self.token(&text);
            let sent = self.events.json_unless(&event, generation.interrupted());
            if let Some(ended) = sent.await? {
                return self.end(&ended, generation.interrupt()).await;
            }
        }
    }

    fn token(&self, text: &str) -> Value {
        match self.form {
            Form::Current => json!({ "token": text, "done": false }),
            Form::Older => json!({ "type": "token", "content": text }),
        }
    }

    async fn end(&self, ended: &Ended, cost: Cost) -> Result<(), ReaderGone> {
        tracing::debug!("generation {} ended: {}", self.task.id, ended.reason());
        let value = match self.form {
            Form::Current => last_event(ended, cost),
            Form::Older => older::last_event(ended, cost),
        };
        self.events.json(&value).await
    }
}

/// Why nothing was begun, as an end.
fn ended(refused: NotBegun) -> Ended {
    match refused {
        NotBegun::Busy(sentence) => Ended::Error(sentence),
        NotBegun::Invalid(error) => Ended::Error(error.to_string()),
        NotBegun::Ended(ended) => ended,
    }
}

fn last_event(ended: &Ended, cost: Cost) -> Value {
    let mut event = json!({ "token": "", "done": true, "finish_reason": ended.reason(), "usage": usage(cost), "timings": timings(cost) });
    if let (Some(sentence), Some(object)) = (ended.error(), event.as_object_mut()) {
        object.insert("error".into(), json!(sentence));
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
