//! One head's rows of `kv_b`, as attention of prompts takes them: widened, or for tiles rounded to bf16, and turned round.

use std::ops::Range;

use crate::backend::cpu::simd::panels::unpack::{Way, unpack};
use crate::backend::cpu::simd::rows::Rows;
use crate::backend::cpu::simd::turned::turn;
use crate::backend::cpu::{Isa, Weight};
use crate::backend::{KvB, MlaShape};
#[cfg(target_arch = "x86_64")]
use crate::quant::{DType, bf16};

/// Some rows of a matrix.
type Part<'a> = (&'a Weight, Range<usize>);

/// Where one head's halves of `kv_b` are.
pub(super) struct OfHead<'a> {
    pub(super) key: Part<'a>,
    /// Whether the key's rows are latents' numbers, not keys'.
    pub(super) key_is_turned: bool,
    pub(super) value: Part<'a>,
}

impl<'a> OfHead<'a> {
    pub(super) fn new(kv_b: KvB<&'a Weight>, shape: &MlaShape, head: usize) -> Self {
        let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let part = |weight, first, n| (weight, first..first + n);
        let (key, value) = match kv_b {
            KvB::Whole(whole) => {
                let first = head * (n + v);
                (part(whole, first, n), part(whole, first + n, v))
            }
            KvB::Apart { key, value } => {
                (part(key, head * shape.qk_head_dim(), n), part(value, head * v, v))
            }
            KvB::Halves { key, value } => (part(key, head * c, c), part(value, head * v, v)),
        };
        Self { key, key_is_turned: matches!(kv_b, KvB::Halves { .. }), value }
    }
}

/// Rows of a matrix that are turned round together.
pub(super) const TURNED: usize = 16;

/// Rows of a matrix widened, `to [rows, dim]`.
pub(super) fn widened_rows(isa: Isa, (weight, rows): Part<'_>, to: &mut [f32]) {
    if let Some(panels) = weight.panels(rows.start, rows.len()) {
        return unpack(isa, weight.dtype, panels, weight.dim, Way::Rows, to);
    }
    for (row, to) in rows.zip(to.chunks_mut(weight.dim)) {
        weight.widen_row(isa, row, to);
    }
}

/// The same turned round, `to [dim, rows]`.
pub(super) fn turned_rows(isa: Isa, (weight, rows): Part<'_>, to: &mut [f32], room: &mut [f32]) {
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

/// For tiles: rows as bf16, where they lie, or rounded into `to`.
#[cfg(target_arch = "x86_64")]
pub(super) fn rows_of<'a>(
    (weight, rows): Part<'a>,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let (n, dim) = (rows.len(), weight.dim);
    if weight.dtype == DType::Bf16 {
        return Rows::of(&weight.bytes[rows.start * weight.row_bytes..], n, dim, DType::Bf16);
    }
    match weight.panels(rows.start, n) {
        Some(panels) => unpack(Isa::Amx, weight.dtype, panels, dim, Way::Rows, &mut to[..n * dim]),
        None => {
            for (row, to) in rows.zip(to.chunks_mut(dim)) {
                weight.row(row, &mut room[..dim]);
                to.iter_mut().zip(&*room).for_each(|(to, x)| *to = bf16::from_f32(*x));
            }
        }
    }
    Rows::bf16(to, n, dim)
}

/// For tiles: rows of a key half, turned round.
#[cfg(target_arch = "x86_64")]
pub(super) fn turned_rows_of<'a>(
    (key, rows): Part<'_>,
    to: &'a mut [u16],
    room: &mut [f32],
) -> Rows<'a> {
    let (n, latent, room) = (key.dim, rows.len(), &mut room[..key.dim]);
    match key.panels(rows.start, latent) {
        Some(panels) => unpack(Isa::Amx, key.dtype, panels, n, Way::Turned, &mut to[..n * latent]),
        None => {
            for (c, row) in rows.enumerate() {
                key.row(row, room);
                for (i, x) in room.iter().enumerate() {
                    to[i * latent + c] = bf16::from_f32(*x);
                }
            }
        }
    }
    Rows::bf16(to, n, latent)
}
