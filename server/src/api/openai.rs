//! The OpenAI-compatible API, basic form: chat completions and models.

pub(crate) mod chat;
pub(crate) mod error;
pub(crate) mod models;
mod wire;
