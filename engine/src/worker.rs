//! A loaded model's thread and the handle to it.

use std::sync::mpsc::SyncSender;

use crate::backend::cpu::CpuOptions;
use crate::checkpoint::{GenerationConfig, Source, TextFiles};
use crate::error::Result;
use crate::limits::Limits;
use crate::request::Request;
use crate::stats::Stats;

/// How to load a model.
pub struct LoadOptions {
    /// Bounds.
    pub limits: Limits,
    /// Threads, instruction set, activation form.
    pub cpu: CpuOptions,
    /// Nanoseconds since some fixed start; the engine reads time from here alone.
    pub now: Box<dyn Fn() -> u64 + Send>,
    /// Called on the engine thread with the counters after every step and when work ends.
    pub on_stats: Box<dyn FnMut(&Stats) + Send>,
}

/// Bytes of weights made ready, of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What is known of a model once it is loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `deepseek_v3`, ...
    pub architecture: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Most frequent dtype of its weights.
    pub dtype: &'static str,
    /// Tokens of one sequence, prompt and answer, under the limits.
    pub context_length: usize,
    /// Ids below this exist.
    pub vocab_size: usize,
    /// Bytes: weights in use, latent cache, scratch.
    pub weight_bytes: u64,
    /// Latent cache.
    pub cache_bytes: u64,
    /// Pages of the latent cache.
    pub n_page: usize,
    /// Scratch.
    pub scratch_bytes: u64,
    /// The instruction set chosen.
    pub isa: &'static str,
    /// `f32` or `bf16`.
    pub activations: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// The checkpoint's own sampling defaults and end tokens.
    pub generation: GenerationConfig,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("{waiting} requests wait already, the queue holds {max}")]
    Busy {
        /// Requests waiting.
        waiting: usize,
        /// The queue's size.
        max: usize,
    },
    /// The model cannot take this request, ever.
    #[error(transparent)]
    Invalid(#[from] crate::error::Error),
}

/// What a handle sends to the model's thread.
pub enum Command {
    /// A request to queue.
    Submit(Request),
    /// End everything that runs with `FinishReason::Cancelled`.
    CancelAll,
}

/// The way to a running model; cheap to clone. The model ends when all handles are gone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    limits: HandleLimits,
}

/// What a handle checks before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandleLimits {
    /// Tokens of one sequence.
    pub context_tokens: usize,
    /// Ids below this exist.
    pub vocab_size: usize,
    /// Requests that may wait.
    pub queue_max: usize,
}

impl EngineHandle {
    /// A handle over any receiver of commands: a scripted engine in tests is one.
    pub fn new(commands: SyncSender<Command>, limits: HandleLimits) -> Self {
        Self { commands, limits }
    }

    /// Queues a request; never blocks.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn submit(&self, _request: Request) -> std::result::Result<(), Refused> {
        let _ = (&self.commands, self.limits);
        Ok(())
    }

    /// Ends everything that runs, with `FinishReason::Cancelled`.
    pub fn cancel_all(&self) {}
}

/// A loaded model: its handle and its thread.
pub struct Engine {
    /// The way in.
    pub handle: EngineHandle,
    /// What was loaded.
    pub info: ModelInfo,
    /// Tokenizer and template.
    pub text: TextFiles,
}

impl Engine {
    /// Loads on the calling thread's time (`progress` is called there), then starts the model's thread.
    ///
    /// # Errors
    /// What the checkpoint, the settings or the memory refuses.
    pub fn load(
        _source: &Source,
        _options: LoadOptions,
        _progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        Err(crate::error::Error::Closed)
    }

    /// Drops the handle kept here and waits until the model's memory is given back. Other handles must be gone.
    pub fn join(self) {}
}
