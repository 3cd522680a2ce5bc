//! Launches `rope.cu` and `cache_store.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::{CacheStoreHeadsParams, CacheStoreParams, RopeParams};
use hadal_kernels::geometry::rope as geometry;

use super::{Buf, Cache, Cuda, Number, Plan, check};
use crate::backend::{MlaShape, RopePairs, RopeTable};
use crate::error::Result;

fn pairs_are_halves(table: &RopeTable<Buf>) -> u32 {
    u32::from(table.pairs != RopePairs::Neighbours)
}

/// See [`crate::backend::Backend::rope`].
pub(super) fn rope(
    cuda: &Cuda,
    q: &mut Buf,
    table: &RopeTable<Buf>,
    shape: &MlaShape,
    plan: &Plan,
) -> Result<()> {
    check("rope: q", q, Number::Bf16, plan.n_row, shape.n_head * shape.qk_head_dim())?;
    let params = RopeParams {
        q: q.at_mut(),
        cos: table.cos.at(),
        sin: table.sin.at(),
        position: plan.positions(),
        n_row: plan.n_row as u32,
        q_stride: q.stride(),
        n_head: shape.n_head as u32,
        qk_nope_head_dim: shape.qk_nope_head_dim as u32,
        qk_rope_head_dim: shape.qk_rope_head_dim as u32,
        pairs_are_halves: pairs_are_halves(table),
    };
    // SAFETY: the kernel's own struct; tables have every position of the context, `q` is held to its shape above.
    unsafe { cuda.device.launch(geometry::rope(&params), &params) }
}

/// See [`crate::backend::Backend::cache_store`].
pub(super) fn cache_store(
    cuda: &Cuda,
    cache: &mut Cache,
    (kv, norm, eps): (&Buf, &Buf, f32),
    table: &RopeTable<Buf>,
    shape: &MlaShape,
    plan: &Plan,
) -> Result<()> {
    check("cache_store: kv", kv, Number::Bf16, plan.n_row, shape.latent_dim())?;
    check("cache_store: norm", norm, Number::F32, 1, shape.kv_lora_rank)?;
    let params = CacheStoreParams {
        cache: cache.memory.at_mut(),
        kv: kv.at(),
        norm: norm.at(),
        cos: table.cos.at(),
        sin: table.sin.at(),
        position: plan.positions(),
        slot: plan.slots(),
        n_row: plan.n_row as u32,
        cache_stride: cache.stride as u32,
        kv_stride: kv.stride(),
        kv_lora_rank: shape.kv_lora_rank as u32,
        qk_rope_head_dim: shape.qk_rope_head_dim as u32,
        pairs_are_halves: pairs_are_halves(table),
        eps,
        unused: 0,
    };
    // SAFETY: the kernel's own struct; slots are rows of the cache, each once, by the scheduler's account of pages.
    unsafe { cuda.device.launch(geometry::cache_store(&params), &params) }
}

/// See [`crate::backend::Backend::cache_store_heads`].
pub(super) fn cache_store_heads(
    cuda: &Cuda,
    cache: &mut Cache,
    latent: &Buf,
    k: &Buf,
    shape: &MlaShape,
    plan: &Plan,
) -> Result<()> {
    check("cache_store_heads: latent", latent, Number::Bf16, plan.n_row, shape.kv_lora_rank)?;
    let keys = shape.n_head * shape.qk_head_dim();
    check("cache_store_heads: k", k, Number::Bf16, plan.n_row, keys)?;
    let params = CacheStoreHeadsParams {
        cache: cache.memory.at_mut(),
        latent: latent.at(),
        k: k.at(),
        slot: plan.slots(),
        n_row: plan.n_row as u32,
        cache_stride: cache.stride as u32,
        latent_stride: latent.stride(),
        k_stride: k.stride(),
        n_head: shape.n_head as u32,
        qk_nope_head_dim: shape.qk_nope_head_dim as u32,
        qk_rope_head_dim: shape.qk_rope_head_dim as u32,
        kv_lora_rank: shape.kv_lora_rank as u32,
    };
    // SAFETY: as in `cache_store`.
    unsafe { cuda.device.launch(geometry::cache_store_heads(&params), &params) }
}
