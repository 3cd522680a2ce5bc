//! Golden checkpoints and GGUF files on a real card, where there is one: `cargo xtask gpu`. A binary of its own, since a
//! process that has opened a simulated driver finds no other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests: a panic is how they fail, and what is done is printed"
)]

#[path = "cuda/card.rs"]
#[allow(dead_code, reason = "the rest is for simulated cards")]
mod card;
#[path = "model/compare.rs"]
#[allow(dead_code, reason = "some of its profiles are for other backends")]
mod compare;
#[path = "cuda/held.rs"]
#[allow(dead_code, reason = "the rest is for simulated cards")]
mod held;
#[path = "../cuda-sim/tests/driver/session.rs"]
#[allow(dead_code, reason = "simulated cards are configured and asked")]
mod session;

use card::Card;
use held::{CASES, GGUF_FILES, check, check_gguf};

/// One after the other: what a card has free is counted.
#[test]
fn checkpoints_are_held_to_their_references() {
    let Some(card) = Card::real() else { return };
    for case in CASES {
        for step_rows in [64, 7] {
            check(&card, case, step_rows);
        }
        println!("{case}: ok");
    }
    for file in &GGUF_FILES {
        check_gguf(&card, file);
        println!("{}: ok", file.name);
    }
}
