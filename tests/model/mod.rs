//! Models held to golden numbers.

mod compare;
mod factors;
mod golden;
mod refused;
mod same_tokens;
