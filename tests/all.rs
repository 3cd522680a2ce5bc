//! Every integration test, one binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests: a panic is how they fail, and what is skipped is printed"
)]

mod http;
mod model;
mod text;
mod tools;
