//! A simulated CUDA card for tests.
//!
//! It executes the PTX that nvcc made of the kernels, instruction by instruction, and watches every access: bounds,
//! initialisation, alignment, races, barriers and warp-wide instructions in divergent code, asynchronous copies that
//! nobody waited for. It counts what a profiler would: instructions by class, bytes, sectors, shared-memory passes. As
//! a library of the name libcuda.so it stands in for the driver, so that the code that talks to a card runs unchanged.
//!
//! # What it is evidence of, and what not
//!
//! A kernel that passes here computes what its PTX says, touches only what it may, and orders what it shares. That is
//! *validated by simulation; not yet run on hardware*. It shows nothing about time, nothing about what ptxas makes
//! of the PTX, and nothing about the driver. Memory is sequentially consistent: a missing fence between blocks shows
//! only as a race. Tensor-core sums follow a model, approximate functions are better than a card's, and both sides of a
//! layout are this project's reading of the manual, which is why the layout tests quote it.
//!
//! ```text
//! ptx/     text -> Module: every name a register, every word a function      (once a module)
//! exec/    launch -> blocks -> warps -> groups of lanes at one instruction
//! memory/  bytes, who wrote them, who touched them last, what orders threads
//! driver/  libcuda's entry points: streams, events, graphs, faults on demand
//! ```

#![allow(clippy::doc_markdown, reason = "libcuda, cudarc, m16n8k16 and their like are words here")]
#![allow(clippy::precedence, reason = "bit fields read better without the brackets")]
#![allow(
    clippy::unnecessary_box_returns,
    reason = "a defect is boxed because every step's result carries its place"
)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "one arm of a table may give what all of them may not"
)]
#![allow(
    clippy::struct_excessive_bools,
    reason = "an instruction's modifiers are independent of each other"
)]
#![allow(
    clippy::match_same_arms,
    clippy::single_match_else,
    clippy::bool_to_int_with_if,
    reason = "tables stay tables"
)]
#![allow(
    clippy::invalid_upcast_comparisons,
    clippy::double_comparisons,
    reason = "one expression is expanded for all types"
)]
#![allow(clippy::needless_pass_by_value, clippy::unused_self, reason = "the callers read better")]
#![allow(
    clippy::naive_bytecount,
    clippy::manual_is_multiple_of,
    clippy::assigning_clones,
    reason = "plain and fast enough"
)]
#![allow(clippy::needless_for_each, reason = "one line for one thought")]
#![cfg_attr(
    test,
    allow(
        clippy::approx_constant,
        clippy::excessive_precision,
        reason = "neighbours of a root, to the digit"
    )
)]
#![allow(clippy::needless_range_loop, reason = "a lane's number is what the loops are about")]

mod counters;
mod device;
mod driver;
mod exec;
mod fault;
mod memory;
mod profile;
mod ptx;

pub use counters::Counters;
pub use device::{Device, Function, Loaded};
pub use driver::image_ptx;
pub use exec::{Checks, Grid};
pub use fault::{Error, Fault, FaultKind, Result};
pub use profile::{
    BLOCK_THREADS_MAX, BLOCK_Z_MAX, GRID_X_MAX, GRID_YZ_MAX, PARAM_BYTES_MAX, PROFILES, Profile,
    SHARED_DEFAULT_BYTES, SHARED_RESERVED_BYTES,
};
pub use ptx::Module;
pub use ptx::instr::Class;
