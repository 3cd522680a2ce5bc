use crate::backend::cpu::testing::{
    Matrix, NARROW_BLOCK, ODD, Way, assert_close, assert_same_bits, backend, limits, matrix,
    matrix_in, numbers, product_error, scratch_shape, ways, width,
};
use crate::backend::cpu::{Activations, Cpu, Weight};
use crate::backend::{Backend, ScratchShape};
use crate::checkpoint::Bytes;
use crate::limits::Limits;
use crate::quant::narrow::tests::mixed;
use crate::quant::{DType, bf16};

fn run(way: Way, threads: usize, x: &[f32], rows: usize, weight: &Weight) -> Vec<f32> {
    run_on(&mut backend(way, threads), x, rows, weight)
}

fn run_on(cpu: &mut Cpu, x: &[f32], rows: usize, weight: &Weight) -> Vec<f32> {
    let x = cpu.vector(x).unwrap();
    let mut y = cpu.alloc(1, rows * weight.n_out, crate::backend::Role::Inner).unwrap();
    cpu.linear(&mut y, &x, weight, rows);
    y.to_vec()
}

/// A backend of two threads that takes so many rows.
fn backend_of(way: Way, rows: usize) -> Cpu {
    let mut cpu = backend(way, 2);
    let limits = Limits { step_rows_max: rows, ..limits() };
    let shape = ScratchShape { step_rows_max: rows, ..scratch_shape(ODD) };
    cpu.reserve(&shape, &limits).unwrap();
    cpu
}

/// The matrix as it lies, in panels where a format has them, and in twelve bits a number.
fn forms(matrix: &Matrix, dtype: DType, way: Way) -> Vec<Weight> {
    let panels = way.is_whole(dtype).then(|| matrix.in_panels(&mut backend(way, 2)));
    let narrow = (dtype == DType::Bf16).then(|| matrix.narrow(&mut backend(way, 2)));
    [Some(matrix.stored()), panels, narrow].into_iter().flatten().collect()
}

#[track_caller]
fn check(dtype: DType, n_out: usize, dim: usize, rows: usize) {
    let matrix = matrix(dim as u64, dtype, n_out, dim);
    let x = numbers(7, rows * dim);
    let sums = matrix.product(&x);
    let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
    for way in ways() {
        let error = product_error(way, dtype, dim);
        let steps = if way.is_whole(dtype) { 1.0 } else { 0.0 };
        for weight in forms(&matrix, dtype, way) {
            let got = run(way, 2, &x, rows, &weight);
            let bound = |i: usize| error * sums[i].size + steps * sums[i].steps + 1e-30;
            assert_close(&got, &want, bound);
        }
    }
}

#[test]
fn odd_shapes_agree_with_the_oracle() {
    for dtype in DType::ALL {
        let mut dims =
            [1, 3, 15, 16, 17, 31, 32, 33, 63, 65, 100, 576].map(|n| width(dtype, n)).to_vec();
        dims.dedup();
        for dim in dims {
            check(dtype, 1, dim, 1);
            check(dtype, 13, dim, 3);
            check(dtype, 37, dim, 6);
        }
        check(dtype, 131, width(dtype, 576), 9);
    }
}

#[test]
fn fp8_with_factors_of_a_few_columns_takes_inputs_as_they_are() {
    let (n_out, dim, most) = (37, 600, 70);
    let matrix = matrix_in(NARROW_BLOCK, 24, DType::Fp8E4m3, (n_out, dim));
    let x = numbers(8, most * dim);
    let sums = matrix.product(&x);
    let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
    for way in ways() {
        let exact = Way { activations: Activations::F32, ..way };
        let error = product_error(exact, DType::Fp8E4m3, dim);
        let all = run_on(&mut backend_of(exact, most), &x, most, &matrix.weight);
        assert_close(&all, &want, |i| error * sums[i].size);
        let mut cpu = backend_of(way, most);
        for rows in [1, 3, 16, 17, 65, most] {
            let got = run_on(&mut cpu, &x[..rows * dim], rows, &matrix.weight);
            assert_same_bits(&got, &all[..rows * n_out]);
        }
    }
}

#[test]
fn one_factor_for_a_whole_fp8_matrix_or_row_is_each_blocks() {
    let (n_out, dim, rows) = (37, 300, 19);
    let x = numbers(8, rows * dim);
    for block in [[1, 1 << 62], [1 << 62, 1 << 62], [16, 256]] {
        let matrix = matrix_in(block, 25, DType::Fp8E4m3, (n_out, dim));
        let sums = matrix.product(&x);
        let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
        for way in ways() {
            let error = product_error(way, DType::Fp8E4m3, dim);
            let got = run(way, 2, &x, rows, &matrix.weight);
            assert_close(&got, &want, |i| error * sums[i].size);
        }
    }
}

#[test]
fn inputs_rounded_once_are_pairs_of_what_bf16_holds() {
    let (n_out, dim) = (37, 227);
    for dtype in [DType::Bf16, DType::Fp8E4m3] {
        held_inputs_lose_nothing(dtype, n_out, dim);
    }
}

fn held_inputs_lose_nothing(dtype: DType, n_out: usize, dim: usize) {
    let matrix = matrix(23, dtype, n_out, dim);
    let loses = |way: &Way| !way.is_whole(dtype) && way.is_coarse(dtype);
    for way in ways().into_iter().filter(loses) {
        let pairs = Way { activations: Activations::Bf16, ..way };
        for rows in [1, 2, 3, 16, 17, 40, 300] {
            let x = numbers(8, rows * dim);
            let held: Vec<f32> = x.iter().map(|x| bf16::to_f32(bf16::from_f32(*x))).collect();
            assert!(x != held, "something is lost");
            for weight in forms(&matrix, dtype, way) {
                let got = run_on(&mut backend_of(way, rows), &x, rows, &weight);
                let want = run_on(&mut backend_of(pairs, rows), &held, rows, &weight);
                assert_same_bits(&got, &want);
            }
        }
    }
}

#[test]
fn inputs_that_are_whole_numbers_lose_nothing() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let (n_out, dim, rows) = (37, width(dtype, 576), 19);
        let matrix = matrix(21, dtype, n_out, dim);
        // 127 in every group: its factor is 1.
        let whole = |(i, x): (usize, f32)| if i % 32 == 5 { -127.0 } else { (x * 127.0).round() };
        let x: Vec<f32> = numbers(8, rows * dim).into_iter().enumerate().map(whole).collect();
        let sums = matrix.product(&x);
        let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
        for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
            let error = product_error(way, dtype, dim);
            for weight in forms(&matrix, dtype, way) {
                // Offsets make terms of their own, as large as the numbers' own range.
                assert_close(&run(way, 2, &x, rows, &weight), &want, |i| {
                    2.0 * error * sums[i].size
                });
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_on_any_threads() {
    for dtype in DType::ALL {
        // Large enough that a single row is handed to all threads.
        let (n_out, dim) = (131, width(dtype, 577));
        let matrix = matrix(5, dtype, n_out, dim);
        let x = numbers(9, 33 * dim);
        let mut whole: Option<Vec<f32>> = None;
        for way in ways() {
            let alone: Vec<f32> =
                x.chunks(dim).flat_map(|x| run(way, 1, x, 1, &matrix.weight)).collect();
            if way.is_whole(dtype) {
                // On any instruction set too.
                assert_same_bits(&alone, whole.get_or_insert_with(|| alone.clone()));
            }
            for weight in forms(&matrix, dtype, way) {
                for rows in 1..=33 {
                    let got = run(way, 1 + rows % 3, &x[..rows * dim], rows, &weight);
                    assert_same_bits(&got, &alone[..rows * n_out]);
                }
            }
        }
    }
}

#[test]
fn many_rows_have_the_bits_of_few() {
    // More rows than a block of tiles takes, and some left; an odd panel left; two chunks of groups.
    let (n_out, rows) = (88, 150);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let dim = width(dtype, 768);
        let matrix = matrix(15, dtype, n_out, dim);
        let x = numbers(19, rows * dim);
        for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
            let mut cpu = backend_of(way, rows);
            let weight = matrix.in_panels(&mut cpu);
            let all = run_on(&mut cpu, &x, rows, &weight);
            for (few, want) in x.chunks(7 * dim).zip(all.chunks(7 * n_out)) {
                assert_same_bits(&run(way, 1, few, few.len() / dim, &weight), want);
            }
        }
    }
}

#[test]
fn widened_for_many_inputs_a_row_has_the_bits_it_has_alone_and_nan_stays_in_it() {
    // A last panel of five rows, or no other; several tasks. A last vector of one number; less than a vector; several times what is
    // widened at once, with and without a rest.
    for (n_out, dim) in [(37, 577), (5, 9), (131, 1020), (37, 1025), (37, 2048), (37, 2500)] {
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::Fp8E4m3, DType::Q8_0] {
            has_the_bits_it_has_alone(dtype, n_out, width(dtype, dim));
        }
    }
}

fn has_the_bits_it_has_alone(dtype: DType, n_out: usize, dim: usize) {
    let matrix = matrix(31, dtype, n_out, dim);
    let weight = matrix.stored();
    let plain = |way: &Way| way.activations == Activations::F32 || way.is_split(dtype);
    for way in ways().into_iter().filter(plain) {
        let mut x = numbers(29, 81 * dim);
        let alone: Vec<f32> = x.chunks(dim).flat_map(|x| run(way, 1, x, 1, &weight)).collect();
        let mut cpu = backend_of(way, 81);
        // Few inputs, many, more than a block, and few after that.
        for rows in [5, 16, 17, 64, 65, 70, 80, 81] {
            let got = run_on(&mut cpu, &x[..rows * dim], rows, &weight);
            assert_same_bits(&got, &alone[..rows * n_out]);
        }
        x[2 * dim + 8] = f32::NAN;
        x[3 * dim + dim - 1] = f32::INFINITY;
        for rows in [5, 20] {
            let got = run_on(&mut cpu, &x[..rows * dim], rows, &weight);
            assert_same_bits(&got[..2 * n_out], &alone[..2 * n_out]);
            assert!(got[2 * n_out..3 * n_out].iter().all(|y| y.is_nan()));
            assert!(got[3 * n_out..4 * n_out].iter().all(|y| !y.is_finite()));
            assert_same_bits(&got[4 * n_out..], &alone[4 * n_out..rows * n_out]);
        }
    }
}

/// Every exponent there is, but for what is no number, between those of weights.
fn with_strays(n_out: usize, dim: usize) -> Matrix {
    let numbers = mixed(dim as u64, n_out * dim).into_iter().map(|x| x & 0xbfff);
    let mut matrix = matrix(1, DType::Bf16, n_out, dim);
    // At an odd address.
    let bytes: Vec<u8> = [0].into_iter().chain(numbers.flat_map(u16::to_le_bytes)).collect();
    matrix.tensor.bytes = Bytes::owned(bytes.clone()).slice(1..bytes.len()).unwrap();
    matrix
}

#[test]
fn twelve_bits_a_number_are_all_of_them() {
    // Several panels and blocks of outputs, the last of one panel, or of no whole one; units that end anywhere.
    for (n_out, dim) in [(16, 128), (37, 300), (40, 513), (300, 1024)] {
        let matrix = with_strays(n_out, dim);
        let most = 300;
        let x = numbers(23, most * dim);
        for way in ways() {
            let mut cpu = backend_of(way, most);
            let (stored, narrow) = (matrix.stored(), matrix.narrow(&mut cpu));
            let strays = narrow.narrow.as_ref().unwrap();
            assert!((0..n_out / 16).all(|panel| !strays.of(panel).is_empty()));
            let mut run =
                |weight: &Weight, rows: usize| run_on(&mut cpu, &x[..rows * dim], rows, weight);
            for rows in [1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 40, most] {
                assert_same_bits(&run(&narrow, rows), &run(&stored, rows));
            }
            let all = run_on(&mut cpu, &x, most, &stored);
            for (few, want) in x.chunks(7 * dim).zip(all.chunks(7 * n_out)) {
                assert_same_bits(&run_on(&mut cpu, few, few.len() / dim, &stored), want);
            }
            let mut rows = [vec![0.0; dim], vec![0.0; dim]];
            for row in 0..n_out {
                narrow.row(row, &mut rows[0]);
                stored.row(row, &mut rows[1]);
                assert_same_bits(&rows[0], &rows[1]);
            }
        }
    }
}

#[test]
fn every_number_of_sixteen_and_eight_bits_is_widened_exactly() {
    // One number a row, so that what is no number is alone; seventeen columns, of which the last is a vector's rest.
    let dim = 17;
    for (dtype, n_out) in [(DType::F16, 1 << 16), (DType::Bf16, 1 << 16), (DType::Fp8E4m3, 256)] {
        let mut matrix = matrix(1, dtype, n_out, dim);
        let size = dtype.row_bytes(1).unwrap();
        let mut bytes = vec![0; n_out * dim * size];
        for (i, row) in bytes.chunks_mut(dim * size).enumerate() {
            row[i % dim * size..][..size].copy_from_slice(&i.to_le_bytes()[..size]);
        }
        matrix.tensor.bytes = Bytes::owned(bytes);
        let weight = matrix.stored();
        let mut row = vec![0.0; dim];
        let want: Vec<f32> = (0..n_out)
            .map(|i| {
                weight.row(i, &mut row);
                row[i % dim]
            })
            .collect();
        let x = [[1.0; 17]; 3].concat();
        for way in ways().into_iter().filter(|way| way.activations == Activations::F32) {
            for rows in [1, 3] {
                let got = run(way, 2, &x[..rows * dim], rows, &weight);
                for (i, got) in got.iter().enumerate() {
                    let want = want[i % n_out];
                    let is_same = *got == want || got.is_nan() && want.is_nan();
                    assert!(is_same, "{dtype:?} {:?} {i:x}: {got} {want}", way.isa);
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_shows_in_its_row_alone() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let (n_out, dim) = (40, width(dtype, 70));
        let matrix = matrix(6, dtype, n_out, dim);
        let mut x = numbers(3, 5 * dim);
        for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
            for weight in forms(&matrix, dtype, way) {
                let clean = run(way, 2, &x, 5, &weight);
                let before = (x[2 * dim + 11], x[3 * dim + 40]);
                (x[2 * dim + 11], x[3 * dim + 40]) = (f32::NAN, f32::NEG_INFINITY);
                let got = run(way, 2, &x, 5, &weight);
                (x[2 * dim + 11], x[3 * dim + 40]) = before;
                assert_same_bits(&got[..2 * n_out], &clean[..2 * n_out]);
                assert!(got[2 * n_out..4 * n_out].iter().all(|y| y.is_nan()));
                assert_same_bits(&got[4 * n_out..], &clean[4 * n_out..]);
            }
        }
    }
}

#[test]
fn the_smallest_and_the_largest_inputs_are_still_numbers() {
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q6K] {
        let dim = width(dtype, 64);
        let matrix = matrix(4, dtype, 20, dim);
        for size in [0.0, 1e-45, 1e-38, 1.4e-36, 1e-30, 1e30] {
            let x: Vec<f32> = numbers(5, dim).iter().map(|x| x * size).collect();
            let sums = matrix.product(&x);
            let want: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
            for way in ways().into_iter().filter(|way| way.is_whole(dtype)) {
                let got = run(way, 1, &x, 1, &matrix.weight);
                // What is smaller than every number that matters counts as zero.
                let bound = |i: usize| 1.01 * sums[i].steps + sums[i].size * 1e-5 + 1e-33;
                assert_close(&got, &want, bound);
            }
        }
    }
}

#[test]
fn a_row_of_nan_stays_in_its_row() {
    let matrix = matrix(6, DType::Bf16, 40, 70);
    let mut x = numbers(3, 5 * 70);
    let clean: Vec<Vec<f32>> =
        ways().into_iter().map(|way| run(way, 2, &x, 5, &matrix.weight)).collect();
    x[2 * 70 + 11] = f32::NAN;
    x[3 * 70..4 * 70].fill(f32::INFINITY);
    for (way, clean) in ways().into_iter().zip(clean) {
        let got = run(way, 2, &x, 5, &matrix.weight);
        assert_same_bits(&got[..2 * 40], &clean[..2 * 40]);
        assert!(got[2 * 40..3 * 40].iter().all(|y| y.is_nan()));
        assert!(got[3 * 40..4 * 40].iter().all(|y| !y.is_finite()));
        assert_same_bits(&got[4 * 40..], &clean[4 * 40..]);
    }
}
