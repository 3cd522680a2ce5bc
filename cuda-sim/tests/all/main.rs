//! The simulator on kernels that nvcc compiled: results against plain arithmetic, every planted defect, layouts against
//! the manual's words. The PTX lies beside its source, so that no test needs nvcc; one test holds the two together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]
#![allow(clippy::print_stdout, reason = "what was skipped is said")]
#![allow(
    clippy::precedence,
    clippy::needless_range_loop,
    clippy::doc_markdown,
    reason = "as in the crate"
)]

mod card;
mod defects;
mod drift;
mod fragments;
mod scalar;
mod tensor;
