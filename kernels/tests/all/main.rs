//! Every check of the library on four simulated cards, with races, bounds and initialisation watched.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests: a failure is a panic")]

mod checks;
mod counters;
mod sim;
