//! Every check of the library on four simulated cards, with races, bounds and initialisation watched.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a failure is a panic, a skip is a line"
)]

mod checks;
mod counters;
mod sim;
