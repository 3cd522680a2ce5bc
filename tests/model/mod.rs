//! Models held to golden numbers.

mod compare;
mod discovery;
mod factors;
mod family;
mod golden;
mod same_tokens;
