//! All that crosses the channel between a caller and a model's thread.

use std::ops::{ControlFlow, Range};

use crate::step::TokenId;

/// One generation: a prompt as tokens, how to draw from it, and where the results go.
pub struct Request {
    /// The prompt. Not empty, every id inside the vocabulary, shorter than the context.
    pub tokens: Vec<TokenId>,
    /// Parts of `tokens` that an assistant wrote (earlier answers), ascending and disjoint. Their rows are computed
    /// in the decode form of attention, as they were when they were generated; all other prompt rows in prompt form.
    pub decode_spans: Vec<Range<u32>>,
    /// How to draw.
    pub sampling: Sampling,
    /// The most tokens to generate; cut to what the context leaves.
    pub max_tokens: u32,
    /// Tokens that end the answer (and are still emitted as the last `Event::Token`).
    pub stop_tokens: Vec<TokenId>,
    /// Where the results go.
    pub sink: Box<dyn Sink>,
}

/// How tokens are drawn: repetition penalty, temperature, top-k, top-p, min-p, draw, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 means greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repetition: f32,
    /// 0 is off.
    pub presence: f32,
    /// 0 is off.
    pub frequency: f32,
    /// Same seed, same request, same tokens, whatever else is running.
    pub seed: u64,
    /// Added to the logits of these tokens before everything else.
    pub biases: Vec<(TokenId, f32)>,
}

impl Sampling {
    /// The largest logit, ties by lowest id, no penalties.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            seed: 0,
            biases: Vec::new(),
        }
    }

    /// Whether tokens already seen change the draw.
    pub fn penalises(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }
}

/// Where a sequence's events go. Called on the engine thread; must not block.
pub trait Sink: Send {
    /// Takes an event. `Break` means that nobody listens any more: the sequence ends and its pages are free before
    /// the next plan.
    fn emit(&mut self, event: Event) -> ControlFlow<()>;
    /// Whether nobody listens any more; asked before every plan, so that a prompt is not computed for nobody.
    fn is_closed(&self) -> bool;
    /// Whether one more token would fit. A sequence whose sink is full pauses: the engine never waits for a reader.
    fn has_room(&self) -> bool;
}

/// A sequence's results, in order: tokens, then exactly one `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The next token of the answer.
    Token(TokenId),
    /// The answer is complete.
    Done(FinishReason, Usage),
    /// The answer cannot be completed; a sentence for the user.
    Failed(String),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// The model is being unloaded by force.
    Cancelled,
}

/// What a request cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Nanoseconds from submission to the first row computed.
    pub queue_ns: u64,
    /// Nanoseconds from submission to the first token.
    pub first_token_ns: u64,
    /// Nanoseconds from submission to the end.
    pub total_ns: u64,
}
