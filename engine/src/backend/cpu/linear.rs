//! Matrix times rows.
//!
//! Bytes: the matrix once a step, whatever the rows; one row is bound by memory. FLOPs: `2 * rows * n_out * dim`,
//! twice that with inputs in pairs.

use super::simd::multiply::{Inputs, PairRows, Segment, multiply, rounded_to_pair};
use super::{Activations, Cpu, InputScratch, Weight};
use crate::backend::cpu::pool::Pool;
use crate::quant::DType;

/// `y[row] = W x[row]`; `x [rows, dim]`, `y [rows, n_out]`.
pub(super) fn linear(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let takes_bf16 = weight.dtype == DType::Bf16 && cpu.activations == Activations::Bf16;
    let split = takes_bf16 && cpu.splits();
    let Cpu { pool, inputs, isa, .. } = cpu;
    let x = &x[..rows * weight.dim];
    let inputs = match (takes_bf16, split) {
        (false, _) => Inputs::Plain(x),
        (true, true) => Inputs::Split(split_rows(&mut inputs.pairs, pool, x, weight.dim)),
        (true, false) => Inputs::Plain(round_rows(inputs, x)),
    };
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    multiply(pool, *isa, y, inputs, std::slice::from_ref(weight), &all);
}

fn split_rows<'a>(pairs: &'a mut PairRows, pool: &mut Pool, x: &[f32], dim: usize) -> &'a PairRows {
    pairs.fill(pool, x.len() / dim, dim, |row| &x[row * dim..(row + 1) * dim]);
    pairs
}

fn round_rows<'a>(inputs: &'a mut InputScratch, x: &[f32]) -> &'a [f32] {
    let rounded = &mut inputs.rounded[..x.len()];
    rounded.iter_mut().zip(x).for_each(|(rounded, x)| *rounded = rounded_to_pair(*x));
    rounded
}

/// The same product with inputs never rounded: routers, whose choice must not depend on the activation form.
pub(super) fn linear_f32(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    let inputs = Inputs::Plain(&x[..rows * weight.dim]);
    multiply(&mut cpu.pool, cpu.isa, y, inputs, std::slice::from_ref(weight), &all);
}
