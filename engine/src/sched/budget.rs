//! How many rows of a step are whose.

/// A prompt that ends within so many times [`crate::limits::Limits::answer_step_rows_max`] is taken whole beside answers.
/// A step with some of a prompt reads nearly every expert, however many rows they are: in two steps it would keep answers
/// waiting longer, and more often. A longer one takes many steps anyway; then answers flow between smaller ones.
const WHOLE: usize = 4;

/// Rows of a step, and how many of them are spent.
pub(super) struct Budget {
    /// At most, of runs that end in it.
    whole: usize,
    /// At most where a run does not.
    part: usize,
    spent: usize,
}

impl Budget {
    /// Of a step of at most `rows`, without an answer.
    pub(super) fn alone(rows: usize) -> Self {
        Self { whole: rows, part: rows, spent: 0 }
    }

    /// Of a step of at most `rows`, `part` of them while answers wait for a prompt that does not end in it.
    pub(super) fn beside_answers(rows: usize, part: usize) -> Self {
        Self { whole: rows.min(WHOLE * part), part, spent: 0 }
    }

    /// Rows for a run that has so many left, and `is_cut` if it had more before.
    pub(super) fn of_run(&self, rows: usize, is_cut: bool) -> usize {
        let left = |limit: usize| limit.saturating_sub(self.spent);
        if rows <= left(self.whole) && !is_cut { rows } else { rows.min(left(self.part)) }
    }

    /// Takes rows away.
    pub(super) fn spend(&mut self, rows: usize) {
        self.spent += rows;
    }

    /// Takes back rows that a sequence had been given and no longer wants.
    pub(super) fn take_back(&mut self, rows: usize) {
        self.spent -= rows;
    }
}
