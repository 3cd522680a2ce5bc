//! Launches `head_linear.cu`: shape checks, geometry, parameters. No arithmetic.

use std::ops::Range;

use hadal_kernels::abi::HeadLinearParams;
use hadal_kernels::geometry::head_linear as geometry;

use super::weight::{Plane, Weight};
use super::{Buf, Cuda, Number, bug, check};
use crate::backend::{HeadSide, KvB, MlaShape};
use crate::error::{Error, Result};

/// A half of `kv_b`: head `h` has rows `first + h * stride ..`.
pub(super) struct Half<'a> {
    pub(super) plane: &'a Plane,
    pub(super) first: usize,
    pub(super) stride: usize,
}

fn no_turned() -> Error {
    bug("kv_b", "its key half was not turned round when it was loaded")
}

/// The key half, each head turned round: `[c, n]`.
fn key_turned<'a>(kv_b: &KvB<&'a Weight>, shape: &MlaShape) -> Result<Half<'a>> {
    let plane = match kv_b {
        KvB::Whole(key) | KvB::Apart { key, .. } => key.turned.as_ref().ok_or_else(no_turned)?,
        KvB::Halves { key, .. } => key.plane()?,
    };
    Ok(Half { plane, first: 0, stride: shape.kv_lora_rank })
}

/// The key half as it multiplies latents: `[n, c]`.
pub(super) fn key<'a>(kv_b: &KvB<&'a Weight>, shape: &MlaShape) -> Result<Half<'a>> {
    let (n, r, v) = (shape.qk_nope_head_dim, shape.qk_rope_head_dim, shape.v_head_dim);
    Ok(match kv_b {
        KvB::Whole(whole) => Half { plane: whole.plane()?, first: 0, stride: n + v },
        KvB::Apart { key, .. } => Half { plane: key.plane()?, first: 0, stride: n + r },
        KvB::Halves { key, .. } => {
            Half { plane: key.turned.as_ref().ok_or_else(no_turned)?, first: 0, stride: n }
        }
    })
}

/// The value half: `[v, c]`.
pub(super) fn value<'a>(kv_b: &KvB<&'a Weight>, shape: &MlaShape) -> Result<Half<'a>> {
    let (n, v) = (shape.qk_nope_head_dim, shape.v_head_dim);
    Ok(match kv_b {
        KvB::Whole(whole) => Half { plane: whole.plane()?, first: n, stride: n + v },
        KvB::Apart { value, .. } | KvB::Halves { value, .. } => {
            Half { plane: value.plane()?, first: 0, stride: v }
        }
    })
}

/// See [`crate::backend::Backend::head_linear`].
pub(super) fn head_linear(
    cuda: &Cuda,
    y: &mut Buf,
    x: &Buf,
    kv_b: &KvB<&Weight>,
    side: HeadSide,
    shape: &MlaShape,
    rows: &Range<usize>,
) -> Result<()> {
    let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
    let (half, n_in, n_out, x_head) = match side {
        HeadSide::Key => (key_turned(kv_b, shape)?, n, c, shape.qk_head_dim()),
        HeadSide::Value => (value(kv_b, shape)?, c, v, c),
    };
    check("head_linear: x", x, Number::Bf16, rows.end, shape.n_head * x_head)?;
    check("head_linear: y", y, Number::Bf16, rows.end, shape.n_head * n_out)?;
    let params = HeadLinearParams {
        w: half.plane.matrix(),
        y: y.at_mut::<u16>().wrapping_add(rows.start * y.stride).cast(),
        x: x.at::<u16>().wrapping_add(rows.start * x.stride).cast(),
        n_row: rows.len() as u32,
        n_head: shape.n_head as u32,
        n_out: n_out as u32,
        n_in: n_in as u32,
        head_row_first: half.first as u32,
        head_row_stride: half.stride as u32,
        y_stride: y.stride(),
        y_head_stride: n_out as u32,
        x_stride: x.stride(),
        x_head_stride: x_head as u32,
    };
    // SAFETY: the kernel's own struct; the checks above hold its pointers to its types and shapes.
    unsafe { cuda.device.launch(geometry::head_linear(&params), &params) }
}
