//! Launches `mla_prefill.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::{MlaExpandParams, MlaPrefillParams};
use hadal_kernels::geometry::mla_prefill as geometry;

use super::head_linear::{key, value};
use super::mla_decode::k_pe_head_stride;
use super::plan::PromptGroup;
use super::weight::Weight;
use super::{Buf, Cache, Cuda, Number, Plan, bug, check};
use crate::backend::{KvB, MlaShape};
use crate::error::Result;

/// What does not change from one group of heads to the next.
struct Prefill<'a> {
    cuda: &'a Cuda,
    o: *mut u16,
    o_stride: u32,
    q: &'a Buf,
    cache: &'a Cache,
    kv_b: &'a KvB<&'a Weight>,
    shape: &'a MlaShape,
    plan: &'a Plan,
}

/// See [`crate::backend::Backend::mla_prefill`]. Groups of sequences, and of their heads, go in turns that the scratch has
/// room for.
pub(super) fn mla_prefill(
    cuda: &Cuda,
    o: &mut Buf,
    q: &Buf,
    cache: &Cache,
    kv_b: &KvB<&Weight>,
    shape: &MlaShape,
    plan: &Plan,
) -> Result<()> {
    check("mla_prefill: o", o, Number::Bf16, plan.n_row, shape.n_head * shape.v_head_dim)?;
    check("mla_prefill: q", q, Number::Bf16, plan.n_row, shape.n_head * shape.qk_head_dim())?;
    let (o_stride, o) = (o.stride(), o.at_mut());
    let all = Prefill { cuda, o, o_stride, q, cache, kv_b, shape, plan };
    let room = cuda.work()?.prefill.tokens;
    for group in &plan.groups {
        let heads = room / group.tokens.len().max(1);
        if heads == 0 {
            return Err(bug("mla_prefill", "a context is longer than the scratch"));
        }
        for first in (0..shape.n_head).step_by(heads) {
            all.turn(group, first, heads.min(shape.n_head - first))?;
        }
    }
    Ok(())
}

impl Prefill<'_> {
    /// Some heads of some sequences.
    fn turn(&self, group: &PromptGroup, head_first: usize, n_head: usize) -> Result<()> {
        let (shape, work) = (self.shape, &self.cuda.work()?.prefill);
        let n_token = group.tokens.len();
        let key_bytes = (n_token * n_head * work.key * 2).next_multiple_of(256);
        let k: *mut u8 = work.memory.at_mut();
        let v = k.wrapping_add(key_bytes);
        let (uk, uv) = (key(self.kv_b, shape)?, value(self.kv_b, shape)?);
        let expand = MlaExpandParams {
            w_uk: uk.plane.matrix(),
            w_uv: uv.plane.matrix(),
            k: k.cast(),
            v: v.cast(),
            cache: self.cache.memory.at(),
            slot: self.plan.prompt_slots(group.tokens.start),
            n_token: n_token as u32,
            head_first: head_first as u32,
            n_head: n_head as u32,
            qk_nope_head_dim: shape.qk_nope_head_dim as u32,
            qk_rope_head_dim: shape.qk_rope_head_dim as u32,
            v_head_dim: shape.v_head_dim as u32,
            kv_lora_rank: shape.kv_lora_rank as u32,
            k_pe_head_stride: k_pe_head_stride(shape),
            uk_row_stride: uk.stride as u32,
            uv_row_first: uv.first as u32,
            uv_row_stride: uv.stride as u32,
            k_head_stride: work.key as u32,
            v_head_stride: work.value as u32,
            cache_stride: self.cache.stride as u32,
        };
        let prefill = MlaPrefillParams {
            o: self.o.cast(),
            q: self.q.at(),
            k: k.cast_const().cast(),
            v: v.cast_const().cast(),
            tile: self.plan.tiles(group.tiles.start),
            n_tile: group.tiles.len() as u32,
            head_first: head_first as u32,
            n_head: n_head as u32,
            qk_head_dim: shape.qk_head_dim() as u32,
            v_head_dim: shape.v_head_dim as u32,
            o_stride: self.o_stride,
            q_stride: self.q.stride(),
            k_head_stride: work.key as u32,
            v_head_stride: work.value as u32,
            scale: shape.softmax_scale,
        };
        let launch = geometry::prefill(&prefill)
            .ok_or_else(|| bug("mla_prefill", "heads are wider than any kernel's"))?;
        // SAFETY: the kernels' own structs; buffers are held to their shapes by the caller, the scratch has room for so
        // many tokens of so many heads, and tiles and slots are those of the step.
        unsafe {
            self.cuda.device.launch(geometry::expand(&expand), &expand)?;
            self.cuda.device.launch(launch, &prefill)
        }
    }
}
