//! One product per head with half of `kv_b_proj`, inputs always f32: the two ends of absorbed attention.

use std::ops::Range;

use super::simd::multiply::{add_weighted_rows, dot_rows};
use super::{Cpu, Weight};
use crate::backend::MlaShape;

/// `y[row, h, c] = sum_n q[row, h, n] * w_uk[h, n, c]`, in the order of `n`.
pub(super) fn key(
    cpu: &mut Cpu,
    y: &mut [f32],
    q: &[f32],
    kv_b: &Weight,
    shape: &MlaShape,
    rows: Range<usize>,
) {
    let (heads, latent) = (shape.n_head, shape.kv_lora_rank);
    let block = shape.qk_nope_head_dim + shape.v_head_dim;
    let isa = cpu.isa;
    let part = |task: usize| {
        let start = (rows.start * heads + task) * latent;
        start..start + latent
    };
    let work = rows.len() * heads * latent * shape.qk_nope_head_dim;
    cpu.pool.run_parts(work, y, &mut cpu.threads, rows.len() * heads, part, |task, y, _| {
        let (row, head) = (rows.start + task / heads, task % heads);
        let q = &q[(row * heads + head) * shape.qk_head_dim()..][..shape.qk_nope_head_dim];
        y.fill(0.0);
        add_weighted_rows(isa, y, q, kv_b, head * block);
    });
}

/// `y[row, h, v] = sum_c o_latent[row, h, c] * w_uv[h, v, c]`.
pub(super) fn value(
    cpu: &mut Cpu,
    y: &mut [f32],
    x: &[f32],
    kv_b: &Weight,
    shape: &MlaShape,
    rows: Range<usize>,
) {
    let (heads, latent, width) = (shape.n_head, shape.kv_lora_rank, shape.v_head_dim);
    let block = shape.qk_nope_head_dim + width;
    let isa = cpu.isa;
    let part = |task: usize| {
        let start = (rows.start * heads + task) * width;
        start..start + width
    };
    let work = rows.len() * heads * latent * width;
    cpu.pool.run_parts(work, y, &mut cpu.threads, rows.len() * heads, part, |task, y, _| {
        let (row, head) = (rows.start + task / heads, task % heads);
        let x = &x[(row * heads + head) * latent..][..latent];
        dot_rows(isa, y, x, kv_b, head * block + shape.qk_nope_head_dim);
    });
}
