//! Models: list, status, load, unload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use hadal_engine::checkpoint::Found;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::api::fields::Fields;
use crate::app::App;
use crate::http::body;
use crate::http::reply::{Refusal, Reply, json};
use crate::models::{Problem, State, usable};

/// `GET /api/models`.
pub(crate) async fn list(app: &Arc<App>) -> Reply {
    let models: BTreeMap<String, Value> =
        all(app).await.iter().map(|found| (found.name.clone(), entry(app, found))).collect();
    json(StatusCode::OK, &json!({ "count": models.len(), "models": models }))
}

/// Every model there is.
pub(super) async fn all(app: &Arc<App>) -> Arc<Vec<Found>> {
    let of = Arc::clone(app);
    tokio::task::spawn_blocking(move || of.models.list()).await.unwrap_or_default()
}

/// A model as the listing and its status show it.
pub(super) fn entry(app: &App, found: &Found) -> Value {
    let mut entry = json!({
        "name": found.name,
        "path": found.path.to_string_lossy(),
        "size_mb": (found.size_bytes as f64 / (1024.0 * 1024.0) * 100.0).round() / 100.0,
        "modified": local_time(found.modified),
        "type": kind(&found.name),
        "format": found.format,
        "default": found.name == app.models.default_name(),
        // Whether its files are whole. A load that failed for another reason may succeed the next time.
        "usable": found.summary.is_ok(),
        "architecture": null, "parameters": null, "dtype": null, "context_length": null,
    });
    if let Ok(summary) = &found.summary {
        let more = json!({
            "architecture": summary.architecture,
            "parameters": summary.parameters,
            "dtype": summary.dtype,
            "context_length": summary.context_length,
        });
        extend(&mut entry, more);
    }
    // A file's own defect outlives an attempt to load it, and ends when the files are whole.
    let state = match app.models.state(&found.name) {
        State::Failed(Problem::Defect(_)) if found.summary.is_ok() => State::NotLoaded,
        state => state,
    };
    extend(&mut entry, state_fields(&state));
    if let (Err(reason), Some(object)) = (&found.summary, entry.as_object_mut()) {
        object.insert("error".into(), json!(reason));
        object.insert("status".into(), json!("error"));
    }
    entry
}

fn extend(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

/// `status`, `loaded`, and what goes with them.
fn state_fields(state: &State) -> Value {
    match state {
        State::NotLoaded | State::Unloading => json!({ "status": "not_loaded", "loaded": false }),
        State::Loading(progress) => {
            let (done, total) = (progress.done_bytes, progress.total_bytes);
            let share = if total == 0 { 0.0 } else { done as f64 / total as f64 };
            json!({ "status": "loading", "loaded": false, "progress": share, "bytes_done": done, "bytes_total": total })
        }
        State::Loaded(loaded) => json!({
            "status": "loaded",
            "loaded": true,
            "context_length": loaded.info.context_length,
            "bytes": loaded.info.weight_bytes + loaded.info.cache_bytes + loaded.info.scratch_bytes,
            "device": loaded.info.device,
            "device_why": loaded.info.device_why,
            "isa": loaded.info.isa, "activations": loaded.info.activations, "threads": loaded.info.threads,
        }),
        State::Failed(problem) => {
            json!({ "status": "error", "loaded": false, "error": problem.sentence() })
        }
    }
}

/// A time as people here read it; UTC where the system does not say where we are.
fn local_time(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let time = OffsetDateTime::from(time);
    let offset = time::UtcOffset::local_offset_at(time).unwrap_or(time::UtcOffset::UTC);
    time.to_offset(offset).format(&format).unwrap_or_default()
}

/// What a checkpoint is, by its path: the first of these words that a part of it has.
fn kind(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    let contains = |word: &str| name.split('/').any(|part| part.contains(word));
    let is_rl =
        name.split(['/', '_', '-', '.']).any(|word| matches!(word, "rl" | "grpo" | "ppo" | "dpo"));
    match () {
        () if contains("pretrain") => "Pretrained",
        () if contains("sft") => "SFT",
        () if is_rl => "RL",
        () => "Unknown",
    }
}

/// The name of a path, which is one; else what query or body say, where none means the default.
enum Asked {
    Name(String),
    Maybe(Option<String>),
}

impl Asked {
    fn or_default(self, app: &App) -> String {
        match self {
            Self::Name(name) => name,
            Self::Maybe(name) => app.models.resolve(name.as_deref()).to_owned(),
        }
    }
}

/// `GET /api/models/NAME/status`, or with `?model=NAME`.
pub(crate) async fn status(
    app: &Arc<App>,
    name: Option<String>,
    request: &Request<Incoming>,
) -> Result<Reply, Refusal> {
    let asked = name.map_or_else(|| Asked::Maybe(query(request, "model")), Asked::Name);
    let found = app.models.find(&asked.or_default(app)).await?;
    Ok(json(StatusCode::OK, &entry(app, &found)))
}

/// The name from the path, else from the query or the body.
async fn named(
    app: &App,
    name: Option<String>,
    request: Request<Incoming>,
) -> Result<String, Refusal> {
    let asked = match (name, query(&request, "model")) {
        (Some(name), _) => Asked::Name(name),
        (None, Some(name)) => Asked::Maybe(Some(name)),
        (None, None) => {
            let fields = Fields(body::optional_json_object(request, &app.limits).await?);
            Asked::Maybe(fields.text("model")?.map(ToOwned::to_owned))
        }
    };
    Ok(asked.or_default(app))
}

/// `POST /api/models/NAME/load`.
pub(crate) async fn load(
    app: &Arc<App>,
    name: Option<String>,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let name = named(app, name, request).await?;
    begin_loading(app, &name).await
}

/// Starts a load: 202, or 200 when it is done.
pub(super) async fn begin_loading(app: &Arc<App>, name: &str) -> Result<Reply, Refusal> {
    let found = app.models.find(name).await?;
    let is_loaded = app.models.lease_if_loaded(name).is_some();
    if !is_loaded {
        // What is known to be broken is not tried again until its files change.
        usable(&found)?;
        app.models.check_memory(&found).await?;
        app.models.load(&found);
    }
    let status = if is_loaded { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json(status, &entry(app, &found)))
}

/// `POST /api/models/NAME/unload`, `?force=true` ends what runs.
pub(crate) async fn unload(
    app: &Arc<App>,
    name: Option<String>,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let force = match query(&request, "force").as_deref() {
        None | Some("false" | "0" | "") => false,
        Some("true" | "1") => true,
        Some(other) => {
            return Err(Refusal::field(
                "force",
                format!("`force` is `{other}`, wanted true or false"),
            ));
        }
    };
    let name = named(app, name, request).await?;
    let is_loading = !force && matches!(app.models.state(&name), State::Loading(_));
    let is_unloaded = app.models.unload(&name, force).await;
    if !is_unloaded {
        // A model that is loaded may have left the disk; one that is neither loaded nor there is unknown.
        app.models.find(&name).await?;
    }
    let what = match (is_unloaded, is_loading) {
        (true, _) => "unloaded",
        (false, true) => "is not loaded yet; `?force=true` gives its loading up",
        (false, false) => "is not loaded",
    };
    let message = format!("Model {name} {what}");
    Ok(json(StatusCode::OK, &json!({ "success": is_unloaded, "message": message })))
}

/// A parameter of the query, decoded once.
pub(super) fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let value = request.uri().query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_go_by_the_parts_of_the_path() {
        for (name, want) in [
            ("pretrain/best.pt", "Pretrained"),
            ("my-Pretrained/x", "Pretrained"),
            ("sft/demo", "SFT"),
            ("runs/sft_v2", "SFT"),
            ("rl/demo", "RL"),
            ("out/model-grpo.pt", "RL"),
            ("world/demo", "Unknown"),
            ("url/x", "Unknown"),
            ("pretrain/sft", "Pretrained"),
        ] {
            assert_eq!(kind(name), want, "{name}");
        }
    }
}
