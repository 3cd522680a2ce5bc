//! The older routes of the same page, as thin aliases. A path must be one that the listing showed.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::generate::cancel_form;
use super::models::{self, all, begin_loading, entry, query};
use super::stream::{Last, timings, usage};
use crate::api::fields::Fields;
use crate::app::App;
use crate::generate::Ended;
use crate::generations::Form;
use crate::http::body;
use crate::http::reply::{Refusal, Reply, json};

/// `GET /api/checkpoints`.
pub(crate) async fn checkpoints(app: &Arc<App>) -> Reply {
    let found = all(app).await;
    let list: Vec<Value> = found.iter().map(|model| entry(app, model)).collect();
    json(StatusCode::OK, &json!({ "checkpoints": list, "count": list.len() }))
}

/// The model of a path that the listing showed; none means the default.
pub(super) async fn name_of(app: &Arc<App>, path: Option<&str>) -> Result<String, Refusal> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(app.models.default_name().to_owned());
    };
    let found = all(app).await;
    let model = found.iter().find(|model| model.path.to_str() == Some(path) || model.name == path);
    model.map(|model| model.name.clone()).ok_or_else(|| {
        let sentence = "`checkpoint_path` is none that GET /api/checkpoints lists";
        Refusal::new(StatusCode::NOT_FOUND, "model_not_found", sentence)
    })
}

/// `POST /api/load_model`.
pub(crate) async fn load(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let fields = Fields(body::json_object(request, &app.limits).await?);
    let name = name_of(app, Some(fields.required_text("checkpoint_path")?)).await?;
    begin_loading(app, &name).await
}

/// `GET /api/model_status`.
pub(crate) async fn status(app: &Arc<App>, request: &Request<Incoming>) -> Result<Reply, Refusal> {
    let name = name_of(app, query(request, "checkpoint_path").as_deref()).await?;
    models::status(app, Some(name), request).await
}

/// `POST /api/cancel`: ends only generations begun in this older form.
pub(crate) async fn cancel(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    cancel_form(app, request, Form::Older).await
}

/// The last event of the older form.
pub(super) fn last_event(last: &Last) -> Value {
    let Last { ended, code, cost } = last;
    let cost = *cost;
    match ended {
        Ended::Stopping | Ended::Error(_) => {
            json!({ "type": "error", "error": ended.error(), "code": code })
        }
        Ended::Cancelled => {
            json!({ "type": "cancelled", "usage": usage(cost), "timings": timings(cost) })
        }
        Ended::Stop | Ended::Length => json!({
            "type": "done",
            "finish_reason": ended.reason(),
            "usage": usage(cost),
            "timings": timings(cost),
        }),
    }
}
