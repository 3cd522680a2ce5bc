//! Plain counters of a running model, handed out after every step.

/// A model's counters. Totals since load, gauges as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sequences running now.
    pub running: u32,
    /// Requests waiting now.
    pub waiting: u32,
    /// Pages in use now.
    pub pages_used: u32,
    /// Pages there are.
    pub pages_total: u32,
    /// Forward passes.
    pub steps_total: u64,
    /// Prompt rows computed, replays included.
    pub prompt_rows_total: u64,
    /// Prompt tokens of requests that started.
    pub prompt_tokens_total: u64,
    /// Tokens generated.
    pub generated_tokens_total: u64,
    /// Routed experts whose weights steps had to read, each counted once a step and layer.
    pub experts_touched_total: u64,
    /// Sequences preempted because pages ran out.
    pub preemptions_total: u64,
    /// Requests that ended, whatever the reason.
    pub finished_total: u64,
    /// Requests whose reader went away.
    pub abandoned_total: u64,
}
