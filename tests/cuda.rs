//! The CUDA backend end to end on the simulated card: the same host code and the same kernels as on a real one, behind the
//! driver's own entry points.
//!
//! A process has one driver library, so these tests have a binary of their own, and take turns with the card. `real_card.rs`
//! holds a real one to the same numbers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests: a panic is how they fail, and what is skipped is printed"
)]

#[path = "cuda/card.rs"]
#[allow(dead_code, reason = "a real card is for `real_card.rs`")]
mod card;
#[path = "model/compare.rs"]
#[allow(dead_code, reason = "some of its profiles are for other backends")]
mod compare;
#[path = "cuda/engine.rs"]
mod engine;
#[path = "cuda/gguf.rs"]
mod gguf;
#[path = "cuda/golden.rs"]
mod golden;
#[path = "cuda/held.rs"]
#[allow(dead_code, reason = "the list of all cases is for real cards")]
mod held;
#[path = "cuda/http.rs"]
mod http;
#[path = "../cuda-sim/tests/driver/session.rs"]
#[allow(dead_code, reason = "its own tests ask for counts, too")]
mod session;
