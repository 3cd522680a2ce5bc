//! What the integration tests share: a server on a port of its own, a scripted engine behind the real handle, and a
//! client that sees bytes.

pub mod client;
pub mod scripted;
pub mod server;
