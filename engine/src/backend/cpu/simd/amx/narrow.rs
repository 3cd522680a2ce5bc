//! Weights in twelve bits a number: made a unit at a time, 128 numbers of 32 outputs, in the order of plain copies.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Block, CHUNK, STEP, TILE, Weights};
use crate::backend::cpu::simd::narrow::{Narrow, PanelReader, put};

/// A unit's numbers, step after step.
type Unit = [Weights; CHUNK / STEP];

/// Two, of which one is multiplied while the other is made.
#[repr(C, align(64))]
struct Room([Unit; 2]);

/// Two panels beside each other, or one twice.
struct Pair<'a> {
    narrow: &'a Narrow<'a>,
    first: usize,
    panels: [PanelReader<'a>; 2],
}

impl<'a> Pair<'a> {
    /// Those of up to 32 outputs.
    ///
    /// # Safety
    /// As [`super::product_amx`]; there are such outputs.
    #[inline(always)]
    unsafe fn new(narrow: &'a Narrow<'a>, outs: &Range<usize>) -> Self {
        let first = outs.start / TILE;
        let second = if outs.len() > TILE { first + 1 } else { first };
        // SAFETY: the caller's promise.
        unsafe { Self { narrow, first, panels: [narrow.panel(first), narrow.panel(second)] } }
    }

    /// Makes some rows of a unit, those of the unit two later asked for.
    ///
    /// # Safety
    /// The unit is inside.
    #[inline(always)]
    unsafe fn make(&self, to: *mut Unit, unit: usize, rows: Range<usize>, asks: bool) {
        let to: *mut [u16; STEP] = to.cast();
        // SAFETY: the caller's promise; a unit has as many rows in each of its steps.
        unsafe {
            for row in rows {
                for (i, panel) in self.panels.iter().enumerate() {
                    if asks {
                        self.narrow.ask(self.first + i, unit, row, 2);
                    }
                    for (step, numbers) in panel.row(unit, row).into_iter().enumerate() {
                        let to = to.add(step * 2 * TILE + i * TILE + row);
                        put(to.cast(), numbers);
                    }
                }
            }
        }
    }

    /// Puts strays in.
    ///
    /// # Safety
    /// As [`Pair::make`].
    #[inline(always)]
    unsafe fn put_strays(&mut self, to: *mut Unit, unit: usize) {
        let to: *mut [u16; STEP] = to.cast();
        for (i, panel) in self.panels.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                panel.put_strays(unit, 0..TILE, |row, k| {
                    let line = to.add(k / STEP * 2 * TILE + i * TILE + row);
                    line.cast::<u16>().add(k % STEP)
                });
            }
        }
    }
}

impl Block<'_> {
    /// A chunk's weights of up to 32 outputs; see [`Block::copy_step`].
    ///
    /// # Safety
    /// As [`super::product_amx`]; the chunk is inside.
    #[inline(always)]
    pub(super) unsafe fn copy_unit(
        narrow: &Narrow<'_>,
        to: *mut Unit,
        outs: &Range<usize>,
        unit: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut pair = Pair::new(narrow, outs);
            pair.make(to, unit, 0..TILE, false);
            pair.put_strays(to, unit);
        }
    }

    /// [`Block::few`] of such weights.
    ///
    /// # Safety
    /// As [`Block::few`].
    #[inline(always)]
    pub(super) unsafe fn few_narrow(&self, narrow: &Narrow<'_>) {
        let units = narrow.units();
        let mut room = MaybeUninit::<Room>::uninit();
        let room: *mut Unit = room.as_mut_ptr().cast();
        // SAFETY: whole units lie inside, and each is made before it is multiplied.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm2", options(nostack, nomem));
            let mut pair = Pair::new(narrow, &self.outs);
            pair.make(room, 0, 0..TILE, true);
            pair.put_strays(room, 0);
            for unit in 0..units {
                let (weights, next) = (room.add(unit % 2), room.add((unit + 1) % 2));
                let is_more = unit + 1 < units;
                let steps = (self.p.dim - unit * CHUNK).min(CHUNK).div_ceil(STEP);
                for step in 0..CHUNK / STEP {
                    if is_more {
                        // A share with every step: tiles and vectors work side by side.
                        let rows = TILE * STEP / CHUNK;
                        pair.make(next, unit + 1, step * rows..(step + 1) * rows, true);
                    }
                    if step < steps {
                        let pairs = unit * (CHUNK / 2) + step * (STEP / 2);
                        let at = pairs * self.x.stride + self.rows.start;
                        self.add_step(weights.cast::<Weights>().add(step), at);
                    }
                }
                if is_more {
                    pair.put_strays(next, unit + 1);
                }
            }
            self.write_few();
        }
    }
}
