//! Models held to golden numbers.

mod compare;
mod golden;
mod same_tokens;
