//! Launches of `rms_norm.cu`.

use super::Grid;
use crate::Kernel;
use crate::abi::{AddRmsNormParams, RmsNormParams};

const THREADS: u32 = 256;

/// One block a row.
pub fn rms_norm(params: &RmsNormParams, x_is_f32: bool) -> (Kernel, Grid) {
    let kernel = if x_is_f32 { Kernel::RmsNormF32 } else { Kernel::RmsNormBf16 };
    (kernel, Grid::flat(params.n_row, THREADS))
}

/// One block a row.
pub fn add_rms_norm(params: &AddRmsNormParams) -> (Kernel, Grid) {
    (Kernel::AddRmsNorm, Grid::flat(params.n_row, THREADS))
}
