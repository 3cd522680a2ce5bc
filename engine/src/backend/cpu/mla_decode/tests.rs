use crate::backend::Backend;
use crate::backend::MlaShape;
use crate::backend::cpu::testing::{
    CACHES, EVEN, ODD, OWN_KEYS, Sequence, Way, assert_close, assert_same_bits, attend,
    backend_for, backend_with, cache, kept_latents, step, ways,
};
use crate::backend::cpu::{Cpu, Plan};

fn inputs(sequences: &[Sequence], shape: &MlaShape) -> (Vec<f32>, Vec<f32>) {
    let latent = shape.n_head * shape.kv_lora_rank;
    let of = |kind, width| sequences.iter().flat_map(move |s| s.inputs(kind, width)).collect();
    (of(1, latent), of(2, shape.n_head * shape.qk_head_dim()))
}

fn run(way: Way, threads: usize, sequences: &[Sequence], shape: &MlaShape) -> Vec<f32> {
    let (cpu, plan) = backend_for(way, threads, *shape);
    run_on(cpu, plan, sequences, shape)
}

fn run_on(mut cpu: Cpu, mut plan: Plan, sequences: &[Sequence], shape: &MlaShape) -> Vec<f32> {
    let step = step(sequences, sequences.len());
    cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
    let (q_latent, q) = inputs(sequences, shape);
    let (q_latent, q) = (cpu.vector(&q_latent).unwrap(), cpu.vector(&q).unwrap());
    let cache = cache(&mut cpu, sequences, &step, shape);
    let mut o = cpu
        .alloc(1, step.n_row() * shape.n_head * shape.kv_lora_rank, crate::backend::Role::Inner)
        .unwrap();
    cpu.mla_decode(&mut o, &q_latent, &q, &cache, shape, &plan);
    o.to_vec()
}

fn oracle(sequence: Sequence, shape: &MlaShape) -> Vec<f64> {
    oracle_over(&sequence.latents(shape), sequence, shape)
}

fn oracle_over(latents: &[f32], sequence: Sequence, shape: &MlaShape) -> Vec<f64> {
    let (c, width) = (shape.kv_lora_rank, shape.latent_dim());
    let (q_latent, q) = inputs(&[sequence], shape);
    let mut out = Vec::new();
    for (row, head) in (0..sequence.rows).flat_map(|r| (0..shape.n_head).map(move |h| (r, h))) {
        let at = row * shape.n_head + head;
        let q_pe = &q[at * shape.qk_head_dim() + shape.qk_nope_head_dim..];
        let r = shape.qk_rope_head_dim;
        let query: Vec<f32> = [&q_latent[at * c..(at + 1) * c], &q_pe[..r]].concat();
        let own = if shape.n_k_pe == 1 { 0 } else { head * r };
        let score = |row: &[f32]| -> f64 {
            let key = row[..c].iter().chain(&row[c + own..c + own + r]);
            let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            dot * f64::from(shape.softmax_scale)
        };
        let seen = sequence.before + row + 1;
        let scores: Vec<f64> = latents.chunks(width).take(seen).map(score).collect();
        out.extend(attend(&scores, |u, i| f64::from(latents[u * width + i]), c));
    }
    out
}

/// Scores up to 10 of 80 terms: off by 1e-6, and weights by as much; values are below 1. On tiles queries and weights
/// are pairs, off by 2^-17 of each.
fn error(way: Way, shape: &MlaShape) -> f64 {
    let cpu = backend_for(way, 1, *shape).0;
    if super::has_tiles(&cpu, shape) { 1e-4 } else { 4e-6 }
}

fn sequence(id: u64, before: usize, rows: usize) -> Sequence {
    Sequence { id, before, rows }
}

#[test]
fn contexts_around_pages_and_splits_agree_with_the_oracle() {
    for shape in [ODD, EVEN, OWN_KEYS] {
        let sequences = [0, 1, 62, 63, 64, 127, 511, 512, 513, 1100]
            .map(|before| sequence(before as u64, before, 1));
        let want: Vec<f64> = sequences.iter().flat_map(|s| oracle(*s, &shape)).collect();
        for way in ways() {
            let got = run(way, 2, &sequences, &shape);
            assert_close(&got, &want, |_| error(way, &shape));
        }
    }
}

#[test]
fn every_format_of_the_cache_gives_what_its_rows_give() {
    for (shape, kind) in [ODD, EVEN, OWN_KEYS].into_iter().flat_map(|s| CACHES.map(|k| (s, k))) {
        let sequences = [0, 63, 300, 1100].map(|before| sequence(before as u64, before, 1));
        let over = |s: &Sequence| oracle_over(&kept_latents(kind, *s, &shape), *s, &shape);
        let want: Vec<f64> = sequences.iter().flat_map(over).collect();
        for way in ways() {
            let (cpu, plan) = backend_with(way, kind, shape);
            let got = run_on(cpu, plan, &sequences, &shape);
            assert_close(&got, &want, |_| error(way, &shape));
        }
    }
}

#[test]
fn a_replayed_answer_of_many_rows_agrees_with_the_oracle() {
    let sequences = [sequence(1, 60, 9), sequence(2, 510, 4)];
    let want: Vec<f64> = sequences.iter().flat_map(|s| oracle(*s, &ODD)).collect();
    for way in ways() {
        assert_close(&run(way, 2, &sequences, &ODD), &want, |_| error(way, &ODD));
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
    for shape in [EVEN, OWN_KEYS] {
        same_bits(&shape);
    }
}

fn same_bits(shape: &MlaShape) {
    let sequences = [3, 64, 700, 1500, 2100].map(|before| sequence(before as u64, before, 1));
    for way in ways() {
        let alone: Vec<f32> = sequences.iter().flat_map(|s| run(way, 1, &[*s], shape)).collect();
        for threads in 1..=3 {
            assert_same_bits(&run(way, threads, &sequences, shape), &alone);
            let last = run(way, threads, &sequences[4..], shape);
            assert_same_bits(&last, &alone[alone.len() - last.len()..]);
        }
        // The same rows as one replayed run of a sequence.
        let run_of = |before, rows| run(way, 3, &[sequence(9, before, rows)], shape);
        let replayed = run_of(0, 6);
        for row in 0..6 {
            // Latents of a sequence are drawn in order, so a shorter one is the beginning of a longer one.
            let got = run_of(row, 1);
            assert_same_bits(&got, &replayed[row * got.len()..(row + 1) * got.len()]);
        }
    }
}
