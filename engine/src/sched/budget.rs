//! How many rows of a step are whose.

/// Beside answers a step has up to so many times [`crate::limits::Limits::answer_step_rows_max`] rows, for a prompt that
/// ends in it.
const WHOLE: usize = 4;

/// The same for several such prompts, in halves: the first of them have their first token while the others wait, who would
/// have theirs no sooner.
const SEVERAL_HALVES: usize = 5;

/// Rows of a step, and how many of them are spent.
///
/// Answers come first. A prompt that can end in a step is not cut, if the next step has room for all of it: two steps keep
/// answers waiting about as long as one, and twice. One that is too long for that goes on in parts, between which answers
/// flow; at least half of the rows for parts are left for it, however many answers and short prompts there are.
#[derive(Default)]
pub(super) struct Budget {
    /// At most, with all runs.
    whole: usize,
    /// At most with a prompt behind another, parts of long ones left out.
    several: usize,
    /// At most where a part of a long one is among them.
    part: usize,
    /// What the next step has, with an answer in it.
    next: usize,
    spent: usize,
    /// Of those spent, by prompts that are not long, and how many these are. Not less for what is taken back.
    spent_on_short: usize,
    n_short: usize,
    /// Of those spent, by long ones.
    spent_on_long: usize,
}

/// Whose rows are spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Answer,
    /// A prompt that may end in the step.
    Short,
    /// A prompt that goes on in parts.
    Long,
}

impl Budget {
    /// Of a step of at most `rows`, without an answer; `part` as in [`Budget::beside_answers`].
    pub(super) fn alone(rows: usize, part: usize) -> Self {
        Self { whole: rows, several: rows, part: rows, ..Self::beside_answers(rows, part) }
    }

    /// Of a step of at most `rows`, `part` of them where an answer waits for a part of a long prompt.
    pub(super) fn beside_answers(rows: usize, part: usize) -> Self {
        let (whole, several) = (rows.min(WHOLE * part), rows.min(SEVERAL_HALVES * part / 2));
        Self { whole, several, part, next: whole, ..Self::default() }
    }

    /// Whose rows these are: of a sequence that owes `owed` and may have gone on in parts before.
    pub(super) fn whose(&self, decoding: bool, was_long: bool, owed: usize) -> Whose {
        match decoding {
            true => Whose::Answer,
            false if was_long || owed > self.whole => Whose::Long,
            false => Whose::Short,
        }
    }

    /// Rows for a run that has so many left, of a sequence that owes `owed`.
    pub(super) fn of_run(&self, rows: usize, owed: usize, whose: Whose) -> usize {
        let left = self.whole - self.spent;
        let for_parts = self.part.saturating_sub(self.spent);
        if whose == Whose::Long {
            let least = (self.part / 2).saturating_sub(self.spent_on_long);
            return rows.min(for_parts.max(least)).min(left);
        }
        let on_others = self.spent.saturating_sub(self.spent_on_long);
        let is_behind = whose == Whose::Short && self.n_short > 0;
        let most = if is_behind { self.several.saturating_sub(on_others).min(left) } else { left };
        if rows <= most {
            return rows;
        }
        // Those before it would wait for its rows, and it ends no sooner for having begun.
        let answers_next = on_others.saturating_sub(self.spent_on_short) + self.n_short;
        if is_behind && owed + answers_next <= self.next {
            return 0;
        }
        // Beside a long one, which may go on for many steps, it is cut rather than kept waiting.
        rows.min(if self.spent_on_long > 0 { most } else { for_parts.min(left) })
    }

    /// Takes rows away.
    pub(super) fn spend(&mut self, rows: usize, whose: Whose) {
        self.spent += rows;
        match whose {
            Whose::Answer => {}
            Whose::Short => {
                self.spent_on_short += rows;
                self.n_short += 1;
            }
            Whose::Long => self.spent_on_long += rows,
        }
    }

    /// Takes back rows that a sequence had been given and no longer wants.
    pub(super) fn take_back(&mut self, rows: usize) {
        self.spent -= rows;
    }
}
