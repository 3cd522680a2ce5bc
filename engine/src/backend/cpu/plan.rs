//! A step's indices as the operations read them, copied once so that a step is free again.

use crate::backend::ScratchShape;
use crate::limits::Limits;
use crate::step::{PageId, Slot, Step, TokenId};

/// A step's indices; see [`Step`] for the shapes.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) tokens: Vec<TokenId>,
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<Slot>,
    pub(super) row_start: Vec<u32>,
    pub(super) page_start: Vec<u32>,
    pub(super) pages: Vec<PageId>,
    /// `[n_row]`: which sequence a row belongs to.
    pub(super) sequence: Vec<u32>,
    /// `[n_sample]`.
    pub(super) sample_rows: Vec<u32>,
    pub(super) n_decode: usize,
    pub(super) n_decode_row: usize,
}

impl Plan {
    /// Bytes of what [`Plan::with_room`] makes, pages not counted.
    pub(super) fn bytes(shape: &ScratchShape) -> u64 {
        let rows = shape.step_rows_max;
        (4 * rows + 3 * shape.sequences_max.max(rows)) as u64 * size_of::<u32>() as u64
    }

    /// Room for the largest step.
    pub(super) fn with_room(shape: &ScratchShape, limits: &Limits) -> Self {
        let (rows, sequences) =
            (limits.step_rows_max, limits.sequences_max.max(limits.step_rows_max));
        Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            slots: Vec::with_capacity(rows),
            row_start: Vec::with_capacity(sequences + 1),
            page_start: Vec::with_capacity(sequences + 1),
            pages: Vec::with_capacity(shape.n_page),
            sequence: Vec::with_capacity(rows),
            sample_rows: Vec::with_capacity(sequences),
            n_decode: 0,
            n_decode_row: 0,
        }
    }

    /// Takes a step's indices.
    pub(super) fn take(&mut self, step: &Step) {
        copy(&mut self.tokens, &step.tokens);
        copy(&mut self.positions, &step.positions);
        copy(&mut self.slots, &step.slots);
        copy(&mut self.row_start, &step.row_start);
        copy(&mut self.page_start, &step.page_start);
        copy(&mut self.pages, &step.pages);
        self.sample_rows.clear();
        self.sample_rows.extend(step.samples.iter().map(|sample| sample.row));
        self.sequence.clear();
        for (i, rows) in step.row_start.windows(2).enumerate() {
            self.sequence.extend((rows[0]..rows[1]).map(|_| i as u32));
        }
        self.n_decode = step.n_decode;
        self.n_decode_row = step.n_decode_row();
    }

    /// Rows of the step.
    pub(super) fn n_row(&self) -> usize {
        self.tokens.len()
    }

    /// Sequences of the step.
    pub(super) fn n_seq(&self) -> usize {
        self.row_start.len().saturating_sub(1)
    }

    /// A sequence's pages in order.
    pub(super) fn pages_of(&self, sequence: usize) -> &[PageId] {
        &self.pages[self.page_start[sequence] as usize..self.page_start[sequence + 1] as usize]
    }
}

fn copy<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}
