//! What the operations' tests share: seeded numbers, matrices at odd addresses, every way to run, and an f64 oracle
//! that knows none of the code under test.

mod blocks;
mod caches;
mod close;
mod kv_b;
mod way;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::pool::Pool;
use super::resident::together;
use super::topology::{Seat, Team};
use super::{Cpu, CpuOptions, Plan, Weight};
use crate::backend::{Backend, MlaShape, ScratchShape};
use crate::checkpoint::{Bytes, Kept, Place, Scales, Tensor};
use crate::limits::Limits;
use crate::quant::DType;
use crate::step::{PAGE_TOKENS, PageId, Slot, Step, TokenId};
pub(super) use caches::{CACHES, backend_with, cache, kept_latents};
pub(super) use close::{assert_close, assert_near, assert_same_bits};
pub(super) use kv_b::{TestKvB, kv_b_forms};
pub(super) use way::{Way, product_error, ways};

/// Counts what each thread allocates, so that tests beside each other do not see one another.
struct Counting;

thread_local! {
    static ALLOCATED_BYTES: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator; the counter is a plain cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as u64));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as u64));
        // SAFETY: the caller's promise. Zeroed by the system: pages nobody touches cost nothing.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes this thread allocates in `body`.
pub(super) fn allocated(body: impl FnOnce()) -> u64 {
    let before = ALLOCATED_BYTES.get();
    body();
    ALLOCATED_BYTES.get() - before
}

/// Numbers between -1 and 1 that `seed` decides.
pub(super) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let next = |_| {
        // xorshift64 (Marsaglia 2003): not the hash that sampling uses.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// A matrix as the backend has it, and what its stored numbers are.
pub(super) struct Matrix {
    pub(super) weight: Weight,
    pub(super) tensor: Tensor,
    pub(super) values: Vec<f64>,
    pub(super) n_out: usize,
    pub(super) dim: usize,
}

/// Blocks of the tests' 8-bit float matrices: few rows, so that a matrix has several, ragged at its edges.
const BLOCK: [usize; 2] = [8, 128];

/// Blocks of fewer columns than products of bf16 numbers take.
pub(super) const NARROW_BLOCK: [usize; 2] = [8, 32];

/// The number `x` decides, number `i` of its matrix: stored behind `bytes`, and what it is without its block's factor.
fn store(dtype: DType, i: usize, x: f32, bytes: &mut Vec<u8>) -> f64 {
    match dtype {
        DType::F32 => {
            bytes.extend(x.to_le_bytes());
            f64::from(x)
        }
        DType::Bf16 => {
            let word = x.to_bits() >> 16;
            bytes.extend((word as u16).to_le_bytes());
            f64::from(f32::from_bits(word << 16))
        }
        DType::F16 => {
            // Sign and eleven bits of a number, exponent from 2^-8 up to 2^-1.
            let (steps, exponent) = ((x.abs() * 1024.0) as u16 & 1023, i as u16 % 8 + 7);
            bytes.extend(((u16::from(x < 0.0) << 15) | (exponent << 10) | steps).to_le_bytes());
            let size = (1.0 + f64::from(steps) / 1024.0) * 2f64.powi(i32::from(exponent) - 15);
            if x < 0.0 { -size } else { size }
        }
        DType::Fp8E4m3 => {
            let (steps, exponent) = ((x.abs() * 8.0) as u8 & 7, i as u8 % 7 + 1);
            bytes.push((u8::from(x < 0.0) << 7) | (exponent << 3) | steps);
            let size = (1.0 + f64::from(steps) / 8.0) * 2f64.powi(i32::from(exponent) - 7);
            if x < 0.0 { -size } else { size }
        }
        _ => panic!("{dtype:?} is stored in blocks"),
    }
}

/// A seeded matrix, stored at an odd address: mapped tensors begin anywhere.
/// Blocks of factors, where there are some, have many columns with an odd seed and few with an even one.
pub(super) fn matrix(seed: u64, dtype: DType, n_out: usize, dim: usize) -> Matrix {
    let block = if seed.is_multiple_of(2) { NARROW_BLOCK } else { BLOCK };
    matrix_in(block, seed, dtype, (n_out, dim))
}

/// [`matrix`] whose factors, if it has some, are of such blocks.
pub(super) fn matrix_in(
    block: [usize; 2],
    seed: u64,
    dtype: DType,
    (n_out, dim): (usize, usize),
) -> Matrix {
    let (mut bytes, mut values) = (vec![0xff], Vec::new());
    let per_row = dim.div_ceil(block[1]);
    let factors = numbers(seed + 77, n_out.div_ceil(block[0]) * per_row);
    if dtype.block_len() > 1 {
        for i in 0..n_out * dim / dtype.block_len() {
            let (stored, held) = blocks::block(seed * 100_000 + i as u64, dtype);
            bytes.extend(stored);
            values.extend(held);
        }
    } else {
        for (i, x) in numbers(seed, n_out * dim).into_iter().enumerate() {
            let value = store(dtype, i, x, &mut bytes);
            let at = i / dim / block[0] * per_row + i % dim / block[1];
            let factor = if dtype == DType::Fp8E4m3 { factors[at] } else { 1.0 };
            values.push(value * f64::from(factor));
        }
    }
    let odd = |bytes: Vec<u8>| Bytes::owned(bytes.clone()).slice(1..bytes.len()).unwrap();
    let mut scales = vec![0xff];
    scales.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
    let tensor = Tensor {
        name: "test".into(),
        dtype,
        shape: vec![n_out, dim],
        bytes: odd(bytes),
        scales: (dtype == DType::Fp8E4m3).then(|| Scales { bytes: odd(scales), block }),
    };
    Matrix { weight: Weight::new(&tensor).unwrap(), tensor, values, n_out, dim }
}

/// A width that rows of `dtype` can have, at least `dim`.
pub(super) fn width(dtype: DType, dim: usize) -> usize {
    dim.next_multiple_of(dtype.block_len())
}

/// A sum, and the sum of its terms' sizes: what rounding errors are relative to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) value: f64,
    pub(super) size: f64,
    /// What it can be off by when inputs become whole numbers: for every input half a step, which is 1/127 of the
    /// largest of its 32.
    pub(super) steps: f64,
}

impl Matrix {
    /// Row `out` with one input.
    pub(super) fn dot(&self, out: usize, x: &[f64]) -> Sum {
        let mut sum = Sum::default();
        let row = &self.values[out * self.dim..(out + 1) * self.dim];
        for (w, x) in row.chunks(32).zip(x.chunks(32)) {
            let step = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs())) / 127.0;
            for (w, x) in w.iter().zip(x) {
                let term = w * x;
                sum.value += term;
                sum.size += term.abs();
                sum.steps += w.abs() * step / 2.0;
            }
        }
        sum
    }

    /// The matrix where it lies.
    pub(super) fn stored(&self) -> Weight {
        Weight::new(&self.tensor).unwrap()
    }

    /// The matrix in panels, as `backend` makes them.
    pub(super) fn in_panels(&self, backend: &mut Cpu) -> Weight {
        let kept = Kept { dtype: self.tensor.dtype, place: Place::Panels };
        together(backend, &[(&self.tensor, kept)]).unwrap().remove(0)
    }

    /// The bf16 matrix in twelve bits a number, as `backend` makes it; as it lies where it has too many strays.
    pub(super) fn narrow(&self, backend: &mut Cpu) -> Weight {
        let kept = Kept { dtype: self.tensor.dtype, place: Place::Narrow };
        together(backend, &[(&self.tensor, kept)]).unwrap().remove(0)
    }

    /// All rows with all inputs, `[rows, n_out]`.
    pub(super) fn product(&self, x: &[f32]) -> Vec<Sum> {
        let rows: Vec<f64> = x.iter().copied().map(f64::from).collect();
        rows.chunks(self.dim).flat_map(|x| (0..self.n_out).map(|out| self.dot(out, x))).collect()
    }
}

/// A small attention: odd widths, and heads that fill no group.
pub(super) const ODD: MlaShape = MlaShape {
    n_head: 3,
    qk_nope_head_dim: 17,
    qk_rope_head_dim: 6,
    v_head_dim: 33,
    kv_lora_rank: 65,
    n_k_pe: 1,
    softmax_scale: 0.4,
};

/// Whole tiles, more heads than a group.
pub(super) const EVEN: MlaShape = MlaShape {
    n_head: 18,
    qk_nope_head_dim: 64,
    qk_rope_head_dim: 32,
    v_head_dim: 32,
    kv_lora_rank: 96,
    n_k_pe: 1,
    softmax_scale: 0.3,
};

/// Odd widths, more heads than a group, and a rotary key for each head.
pub(super) const OWN_KEYS: MlaShape = MlaShape { n_head: 19, n_k_pe: 19, ..ODD };

/// The largest sizes the tests ask for.
pub(super) fn scratch_shape(mla: MlaShape) -> ScratchShape {
    ScratchShape {
        step_rows_max: 40,
        sequences_max: 8,
        context_tokens_max: 4096,
        n_page: 256,
        input_dim_max: 2560,
        hidden_size: 256,
        moe_intermediate_size: 256,
        num_experts_per_tok: 4,
        n_routed_experts: 12,
        vocab_size: 6000,
        mla,
    }
}

/// Bounds that go with [`scratch_shape`].
pub(super) fn limits() -> Limits {
    Limits { step_rows_max: 40, sequences_max: 8, ..Limits::default() }
}

/// A backend with all its scratch; more than two threads have two memory nodes.
pub(super) fn backend_for(way: Way, threads: usize, mla: MlaShape) -> (Cpu, Plan) {
    let options = CpuOptions {
        threads: Some(threads),
        isa: Some(way.isa),
        activations: Some(way.activations),
        ..CpuOptions::default()
    };
    let mut cpu = Cpu::new(&options).unwrap();
    if threads > 2 {
        cpu.pool = Pool::new(&two_nodes(threads)).unwrap();
    }
    let plan = cpu.reserve(&scratch_shape(mla), &limits()).unwrap();
    (cpu, plan)
}

/// Threads of two memory nodes by turns, held to no processor; both are the first of the system's, which all have.
pub(super) fn two_nodes(threads: usize) -> Team {
    let seats = (0..threads).map(|i| Seat { cpu: None, node: i % 2 }).collect();
    Team { seats, nodes: vec![0, 0] }
}

/// [`backend_for`] where attention does not matter.
pub(super) fn backend(way: Way, threads: usize) -> Cpu {
    backend_for(way, threads, ODD).0
}

/// One sequence of a step: what decides its numbers, tokens cached before this step, rows of this step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub(super) id: u64,
    pub(super) before: usize,
    pub(super) rows: usize,
}

impl Sequence {
    pub(super) fn len(self) -> usize {
        self.before + self.rows
    }

    /// `[len, c + r]`, numbers that bf16 holds: what a cache rounds further is its own tests' matter.
    pub(super) fn latents(self, shape: &MlaShape) -> Vec<f32> {
        let latents = numbers(self.id, self.len() * shape.latent_dim());
        latents.into_iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect()
    }

    /// `[rows, width]` of some input; a row's numbers depend on its position alone.
    pub(super) fn inputs(self, kind: u64, width: usize) -> Vec<f32> {
        let seed = |position| (self.id * 31 + kind) * 100_000 + position as u64;
        (self.before..self.len()).flat_map(|position| numbers(seed(position), width)).collect()
    }
}

/// The step of some sequences, their pages in no order.
pub(super) fn step(sequences: &[Sequence], n_decode: usize) -> Step {
    let mut step = Step { n_decode, row_start: vec![0], page_start: vec![0], ..Step::default() };
    let n_page: usize = sequences.iter().map(|s| s.len().div_ceil(PAGE_TOKENS)).sum();
    for sequence in sequences {
        let first = step.pages.len();
        for _ in 0..sequence.len().div_ceil(PAGE_TOKENS) {
            step.pages.push(PageId((n_page - step.pages.len()) as u32));
        }
        for position in sequence.before..sequence.len() {
            step.tokens.push(TokenId(position as u32));
            step.positions.push(position as u32);
            step.slots.push(Slot::new(
                step.pages[first + position / PAGE_TOKENS],
                position % PAGE_TOKENS,
            ));
        }
        step.row_start.push(step.tokens.len() as u32);
        step.page_start.push(step.pages.len() as u32);
        step.context_len.push(sequence.len() as u32);
    }
    step
}

/// `sum_u softmax(scores)[u] * values[u]`, all scores known.
pub(super) fn attend(
    scores: &[f64],
    value: impl Fn(usize, usize) -> f64,
    width: usize,
) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..width)
        .map(|i| weights.iter().enumerate().map(|(u, w)| w * value(u, i)).sum::<f64>() / sum)
        .collect()
}
