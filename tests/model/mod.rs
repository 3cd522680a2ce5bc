//! Models held to golden numbers.

mod blocks;
mod compare;
mod factors;
mod gguf;
mod golden;
mod same_tokens;
