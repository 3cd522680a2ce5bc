//! How many rows of a step are whose.

/// Beside answers a step has up to so many times [`crate::limits::Limits::answer_step_rows_max`] rows, for a prompt that
/// ends in it.
const WHOLE: usize = 4;

/// The same for several such prompts, in halves: the first of them have their first token while the others wait, who would
/// have theirs no sooner.
const SEVERAL_HALVES: usize = 5;

/// Rows of a step, and how many of them are spent.
///
/// Answers come first. A prompt that can end in a step is not cut: two steps keep answers waiting about as long as one,
/// and twice. One that is too long for that goes on in parts, between which answers flow; at least half of the rows for
/// parts are left for it, however many answers and short prompts there are.
pub(super) struct Budget {
    /// At most, with all runs.
    whole: usize,
    /// At most with a prompt behind another.
    several: usize,
    /// At most where a part of a long one is among them.
    part: usize,
    /// Whether answers wait for this step.
    has_answers: bool,
    spent: usize,
    /// Of those spent, by answers; not known before prompts' turn.
    by_answers: Option<usize>,
    /// Of those spent, by long ones.
    spent_on_long: usize,
}

impl Budget {
    /// Of a step of at most `rows`, without an answer.
    pub(super) fn alone(rows: usize) -> Self {
        Self::new(rows, rows, rows, false)
    }

    /// Of a step of at most `rows`, `part` of them where an answer waits for a part of a long prompt.
    pub(super) fn beside_answers(rows: usize, part: usize) -> Self {
        Self::new(rows.min(WHOLE * part), rows.min(SEVERAL_HALVES * part / 2), part, true)
    }

    fn new(whole: usize, several: usize, part: usize, has_answers: bool) -> Self {
        Self { whole, several, part, has_answers, spent: 0, by_answers: None, spent_on_long: 0 }
    }

    /// From here on rows are for prompts.
    pub(super) fn begin_prompts(&mut self) {
        self.by_answers = Some(self.spent);
    }

    /// Whether so many rows never fit into one step.
    pub(super) fn is_long(&self, rows: usize) -> bool {
        rows > self.whole
    }

    /// Rows for a run that has so many left, of a sequence that `is_long` or not.
    pub(super) fn of_run(&self, rows: usize, is_long: bool) -> usize {
        let left = self.whole - self.spent;
        let is_behind = self.by_answers.is_some_and(|by_answers| self.spent > by_answers);
        let most = if is_behind { self.several.saturating_sub(self.spent) } else { left };
        if rows <= most && !is_long {
            return rows;
        }
        // Those before it would wait for its rows, and it ends no sooner for having begun.
        if !is_long && !self.has_answers && 2 * self.spent >= self.whole {
            return 0;
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
