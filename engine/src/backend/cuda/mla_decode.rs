//! Launches `mla_decode.cu`: shape checks, geometry, parameters. No arithmetic.

use hadal_kernels::abi::MlaDecodeParams;
use hadal_kernels::geometry::mla_decode as geometry;

use super::{Buf, Cache, Cuda, Number, Plan, check};
use crate::backend::MlaShape;
use crate::error::Result;

/// Between the rotary keys of two heads in a cache row.
pub(super) fn k_pe_head_stride(shape: &MlaShape) -> u32 {
    if shape.n_k_pe == 1 { 0 } else { shape.qk_rope_head_dim as u32 }
}

/// See [`crate::backend::Backend::mla_decode`]. Rows go in turns that the scratch has room for.
pub(super) fn mla_decode(
    cuda: &Cuda,
    o_latent: &mut Buf,
    q_latent: &Buf,
    q: &Buf,
    cache: &Cache,
    shape: &MlaShape,
    plan: &Plan,
) -> Result<()> {
    let (rows, latents) = (plan.n_decode_row, shape.n_head * shape.kv_lora_rank);
    check("mla_decode: o_latent", o_latent, Number::Bf16, rows, latents)?;
    check("mla_decode: q_latent", q_latent, Number::Bf16, rows, latents)?;
    check("mla_decode: q", q, Number::Bf16, rows, shape.n_head * shape.qk_head_dim())?;
    let work = &cuda.work()?.decode;
    let heads = geometry::heads(shape.n_head as u32, cuda.device.caps());
    for first in (0..rows).step_by(work.rows) {
        let params = MlaDecodeParams {
            o_latent: o_latent.at_mut::<u16>().wrapping_add(first * o_latent.stride).cast(),
            part: work.part.at_mut(),
            lse: work.lse.at_mut(),
            q_latent: q_latent.at::<u16>().wrapping_add(first * q_latent.stride).cast(),
            q: q.at::<u16>().wrapping_add(first * q.stride).cast(),
            cache: cache.memory.at(),
            position: plan.positions().wrapping_add(first),
            sequence: plan.sequence().wrapping_add(first),
            page_start: plan.page_start(),
            page: plan.pages(),
            n_row: work.rows.min(rows - first) as u32,
            n_split_max: work.n_split_max as u32,
            n_head: shape.n_head as u32,
            kv_lora_rank: shape.kv_lora_rank as u32,
            qk_nope_head_dim: shape.qk_nope_head_dim as u32,
            qk_rope_head_dim: shape.qk_rope_head_dim as u32,
            k_pe_head_stride: k_pe_head_stride(shape),
            o_stride: o_latent.stride(),
            q_latent_stride: q_latent.stride(),
            q_stride: q.stride(),
            cache_stride: cache.stride as u32,
            scale: shape.softmax_scale,
        };
        // SAFETY: the kernel's own struct; buffers are held to their shapes above, a sequence has the pages of its
        // context, and scratch is made for the longest one and so many rows.
        unsafe {
            cuda.device.launch(geometry::decode(&params, heads), &params)?;
            if work.n_split_max > 1 {
                cuda.device.launch(geometry::combine(&params), &params)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::geometry;
    use hadal_kernels::Caps;

    /// A100, RTX 4090, H100, RTX 5090.
    const CARDS: [Caps; 4] = [
        Caps { arch: 80, multiprocessors: 108, shared_optin_bytes: 163 << 10 },
        Caps { arch: 89, multiprocessors: 128, shared_optin_bytes: 99 << 10 },
        Caps { arch: 90, multiprocessors: 132, shared_optin_bytes: 227 << 10 },
        Caps { arch: 120, multiprocessors: 170, shared_optin_bytes: 99 << 10 },
    ];

    #[test]
    fn heads_of_a_block_are_as_many_as_a_card_has_shared_memory_for() {
        assert_eq!(CARDS.map(|caps| geometry::heads(16, &caps)), [16; 4]);
        assert_eq!(CARDS.map(|caps| geometry::heads(128, &caps)), [64, 16, 64, 16]);
    }
}
