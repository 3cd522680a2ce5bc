//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;
use std::time::SystemTime;

use hadal_engine::checkpoint::Found;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::reply::{Refusal, Reply, json as json_reply};

fn entry(found: &Found) -> Value {
    let created =
        found.modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    json!({ "id": found.name, "object": "model", "created": created, "owned_by": "hadal" })
}

/// Models that can be served.
pub(crate) async fn list(app: &Arc<App>) -> Reply {
    let of = Arc::clone(app);
    let found = tokio::task::spawn_blocking(move || of.models.list()).await.unwrap_or_default();
    let data: Vec<Value> = found.iter().filter(|model| model.summary.is_ok()).map(entry).collect();
    json_reply(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

/// One model.
pub(crate) async fn get(app: &Arc<App>, id: &str) -> Result<Reply, Refusal> {
    let found = app.models.find(id).await?;
    Ok(json_reply(StatusCode::OK, &entry(&found)))
}
