//! Models held to golden numbers.

mod compare;
mod golden;
