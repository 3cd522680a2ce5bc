//! Gate, up and SwiGLU of routed experts in one pass.
//!
//! Both products of some outputs stay in the cache of the thread that makes them; what leaves it is their one product, in
//! the form that down takes: a quarter of the bytes that three loops would move, and one wait instead of three.

use super::groups::{GroupRows, Parts};
use super::multiply::{Inputs, OUTS_MANY, Segment, Tasks, check, part};
use super::panels::Rooms;
use super::row::silu_product_in_place;
use crate::backend::cpu::pool::{Exclusive, Pool};
use crate::backend::cpu::{Isa, Weight};

/// Numbers from one row's outputs to the next's, while they are in a thread's room: a cache line more than there can be, so
/// that rows fall into different sets.
const STRIDE: usize = OUTS_MANY + 16;

/// Two matrices of each expert, of one shape, and their inputs.
#[derive(Clone, Copy)]
pub(in super::super) struct Gated<'a> {
    pub(in super::super) gate: (Inputs<'a>, &'a [Weight]),
    pub(in super::super) up: (Inputs<'a>, &'a [Weight]),
}

/// Where products go, `[row, n_out]`.
pub(in super::super) enum Products<'a> {
    /// As they are.
    Plain(&'a mut [f32]),
    /// As whole numbers; so many rows.
    Groups(&'a mut GroupRows, usize),
}

/// Numbers that a thread keeps while it makes products of up to `rows` rows.
pub(in super::super) fn room_len(rows: usize) -> usize {
    2 * rows * STRIDE
}

/// A thread's way to where products go.
enum Out {
    Plain(Exclusive<f32>),
    Groups(Parts),
}

/// `silu(gate x[row]) * up x[row]` for the rows of every segment. `halves` is [`room_len`] of the longest one for each
/// thread; `rooms` are as for [`super::multiply::multiply`].
///
/// # Panics
/// When a segment leaves inputs, outputs or rooms, or a matrix does not take such inputs: a bug of the caller.
pub(in super::super) fn multiply_gated(
    pool: &mut Pool,
    isa: Isa,
    out: Products<'_>,
    gated: Gated<'_>,
    segments: &[Segment],
    rooms: &mut Rooms,
    halves: &mut [f32],
) {
    let Gated { gate: (gate_inputs, gates), up: (up_inputs, ups) } = gated;
    let Some(first) = gates.first() else { return };
    let (n_out, dim, threads) = (first.n_out, first.dim, pool.threads());
    let (rows_out, out) = match out {
        Products::Plain(y) => (y.len() / n_out.max(1), Out::Plain(Exclusive::new(y))),
        Products::Groups(groups, rows) => (rows, Out::Groups(groups.parts(rows, n_out))),
    };
    check(rows_out, gate_inputs, gates, segments, (n_out, dim));
    check(rows_out, up_inputs, ups, segments, (n_out, dim));
    let longest = segments.iter().map(Segment::rows).max().unwrap_or(0);
    let each = room_len(longest);
    assert!(each * threads <= halves.len(), "no room for {longest} rows of {threads} threads");
    let halves = Exclusive::new(halves);
    let (rooms, room_bytes) = rooms.each(threads);
    let tasks = Tasks::of((isa, threads), &[gate_inputs, up_inputs], segments, n_out);
    tasks.run(pool, 2 * tasks.rows * n_out * dim, gates, |segment, outs, next, thread| {
        let (gate, up) = (&gates[segment.weight as usize], &ups[segment.weight as usize]);
        let start = outs.start;
        // SAFETY: lengths were checked above and when the weights were made; tasks have disjoint outputs; `isa` was checked
        // when the backend was made. A thread runs one task at a time, so its rooms are its own.
        unsafe {
            let room = rooms.slice(thread * room_bytes, room_bytes);
            let halves = halves.slice(thread * each, each);
            let (gated, upped) = halves.split_at_mut(segment.rows() * STRIDE);
            let y = (gated.as_mut_ptr(), STRIDE);
            let then = up.place_of(start);
            part(isa, y, gate_inputs, (gate, then), segment, outs.clone(), room);
            let y = (upped.as_mut_ptr(), STRIDE);
            part(isa, y, up_inputs, (up, next), segment, outs.clone(), room);
            let pairs = gated.chunks_mut(STRIDE).zip(upped.chunks(STRIDE));
            for (row, (gate, up)) in (segment.start as usize..segment.end as usize).zip(pairs) {
                let (gate, up) = (&mut gate[..outs.len()], &up[..outs.len()]);
                silu_product_in_place(isa, gate, up);
                match &out {
                    Out::Plain(y) => y.slice(row * n_out + start, outs.len()).copy_from_slice(gate),
                    Out::Groups(parts) => parts.put(isa, row, start, gate),
                }
            }
        }
    });
}
