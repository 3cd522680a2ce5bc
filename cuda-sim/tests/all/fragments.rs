//! Where `mma` and `ldmatrix` keep the elements of their matrices, in the words of NVIDIA's PTX ISA manual.
//!
//! The formulas are the manual's, from "Matrix Fragments for mma.m16n8k8 / k16 / k32" (warp-level matrix instructions);
//! nothing here is shared with the code under test, which spreads and collects in its own way.

use cuda_sim::{Grid, Module};

use crate::card::{Arg, Bytes, Card, Random, bf16};

const PTX: &str = include_str!("../kernels/fragments.ptx");

/// An element's place in its matrix, for index `i` of a thread's fragment.
type Place = fn(lane: usize, i: usize) -> (usize, usize);

/// "groupID = %laneid >> 2, threadID_in_group = %laneid % 4"
fn ids(lane: usize) -> (usize, usize) {
    (lane >> 2, lane % 4)
}

/// m16n8k16, .f16 and .bf16, multiplicand A:
/// "row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, groupID + 8 otherwise;
/// col = (threadID_in_group * 2) + (i & 0x1) for ai where i < 4, (threadID_in_group * 2) + (i & 0x1) + 8 for ai where i >= 4"
fn a_16816(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let col = if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
    (row, col)
}

/// Multiplicand B: "row = (threadID_in_group * 2) + (i & 0x1) for bi where i < 2,
/// (threadID_in_group * 2) + (i & 0x1) + 8 for bi where i >= 2; col = groupID"
fn b_16816(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group)
}

/// Accumulators: "row = groupID for ci where i < 2, groupID + 8 for ci where i >= 2;
/// col = (threadID_in_group * 2) + (i & 0x1) for ci where i = {0,..,3}"
fn c_168(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// m16n8k8, .bf16, A: "row = groupID for a0 and a1, groupID + 8 for a2 and a3;
/// col = threadID_in_group * 2 + (i & 0x1) for ai where i = {0,..,3}"
fn a_1688(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// B: "row = (threadID_in_group * 2) + i for bi where i = {0, 1}; col = groupID"
fn b_1688(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (thread * 2 + i, group)
}

/// m16n8k8, .tf32, A: "row = groupID for a0 and a2, groupID + 8 for a1 and a3;
/// col = threadID_in_group for a0 and a1, threadID_in_group + 4 for a2 and a3"
fn a_1688_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

/// B: "row = threadID_in_group for b0, threadID_in_group + 4 for b1; col = groupID"
fn b_1688_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (if i == 0 { thread } else { thread + 4 }, group)
}

/// m16n8k32, 8-bit types, A: "row = groupID for ai where 0 <= i < 4 || 8 <= i < 12, groupID + 8 otherwise;
/// col = (threadID_in_group * 4) + (i & 0x3) for ai where i < 8, (threadID_in_group * 4) + (i & 0x3) + 16 for ai where i >= 8"
fn a_16832(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    let col = if i < 8 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 };
    (row, col)
}

/// B: "row = (threadID_in_group * 4) + (i & 0x3) for bi where i < 4,
/// (threadID_in_group * 4) + (i & 0x3) + 16 for bi where i >= 4; col = groupID"
fn b_16832(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group)
}

/// m16n8k16, 8-bit types, A: "row = groupID for ai where i < 4, groupID + 8 for ai where i >= 4;
/// col = (threadID_in_group * 4) + (i & 0x3) for ai where i = {0,..,7}"
fn a_16816_8(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (if i < 4 { group } else { group + 8 }, thread * 4 + (i & 3))
}

/// B: "row = (threadID_in_group * 4) + i for bi where i = {0,..,3}; col = groupID"
fn b_16816_8(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = ids(lane);
    (thread * 4 + i, group)
}

/// A shape's layout, its depth, and bits of an element.
struct Shape {
    kernel: &'static str,
    k: usize,
    bits: usize,
    a: Place,
    b: Place,
    /// Small whole numbers, so that every format and order of sums gives the same.
    encode: fn(i32) -> u32,
}

/// "Elements (low to high)": a register holds its elements from the low bits up.
fn fragment(values: &[Vec<i32>], shape: &Shape, place: Place, rows: usize) -> Vec<u32> {
    let per_lane = rows * shape.k / 32;
    let per_register = 32 / shape.bits;
    let mut words = vec![0u32; 32 * per_lane / per_register];
    for lane in 0..32 {
        for i in 0..per_lane {
            let (row, column) = place(lane, i);
            let word = &mut words[lane * per_lane / per_register + i / per_register];
            *word |= (shape.encode)(values[row][column]) << (shape.bits * (i % per_register));
        }
    }
    words
}

fn matrix(random: &mut Random, rows: usize, columns: usize) -> Vec<Vec<i32>> {
    (0..rows).map(|_| (0..columns).map(|_| (random.next_u32() % 15) as i32 - 7).collect()).collect()
}

#[track_caller]
fn check<T: Bytes + PartialEq + std::fmt::Debug>(ptx: &str, shape: &Shape, number: fn(i32) -> T) {
    let mut random = Random::new(shape.k as u64 + shape.bits as u64);
    let (a, b, c) = (
        matrix(&mut random, 16, shape.k),
        matrix(&mut random, shape.k, 8),
        matrix(&mut random, 16, 8),
    );
    let mut card = Card::new(ptx);
    let a_at = card.upload(&fragment(&a, shape, shape.a, 16));
    let b_at = card.upload(&fragment(&b, shape, shape.b, 8));
    let place = |lane: usize, i: usize| c_168(lane, i);
    let mut c_words = Vec::new();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = place(lane, i);
            c_words.push(number(c[row][column]));
        }
    }
    let c_at = card.upload(&c_words);
    let d_at = card.device.alloc(512).unwrap();
    let args = [a_at, b_at, c_at, d_at].map(Arg::Pointer);
    card.launch(shape.kernel, Grid::flat(1, 32, 0), &args).unwrap();
    let d: Vec<T> = card.download(d_at, 128);
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = place(lane, i);
            let product: i32 = (0..shape.k).map(|k| a[row][k] * b[k][column]).sum();
            let want = number(product + c[row][column]);
            assert_eq!(d[lane * 4 + i], want, "{} row {row} column {column}", shape.kernel);
        }
    }
}

fn f16(n: i32) -> u32 {
    // Whole numbers up to 7: sign, exponent 15 + floor(log2), the bits behind the leading one.
    let Some(e) = n.unsigned_abs().checked_ilog2() else { return 0 };
    let sign = if n < 0 { 0x8000 } else { 0 };
    sign | (15 + e) << 10 | (n.unsigned_abs() << (10 - e)) & 0x3ff
}

fn e4m3(n: i32) -> u32 {
    let Some(e) = n.unsigned_abs().checked_ilog2() else { return 0 };
    let sign = if n < 0 { 0x80 } else { 0 };
    sign | (7 + e) << 3 | (n.unsigned_abs() << (3 - e)) & 7
}

#[test]
fn sixteen_bit_fragments_lie_as_the_manual_says() {
    let bf = |n: i32| u32::from(bf16(n as f32));
    let wide = |kernel, encode| Shape { kernel, k: 16, bits: 16, a: a_16816, b: b_16816, encode };
    check(PTX, &wide("mma_16816_bf16", bf), |n| n as f32);
    check(PTX, &wide("mma_16816_f16", f16), |n| n as f32);
    let narrow =
        Shape { kernel: "mma_1688_bf16", k: 8, bits: 16, a: a_1688, b: b_1688, encode: bf };
    check(PTX, &narrow, |n| n as f32);
}

#[test]
fn tf32_fragments_lie_as_the_manual_says() {
    let encode = |n: i32| (n as f32).to_bits();
    let shape =
        Shape { kernel: "mma_1688_tf32", k: 8, bits: 32, a: a_1688_tf32, b: b_1688_tf32, encode };
    check(PTX, &shape, |n| n as f32);
}

#[test]
fn eight_bit_fragments_lie_as_the_manual_says() {
    let encode = |n: i32| u32::from(n as i8 as u8);
    let wide = Shape { kernel: "mma_16832_s8", k: 32, bits: 8, a: a_16832, b: b_16832, encode };
    check(PTX, &wide, |n| n);
    let narrow =
        Shape { kernel: "mma_16816_s8", k: 16, bits: 8, a: a_16816_8, b: b_16816_8, encode };
    check(PTX, &narrow, |n| n);
}

#[test]
fn e4m3_fragments_lie_as_those_of_other_bytes() {
    // nvcc emits this form for sm_89 alone; the text is the s8 kernel's with its types replaced.
    let ptx = PTX
        .replace("m16n8k32.row.col.s32.s8.s8.s32", "m16n8k32.row.col.f32.e4m3.e4m3.f32")
        .replace(".target sm_80", ".target sm_89");
    assert!(Module::parse(&ptx).unwrap().kernel_names().contains(&"mma_16832_s8"));
    let shape =
        Shape { kernel: "mma_16832_s8", k: 32, bits: 8, a: a_16832, b: b_16832, encode: e4m3 };
    check(&ptx, &shape, |n| n as f32);
}

/// "`.x1` addresses of threads 0-7, `.x2` of threads 0-15, `.x4` of threads 0-31: each eight give the rows of one matrix."
/// "Each thread of a group of four holds two neighbouring elements of a row: thread 0 to 3 row 0, thread 4 to 7 row 1, ..."
fn ldmatrix(kernel: &str, matrices: usize, trans: bool) {
    let tile: Vec<u16> = (0..256).map(|n| n as u16 * 257).collect();
    // Rows in an order of their own: eight halves each, 16 bytes.
    let rows: Vec<u32> = (0..32).map(|lane| (lane * 11 % 32) * 16).collect();
    let mut card = Card::new(PTX);
    let (tile_at, rows_at) = (card.upload(&tile), card.upload(&rows));
    let out_at = card.device.alloc(512).unwrap();
    let args = [tile_at, rows_at, out_at].map(Arg::Pointer);
    card.launch(kernel, Grid::flat(1, 32, 0), &args).unwrap();
    let out: Vec<u32> = card.download(out_at, 128);
    for lane in 0..32 {
        for matrix in 0..4 {
            let element = |part: usize| {
                let (mut row, mut column) = (lane / 4, lane % 4 * 2 + part);
                if trans {
                    (row, column) = (column, row);
                }
                u32::from(tile[rows[8 * matrix + row] as usize / 2 + column])
            };
            let want = if matrix < matrices { element(0) | element(1) << 16 } else { 0 };
            assert_eq!(out[lane * 4 + matrix], want, "{kernel} lane {lane} matrix {matrix}");
        }
    }
}

#[test]
fn matrices_are_loaded_row_by_row() {
    ldmatrix("ldmatrix_x1", 1, false);
    ldmatrix("ldmatrix_x2", 2, false);
    ldmatrix("ldmatrix_x4", 4, false);
    ldmatrix("ldmatrix_x4_trans", 4, true);
}
