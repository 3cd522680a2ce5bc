//! Launches `route.cu`: shape checks, geometry, parameters. No arithmetic.

use std::ffi::c_void;

use hadal_kernels::abi::{RouteLogitsParams, RouteParams};
use hadal_kernels::geometry::route as geometry;

use super::device::Memory;
use super::weight::{Numbers, Weight};
use super::{Buf, Cuda, Number, bug, check};
use crate::backend::{RouteRule, RoutingTrace, Scoring};
use crate::error::Result;

/// Experts chosen for each row.
pub struct Routing {
    /// `[rows, K]`.
    pub(super) expert: Memory,
    /// `[rows, K]`.
    pub(super) weight: Memory,
    /// `[rows, E]`.
    logits: Memory,
    rows: usize,
    pub(super) per_row: usize,
    pub(super) n_expert: usize,
    /// Whether its experts are counted.
    pub(super) is_counted: bool,
}

impl Routing {
    /// Room for `rows` rows.
    pub(super) fn new(cuda: &Cuda, rows: usize, per_row: usize, n_expert: usize) -> Result<Self> {
        Ok(Self {
            expert: cuda.device.zeros(4 * rows * per_row)?,
            weight: cuda.device.zeros(4 * rows * per_row)?,
            logits: cuda.device.zeros(4 * rows * n_expert)?,
            rows,
            per_row,
            n_expert,
            is_counted: true,
        })
    }

    /// Every row to all experts, each with the same weight.
    pub(super) fn average(cuda: &Cuda, rows: usize, n_expert: usize) -> Result<Self> {
        let routing = Self { is_counted: false, ..Self::new(cuda, rows, n_expert, n_expert)? };
        let all = (0..rows).flat_map(|_| 0..n_expert as u32);
        let bytes: Vec<u8> = all.flat_map(u32::to_le_bytes).collect();
        cuda.device.upload(&routing.expert, 0, &bytes)?;
        let weight = (1.0 / n_expert as f32).to_le_bytes();
        cuda.device.upload(&routing.weight, 0, &weight.repeat(rows * n_expert))?;
        Ok(routing)
    }

    /// A copy of the first rows' choices.
    pub(super) fn trace(&self, cuda: &Cuda, rows: usize) -> Result<RoutingTrace> {
        let words = |memory: &Memory, n: usize| -> Result<Vec<u32>> {
            let mut bytes = vec![0u8; 4 * n];
            cuda.device.download(memory, 0, &mut bytes)?;
            let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            Ok(bytes.chunks_exact(4).map(word).collect())
        };
        let floats = |words: Vec<u32>| words.into_iter().map(f32::from_bits).collect();
        Ok(RoutingTrace {
            indices: words(&self.expert, rows * self.per_row)?,
            weights: floats(words(&self.weight, rows * self.per_row)?),
            logits: floats(words(&self.logits, rows * self.n_expert)?),
        })
    }
}

/// See [`crate::backend::Backend::route`].
pub(super) fn route(
    cuda: &Cuda,
    routing: &mut Routing,
    x: &Buf,
    gate: &Weight,
    bias: Option<&Buf>,
    rule: &RouteRule,
    rows: usize,
) -> Result<()> {
    let (at, n_expert, dim, stride): (*const c_void, _, _, _) = match &gate.numbers {
        Numbers::Plane(plane) => {
            let w = plane.matrix();
            (w.quants, w.n_out as usize, w.n_in as usize, w.quant_stride as usize)
        }
        Numbers::Wide { memory, n_out, n_in, stride } => (memory.at(), *n_out, *n_in, *stride),
    };
    check("route: x", x, Number::Bf16, rows, dim)?;
    if rows > routing.rows || n_expert != routing.n_expert {
        return Err(bug("route", &format!("no room for {rows} rows of {n_expert} experts")));
    }
    if let Some(bias) = bias {
        check("route: bias", bias, Number::F32, 1, n_expert)?;
    }
    let logits = RouteLogitsParams {
        logits: routing.logits.at_mut(),
        x: x.at(),
        gate: at,
        n_row: rows as u32,
        n_expert: n_expert as u32,
        dim: dim as u32,
        x_stride: x.stride(),
        gate_stride: stride as u32,
        unused: 0,
    };
    let choice = RouteParams {
        expert: routing.expert.at_mut(),
        weight: routing.weight.at_mut(),
        logits: routing.logits.at_mut(),
        bias: bias.map_or(std::ptr::null(), Buf::at),
        n_row: rows as u32,
        n_expert: n_expert as u32,
        n_chosen: routing.per_row as u32,
        n_group: rule.n_group.max(1) as u32,
        topk_group: rule.topk_group.max(1) as u32,
        is_sigmoid: u32::from(rule.scoring == Scoring::Sigmoid),
        norm_topk_prob: u32::from(rule.norm_topk_prob),
        routed_scaling_factor: rule.routed_scaling_factor,
    };
    let gate_is_f32 = matches!(gate.numbers, Numbers::Wide { .. });
    // SAFETY: the kernels' own structs; the checks above hold their pointers to their types and shapes.
    unsafe {
        cuda.device.launch(geometry::route_logits(&logits, gate_is_f32), &logits)?;
        cuda.device.launch(geometry::route(&choice), &choice)
    }
}
