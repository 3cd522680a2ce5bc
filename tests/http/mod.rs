//! The HTTP contract through real sockets.

mod demo;
mod ends;
mod fields;
mod generate;
mod gguf_file;
mod limits;
mod models;
mod openai;
mod page;
mod prompts;
mod reluctant;
mod stalled;
mod torch_file;
