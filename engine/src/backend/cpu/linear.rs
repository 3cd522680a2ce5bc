//! Matrix times rows.
//!
//! Bytes: the matrix once a step, whatever the rows; one row is bound by memory. FLOPs: `2 * rows * n_out * dim`,
//! twice that with inputs in pairs of bf16 numbers, as many whole-number operations with inputs in groups.

use super::simd::multiply::{Inputs, PairRows, Parts, Segment, multiply};
use super::{Cpu, Form, InputScratch, Weight};
use crate::backend::cpu::pool::Pool;

/// `y[row] = W x[row]`; `x [rows, dim]`, `y [rows, n_out]`.
pub(super) fn linear(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let form = cpu.form(weight);
    let Cpu { pool, inputs, rooms, isa, .. } = cpu;
    let (dim, x) = (weight.dim, &x[..rows * weight.dim]);
    let inputs = match form {
        Form::Plain => Inputs::Plain(x),
        Form::Rounded(parts) => Inputs::Plain(round_rows(inputs, parts, x)),
        Form::Split => Inputs::Split(split_rows(&mut inputs.pairs, pool, x, dim)),
        Form::Groups => {
            inputs.groups.fill(pool, *isa, rows, dim, |row| &x[row * dim..(row + 1) * dim]);
            Inputs::Groups(&inputs.groups)
        }
    };
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    multiply(pool, *isa, y, inputs, std::slice::from_ref(weight), &all, rooms);
}

fn split_rows<'a>(pairs: &'a mut PairRows, pool: &mut Pool, x: &[f32], dim: usize) -> &'a PairRows {
    pairs.fill(pool, x.len() / dim, dim, |row| &x[row * dim..(row + 1) * dim]);
    pairs
}

fn round_rows<'a>(inputs: &'a mut InputScratch, parts: Parts, x: &[f32]) -> &'a [f32] {
    let rounded = &mut inputs.rounded[..x.len()];
    rounded.iter_mut().zip(x).for_each(|(rounded, x)| *rounded = parts.rounded(*x));
    rounded
}

/// The same product with inputs never rounded: routers, whose choice must not depend on the activation form.
pub(super) fn linear_f32(cpu: &mut Cpu, y: &mut [f32], x: &[f32], weight: &Weight, rows: usize) {
    let all = [Segment { weight: 0, start: 0, end: rows as u32 }];
    let inputs = Inputs::Plain(&x[..rows * weight.dim]);
    let (pool, rooms) = (&mut cpu.pool, &mut cpu.rooms);
    multiply(pool, cpu.isa, y, inputs, std::slice::from_ref(weight), &all, rooms);
}

#[cfg(test)]
mod tests;
