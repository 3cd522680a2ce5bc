//! Launches `linear.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::LinearParams;
use hadal_kernels::geometry::linear as geometry;

use super::weight::Weight;
use super::{Buf, Cuda, Number, check};
use crate::error::Result;

/// See [`crate::backend::Backend::linear`].
pub(super) fn linear(
    cuda: &Cuda,
    y: &mut Buf,
    x: &Buf,
    weight: &Weight,
    rows: usize,
) -> Result<()> {
    let plane = weight.plane()?;
    let w = plane.matrix();
    check("linear: x", x, Number::Bf16, rows, w.n_in as usize)?;
    check("linear: y", y, y.number, rows, w.n_out as usize)?;
    let params = LinearParams {
        w,
        y: y.at_mut(),
        x: x.at(),
        n_row: rows as u32,
        y_stride: y.stride(),
        x_stride: x.stride(),
        y_is_f32: u32::from(y.number == Number::F32),
    };
    // SAFETY: the kernel's own struct; the checks above hold its pointers to its types and shapes.
    unsafe { cuda.device.launch(geometry::linear(&params, plane.layout.format), &params) }
}
