//! Matrices made together, cut anywhere, on any threads.

use super::super::CpuOptions;
use super::super::pool::Pool;
use super::super::testing::two_nodes;
use super::*;
use crate::checkpoint::Bytes;
use crate::quant::DType;
use crate::quant::narrow::tests::mixed;

fn tensor(n_row: usize, dim: usize) -> Tensor {
    let numbers = super::super::testing::numbers(11, n_row * dim);
    let bytes = Bytes::owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
    Tensor { name: "w".into(), dtype: DType::F32, shape: vec![n_row, dim], bytes, scales: None }
}

fn one(cpu: &mut Cpu, tensor: &Tensor, kept: Kept) -> Weight {
    together(cpu, &[(tensor, kept)]).unwrap().remove(0)
}

#[test]
fn the_bytes_are_those_of_the_encoder_on_any_threads() {
    // More than one piece, the last one short.
    let tensor = tensor(1101, 608);
    for to in [DType::Q8_0, DType::Q4_0] {
        let want = tensor.encode_rows(0, 1101, to).unwrap().bytes;
        for threads in [1, 4] {
            let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
            let mut cpu = Cpu::new(&options).unwrap();
            let kept = Kept { dtype: to, place: Place::Copied };
            let weight = one(&mut cpu, &tensor, kept);
            assert!(weight.bytes[..] == want[..], "{to:?} on {threads}");
            assert_eq!((weight.n_out, weight.dim, weight.dtype), (1101, 608, to));
        }
    }
}

#[test]
fn encoded_and_packed_at_once_is_encoded_and_then_packed() {
    let tensor = tensor(1101, 608);
    for to in [DType::Q8_0, DType::Q4_0] {
        let encoded = tensor.encode_rows(0, 1101, to).unwrap().bytes;
        let stored = Tensor { dtype: to, bytes: Bytes::owned(encoded), ..tensor.clone() };
        let kept = Kept { dtype: to, place: Place::Panels };
        let mut cpu = Cpu::new(&CpuOptions::default()).unwrap();
        let want = one(&mut cpu, &stored, kept);
        for threads in [1, 3] {
            let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
            let mut cpu = Cpu::new(&options).unwrap();
            let weight = one(&mut cpu, &tensor, kept);
            assert!(weight.is_panels && weight.bytes[..] == want.bytes[..]);
        }
    }
}

/// Matrices of several large pages each, that end anywhere in one, beside small ones: in one loop, or one after another.
#[test]
fn matrices_made_together_are_those_made_one_by_one() {
    let sizes = [(5000, 1024), (3, 64), (1777, 1024), (33, 32), (2048, 1024)];
    let stored = |(n_row, dim): (usize, usize)| {
        let wide = tensor(n_row, dim);
        let bytes = wide.encode_rows(0, n_row, DType::Q8_0).unwrap().bytes;
        Tensor { dtype: DType::Q8_0, bytes: Bytes::owned(bytes), ..wide }
    };
    let tensors: Vec<Tensor> = sizes.into_iter().map(stored).collect();
    let places = [Place::Panels, Place::Copied, Place::Panels, Place::Stored, Place::Panels];
    let all: Vec<(&Tensor, Kept)> = tensors
        .iter()
        .zip(places)
        .map(|(tensor, place)| (tensor, Kept { dtype: DType::Q8_0, place }))
        .collect();
    for threads in [1, 4] {
        let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
        let mut cpu = Cpu::new(&options).unwrap();
        if threads > 1 {
            cpu.pool = Pool::new(&two_nodes(threads)).unwrap();
        }
        // Something before them, so that the room does not begin with a large page.
        cpu.arena.room(1 << 20).unwrap();
        let together = together(&mut cpu, &all).unwrap();
        for ((tensor, kept), weight) in all.iter().zip(&together) {
            let alone = one(&mut Cpu::new(&options).unwrap(), tensor, *kept);
            assert!(weight.bytes[..] == alone.bytes[..], "{:?} {kept:?}", tensor.shape);
            assert_eq!(weight.is_panels, kept.place == Place::Panels);
            let is_same = weight.bytes[..] == tensor.bytes[..];
            assert_eq!(is_same, kept.place != Place::Panels, "{:?}", tensor.shape);
        }
    }
}

/// No two tasks touch a page that neither of them begins in.
#[test]
fn a_task_fills_the_large_page_it_begins_in() {
    let tensors = [tensor(5000, 1024), tensor(3, 64), tensor(900, 1024)];
    let kept = Kept { dtype: DType::Q8_0, place: Place::Panels };
    for base in [0, 64, HUGE_PAGE / 2, HUGE_PAGE - 64] {
        let (mut cuts, mut end) = (Vec::new(), 0);
        for tensor in &tensors {
            let cut = Cut::new(tensor, kept, end).unwrap();
            end = cut.place.end;
            cuts.push(cut);
        }
        let tasks = tasks(&cuts, base);
        let mut rows = vec![0; tensors.len()];
        for pair in tasks.windows(2) {
            let page = |task: &Task| (base + task.out.start) / HUGE_PAGE;
            assert!(page(&pair[0]) < page(&pair[1]) && pair[0].out.end <= pair[1].out.start);
        }
        for piece in tasks.iter().flat_map(|task| &task.pieces) {
            assert_eq!(piece.rows.start, rows[piece.cut]);
            rows[piece.cut] = piece.rows.end;
        }
        assert_eq!(rows, [5000, 3, 900]);
        assert_eq!(tasks.last().map(|task| task.out.end), Some(end));
    }
}

fn bf16(n_row: usize, dim: usize, numbers: Vec<u16>) -> Tensor {
    let bytes = Bytes::owned(numbers.into_iter().flat_map(u16::to_le_bytes).collect());
    Tensor { dtype: DType::Bf16, bytes, ..tensor(n_row, dim) }
}

#[test]
fn twelve_bits_a_number_are_the_same_on_any_threads() {
    let tensor = bf16(3000, 1100, mixed(3, 3000 * 1100));
    let kept = Kept { dtype: DType::Bf16, place: Place::Narrow };
    let make = |threads| {
        let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
        let mut cpu = Cpu::new(&options).unwrap();
        // So that pieces end elsewhere.
        cpu.arena.room(threads * 100_000).unwrap();
        one(&mut cpu, &tensor, kept)
    };
    let (one, three) = (make(1), make(3));
    assert!(one.bytes[..] == three.bytes[..] && one.bytes.len() * 4 < tensor.bytes.len() * 33 / 10);
    let strays = |weight: &Weight| weight.narrow.clone().unwrap();
    assert!((0..188).all(|panel| strays(&one).of(panel) == strays(&three).of(panel)));
}

#[test]
fn numbers_of_any_exponents_stay_as_they_are() {
    // In some panels of many; and so few that they may.
    for (n_any, is_refused) in [(64, true), (16, false)] {
        let mut numbers: Vec<u16> =
            mixed(3, 3000 * 1100).into_iter().map(|x| x & 0x83ff | 0x3c00).collect();
        let any = numbers[2000 * 1100..(2000 + n_any) * 1100].iter_mut().enumerate();
        any.for_each(|(i, x)| *x = i as u16);
        let narrow = bf16(3000, 1100, numbers);
        let wide = tensor(500, 1024);
        let kept = |dtype, place| Kept { dtype, place };
        // Beside matrices of other kinds.
        let all = [
            (&wide, kept(DType::Q8_0, Place::Panels)),
            (&narrow, kept(DType::Bf16, Place::Narrow)),
            (&narrow, kept(DType::Bf16, Place::Stored)),
            (&wide, kept(DType::Q8_0, Place::Copied)),
        ];
        let options = CpuOptions { threads: Some(3), ..CpuOptions::default() };
        let made = together(&mut Cpu::new(&options).unwrap(), &all).unwrap();
        assert_eq!(made[1].narrow.is_none(), is_refused);
        assert!(!is_refused || !made[1].is_panels && made[1].bytes[..] == narrow.bytes[..]);
        let mut rows = [vec![0.0; 1100], vec![0.0; 1100]];
        for row in [0, 1999, 2000, 2015, 2063, 2999] {
            made[1].row(row, &mut rows[0]);
            made[2].row(row, &mut rows[1]);
            assert!(rows[0].iter().zip(&rows[1]).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        for (weight, (tensor, kept)) in [(&made[0], all[0]), (&made[3], all[3])] {
            let alone = one(&mut Cpu::new(&options).unwrap(), tensor, kept);
            assert!(weight.bytes[..] == alone.bytes[..]);
        }
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused() {
    let mut cpu = Cpu::new(&CpuOptions::default()).unwrap();
    for place in [Place::Copied, Place::Panels] {
        let kept = Kept { dtype: DType::Q8_0, place };
        assert!(together(&mut cpu, &[(&tensor(2, 40), kept)]).is_err());
    }
}
