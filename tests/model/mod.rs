//! Models held to golden numbers.

mod blocks;
mod compare;
mod discovery;
mod factors;
mod family;
mod gguf;
mod golden;
mod layouts;
mod mini;
mod refused;
mod same_tokens;
mod torch_files;
