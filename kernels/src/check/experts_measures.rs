//! What `experts.cu` should move.

use super::Bench;
use super::experts::{Case, Shape};
use super::measure::{Measure, Model, Traffic};
use super::tiles::{FEW, MID, Tile, product};
use crate::geometry::experts::Form;
use crate::{Format, Kernel};

/// The two products of so many experts, each with as many pairs; gate and up read their rows once for both.
fn traffic(format: Format, form: Form, [n_expert, pairs, d, m]: [usize; 4]) -> [Traffic; 2] {
    let tile = if form == Form::Few { FEW } else { MID };
    // A tile of 64 holds 32 features of gate and 32 of up.
    let half = Tile { features: if form == Form::Few { 16 } else { 32 }, ..tile };
    let gate = product(format, half, [pairs, d, m], 2);
    let row_bytes = (pairs * d * 2) as u64;
    let gate_up = Traffic {
        memory_bytes: 2 * gate.memory_bytes - row_bytes - gate.write_bytes,
        read_bytes: 2 * gate.read_bytes - m.div_ceil(half.features) as u64 * row_bytes,
        write_bytes: gate.write_bytes,
        flops: 2 * gate.flops,
        is_mma: true,
    };
    let down = product(format, tile, [pairs, m, d], 2);
    [gate_up.times(n_expert), down.times(n_expert)]
}

/// One expert with all pairs of a tile; 8 experts of V3 for a row, and all of them for many.
pub(super) fn measures() -> Vec<Measure> {
    let mut measures = Vec::new();
    for format in Format::ALL {
        for form in Form::ALL {
            let (pairs, d, m) = if form == Form::Few { (8, 4096, 32) } else { (64, 512, 64) };
            let shape = Shape { n: pairs, n_expert: 1, n_chosen: 1, d, m };
            let wide = Shape { d: m, m: d, ..shape };
            let of = |experts: usize, pairs: usize, d: usize, m: usize| {
                traffic(format, form, [experts, pairs, d, m])
            };
            let (v3, lite) = match form {
                Form::Few => (of(8, 1, 7168, 2048), of(6, 1, 2048, 1408)),
                Form::Mid => (of(256, 128, 7168, 2048), of(64, 384, 2048, 1408)),
            };
            let one = Shape { n: 1, n_expert: 8, n_chosen: 8, d: 7168, m: 2048 };
            let one_of_lite = Shape { n: 1, n_expert: 6, n_chosen: 6, d: 2048, m: 1408 };
            let many_of_lite = Shape { n: 4096, n_expert: 64, ..one_of_lite };
            let launched = |name, traffic: Traffic, shape: Shape| {
                Model::new(name, traffic, move |bench, shrink| {
                    let (n, d, m) = (shrink.of(shape.n), shrink.of(shape.d), shrink.of(shape.m));
                    let case = Case::large(format, Shape { n, d, m, ..shape });
                    case.run(bench, format, form, n).map(drop)
                })
            };
            let here = [of(1, pairs, d, m)[0], of(1, pairs, m, d)[1]];
            for (side, shape) in [shape, wide].into_iter().enumerate() {
                let kernel = kernels(format, form)[side];
                let case = Case::new(format, shape);
                let words = format!("{pairs} pairs of one expert, {d} to {m}");
                let models = match form {
                    Form::Few => vec![
                        launched("V3", v3[side], one),
                        launched("V2-Lite", lite[side], one_of_lite),
                    ],
                    Form::Mid => vec![
                        Model::counted("V3", v3[side]),
                        launched("V2-Lite", lite[side], many_of_lite),
                    ],
                };
                let run =
                    move |bench: &mut Bench<'_>| case.run(bench, format, form, pairs).map(drop);
                measures.push(Measure::new(kernel, words, here[side], models, run));
            }
        }
    }
    measures.push(combine_measure());
    measures
}

/// Gate and up, and down.
fn kernels(format: Format, form: Form) -> [Kernel; 2] {
    match (format, form) {
        (Format::Bf16, Form::Few) => [Kernel::ExpertsGateUpBf16Few, Kernel::ExpertsDownBf16Few],
        (Format::Bf16, Form::Mid) => [Kernel::ExpertsGateUpBf16Mid, Kernel::ExpertsDownBf16Mid],
        (Format::Fp8, Form::Few) => [Kernel::ExpertsGateUpFp8Few, Kernel::ExpertsDownFp8Few],
        (Format::Fp8, Form::Mid) => [Kernel::ExpertsGateUpFp8Mid, Kernel::ExpertsDownFp8Mid],
        (Format::Int8, Form::Few) => [Kernel::ExpertsGateUpInt8Few, Kernel::ExpertsDownInt8Few],
        (Format::Int8, Form::Mid) => [Kernel::ExpertsGateUpInt8Mid, Kernel::ExpertsDownInt8Mid],
        (Format::Int4G32, Form::Few) => {
            [Kernel::ExpertsGateUpInt4G32Few, Kernel::ExpertsDownInt4G32Few]
        }
        (Format::Int4G32, Form::Mid) => {
            [Kernel::ExpertsGateUpInt4G32Mid, Kernel::ExpertsDownInt4G32Mid]
        }
        (Format::Int4G128, Form::Few) => {
            [Kernel::ExpertsGateUpInt4G128Few, Kernel::ExpertsDownInt4G128Few]
        }
        (Format::Int4G128, Form::Mid) => {
            [Kernel::ExpertsGateUpInt4G128Mid, Kernel::ExpertsDownInt4G128Mid]
        }
    }
}

fn combine_measure() -> Measure {
    let traffic = |n: usize, n_chosen: usize, dim: usize| {
        let row = 2 * dim as u64;
        // Each of eight warps reads a weight for each choice.
        let weights = (n_chosen * 8 * 32) as u64;
        let once = Traffic {
            memory_bytes: row * (n_chosen as u64 + 2),
            read_bytes: row * (n_chosen as u64 + 1) + weights,
            write_bytes: row,
            flops: 2 * (n_chosen * dim) as u64,
            is_mma: false,
        };
        once.times(n)
    };
    let shape = Shape { n: 1, n_expert: 8, n_chosen: 8, d: 2048, m: 8 };
    let case = Case::new(Format::Bf16, shape);
    let model = |name, rows: usize| {
        Model::new(name, traffic(rows, 8, 7168), move |bench, shrink| {
            let (n, d) = (shrink.of(rows), shrink.of(7168));
            let case = Case::large(Format::Bf16, Shape { n, d, ..shape });
            case.run(bench, Format::Bf16, Form::Few, n).map(drop)
        })
    };
    Measure::new(
        Kernel::ExpertsCombine,
        "a row of 2048, 8 choices",
        traffic(1, 8, 2048),
        vec![model("V3, 64 rows", 64), model("V3, 4096 rows", 4096)],
        move |bench| case.run(bench, Format::Bf16, Form::Few, 1).map(drop),
    )
}
