use crate::backend::cpu::testing::{
    CACHES, EVEN, Matrix, ODD, OWN_KEYS, Sequence, TestKvB, Way, assert_close, assert_same_bits,
    attend, backend_for, backend_with, cache, kept_latents, kv_b_forms, step, ways,
};
use crate::backend::cpu::{Cpu, Plan, Weight, mla_decode};
use crate::backend::{Backend, KvB, MlaShape};
use crate::quant::DType;
use crate::step::PAGE_TOKENS;

fn queries(sequences: &[Sequence], shape: &MlaShape) -> Vec<f32> {
    sequences.iter().flat_map(|s| s.inputs(3, shape.n_head * shape.qk_head_dim())).collect()
}

/// The first `n_decode` sequences are another operation's: their outputs must stay 9.
fn run(
    way: Way,
    threads: usize,
    sequences: &[Sequence],
    n_decode: usize,
    shape: &MlaShape,
    kv_b: &TestKvB,
) -> Vec<f32> {
    let on = backend_for(way, threads, *shape);
    run_on(on, sequences, n_decode, shape, kv_b.stored())
}

fn run_on(
    (mut cpu, mut plan): (Cpu, Plan),
    sequences: &[Sequence],
    n_decode: usize,
    shape: &MlaShape,
    kv_b: KvB<&Weight>,
) -> Vec<f32> {
    let step = step(sequences, n_decode);
    cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
    let q = cpu.vector(&queries(sequences, shape)).unwrap();
    let cache = cache(&mut cpu, sequences, &step, shape);
    let len = step.n_row() * shape.n_head * shape.v_head_dim;
    let mut o = cpu.vector(&vec![9.0; len]).unwrap();
    cpu.mla_prefill(&mut o, &q, &cache, kv_b, shape, &plan);
    o.to_vec()
}

fn oracle(sequence: Sequence, shape: &MlaShape, kv_b: &Matrix) -> Vec<f64> {
    oracle_over(&sequence.latents(shape), sequence, shape, kv_b)
}

fn oracle_over(latents: &[f32], sequence: Sequence, shape: &MlaShape, kv_b: &Matrix) -> Vec<f64> {
    let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
    let latents: Vec<f64> = latents.iter().copied().map(f64::from).collect();
    let q = queries(&[sequence], shape);
    let mut out = vec![0.0; sequence.rows * shape.n_head * v];
    for head in 0..shape.n_head {
        let expand = |from: usize, n: usize| -> Vec<Vec<f64>> {
            let first = head * (shape.qk_nope_head_dim + v) + from;
            let row = |l: &[f64]| (0..n).map(|i| kv_b.dot(first + i, &l[..c]).value).collect();
            latents.chunks(shape.latent_dim()).map(row).collect()
        };
        let (keys, values) = (expand(0, n), expand(n, v));
        for row in 0..sequence.rows {
            let at = row * shape.n_head + head;
            let query = &q[at * shape.qk_head_dim()..(at + 1) * shape.qk_head_dim()];
            let score = |u: usize| -> f64 {
                let r = shape.qk_rope_head_dim;
                let own = if shape.n_k_pe == 1 { 0 } else { head * r };
                let k_pe = &latents[u * shape.latent_dim() + c + own..][..r];
                let key = keys[u].iter().chain(k_pe);
                let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum();
                dot * f64::from(shape.softmax_scale)
            };
            let scores: Vec<f64> = (0..=sequence.before + row).map(score).collect();
            let o = attend(&scores, |u, i| values[u][i], v);
            out[at * v..(at + 1) * v].copy_from_slice(&o);
        }
    }
    out
}

fn sequence(id: u64, before: usize, rows: usize) -> Sequence {
    Sequence { id, before, rows }
}

#[test]
fn chunks_around_pages_agree_with_the_oracle() {
    let mut forms = kv_b_forms(8);
    forms.push((OWN_KEYS, DType::F32, TestKvB::whole(8, DType::F32, &OWN_KEYS)));
    for (shape, dtype, kv_b) in forms {
        let sequences = [
            sequence(1, 5, 2),
            sequence(2, 0, 1),
            sequence(3, 0, 3),
            sequence(4, 60, 13),
            sequence(5, 200, 17),
        ];
        let decoded = 2 * shape.n_head * shape.v_head_dim;
        let want: Vec<f64> =
            sequences[1..].iter().flat_map(|s| oracle(*s, &shape, &kv_b.whole)).collect();
        for way in ways() {
            let got = run(way, 2, &sequences, 1, &shape, &kv_b);
            assert!(got[..decoded].iter().all(|o| *o == 9.0));
            // Keys and values are sums of about 65 products, off by 1e-5 of their size of up to 20; scores of
            // those, scaled, decide weights. Tiles take pairs, off by 2^-17 of each, and weights in blocks are rounded to bf16, and a sum of products of
            // size 20 is then off by 2^-8 of that at most.
            let cpu = backend_for(way, 1, shape).0;
            let is_tiled = mla_decode::has_tiles(&cpu, &shape);
            let bound = match dtype.block_len() {
                _ if !is_tiled => 1e-4,
                1 => 5e-4,
                _ => 0.08,
            };
            assert_close(&got[decoded..], &want, |_| bound);
        }
    }
}

#[test]
fn every_format_of_the_cache_gives_what_its_rows_give() {
    let kv_b = TestKvB::whole(8, DType::Bf16, &EVEN);
    let sequences = [sequence(4, 60, 4), sequence(5, 200, 36)];
    for kind in CACHES {
        let over =
            |s: &Sequence| oracle_over(&kept_latents(kind, *s, &EVEN), *s, &EVEN, &kv_b.whole);
        let want: Vec<f64> = sequences.iter().flat_map(over).collect();
        for way in ways() {
            let on = backend_with(way, kind, EVEN);
            let got = run_on(on, &sequences, 0, &EVEN, kv_b.stored());
            assert_close(&got, &want, |_| 5e-4);
        }
    }
}

#[test]
fn halves_in_panels_give_the_bits_of_halves_as_stored() {
    // Rows of both halves are whole blocks of every format, heads begin at whole panels, and no two widths are one.
    let wide = MlaShape { qk_nope_head_dim: 256, kv_lora_rank: 512, ..EVEN };
    let sequences = [sequence(2, 0, 3), sequence(5, 60, 17)];
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let shape = if dtype.block_len() == 32 { EVEN } else { wide };
        let kv_b = TestKvB::halves(8, dtype, &shape);
        for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
            let want = run(way, 2, &sequences, 0, &shape, &kv_b);
            let mut on = backend_for(way, 2, shape);
            let panels = kv_b.in_panels(&mut on.0).expect("whole panels");
            let got = run_on(on, &sequences, 0, &shape, panels.as_ref());
            assert_same_bits(&got, &want);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_however_the_prompt_is_cut_and_whatever_is_beside_it() {
    let forms = [
        (ODD, TestKvB::whole(8, DType::Bf16, &ODD)),
        (EVEN, TestKvB::whole(8, DType::Bf16, &EVEN)),
        (EVEN, TestKvB::halves(8, DType::Q8_0, &EVEN)),
        (OWN_KEYS, TestKvB::whole(8, DType::Bf16, &OWN_KEYS)),
    ];
    for (shape, kv_b) in forms {
        let width = shape.n_head * shape.v_head_dim;
        for way in ways() {
            let whole = run(way, 1, &[sequence(1, 130, 33)], 0, &shape, &kv_b);
            for (threads, cut) in [(1, 1), (2, 2), (3, 7), (2, 32)] {
                let mut before = 0;
                while before < 33 {
                    let rows = cut.min(33 - before);
                    let beside = [sequence(2, 3, 2), sequence(1, 130 + before, rows)];
                    let got = run(way, threads, &beside, 0, &shape, &kv_b);
                    let want = &whole[before * width..(before + rows) * width];
                    assert_same_bits(&got[2 * width..], want);
                    before += rows;
                }
            }
        }
    }
}

#[test]
fn a_later_token_that_is_no_number_leaves_rows_of_its_page_alone() {
    const BEFORE: usize = 60;
    let (shape, width) = (EVEN, EVEN.n_head * EVEN.v_head_dim);
    let kv_b = TestKvB::whole(8, DType::F32, &shape);
    for (way, kind) in ways().into_iter().flat_map(|way| CACHES.map(|kind| (way, kind))) {
        let run = |rows: usize, bad: Option<f32>| {
            let sequences = [sequence(1, BEFORE, rows)];
            let (mut cpu, mut plan) = backend_with(way, kind, shape);
            let step = step(&sequences, 0);
            cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
            let q = cpu.vector(&queries(&sequences, &shape)).unwrap();
            let mut cache = cache(&mut cpu, &sequences, &step, &shape);
            // Row 9 is the sixth of the second page.
            let slot = step.pages[1].0 as usize * PAGE_TOKENS + (BEFORE + 9 - PAGE_TOKENS);
            if let Some(bad) = bad {
                cache.store(slot, |row| row.fill(bad));
            }
            let mut o = cpu.vector(&vec![9.0; rows * width]).unwrap();
            cpu.mla_prefill(&mut o, &q, &cache, kv_b.stored(), &shape, &plan);
            o.to_vec()
        };
        let short = run(8, None);
        for bad in [f32::NAN, f32::INFINITY] {
            let long = run(20, Some(bad));
            assert_same_bits(&long[..8 * width], &short);
            assert!(long[9 * width..].iter().all(|o| !o.is_finite()), "{kind:?}: rows that see it");
        }
    }
}
