//! Models held to golden numbers.

mod compare;
mod factors;
mod golden;
mod same_tokens;
