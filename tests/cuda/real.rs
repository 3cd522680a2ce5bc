//! Golden checkpoints on a real card. Ignored: whoever has one runs `cargo xtask gpu`.

use super::card::Card;
use super::gguf;
use super::golden::{CASES, check};

#[test]
#[ignore = "for a real card: cargo xtask gpu"]
fn golden_checkpoints() {
    let card = Card::real();
    for case in CASES {
        check(&card, case, 64);
        check(&card, case, 7);
        println!("{case}: ok");
    }
}

#[test]
#[ignore = "for a real card: cargo xtask gpu"]
fn gguf_files() {
    let card = Card::real();
    for file in &gguf::FILES {
        gguf::check(&card, file);
        println!("{}: ok", file.name);
    }
}
