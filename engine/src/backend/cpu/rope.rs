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

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::RopeTable;
    use crate::backend::cpu::testing::{
        EVEN, ODD, Sequence, assert_close, assert_same_bits, backend_for, numbers, step, ways,
    };

    const SEQUENCES: [Sequence; 3] = [
        Sequence { id: 1, before: 66, rows: 1 },
        Sequence { id: 2, before: 0, rows: 7 },
        Sequence { id: 3, before: 120, rows: 12 },
    ];
    const ROWS: usize = 20;
    const EPS: f32 = 1e-6;

    /// Turns the plane of each neighbouring pair: a complex product in f64.
    fn rotated(x: &[f32], cos: &[f32], sin: &[f32]) -> Vec<f64> {
        let pairs = x.chunks(2).zip(cos.iter().zip(sin));
        pairs
            .flat_map(|(pair, (cos, sin))| {
                let [a, b, cos, sin] = [pair[0], pair[1], *cos, *sin].map(f64::from);
                [a * cos - b * sin, a * sin + b * cos]
            })
            .collect()
    }

    #[test]
    fn every_head_turns_by_its_rows_position() {
        for shape in [ODD, EVEN] {
            let half = shape.qk_rope_head_dim / 2;
            let (width, nope) = (shape.qk_head_dim(), shape.qk_nope_head_dim);
            let (cos, sin) = (numbers(1, 200 * half), numbers(2, 200 * half));
            let q = numbers(3, ROWS * shape.n_head * width);
            let step = step(&SEQUENCES, 1);
            for threads in 1..=3 {
                let (mut cpu, mut plan) = backend_for(ways()[0], threads, shape);
                cpu.begin(&mut plan, &step).unwrap();
                let table =
                    RopeTable { cos: cpu.vector(&cos).unwrap(), sin: cpu.vector(&sin).unwrap() };
                let mut got = cpu.vector(&q).unwrap();
                cpu.rope(&mut got, &table, &shape, &plan);
                for (i, (got, q)) in got.chunks(width).zip(q.chunks(width)).enumerate() {
                    let at = step.positions[i / shape.n_head] as usize * half;
                    let want = rotated(&q[nope..], &cos[at..at + half], &sin[at..at + half]);
                    assert_same_bits(&got[..nope], &q[..nope]);
                    assert_close(&got[nope..], &want, |_| 2f64.powi(-22));
                }
            }
        }
    }

    #[test]
    fn a_cache_row_is_the_normed_latent_and_the_turned_key_at_its_slot() {
        let shape = ODD;
        let (latent, width, half) =
            (shape.kv_lora_rank, shape.latent_dim(), shape.qk_rope_head_dim / 2);
        let (cos, sin) = (numbers(1, 200 * half), numbers(2, 200 * half));
        let (kv, norm) = (numbers(3, ROWS * width), numbers(4, latent));
        let step = step(&SEQUENCES, 1);
        let (mut cpu, mut plan) = backend_for(ways()[0], 2, shape);
        cpu.begin(&mut plan, &step).unwrap();
        let table = RopeTable { cos: cpu.vector(&cos).unwrap(), sin: cpu.vector(&sin).unwrap() };
        let (kv_buf, norm_buf) = (cpu.vector(&kv).unwrap(), cpu.vector(&norm).unwrap());
        let mut cache = cpu.vector(&vec![9.0; (step.pages.len() + 1) * 64 * width]).unwrap();
        cpu.cache_store(&mut cache, &kv_buf, &norm_buf, EPS, &table, &shape, &plan);
        for (slot, row) in cache.chunks(width).enumerate() {
            let Some(i) = step.slots.iter().position(|s| s.index() == slot) else {
                assert!(row.iter().all(|x| *x == 9.0), "slot {slot} belongs to no row");
                continue;
            };
            let kv = &kv[i * width..(i + 1) * width];
            let mean: f64 =
                kv[..latent].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / latent as f64;
            let scale = (mean + f64::from(EPS)).sqrt();
            let normed = (0..latent).map(|j| f64::from(kv[j]) / scale * f64::from(norm[j]));
            let at = step.positions[i] as usize * half;
            let turned = rotated(&kv[latent..], &cos[at..at + half], &sin[at..at + half]);
            let want: Vec<f64> = normed.chain(turned).collect();
            assert_close(row, &want, |_| 2f64.powi(-20));
        }
    }
}
