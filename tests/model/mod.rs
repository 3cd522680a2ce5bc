//! Models held to golden numbers.

mod compare;
mod factors;
mod golden;
mod mini;
mod same_tokens;
mod torch_files;
