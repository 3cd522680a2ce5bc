//! Rotation of queries, and of the shared key on its way into the latent cache.

use super::aligned::Aligned;
use super::{Cpu, Latents, Plan, rms_norm};
use crate::backend::{MlaShape, RopePairs, RopeTable};

/// Rotates the pairs of one head: `(a, b) -> (a cos - b sin, b cos + a sin)`.
fn rotate(x: &mut [f32], pairs: RopePairs, cos: &[f32], sin: &[f32]) {
    let turn = |a: f32, b: f32, cos: f32, sin: f32| (a * cos - b * sin, b * cos + a * sin);
    match pairs {
        RopePairs::Neighbours => {
            for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = turn(pair[0], pair[1], *cos, *sin);
            }
        }
        RopePairs::Halves => {
            let (first, second) = x.split_at_mut(x.len() / 2);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = turn(*a, *b, *cos, *sin);
            }
        }
    }
}

/// The table's row of a position.
fn at(table: &RopeTable<Aligned<f32>>, position: u32, half: usize) -> (&[f32], &[f32]) {
    let start = position as usize * half;
    (&table.cos[start..start + half], &table.sin[start..start + half])
}

/// Rotates the last `r` of every head of `q [n_row, H, n + r]` in place.
pub(super) fn rope(
    cpu: &mut Cpu,
    q: &mut [f32],
    table: &RopeTable<Aligned<f32>>,
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
                rotate(&mut head[shape.qk_nope_head_dim..], table.pairs, cos, sin);
            }
        },
    );
}

/// Norms and rotates `kv [n_row, c + r]` and stores it as cache row `[c_kv, k_pe]` at each row's slot.
pub(super) fn cache_store(
    cache: &mut Latents,
    kv: &[f32],
    norm: &[f32],
    eps: f32,
    table: &RopeTable<Aligned<f32>>,
    shape: &MlaShape,
    plan: &Plan,
) {
    let width = shape.latent_dim();
    for (row, kv) in kv.chunks(width).take(plan.n_row()).enumerate() {
        let (c_kv, k_pe) = kv.split_at(shape.kv_lora_rank);
        let (cos, sin) = at(table, plan.positions[row], shape.qk_rope_head_dim / 2);
        cache.store(plan.slots[row].index(), |to| {
            let (to_c, to_k) = to.split_at_mut(shape.kv_lora_rank);
            rms_norm::row(to_c, c_kv, norm, eps);
            to_k.copy_from_slice(k_pe);
            rotate(to_k, table.pairs, cos, sin);
        });
    }
}

/// Stores `latent [n_row, c]` and the rotary part of every head of `k [n_row, H, n + r]` at each row's slot.
pub(super) fn cache_store_heads(
    cache: &mut Latents,
    latent: &[f32],
    k: &[f32],
    shape: &MlaShape,
    plan: &Plan,
) {
    let qk = shape.qk_head_dim();
    let rows = latent.chunks(shape.kv_lora_rank).zip(k.chunks(shape.n_head * qk));
    for (slot, (latent, k)) in plan.slots.iter().zip(rows) {
        cache.store(slot.index(), |to| {
            let (to_latent, to_k) = to.split_at_mut(shape.kv_lora_rank);
            to_latent.copy_from_slice(latent);
            for (to, k) in to_k.chunks_mut(shape.qk_rope_head_dim).zip(k.chunks(qk)) {
                to.copy_from_slice(&k[shape.qk_nope_head_dim..]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Aligned;
    use crate::backend::cpu::testing::{
        EVEN, ODD, OWN_KEYS, Sequence, Way, assert_close, assert_same_bits, backend_for, numbers,
        step, ways,
    };
    use crate::backend::cpu::{CacheType, Cpu, Latents};
    use crate::backend::{Backend, MlaShape, RopePairs, RopeTable};
    use crate::step::Step;

    const SEQUENCES: [Sequence; 3] = [
        Sequence { id: 1, before: 66, rows: 1 },
        Sequence { id: 2, before: 0, rows: 7 },
        Sequence { id: 3, before: 120, rows: 12 },
    ];
    const ROWS: usize = 20;
    const EPS: f32 = 1e-6;

    const PAIRS: [RopePairs; 2] = [RopePairs::Neighbours, RopePairs::Halves];

    /// Each channel by its own formula, in f64: cosine times itself, plus or minus sine times its partner.
    fn rotated(x: &[f32], pairs: RopePairs, cos: &[f32], sin: &[f32]) -> Vec<f64> {
        let half = x.len() / 2;
        let channel = |i: usize| {
            let (partner, pair, is_first) = match pairs {
                RopePairs::Neighbours => (i ^ 1, i / 2, i.is_multiple_of(2)),
                RopePairs::Halves => ((i + half) % x.len(), i % half, i < half),
            };
            let [own, other, cos, sin] = [x[i], x[partner], cos[pair], sin[pair]].map(f64::from);
            own * cos + other * if is_first { -sin } else { sin }
        };
        (0..x.len()).map(channel).collect()
    }

    /// Every way to run, both kinds of pairs, widths that fill no vector and widths that do.
    fn for_each(check: impl Fn(Way, RopePairs, MlaShape)) {
        for way in ways() {
            for pairs in PAIRS {
                check(way, pairs, ODD);
                check(way, pairs, EVEN);
            }
        }
    }

    #[test]
    fn every_head_turns_by_its_rows_position() {
        for_each(|way, pairs, shape| {
            let half = shape.qk_rope_head_dim / 2;
            let (width, nope) = (shape.qk_head_dim(), shape.qk_nope_head_dim);
            let (cos, sin) = (numbers(1, 200 * half), numbers(2, 200 * half));
            let q = numbers(3, ROWS * shape.n_head * width);
            let step = step(&SEQUENCES, 1);
            for threads in 1..=3 {
                let (mut cpu, mut plan) = backend_for(way, threads, shape);
                cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
                let table = table(&mut cpu, &cos, &sin, pairs);
                let mut got = cpu.vector(&q).unwrap();
                cpu.rope(&mut got, &table, &shape, &plan);
                for (i, (got, q)) in got.chunks(width).zip(q.chunks(width)).enumerate() {
                    let at = step.positions[i / shape.n_head] as usize * half;
                    let want = rotated(&q[nope..], pairs, &cos[at..at + half], &sin[at..at + half]);
                    assert_same_bits(&got[..nope], &q[..nope]);
                    assert_close(&got[nope..], &want, |_| 2f64.powi(-22));
                }
            }
        });
    }

    #[test]
    fn a_cache_row_is_the_normed_latent_and_the_turned_key_at_its_slot() {
        for_each(|way, pairs, shape| {
            let (latent, width, half) =
                (shape.kv_lora_rank, shape.latent_dim(), shape.qk_rope_head_dim / 2);
            let (cos, sin) = (numbers(1, 200 * half), numbers(2, 200 * half));
            let (kv, norm) = (numbers(3, ROWS * width), numbers(4, latent));
            let step = step(&SEQUENCES, 1);
            let (mut cpu, mut plan) = backend_for(way, 2, shape);
            cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
            let table = table(&mut cpu, &cos, &sin, pairs);
            let (kv_buf, norm_buf) = (cpu.vector(&kv).unwrap(), cpu.vector(&norm).unwrap());
            let mut cache = nines(&mut cpu, &step, &shape);
            cpu.cache_store(&mut cache, &kv_buf, &norm_buf, EPS, &table, &shape, &plan);
            // What bf16 keeps of a number.
            let kept = if cpu.cache_type() == CacheType::F32 { 0.0 } else { 2f64.powi(-8) };
            let mut row = vec![0.0; width];
            for slot in 0..(step.pages.len() + 1) * 64 {
                cache.read(slot, &mut row);
                let Some(i) = step.slots.iter().position(|s| s.index() == slot) else {
                    assert!(row.iter().all(|x| *x == 9.0), "slot {slot} belongs to no row");
                    continue;
                };
                let at = step.positions[i] as usize * half;
                let kv = &kv[i * width..(i + 1) * width];
                let turned =
                    rotated(&kv[latent..], pairs, &cos[at..at + half], &sin[at..at + half]);
                let want = [normed(&kv[..latent], &norm), turned].concat();
                assert_close(&row, &want, |i| 2f64.powi(-20) + kept * want[i].abs());
            }
        });
    }

    #[test]
    fn a_cache_row_with_own_keys_is_the_latent_and_every_heads_rotary_part() {
        let shape = OWN_KEYS;
        let (c, width, qk) = (shape.kv_lora_rank, shape.latent_dim(), shape.qk_head_dim());
        let (latent, k) = (numbers(3, ROWS * c), numbers(4, ROWS * shape.n_head * qk));
        let step = step(&SEQUENCES, 1);
        let (mut cpu, mut plan) = backend_for(ways()[0], 2, shape);
        cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
        let (latent_buf, k_buf) = (cpu.vector(&latent).unwrap(), cpu.vector(&k).unwrap());
        let mut cache = nines(&mut cpu, &step, &shape);
        cpu.cache_store_heads(&mut cache, &latent_buf, &k_buf, &shape, &plan);
        let mut row = vec![0.0; width];
        for slot in 0..(step.pages.len() + 1) * 64 {
            cache.read(slot, &mut row);
            let Some(i) = step.slots.iter().position(|s| s.index() == slot) else {
                assert!(row.iter().all(|x| *x == 9.0), "slot {slot} belongs to no row");
                continue;
            };
            let heads = k[i * shape.n_head * qk..(i + 1) * shape.n_head * qk].chunks(qk);
            let k_pe = heads.flat_map(|head| &head[shape.qk_nope_head_dim..]);
            let want: Vec<f32> = latent[i * c..(i + 1) * c].iter().chain(k_pe).copied().collect();
            assert_same_bits(&row, &want);
        }
    }

    /// A cache that somebody wrote nines into.
    fn nines(cpu: &mut Cpu, step: &Step, shape: &MlaShape) -> Latents {
        let n_page = step.pages.len() + 1;
        let mut cache = cpu.cache(shape, n_page).unwrap();
        (0..n_page * 64).for_each(|slot| cache.store(slot, |row| row.fill(9.0)));
        cache
    }

    fn table(cpu: &mut Cpu, cos: &[f32], sin: &[f32], pairs: RopePairs) -> RopeTable<Aligned<f32>> {
        RopeTable { cos: cpu.vector(cos).unwrap(), sin: cpu.vector(sin).unwrap(), pairs }
    }

    /// `x / sqrt(mean(x^2) + eps) * norm` in f64.
    fn normed(x: &[f32], norm: &[f32]) -> Vec<f64> {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = (mean + f64::from(EPS)).sqrt();
        x.iter().zip(norm).map(|(x, w)| f64::from(*x) / scale * f64::from(*w)).collect()
    }
}
