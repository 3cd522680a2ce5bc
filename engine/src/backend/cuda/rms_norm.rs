//! Launches `rms_norm.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::{AddRmsNormParams, RmsNormParams};
use hadal_kernels::geometry::rms_norm as geometry;

use super::{Buf, Cuda, Number, check};
use crate::error::Result;

/// See [`crate::backend::Backend::rms_norm`].
pub(super) fn rms_norm(
    cuda: &Cuda,
    y: &mut Buf,
    x: &Buf,
    weight: &Buf,
    eps: f32,
    rows: usize,
) -> Result<()> {
    let dim = weight.dim;
    check("rms_norm: weight", weight, Number::F32, 1, dim)?;
    check("rms_norm: x", x, x.number, rows, dim)?;
    check("rms_norm: y", y, Number::Bf16, rows, dim)?;
    let params = RmsNormParams {
        y: y.at_mut(),
        x: x.at(),
        weight: weight.at(),
        n_row: rows as u32,
        dim: dim as u32,
        y_stride: y.stride(),
        x_stride: x.stride(),
        eps,
        unused: 0,
    };
    // SAFETY: the kernel's own struct; the checks above hold its pointers to its types and shapes.
    unsafe { cuda.device.launch(geometry::rms_norm(&params, x.number == Number::F32), &params) }
}

/// See [`crate::backend::Backend::add_rms_norm`].
pub(super) fn add_rms_norm(
    cuda: &Cuda,
    y: &mut Buf,
    x: &mut Buf,
    delta: &Buf,
    weight: &Buf,
    eps: f32,
    rows: usize,
) -> Result<()> {
    let dim = weight.dim;
    check("add_rms_norm: weight", weight, Number::F32, 1, dim)?;
    check("add_rms_norm: x", x, Number::F32, rows, dim)?;
    check("add_rms_norm: delta", delta, Number::Bf16, rows, dim)?;
    check("add_rms_norm: y", y, Number::Bf16, rows, dim)?;
    let params = AddRmsNormParams {
        y: y.at_mut(),
        x: x.at_mut(),
        delta: delta.at(),
        weight: weight.at(),
        n_row: rows as u32,
        dim: dim as u32,
        y_stride: y.stride(),
        x_stride: x.stride(),
        delta_stride: delta.stride(),
        eps,
    };
    // SAFETY: the kernel's own struct; the checks above hold its pointers to its types and shapes.
    unsafe { cuda.device.launch(geometry::add_rms_norm(&params), &params) }
}
