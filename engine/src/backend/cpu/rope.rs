//! Rotation of queries, and of the shared key on its way into the latent cache.

use super::{Cpu, Plan, rms_norm};
use crate::backend::{MlaShape, RopeTable};

/// Rotates neighbouring pairs: `(a, b) -> (a cos - b sin, b cos + a sin)`.
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = b * cos + a * sin;
    }
}

/// The table's row of a position.
fn at(table: &RopeTable<Vec<f32>>, position: u32, half: usize) -> (&[f32], &[f32]) {
    let start = position as usize * half;
    (&table.cos[start..start + half], &table.sin[start..start + half])
}

/// Rotates the last `r` of every head of `q [n_row, H, n + r]` in place.
pub(super) fn rope(
    cpu: &mut Cpu,
    q: &mut [f32],
    table: &RopeTable<Vec<f32>>,
    shape: &MlaShape,
    plan: &Plan,
) {
    let (width, half) = (shape.qk_head_dim(), shape.qk_rope_head_dim / 2);
    let row = shape.n_head * width;
    let part = |task: usize| task * row..(task + 1) * row;
    cpu.pool.run_parts(
        plan.n_row() * row,
        q,
        &mut cpu.threads,
        plan.n_row(),
        part,
        |task, q, _| {
            let (cos, sin) = at(table, plan.positions[task], half);
            for head in q.chunks_mut(width) {
                rotate(&mut head[shape.qk_nope_head_dim..], cos, sin);
            }
        },
    );
}

/// Norms and rotates `kv [n_row, c + r]` and stores it as cache row `[c_kv, k_pe]` at each row's slot.
pub(super) fn cache_store(
    cache: &mut [f32],
    kv: &[f32],
    norm: &[f32],
    eps: f32,
    table: &RopeTable<Vec<f32>>,
    shape: &MlaShape,
    plan: &Plan,
) {
    let width = shape.latent_dim();
    for (row, kv) in kv.chunks(width).take(plan.n_row()).enumerate() {
        let (c_kv, k_pe) = kv.split_at(shape.kv_lora_rank);
        let (to_c, to_k) =
            cache[plan.slots[row].index() * width..][..width].split_at_mut(shape.kv_lora_rank);
        rms_norm::row(to_c, c_kv, norm, eps);
        to_k.copy_from_slice(k_pe);
        let (cos, sin) = at(table, plan.positions[row], shape.qk_rope_head_dim / 2);
        rotate(to_k, cos, sin);
    }
}
