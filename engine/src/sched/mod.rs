//! The scheduler: continuous batching, chunked prefill, preemption. Sees pages and counts, never a tensor.

pub mod sequence;
