//! The chat page's generation: parse, stream, cancel, clear.

use std::sync::Arc;
use std::time::Duration;

use hadal_engine::Sampling;
use hadal_engine::text::{Message, Role};
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::older;
use super::stream::{Beginning, Stream};
use crate::api::fields::{Fields, wrong};
use crate::app::App;
use crate::generate::{self, Ask, Cancel, Generation, NotBegun, Prompt};
use crate::generations::{Form, Generations};
use crate::http::body;
use crate::http::reply::{Refusal, Reply, json, with_header};
use crate::http::sse;

/// Messages of a history: far beyond any context.
const HISTORY_MAX: usize = 10_000;

/// A parsed request.
struct GenerateRequest {
    model: String,
    form: Form,
    ask: Ask,
}

impl GenerateRequest {
    async fn parse(app: &Arc<App>, fields: &Fields) -> Result<Self, Refusal> {
        let is_older = fields.get("prompt").is_some() || fields.get("checkpoint_path").is_some();
        if is_older && fields.get("message").is_some() {
            return Err(Refusal::malformed(
                "`message` goes with `model`, `prompt` with `checkpoint_path`: one form is wanted",
            ));
        }
        let (model, prompt, form) = if is_older {
            let prompt = Prompt::Raw(fields.required_text("prompt")?.to_owned());
            let model = older::name_of(app, fields.text("checkpoint_path")?).await?;
            (model, prompt, Form::Older)
        } else {
            let model = app.models.resolve(fields.text("model")?).to_owned();
            (model, Prompt::Chat(conversation(fields)?), Form::Current)
        };
        let max_tokens = fields.integer("max_new_tokens", 1, 1_000_000)?.unwrap_or(512) as u32;
        let ask = Ask { prompt, sampling: sampling(fields)?, max_tokens, stops: fields.stops()? };
        Ok(Self { model, form, ask })
    }
}

fn conversation(fields: &Fields) -> Result<Vec<Message>, Refusal> {
    let mut messages = match fields.get("history") {
        None => Vec::new(),
        Some(Value::Array(history)) if history.len() <= HISTORY_MAX => {
            history.iter().enumerate().map(message).collect::<Result<_, _>>()?
        }
        Some(other) => {
            let want = format!("a list of at most {HISTORY_MAX} messages");
            return Err(wrong("history", other, &want));
        }
    };
    let content = fields.required_text("message")?.to_owned();
    messages.push(Message { role: Role::User, content });
    Ok(messages)
}

/// An earlier message.
fn message((at, entry): (usize, &Value)) -> Result<Message, Refusal> {
    let part = |name| entry.get(name).unwrap_or(&Value::Null);
    let role = match part("role").as_str() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => {
            let field = format!("history[{at}].role");
            return Err(wrong(&field, part("role"), "system, user or assistant"));
        }
    };
    match part("content").as_str() {
        Some(content) => Ok(Message { role, content: content.to_owned() }),
        None => Err(wrong(&format!("history[{at}].content"), part("content"), "a string")),
    }
}

fn sampling(fields: &Fields) -> Result<Sampling, Refusal> {
    let temperature =
        fields.number("temperature", "a number from 0 to 5", |t| (0.0..=5.0).contains(&t))?;
    let top_p = fields.number("top_p", "a number above 0, up to 1", |p| p > 0.0 && p <= 1.0)?;
    let min_p = fields.number("min_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
    let repetition = fields
        .number("repetition_penalty", "a number above 0, up to 10", |r| r > 0.0 && r <= 10.0)?;
    let is_greedy = fields.flag("do_sample")? == Some(false);
    let seed = fields.integer("seed", 0, u64::MAX)?;
    Ok(Sampling {
        temperature: if is_greedy { 0.0 } else { temperature.unwrap_or(0.7) },
        top_k: fields.top_k()?.unwrap_or(50),
        // A subnormal half would round to nothing: the smallest head is one token all the same.
        top_p: top_p.unwrap_or(0.9).max(f32::MIN_POSITIVE),
        min_p: min_p.unwrap_or(0.0),
        repetition: repetition.unwrap_or(1.1).max(f32::MIN_POSITIVE),
        presence: 0.0,
        frequency: 0.0,
        seed: seed.and_then(|seed| u64::try_from(seed).ok()).unwrap_or_else(generate::random),
        biases: Vec::new(),
    })
}

/// `POST /api/generate`.
pub(crate) async fn handle(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let fields = Fields(body::json_object(request, &app.limits).await?);
    let GenerateRequest { model, form, ask } = GenerateRequest::parse(app, &fields).await?;
    let cancel = Cancel::default();
    // What is decided now has a status of its own; what comes later is an event.
    let beginning = match app.models.lease_if_loaded(&model) {
        None => {
            let found = app.models.find(&model).await?;
            app.models.check_memory(&found).await?;
            Beginning::Load(ask)
        }
        Some(lease) => {
            begun(generate::start(lease, ask, cancel.clone(), Arc::clone(&app.metrics)).await)?
        }
    };
    let task = Generations::enter(app, form, cancel.clone());
    let (events, reply) = sse::open(app.limits.idle_timeout);
    let reply = with_header(reply, HeaderName::from_static("x-task-id"), &task.id);
    let stream = Stream { app: Arc::clone(app), model, form, events, cancel, task };
    tokio::spawn(async move {
        // A reader that has gone needs no last word.
        let _ = stream.run(beginning).await;
    });
    Ok(reply)
}

fn begun(result: Result<Generation, NotBegun>) -> Result<Beginning, Refusal> {
    match result {
        Ok(generation) => Ok(Beginning::Running(Box::new(generation))),
        Err(NotBegun::Busy(sentence)) => Err(busy(sentence)),
        Err(reason @ NotBegun::Invalid(_)) => Ok(Beginning::Refused(reason)),
    }
}

/// 429.
pub(crate) fn busy(sentence: String) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", sentence)
        .retry_after(Duration::from_secs(1))
}

/// `POST /api/generate/cancel`.
pub(crate) async fn cancel(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    cancel_form(app, request, Form::Current).await
}

/// Cancels a generation that was begun in the given form.
pub(super) async fn cancel_form(
    app: &Arc<App>,
    request: Request<Incoming>,
    form: Form,
) -> Result<Reply, Refusal> {
    let fields = Fields(body::json_object(request, &app.limits).await?);
    let id = fields.required_text("task_id")?;
    if app.generations.cancel(id, form) {
        return Ok(json(
            StatusCode::OK,
            &json!({ "success": true, "message": "generation cancelled" }),
        ));
    }
    Err(Refusal::new(
        StatusCode::NOT_FOUND,
        "task_not_found",
        "no generation of this `task_id` is running",
    ))
}

/// `POST /api/chat/clear`: the history is the client's, so there is nothing here to clear.
pub(crate) fn clear() -> Reply {
    json(StatusCode::OK, &json!({ "success": true, "message": "chat cleared" }))
}
