//! Models held to golden numbers.

mod compare;
mod discovery;
mod factors;
mod family;
mod golden;
mod mini;
mod same_tokens;
