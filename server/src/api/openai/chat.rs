//! `POST /v1/chat/completions`, stream and not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::error;
use super::wire::{ChatRequest, Head};
use crate::api::fields::Fields;
use crate::api::page::generate::busy;
use crate::api::page::usage;
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Cost, Ended, Generation, NotBegun, Piece, Prompt};
use crate::generations::{Form, Generations, Task};
use crate::http::body;
use crate::http::reply::{Refusal, Reply, json as json_reply};
use crate::http::sse::{self, ALIVE, Events, HEARTBEAT, ReaderGone};
use crate::models::Lease;

/// Parses, loads the model when it must, and answers.
pub(crate) async fn handle(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let fields = Fields(body::json_object(request, &app.limits).await?);
    let asked = ChatRequest::parse(&fields)?;
    let name = app.models.resolve(asked.model.as_deref()).to_owned();
    let cancel = Cancel::default();
    // In the table before anything is waited for, so that a server that stops can end it; no client knows the id.
    let task = Generations::enter(app, Form::Current, cancel.clone());
    let lease = tokio::select! {
        biased;
        ended = cancel.wait() => return Err(refused(NotBegun::Ended(ended))),
        lease = lease(app, &name) => lease?,
    };
    let sampling = asked.sampling(&lease.loaded().info.generation);
    let (stream, include_usage) = (asked.stream, asked.include_usage);
    let ask = Ask {
        prompt: Prompt::Chat(asked.messages),
        sampling,
        max_tokens: asked.max_tokens,
        stops: asked.stops,
    };
    let queued = generate::queue(lease).map_err(refused)?;
    let generation = generate::start(app, queued, ask, cancel).await.map_err(refused)?;
    let created = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let head = Head { id: format!("chatcmpl-{}", task.id), created, model: name };
    if stream {
        let (events, reply) = sse::open(app.limits.idle_timeout);
        let stream = Stream { head, events, include_usage, _task: task };
        tokio::spawn(async move {
            // A reader that has gone needs no last word.
            let _ = stream.run(generation).await;
        });
        return Ok(reply);
    }
    whole(&head, generation, task).await
}

/// The model, loaded first when it must be and there is memory for it.
async fn lease(app: &Arc<App>, name: &str) -> Result<Lease, Refusal> {
    if let Some(lease) = app.models.lease_if_loaded(name) {
        return Ok(lease);
    }
    let found = app.models.find(name).await?;
    app.models.check_memory(&found).await?;
    Ok(app.models.lease(name).await?)
}

/// A generation that did not begin, as a refusal.
pub(crate) fn refused(refused: NotBegun) -> Refusal {
    match refused {
        NotBegun::Busy(sentence) => busy(sentence),
        NotBegun::Ended(ended) => unfinished(&ended),
        NotBegun::Invalid(error) => {
            let code = match &error {
                hadal_engine::Error::PromptTooLong { .. }
                | hadal_engine::Error::PromptTooLarge { .. } => "context_length_exceeded",
                hadal_engine::Error::Closed | hadal_engine::Error::Internal { .. } => {
                    return Refusal::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "model_unusable",
                        error.to_string(),
                    );
                }
                _ => "invalid_value",
            };
            Refusal::new(StatusCode::BAD_REQUEST, code, error.to_string())
        }
    }
}

/// An answer that ended before its end; `None`: it is whole.
fn broken(ended: &Ended) -> Option<Refusal> {
    (!matches!(ended, Ended::Stop | Ended::Length)).then(|| unfinished(ended))
}

/// Why there is no whole answer.
fn unfinished(ended: &Ended) -> Refusal {
    match ended {
        Ended::Stopping => Refusal::draining(),
        Ended::Error(sentence) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "generation_failed", sentence.clone())
        }
        Ended::Cancelled | Ended::Stop | Ended::Length => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "model_unloaded",
            "the model was unloaded before the answer was complete",
        )
        .retry_after(Duration::from_secs(1)),
    }
}

/// The whole answer as one body. A client that goes away drops this future, and the generation with it.
async fn whole(head: &Head, mut generation: Generation, _task: Task) -> Result<Reply, Refusal> {
    let mut text = String::new();
    let (ended, cost) = loop {
        match generation.next().await {
            Piece::Text(piece) => text.push_str(&piece),
            Piece::End(ended, cost) => break (ended, cost),
        }
    };
    drop(generation);
    if let Some(refusal) = broken(&ended) {
        return Err(refusal);
    }
    let value = head.completion(&text, ended.reason(), &usage(cost));
    Ok(json_reply(StatusCode::OK, &value))
}

/// A stream's parts that stay the same.
struct Stream {
    head: Head,
    events: Events,
    include_usage: bool,
    /// In the table of running generations until the stream ends.
    _task: Task,
}

impl Stream {
    async fn run(&self, mut generation: Generation) -> Result<(), ReaderGone> {
        self.send(&json!({ "role": "assistant", "content": "" }), None).await?;
        let (ended, cost) = loop {
            let next = generation.next();
            let text = match self.events.while_waiting(ALIVE, HEARTBEAT, next).await? {
                Piece::Text(text) => text,
                Piece::End(ended, cost) => break (ended, cost),
            };
            let chunk = self.chunk(&json!({ "content": text }), None);
            let sent = self.events.json_unless(&chunk, generation.interrupted());
            if let Some(ended) = sent.await? {
                return self.end(&ended, generation.interrupt()).await;
            }
        };
        // The place is free before the client hears the end.
        drop(generation);
        self.end(&ended, cost).await
    }

    async fn end(&self, ended: &Ended, cost: Cost) -> Result<(), ReaderGone> {
        if let Some(refusal) = broken(ended) {
            self.events.json(&error::body(&refusal)).await?;
            return self.events.word("[DONE]").await;
        }
        self.send(&json!({}), Some(ended.reason())).await?;
        if self.include_usage {
            self.events.json(&self.head.usage_chunk(&usage(cost))).await?;
        }
        self.events.word("[DONE]").await
    }

    async fn send(&self, delta: &Value, finish: Option<&str>) -> Result<(), ReaderGone> {
        self.events.json(&self.chunk(delta, finish)).await
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> Value {
        self.head.chunk(delta, finish, self.include_usage)
    }
}
