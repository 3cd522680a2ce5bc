//! What operators and load balancers ask. Answered beside the engine: a busy model never delays these.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Request, StatusCode};
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

/// `GET /metrics`: Prometheus' text format, or `OpenMetrics` for who asks for it.
pub(crate) fn metrics(app: &Arc<App>, request: &Request<Incoming>) -> Reply {
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
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        return bytes(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text,
        );
    }
    bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", plain(&text))
}

/// The older text format: there a counter's own lines carry the name its samples have, and nothing ends the text.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let name = |rest: &str| rest.split(' ').next().map(|name| format!("{name} "));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let suffix = if rest.ends_with(" counter") { "_total " } else { " " };
            for (kind, rest) in [("HELP", help.take()), ("TYPE", Some(rest))] {
                let Some(rest) = rest else { continue };
                let name = name(rest).unwrap_or_default();
                let after = rest.get(name.len()..).unwrap_or_default();
                text.push_str(&["# ", kind, " ", name.trim_end(), suffix, after, "\n"].concat());
            }
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_alike_in_all_lines() {
        let open_metrics = "# HELP a Of a.\n# TYPE a counter\na_total 1\n\
                            # HELP b Of b.\n# TYPE b gauge\nb 2\n# EOF\n";
        let want = "# HELP a_total Of a.\n# TYPE a_total counter\na_total 1\n\
                    # HELP b Of b.\n# TYPE b gauge\nb 2\n";
        assert_eq!(plain(open_metrics), want);
    }
}
