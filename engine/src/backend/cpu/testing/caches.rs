//! Latent caches that hold what sequences are made of.

use super::{Sequence, Way, limits, scratch_shape};
use crate::backend::cpu::{CacheType, Cpu, CpuOptions, Latents, Plan};
use crate::backend::{Backend, MlaShape};
use crate::step::{PAGE_TOKENS, Slot, Step};

/// The cache such a step reads: NaN wherever no sequence has a token, so that reading there shows.
pub(in super::super) fn cache(
    cpu: &mut Cpu,
    sequences: &[Sequence],
    step: &Step,
    shape: &MlaShape,
) -> Latents {
    let (width, n_page) = (shape.latent_dim(), step.pages.len() + 1);
    let mut cache = cpu.cache(shape, n_page).unwrap();
    (0..n_page * PAGE_TOKENS).for_each(|slot| cache.store(slot, |row| row.fill(f32::NAN)));
    for (i, sequence) in sequences.iter().enumerate() {
        let pages = &step.pages[step.page_start[i] as usize..];
        for (position, latent) in sequence.latents(shape).chunks(width).enumerate() {
            let slot = Slot::new(pages[position / PAGE_TOKENS], position % PAGE_TOKENS).index();
            cache.store(slot, |row| row.copy_from_slice(latent));
        }
    }
    cache
}

/// Every format of the cache, and what such a backend keeps of a sequence's latents.
pub(in super::super) const CACHES: [CacheType; 3] =
    [CacheType::F32, CacheType::Bf16, CacheType::Int8];

/// A backend with a cache in `kind`.
pub(in super::super) fn backend_with(way: Way, kind: CacheType, mla: MlaShape) -> (Cpu, Plan) {
    let options = CpuOptions {
        threads: Some(2),
        isa: Some(way.isa),
        activations: Some(way.activations),
        cache: Some(kind),
        ..CpuOptions::default()
    };
    let mut cpu = Cpu::new(&options).unwrap();
    let plan = cpu.reserve(&scratch_shape(mla), &limits()).unwrap();
    (cpu, plan)
}

/// `[len, c + r]`: what a cache in `kind` holds of a sequence's latents.
pub(in super::super) fn kept_latents(
    kind: CacheType,
    sequence: Sequence,
    shape: &MlaShape,
) -> Vec<f32> {
    let mut cache = Latents::new(kind, shape, sequence.len().div_ceil(PAGE_TOKENS));
    let mut kept = sequence.latents(shape);
    for (slot, row) in kept.chunks_mut(shape.latent_dim()).enumerate() {
        cache.store(slot, |to| to.copy_from_slice(row));
        cache.read(slot, row);
    }
    kept
}
