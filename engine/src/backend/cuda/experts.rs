//! Launches `experts.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::{
    ExpertsCombineParams, ExpertsDispatchParams, ExpertsDownParams, ExpertsGateUpParams,
};
use hadal_kernels::geometry::experts::{self as geometry, Form};

use super::route::Routing;
use super::weight::Experts;
use super::{Buf, Cuda, Number, ROW_NUMBERS, bug, check};
use crate::error::Result;

/// See [`crate::backend::Backend::experts`].
// tidy: allow-long-function the parameters of four launches that share every name.
pub(super) fn experts(
    cuda: &Cuda,
    y: &mut Buf,
    shared: Option<&Buf>,
    x: &Buf,
    routing: &Routing,
    weights: &Experts,
    rows: usize,
) -> Result<()> {
    let (m, d) = (weights.gate.layout.n_out, weights.gate.layout.n_in);
    check("experts: x", x, Number::Bf16, rows, d)?;
    check("experts: y", y, Number::Bf16, rows, d)?;
    if let Some(shared) = shared {
        check("experts: shared", shared, Number::Bf16, rows, d)?;
    }
    if weights.n_expert != routing.n_expert {
        return Err(bug("experts", "the routing is for another number of experts"));
    }
    let work = &cuda.work()?.experts;
    let pairs = rows * routing.per_row;
    work.check(pairs, m, d)?;
    let (h_stride, out_stride) =
        (m.next_multiple_of(ROW_NUMBERS) as u32, d.next_multiple_of(ROW_NUMBERS) as u32);
    let (n_row, n_chosen) = (rows as u32, routing.per_row as u32);
    let n_expert = routing.n_expert as u32;
    let form = Form::pick(n_row, n_chosen, n_expert);
    let n_tile_max = form.n_tile_max(pairs as u32, n_expert);
    let touched: *mut u64 = cuda.results()?.at_mut();
    let dispatch = ExpertsDispatchParams {
        pair: work.pair.at_mut(),
        expert_start: work.expert_start.at_mut(),
        tile: work.tile.at_mut(),
        touched: touched.wrapping_add(usize::from(!routing.is_counted)),
        expert: routing.expert.at(),
        n_row,
        n_chosen,
        n_expert,
        tile_pairs: form.tile_pairs(),
        n_tile_max,
        unused: 0,
    };
    let gate_up = ExpertsGateUpParams {
        gate: weights.gate.matrices(),
        up: weights.up.matrices(),
        h: work.h.at_mut(),
        x: x.at(),
        pair: work.pair.at(),
        expert_start: work.expert_start.at(),
        tile: work.tile.at(),
        n_chosen,
        h_stride,
        x_stride: x.stride(),
        n_tile_max,
    };
    let down = ExpertsDownParams {
        down: weights.down.matrices(),
        out: work.out.at_mut(),
        h: work.h.at(),
        pair: work.pair.at(),
        expert_start: work.expert_start.at(),
        tile: work.tile.at(),
        out_stride,
        h_stride,
        n_tile_max,
        unused: 0,
    };
    let combine = ExpertsCombineParams {
        y: y.at_mut(),
        shared: shared.map_or(std::ptr::null(), Buf::at),
        out: work.out.at(),
        weight: routing.weight.at(),
        n_row,
        n_chosen,
        dim: d as u32,
        y_stride: y.stride(),
        shared_stride: shared.map_or(0, Buf::stride),
        out_stride,
    };
    let device = &cuda.device;
    // SAFETY: the kernels' own structs; buffers, scratch and experts are held to their shapes above.
    unsafe {
        device.launch(geometry::dispatch(&dispatch), &dispatch)?;
        device.launch(geometry::gate_up(&gate_up, weights.gate.layout.format, form), &gate_up)?;
        device.launch(geometry::down(&down, weights.down.layout.format, form), &down)?;
        device.launch(geometry::combine(&combine), &combine)
    }
}
