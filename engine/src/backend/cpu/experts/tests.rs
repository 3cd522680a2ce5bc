//! Experts against an f64 oracle, against products one by one, and against themselves in other company.

use crate::backend::cpu::testing::{
    Matrix, Way, assert_close, assert_near, assert_same_bits, backend, matrix, numbers, ways, width,
};
use crate::backend::cpu::{Cpu, Routing, Weight};
use crate::backend::{Backend, ExpertWeights, RouteRule, Scoring};
use crate::quant::DType;

const E: usize = 12;
const K: usize = 4;

/// `D` and `M`, as near to 100 and 65 as rows can be long; of FP8 more than one factor's columns.
fn sizes(dtype: DType) -> (usize, usize) {
    if dtype == DType::Fp8E4m3 {
        return (230, 150);
    }
    (width(dtype, 100), width(dtype, 65))
}

struct Layer {
    dtype: DType,
    gate: Vec<Matrix>,
    up: Vec<Matrix>,
    down: Vec<Matrix>,
}

impl Layer {
    fn seeded(dtype: DType) -> Self {
        let (d, m) = sizes(dtype);
        let all = |seed: u64, n_out, dim| {
            (0..E as u64).map(|e| matrix(seed + e, dtype, n_out, dim)).collect()
        };
        Self { dtype, gate: all(100, m, d), up: all(200, m, d), down: all(300, d, m) }
    }

    fn weights(self) -> ExpertWeights<Weight> {
        let taken = |all: Vec<Matrix>| all.into_iter().map(|m| m.weight).collect();
        ExpertWeights { gate: taken(self.gate), up: taken(self.up), down: taken(self.down) }
    }

    /// One row's sum over its choices, in f64.
    fn oracle(&self, x: &[f32], choices: &[(u32, f32)]) -> Vec<f64> {
        self.oracle_of(x, choices, sizes(self.dtype))
    }

    fn oracle_of(&self, x: &[f32], choices: &[(u32, f32)], (d, m): (usize, usize)) -> Vec<f64> {
        let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
        let mut y = vec![0.0; d];
        for (expert, weight) in choices {
            let e = *expert as usize;
            let hidden: Vec<f64> = (0..m)
                .map(|i| {
                    let gate = self.gate[e].dot(i, &x).value;
                    gate / (1.0 + (-gate).exp()) * self.up[e].dot(i, &x).value
                })
                .collect();
            for (i, y) in y.iter_mut().enumerate() {
                *y += f64::from(*weight) * self.down[e].dot(i, &hidden).value;
            }
        }
        y
    }
}

/// Choices of 33 rows: all different, all the same four experts, or one expert that everyone chose.
fn choices(skew: usize) -> Vec<(u32, f32)> {
    let weights = numbers(77, 33 * K);
    let expert = |row: usize, k: usize| match skew {
        0 => (row * 5 + k * 3) % E,
        1 => [9, 2, 11, 0][k],
        _ if k == 0 => 7,
        _ => (row + k * 2) % 7,
    };
    (0..33 * K).map(|i| (expert(i / K, i % K) as u32, weights[i] + 1.5)).collect()
}

fn routing_of(cpu: &mut Cpu, choices: &[(u32, f32)]) -> Routing {
    let rule = RouteRule {
        scoring: Scoring::Sigmoid,
        n_routed_experts: E,
        num_experts_per_tok: K,
        n_group: 1,
        topk_group: 1,
        norm_topk_prob: false,
        routed_scaling_factor: 1.0,
    };
    let mut routing = cpu.routing(40, &rule).unwrap();
    for (i, (expert, weight)) in choices.iter().enumerate() {
        routing.indices[i] = *expert;
        routing.weights[i] = *weight;
    }
    routing
}

fn run(
    way: Way,
    threads: usize,
    x: &[f32],
    shared: Option<&[f32]>,
    choices: &[(u32, f32)],
    weights: &ExpertWeights<Weight>,
) -> Vec<f32> {
    let (rows, d) = (choices.len() / K, weights.gate[0].dim);
    let mut cpu = backend(way, threads);
    let routing = routing_of(&mut cpu, choices);
    let (x, shared) = (cpu.vector(x).unwrap(), shared.map(|s| cpu.vector(s).unwrap()));
    let mut y = cpu.vector(&vec![9.0; rows * d]).unwrap();
    cpu.experts(&mut y, shared.as_ref(), &x, &routing, weights, rows);
    y.to_vec()
}

#[test]
fn even_and_skewed_routings_agree_with_the_oracle() {
    for dtype in DType::ALL {
        let d = sizes(dtype).0;
        let (x, shared) = (numbers(1, 33 * d), numbers(2, 33 * d));
        for skew in 0..3 {
            let layer = Layer::seeded(dtype);
            let choices = choices(skew);
            let routed: Vec<f64> = x
                .chunks(d)
                .zip(choices.chunks(K))
                .flat_map(|(x, choices)| layer.oracle(x, choices))
                .collect();
            let with_shared: Vec<f64> =
                routed.iter().zip(&shared).map(|(y, s)| y + f64::from(*s)).collect();
            let weights = layer.weights();
            for way in ways() {
                let alone = run(way, 2, &x, None, &choices, &weights);
                let both = run(way, 2, &x, Some(&shared), &choices, &weights);
                if way.is_coarse(dtype) {
                    // An input is off by 0.4 % of the inputs' own size, in each of the products; the bits of whole
                    // numbers are held to single products' below.
                    assert_near(&alone, &routed, 0.02);
                    assert_near(&both, &with_shared, 0.02);
                    continue;
                }
                // Three products in a row of terms up to 100 in size: 2^-17 of that with pairs, less without.
                let bound = |_| 2e-2;
                assert_close(&alone, &routed, bound);
                assert_close(&both, &with_shared, bound);
            }
        }
    }
}

#[test]
fn whole_numbers_and_panels_give_the_bits_of_products_one_by_one() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let (d, m) = sizes(dtype);
        let (x, choices) = (numbers(1, 7 * d), choices(1));
        for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
            let mut cpu = backend(way, 2);
            let rows = Layer::seeded(dtype);
            let panels = |all: &[Matrix], cpu: &mut Cpu| -> Vec<Weight> {
                // Every other expert stays as it is stored.
                let each = all.iter().enumerate();
                each.map(|(i, m)| if i % 2 == 0 { m.in_panels(cpu) } else { m.stored() }).collect()
            };
            let weights = ExpertWeights {
                gate: panels(&rows.gate, &mut cpu),
                up: panels(&rows.up, &mut cpu),
                down: panels(&rows.down, &mut cpu),
            };
            let got = run(way, 2, &x, None, &choices[..7 * K], &weights);
            let mut gating = backend(way, 1);
            let mut linear = |x: &[f32], weight: &Weight| {
                let mut y = cpu.alloc(1, weight.n_out, crate::backend::Role::Inner).unwrap();
                let x = cpu.vector(x).unwrap();
                cpu.linear(&mut y, &x, weight, 1);
                y
            };
            for (row, got) in got.chunks(d).enumerate() {
                let mut want = vec![0.0; d];
                for (expert, weight) in &choices[row * K..(row + 1) * K] {
                    let (e, x) = (*expert as usize, &x[row * d..(row + 1) * d]);
                    let (gate, up) =
                        (linear(x, &rows.gate[e].weight), linear(x, &rows.up[e].weight));
                    let mut product = gating.alloc(1, m, crate::backend::Role::Inner).unwrap();
                    gating.swiglu(&mut product, &gate, &up, m, 1);
                    let down = linear(&product, &rows.down[e].weight);
                    want.iter_mut().zip(&*down).for_each(|(y, x)| *y += *weight * x);
                }
                assert_same_bits(got, &want);
            }
        }
    }
}

#[test]
fn experts_of_several_formats_each_take_their_own_inputs() {
    // FP8 twice: with factors that products on bf16 numbers take, and with others.
    let fp8 = DType::Fp8E4m3;
    let formats = [DType::Bf16, DType::Q8_0, DType::F32, DType::Q4_0, fp8, fp8];
    let (d, m) = (96, 64);
    let each = |seed: u64, n_out, dim| -> Vec<Matrix> {
        (0..E).map(|e| matrix(seed + e as u64, formats[e % 6], n_out, dim)).collect()
    };
    let mixed =
        Layer { dtype: DType::F32, gate: each(1, m, d), up: each(2, m, d), down: each(3, d, m) };
    let (x, choices) = (numbers(1, 33 * d), choices(0));
    let rows = x.chunks(d).zip(choices.chunks(K));
    let mixed_oracle = |x: &[f32], choices: &[(u32, f32)]| mixed.oracle_of(x, choices, (d, m));
    let want: Vec<f64> = rows.flat_map(|(x, choices)| mixed_oracle(x, choices)).collect();
    let weights = mixed.weights();
    for way in ways() {
        let got = run(way, 2, &x, None, &choices, &weights);
        if way.is_coarse(DType::Q8_0) || way.is_coarse(DType::Bf16) {
            assert_near(&got, &want, 0.02);
        } else {
            assert_close(&got, &want, |_| 2e-2);
        }
    }
}

#[test]
fn an_average_is_the_sum_of_all_experts_over_their_number() {
    // Fewer than the scratch has room for: others keep their places empty.
    let mut layer = Layer::seeded(DType::F32);
    for all in [&mut layer.gate, &mut layer.up, &mut layer.down] {
        all.truncate(3);
    }
    let d = sizes(DType::F32).0;
    let x = numbers(1, 33 * d);
    let choices = [0, 1, 2].map(|expert| (expert, 1.0 / 3.0));
    let want: Vec<f64> = x.chunks(d).flat_map(|x| layer.oracle(x, &choices)).collect();
    let weights = layer.weights();
    for way in ways() {
        let mut cpu = backend(way, 2);
        let all = cpu.average_routing(33, 3).unwrap();
        let (x, mut y) =
            (cpu.vector(&x).unwrap(), cpu.alloc(1, 33 * d, crate::backend::Role::Inner).unwrap());
        cpu.experts(&mut y, None, &x, &all, &weights, 33);
        assert_close(&y, &want, |_| 2e-2);
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_the_others_chose_and_on_any_threads() {
    for dtype in DType::ALL {
        let d = sizes(dtype).0;
        let x = numbers(1, 33 * d);
        let weights = Layer::seeded(dtype).weights();
        for way in ways() {
            for skew in 0..3 {
                let choices = choices(skew);
                let alone: Vec<f32> = x
                    .chunks(d)
                    .zip(choices.chunks(K))
                    .flat_map(|(x, choices)| run(way, 1, x, None, choices, &weights))
                    .collect();
                for (threads, rows) in [(1, 33), (2, 33), (3, 33), (2, 2), (3, 5)] {
                    let got =
                        run(way, threads, &x[..rows * d], None, &choices[..rows * K], &weights);
                    assert_same_bits(&got, &alone[..rows * d]);
                }
            }
        }
    }
}
