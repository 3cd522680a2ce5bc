//! Grid, threads and shared memory of every launch: pure functions of shape and card, one family a file.

use crate::{Caps, Kernel};

pub mod experts;
pub mod head_linear;
pub mod linear;
pub mod mla_decode;
pub mod mla_prefill;
pub mod rms_norm;
pub mod rope;
pub mod route;
pub mod rows;
pub mod sample;

/// Whether a card has the shared memory that a kernel wants; where not, [`Kernel`]s of the same family stand in.
pub fn fits(kernel: Kernel, caps: &Caps) -> bool {
    match kernel {
        Kernel::MlaDecode64 => caps.shared_optin_bytes >= mla_decode::shared_bytes(64),
        _ => true,
    }
}

/// A launch's geometry. A block is one row of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks, x y z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block, beside what the kernel declares.
    pub shared_bytes: u32,
}

impl Grid {
    /// A row of blocks without shared memory of the launch.
    pub fn flat(blocks: u32, threads: u32) -> Self {
        Self { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
    }
}
