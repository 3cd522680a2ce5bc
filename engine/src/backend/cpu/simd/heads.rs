//! One product per head with what expands latents, for all rows of a step at once: a head's matrix is read once.

use std::ops::Range;

use super::groups::GroupRows;
use super::multiply::{Rooms, panel_part};
use super::panels::PanelProduct;
use super::product::{Product, Reading, product};
use super::sums::{Sums, sums};
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::backend::cpu::{Isa, Weight};
use crate::quant::panels::OUTS;

/// Numbers of every head's inputs and outputs: `x [row, H, x_dim]`, of which the first numbers are read, `y [row, H, y_dim]`.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Heads {
    /// `H`.
    pub(in super::super) n_head: usize,
    /// Numbers from one head's inputs to the next's.
    pub(in super::super) x_dim: usize,
    /// Outputs of a head.
    pub(in super::super) y_dim: usize,
    /// Rows of the step.
    pub(in super::super) rows: usize,
}

impl Heads {
    fn check(&self, x: &[f32], y: &[f32], x_used: usize) {
        assert!(x_used <= self.x_dim && x.len() >= self.rows * self.n_head * self.x_dim);
        assert!(y.len() >= self.rows * self.n_head * self.y_dim);
    }
}

/// `y[row, h] = W_h x[row, h]`, where `W_h` are the rows of `weight` from `first(h)` on.
///
/// # Panics
/// When anything is outside: a bug of the caller.
pub(in super::super) fn dot_heads(
    pool: &mut Pool,
    isa: Isa,
    (y, x): (&mut [f32], &[f32]),
    weight: &Weight,
    first: impl Fn(usize) -> usize + Sync,
    heads: Heads,
) {
    heads.check(x, y, weight.dim);
    let work = heads.rows * heads.n_head * heads.y_dim * weight.dim;
    let y = Exclusive::new(y);
    pool.run_work(work, heads.n_head, |head, _| {
        assert!(first(head) + heads.y_dim <= weight.n_out, "rows outside the matrix");
        let p = Product {
            w: weight.rows_from(first(head)),
            dim: weight.dim,
            x: x[head * heads.x_dim..].as_ptr(),
            x_stride: heads.n_head * heads.x_dim,
            rows: heads.rows,
            y: y.at(head * heads.y_dim),
            y_stride: heads.n_head * heads.y_dim,
            room: std::ptr::null_mut(),
        };
        // SAFETY: lengths checked above; a head's outputs are its own; `isa` was checked when the backend was made.
        unsafe { product(isa, &p, heads.y_dim, Reading::InRegisters) }
    });
}

/// `y[row, h] = sum_i x[row, h, i] * W[first(h) + i]` for the `n` rows of `weight` from `first(h)` on, in the order of `i`.
///
/// # Panics
/// As [`dot_heads`].
pub(in super::super) fn add_heads(
    pool: &mut Pool,
    isa: Isa,
    (y, x): (&mut [f32], &[f32]),
    weight: &Weight,
    (first, n): (impl Fn(usize) -> usize + Sync, usize),
    heads: Heads,
) {
    heads.check(x, y, n);
    assert!(weight.dim == heads.y_dim, "outputs of another width");
    let y = Exclusive::new(y);
    pool.run_work(heads.rows * heads.n_head * heads.y_dim * n, heads.n_head, |head, _| {
        assert!(first(head) + n <= weight.n_out, "rows outside the matrix");
        let p = Sums {
            rows: weight.rows_from(first(head)),
            n,
            dim: weight.dim,
            adds: false,
            a: x[head * heads.x_dim..].as_ptr(),
            a_stride: heads.n_head * heads.x_dim,
            y: y.at(head * heads.y_dim),
            y_stride: heads.n_head * heads.y_dim,
        };
        // SAFETY: as in `dot_heads`.
        unsafe { sums(isa, &p, heads.rows) }
    });
}

/// [`dot_heads`] of whole-number inputs `[row, H]` with matrices one below the other in `weight`, panels each.
///
/// # Panics
/// As [`dot_heads`].
pub(in super::super) fn panel_heads(
    pool: &mut Pool,
    isa: Isa,
    (y, x): (&mut [f32], &GroupRows),
    weight: &Weight,
    heads: Heads,
    rooms: &mut Rooms,
) {
    let Heads { n_head, y_dim, rows, .. } = heads;
    assert!(weight.n_out == n_head * y_dim && y_dim.is_multiple_of(OUTS), "heads in no panels");
    assert!(y.len() >= rows * n_head * y_dim && x.rows_of(weight.dim) >= rows * n_head);
    // As many as are in flight at once with one input.
    let per_task = (4 * OUTS).min(y_dim);
    let n_part = y_dim.div_ceil(per_task);
    let (y, (rooms, room_bytes)) = (Exclusive::new(y), rooms.each(pool.threads()));
    pool.run_work(rows * n_head * y_dim * weight.dim, n_head * n_part, |task, thread| {
        let (head, start) = (task / n_part, task % n_part * per_task);
        let outs: Range<usize> = start..(start + per_task).min(y_dim);
        let p = PanelProduct {
            panels: weight.bytes.as_ptr(),
            next: weight.place_of((head * y_dim + start + per_task).min(weight.n_out)),
            dtype: weight.dtype,
            outs: outs.len(),
            dim: weight.dim,
            x: x.rows_from(head).as_ptr(),
            x_stride: n_head * x.width(),
            rows,
            y: y.at(head * y_dim + start),
            y_stride: n_head * y_dim,
        };
        let outs = head * y_dim + outs.start..head * y_dim + outs.end;
        // SAFETY: as in `dot_heads`; a thread runs one task at a time, so its room is its own.
        unsafe { panel_part(isa, p, weight, outs, rooms.slice(thread * room_bytes, room_bytes)) }
    });
}
