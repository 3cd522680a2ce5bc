//! How many rows of a step are whose.

/// Beside answers a step has up to so many times [`crate::limits::Limits::answer_step_rows_max`] rows, for prompts that end
/// in it.
const WHOLE: usize = 4;

/// Rows of a step, and how many of them are spent.
///
/// Answers come first. A prompt that can end in a step is not cut: two steps keep answers waiting about as long as one,
/// and twice. One that is too long for that goes on in parts, between which answers flow; at least half of the rows for
/// parts are left for it, however many answers and short prompts there are.
pub(super) struct Budget {
    /// At most, with all runs.
    whole: usize,
    /// At most where a part of a long one is among them.
    part: usize,
    spent: usize,
    /// Of those spent, by long ones.
    spent_on_long: usize,
}

impl Budget {
    /// Of a step of at most `rows`, without an answer.
    pub(super) fn alone(rows: usize) -> Self {
        Self { whole: rows, part: rows, spent: 0, spent_on_long: 0 }
    }

    /// Of a step of at most `rows`, `part` of them where an answer waits for a part of a long prompt.
    pub(super) fn beside_answers(rows: usize, part: usize) -> Self {
        Self { whole: rows.min(WHOLE * part), part, spent: 0, spent_on_long: 0 }
    }

    /// Whether so many rows never fit into one step.
    pub(super) fn is_long(&self, rows: usize) -> bool {
        rows > self.whole
    }

    /// Rows for a run that has so many left, of a sequence that `is_long` or not.
    pub(super) fn of_run(&self, rows: usize, is_long: bool) -> usize {
        let left = self.whole - self.spent;
        if rows <= left && !is_long {
            return rows;
        }
        let least = if is_long { (self.part / 2).saturating_sub(self.spent_on_long) } else { 0 };
        rows.min(self.part.saturating_sub(self.spent).max(least)).min(left)
    }

    /// Takes rows away.
    pub(super) fn spend(&mut self, rows: usize, is_long: bool) {
        self.spent += rows;
        if is_long {
            self.spent_on_long += rows;
        }
    }

    /// Takes back rows that a sequence had been given and no longer wants.
    pub(super) fn take_back(&mut self, rows: usize) {
        self.spent -= rows;
    }
}
