//! The driver under the crate that the backend uses for a real one, unchanged: it finds the library by its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]
#![allow(clippy::print_stdout, reason = "what was skipped is said")]
#![allow(
    clippy::precedence,
    clippy::needless_range_loop,
    clippy::doc_markdown,
    reason = "as in the crate"
)]

mod order;
mod session;
mod trouble;
mod work;
