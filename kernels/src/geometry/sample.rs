//! Launches of `sample.cu`.

use super::Grid;
use crate::Kernel;
use crate::abi::SampleParams;

const THREADS: u32 = 1024;

/// One block a row.
pub fn sample(params: &SampleParams) -> (Kernel, Grid) {
    (Kernel::Sample, Grid::flat(params.n_row, THREADS))
}
