//! Launches of `head_linear.cu`.

use super::Grid;
use super::linear::{Form, tile_bytes};
use crate::abi::HeadLinearParams;
use crate::{Format, Kernel};

/// The form for the number of rows. Heads are the grid's z.
pub fn head_linear(params: &HeadLinearParams) -> (Kernel, Grid) {
    launch(params, if params.n_row <= 8 { Form::Few } else { Form::Mid })
}

/// A form of one's own choice; those for more than a few rows are one here.
pub fn launch(params: &HeadLinearParams, form: Form) -> (Kernel, Grid) {
    let (kernel, features, rows, threads, shared_bytes) = match form {
        Form::Few => (Kernel::HeadLinearFew, 128, 8, 256, 0),
        Form::Some | Form::Mid | Form::Many => {
            (Kernel::HeadLinearMid, 64, 64, 128, tile_bytes(Format::Bf16, 64, 64, 3))
        }
    };
    let blocks = [params.n_out.div_ceil(features), params.n_row.div_ceil(rows), params.n_head];
    (kernel, Grid { blocks, threads, shared_bytes })
}
