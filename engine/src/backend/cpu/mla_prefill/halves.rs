//! One head's rows of `kv_b`, as attention of prompts takes them: widened, or for tiles rounded to bf16, and turned round.

use std::ops::Range;

use crate::backend::cpu::simd::panels::unpack::{Way, unpack};
use crate::backend::cpu::simd::rows::Rows;
use crate::backend::cpu::simd::turned::turn;
use crate::backend::cpu::{Isa, Weight};
#[cfg(target_arch = "x86_64")]
use crate::quant::{DType, bf16};

/// Rows of a matrix that are turned round together.
pub(super) const TURNED: usize = 16;

/// Rows `rows` of a matrix widened, `to [rows, dim]`.
pub(super) fn widened_rows(isa: Isa, weight: &Weight, rows: Range<usize>, to: &mut [f32]) {
    if let Some(panels) = weight.panels(rows.start, rows.len()) {
        return unpack(isa, weight.dtype, panels, weight.dim, Way::Rows, to);
    }
    for (row, to) in rows.zip(to.chunks_mut(weight.dim)) {
        weight.widen_row(isa, row, to);
    }
}

/// The same turned round, `to [dim, rows]`.
pub(super) fn turned_rows(
    isa: Isa,
    weight: &Weight,
    rows: Range<usize>,
    to: &mut [f32],
    room: &mut [f32],
) {
    let n = rows.len();
    if let Some(panels) = weight.panels(rows.start, n) {
        return unpack(isa, weight.dtype, panels, weight.dim, Way::Turned, to);
    }
    for first in (0..n).step_by(TURNED) {
        let some = (n - first).min(TURNED);
        for (i, room) in room.chunks_mut(weight.dim).take(some).enumerate() {
            weight.widen_row(isa, rows.start + first + i, room);
        }
        turn(isa, Rows::f32(room, some, weight.dim), &mut to[first..], n);
    }
}

/// For tiles: rows `first..first + n` as bf16, where they lie, or rounded into `to`.
#[cfg(target_arch = "x86_64")]
pub(super) fn rows_of<'a>(
    weight: &'a Weight,
    first: usize,
    n: usize,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let dim = weight.dim;
    if weight.dtype == DType::Bf16 {
        return Rows::of(&weight.bytes[first * weight.row_bytes..], n, dim, DType::Bf16);
    }
    match weight.panels(first, n) {
        Some(panels) => unpack(Isa::Amx, weight.dtype, panels, dim, Way::Rows, &mut to[..n * dim]),
        None => {
            for (i, to) in to.chunks_mut(dim).take(n).enumerate() {
                weight.row(first + i, &mut room[..dim]);
                to.iter_mut().zip(&*room).for_each(|(to, x)| *to = bf16::from_f32(*x));
            }
        }
    }
    Rows::bf16(to, n, dim)
}

/// For tiles: rows `first..first + c` of a key half, turned round.
#[cfg(target_arch = "x86_64")]
pub(super) fn turned_rows_of<'a>(
    key: &Weight,
    first: usize,
    latent: usize,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let (n, room) = (key.dim, &mut room[..key.dim]);
    match key.panels(first, latent) {
        Some(panels) => unpack(Isa::Amx, key.dtype, panels, n, Way::Turned, &mut to[..n * latent]),
        None => {
            for c in 0..latent {
                key.row(first + c, room);
                for (i, x) in room.iter().enumerate() {
                    to[i * latent + c] = bf16::from_f32(*x);
                }
            }
        }
    }
    Rows::bf16(to, n, latent)
}
