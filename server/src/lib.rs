//! The hadal server: everything that speaks HTTP, over the engine's handles.
//!
//! [`run`] is given its listener, its state and its stop signal, so that a test owns all three. One connection is one
//! task; a request is parsed at the edge (`http`, `api`), bridged to the engine in `generate`, and answered as JSON or
//! as server-sent events. No file but `generate` sees both tokens and text.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod app;
pub mod models;

mod api;
mod generate;
mod generations;
mod http;
mod metrics;

pub use app::{App, AppOptions};
pub use http::auth::cors_origin;
pub use http::{HttpLimits, run};
