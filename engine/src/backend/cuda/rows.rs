//! Launches `embed.cu`, `swiglu.cu` and `gather_rows.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::{EmbedParams, GatherRowsParams, SwigluParams};
use hadal_kernels::geometry::rows as geometry;

use super::weight::Weight;
use super::{Buf, Cuda, Number, Plan, check};
use crate::error::Result;

/// See [`crate::backend::Backend::embed`].
pub(super) fn embed(cuda: &Cuda, y: &mut Buf, table: &Weight, plan: &Plan) -> Result<()> {
    let table = table.plane()?.matrix();
    check("embed: y", y, Number::F32, plan.n_row, table.n_in as usize)?;
    let params = EmbedParams {
        y: y.at_mut(),
        table: table.quants,
        token: plan.tokens(),
        n_row: plan.n_row as u32,
        dim: table.n_in,
        y_stride: y.stride(),
        table_stride: table.quant_stride,
    };
    // SAFETY: the kernel's own struct; tables are bf16, tokens are below the vocabulary, `y` has the rows.
    unsafe { cuda.device.launch(geometry::embed(&params), &params) }
}

/// See [`crate::backend::Backend::swiglu`].
pub(super) fn swiglu(
    cuda: &Cuda,
    y: &mut Buf,
    gate: &Buf,
    up: &Buf,
    dim: usize,
    rows: usize,
) -> Result<()> {
    check("swiglu: y", y, Number::Bf16, rows, dim)?;
    check("swiglu: gate", gate, Number::Bf16, rows, dim)?;
    check("swiglu: up", up, Number::Bf16, rows, dim)?;
    let params = SwigluParams {
        y: y.at_mut(),
        gate: gate.at(),
        up: up.at(),
        n_row: rows as u32,
        dim: dim as u32,
        y_stride: y.stride(),
        gate_stride: gate.stride(),
        up_stride: up.stride(),
        unused: 0,
    };
    // SAFETY: the kernel's own struct; the checks above hold its pointers to its types and shapes.
    unsafe { cuda.device.launch(geometry::swiglu(&params), &params) }
}

/// See [`crate::backend::Backend::gather_rows`].
pub(super) fn gather_rows(
    cuda: &Cuda,
    y: &mut Buf,
    x: &Buf,
    dim: usize,
    plan: &Plan,
) -> Result<()> {
    check("gather_rows: y", y, y.number, plan.n_sample, dim)?;
    check("gather_rows: x", x, x.number, plan.n_row, dim)?;
    let (from_f32, to_f32) = (x.number == Number::F32, y.number == Number::F32);
    let params = GatherRowsParams {
        y: y.at_mut(),
        x: x.at(),
        row: plan.sample_rows(),
        n_out: plan.n_sample as u32,
        dim: dim as u32,
        y_stride: y.stride(),
        x_stride: x.stride(),
    };
    // SAFETY: the kernel's own struct; the rows of samples are rows of the step, which `x` has.
    unsafe { cuda.device.launch(geometry::gather_rows(&params, from_f32, to_f32), &params) }
}
