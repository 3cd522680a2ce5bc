//! What operators and load balancers ask. Answered beside the engine: a busy model never delays these.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::http::reply::{Reply, bytes, json};
use crate::models::State;

/// `GET /health`: the process answers.
pub(crate) fn health() -> Reply {
    json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /ready`: the default model is loaded and the server is not stopping.
pub(crate) fn ready(app: &Arc<App>) -> Reply {
    let name = app.models.default_name();
    let (status, why) = match app.models.state(name) {
        _ if app.is_draining() => (StatusCode::SERVICE_UNAVAILABLE, "draining".to_owned()),
        State::Loaded(loaded) if loaded.handle.is_alive() => (StatusCode::OK, "ready".to_owned()),
        State::Loaded(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the default model was lost".to_owned())
        }
        State::Loading(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the default model is loading".to_owned())
        }
        State::NotLoaded | State::Unloading => {
            (StatusCode::SERVICE_UNAVAILABLE, "the default model is not loaded".to_owned())
        }
        State::Failed(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem.sentence().to_owned()),
    };
    json(status, &json!({ "status": why, "model": name }))
}

/// `GET /version`.
pub(crate) fn version() -> Reply {
    json(StatusCode::OK, &json!({ "name": "hadal", "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /metrics`.
pub(crate) fn metrics(app: &Arc<App>) -> Reply {
    let loaded = app.models.loaded();
    let counters: Vec<_> = loaded
        .iter()
        .map(|(_, model)| {
            (
                model.stats.get(),
                model.info.weight_bytes + model.info.cache_bytes + model.info.scratch_bytes,
            )
        })
        .collect();
    let text = app.metrics.render(&counters);
    bytes(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
}
