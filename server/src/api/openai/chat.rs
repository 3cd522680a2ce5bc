//! `POST /v1/chat/completions`, stream and not.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::error;
use super::wire::{ChatRequest, Head, finish_reason};
use crate::api::fields::Fields;
use crate::api::page::generate::busy;
use crate::api::page::usage;
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Ended, Generation, NotBegun, Piece, Prompt};
use crate::generations::{Form, Generations, Task};
use crate::http::body;
use crate::http::reply::{Refusal, Reply, json as json_reply};
use crate::http::sse::{self, Events, HEARTBEAT, ReaderGone};

/// Parses, loads the model when it must, and answers.
pub(crate) async fn handle(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let fields = Fields(body::json_object(request, &app.limits).await?);
    let asked = ChatRequest::parse(&fields)?;
    let name = app.models.resolve(asked.model.as_deref()).to_owned();
    let found = app.models.find(&name).await?;
    app.models.check(&found).await?;
    let lease = app.models.lease(&name).await?;
    let sampling = asked.sampling(&lease.loaded().info.generation);
    let (stream, include_usage) = (asked.stream, asked.include_usage);
    let ask = Ask {
        prompt: Prompt::Chat(asked.messages),
        sampling,
        max_tokens: asked.max_tokens,
        stops: asked.stops,
    };
    let cancel = Cancel::default();
    let started = generate::start(lease, ask, cancel.clone(), Arc::clone(&app.metrics)).await;
    let generation = started.map_err(refused)?;
    // In the table so that a server that stops can end it; no client knows the id.
    let task = Generations::enter(app, Form::Current, cancel);
    let created = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let head = Head { id: format!("chatcmpl-{}", task.id), created, model: name };
    if stream {
        return Ok(streamed(head, generation, task, include_usage));
    }
    whole(&head, generation, task).await
}

fn refused(refused: NotBegun) -> Refusal {
    match refused {
        NotBegun::Busy(sentence) => busy(sentence),
        NotBegun::Invalid(error) => {
            let code = match &error {
                hadal_engine::Error::PromptTooLong { .. } => "context_length_exceeded",
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

/// The whole answer as one body. A client that goes away drops this future, and the generation with it.
async fn whole(head: &Head, mut generation: Generation, _task: Task) -> Result<Reply, Refusal> {
    let mut text = String::new();
    loop {
        match generation.next().await {
            Piece::Text(piece) => text.push_str(&piece),
            Piece::End(Ended::Error(sentence), _) => {
                return Err(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "generation_failed",
                    sentence,
                ));
            }
            Piece::End(ended, cost) => {
                let value = head.completion(&text, finish_reason(&ended), &usage(cost));
                return Ok(json_reply(StatusCode::OK, &value));
            }
        }
    }
}

fn streamed(head: Head, generation: Generation, task: Task, include_usage: bool) -> Reply {
    let (events, reply) = sse::open();
    tokio::spawn(async move {
        let _task = task;
        // A reader that has gone needs no last word.
        let _ = stream(&head, generation, &events, include_usage).await;
    });
    reply
}

async fn stream(
    head: &Head,
    mut generation: Generation,
    events: &Events,
    include_usage: bool,
) -> Result<(), ReaderGone> {
    events.json(&head.chunk(&json!({ "role": "assistant", "content": "" }), None)).await?;
    loop {
        let piece = tokio::select! {
            piece = generation.next() => piece,
            () = events.closed() => return Err(ReaderGone),
            () = tokio::time::sleep(HEARTBEAT) => {
                events.comment("still here").await?;
                continue;
            }
        };
        match piece {
            Piece::Text(text) => {
                events.json(&head.chunk(&json!({ "content": text }), None)).await?;
            }
            Piece::End(Ended::Error(sentence), _) => {
                let refusal =
                    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "generation_failed", sentence);
                events.json(&error::body(&refusal)).await?;
                return events.word("[DONE]").await;
            }
            Piece::End(ended, cost) => {
                drop(generation);
                events
                    .json(
                        &head.chunk(
                            &Value::Object(serde_json::Map::new()),
                            Some(finish_reason(&ended)),
                        ),
                    )
                    .await?;
                if include_usage {
                    events.json(&head.usage_chunk(&usage(cost))).await?;
                }
                return events.word("[DONE]").await;
            }
        }
    }
}
