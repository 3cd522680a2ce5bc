//! What the integration tests share: a server on a port of its own, a scripted engine behind the real handle, and a
//! client that sees bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this crate is tests: a panic is how they fail"
)]

pub mod archive;
pub mod client;
pub mod counting;
pub mod scripted;
pub mod server;
pub mod tiny;
pub mod torch;
