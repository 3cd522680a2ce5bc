//! A loaded model's thread and the handle to it.
//!
//! The thread owns weights, backend, latent cache and scheduler, on its own stack; nobody else ever sees them. Requests
//! come in by a bounded channel, events go out through each request's sink, and counters through a callback. When a
//! forward pass fails, a mapped file loses its bytes or our own code panics, every live request is failed with the
//! reason, the thread ends, and later submits are refused: one lost model is no reason to lose the process.

mod device;
mod handle;
mod memory;
mod plan;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use crate::backend::Backend;
use crate::backend::cpu::CpuOptions;
use crate::cache::pages::PagePool;
use crate::checkpoint::{Checkpoint, GenerationConfig, Opened, Source, TextFiles, open_with_cache};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::Model;
use crate::request::Request;
use crate::sched::Scheduler;
use crate::stats::Stats;
use crate::step::{Sampled, Step};
use device::{On, Placed, place};
use handle::Door;
use run::Worker;

pub use device::DeviceChoice;
pub use handle::{EngineHandle, HandleLimits, Place, Refused};
pub use plan::MemoryPlan;

/// Places of a model's channel for commands that are no requests.
const CHANNEL_SPARE: usize = 16;

/// How to load a model.
pub struct LoadOptions {
    /// Bounds.
    pub limits: Limits,
    /// Threads, instruction set, activation form.
    pub cpu: CpuOptions,
    /// Where to compute.
    pub device: DeviceChoice,
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
    /// Where it is computed: `cpu`, or `cuda:0` and the card's name.
    pub device: String,
    /// Why there.
    pub device_why: String,
    /// The instruction set chosen; `cuda` on a card.
    pub isa: &'static str,
    /// `f32`, `bf16` or `int8`.
    pub activations: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// The checkpoint's own sampling defaults and end tokens.
    pub generation: GenerationConfig,
    /// What was asked for and could not be had, and does no harm.
    pub warning: Option<String>,
}

/// What a handle sends to the model's thread.
pub enum Command {
    /// A request to queue.
    Submit(Request),
    /// End everything that runs or waits with `FinishReason::Cancelled`.
    CancelAll,
}

/// A loaded model: its handle and its thread.
pub struct Engine {
    /// The way in.
    pub handle: EngineHandle,
    /// What was loaded.
    pub info: ModelInfo,
    /// Tokenizer and template.
    pub text: TextFiles,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Loads on the calling thread's time (`progress` is called there), then starts the model's thread.
    ///
    /// # Errors
    /// What the checkpoint, the settings or the memory refuses.
    pub fn load(
        source: &Source,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let mut report = |done_bytes, total_bytes| progress(Progress { done_bytes, total_bytes });
        open(source, options, &mut report)?.load(&mut report)
    }

    /// [`Engine::load`] while `read` makes something of the text side, on a thread of its own: a vocabulary takes about as
    /// long to read as a gigabyte of weights.
    ///
    /// # Errors
    /// As of [`Engine::load`]; what `read` returns, an error or not, is the caller's to look at.
    pub fn load_beside<T: Send>(
        source: &Source,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
        read: impl FnOnce(&TextFiles) -> T + Send,
    ) -> Result<(Self, T)> {
        let mut report = |done_bytes, total_bytes| progress(Progress { done_bytes, total_bytes });
        let mut opened = open(source, options, &mut report)?;
        let files = std::mem::take(&mut opened.shared.checkpoint.text);
        let (engine, made) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("hadal-text".to_owned());
            let thread =
                thread.spawn_scoped(scope, || read(&files)).map_err(|error| no_thread(&error))?;
            let engine = opened.load(&mut report);
            // Waited for either way; a panic there is one here, as if it had been read here.
            let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((engine?, made))
        })?;
        Ok((Self { text: files, ..engine }, made))
    }

    /// Whether the model could be loaded now; reads headers alone.
    ///
    /// # Errors
    /// What `load` would refuse, memory included.
    pub fn check(
        source: &Source,
        limits: &Limits,
        cpu: &CpuOptions,
        device: DeviceChoice,
    ) -> Result<()> {
        MemoryPlan::on(source, limits, cpu, device)?.0.check()
    }

    /// Drops the handle kept here and waits until the model's memory is given back. Other handles must be gone.
    pub fn join(self) {
        drop(self.handle);
        // The thread catches its own panics; what it had to say, it said to each sink.
        let _ = self.thread.join();
    }
}

/// A checkpoint that is read, and where it will be computed: all but the weights.
struct Ready {
    on: On,
    shared: Shared,
}

/// Reads all but the weights.
fn open(source: &Source, options: LoadOptions, report: &mut dyn FnMut(u64, u64)) -> Result<Ready> {
    let LoadOptions { limits, cpu, device, now, on_stats } = options;
    limits.check()?;
    // Its range is held when the backend is made.
    let threads = cpu.threads_wanted().clamp(1, 1024);
    let Opened { checkpoint, warning } = open_with_cache(source, cpu.quant, threads, report)?;
    // What the checkpoint itself ends answers with, the tokenizer's end token among it, is no request's to bound.
    let own_stops = checkpoint.generation.eos_token_ids.len().saturating_add(1);
    let stop_tokens_max = limits.stop_tokens_max.saturating_add(own_stops);
    let limits = Limits { stop_tokens_max, ..limits };
    let Placed { on, plan, why } = place(device, &cpu, &checkpoint, &limits)?;
    plan.check()?;
    Ok(Ready { on, shared: Shared { checkpoint, plan, warning, why, now, on_stats } })
}

impl Ready {
    /// Loads the weights and starts the model's thread.
    fn load(self, report: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        let Self { on, shared } = self;
        match on {
            On::Cpu(cpu) => {
                let facts = Facts {
                    dtype: shared.checkpoint.dtype_as(cpu.keep()).name(),
                    isa: cpu.isa().name(),
                    activations: cpu.activations().name(),
                    threads: cpu.threads(),
                };
                load_on(*cpu, &facts, shared, report)
            }
            On::Card(cuda) => {
                let dtype = shared.checkpoint.dtype_as(cuda.keep()).name();
                let facts = Facts { dtype, isa: "cuda", activations: "bf16", threads: 1 };
                load_on(*cuda, &facts, shared, report)
            }
        }
    }
}

/// The system's refusal of a thread.
fn no_thread(error: &std::io::Error) -> Error {
    Error::Internal { message: format!("cannot start a thread of the model: {error}") }
}

/// What loading needs whatever the backend.
struct Shared {
    checkpoint: Checkpoint,
    plan: MemoryPlan,
    warning: Option<String>,
    why: String,
    now: Box<dyn Fn() -> u64 + Send>,
    on_stats: Box<dyn FnMut(&Stats) + Send>,
}

/// What a backend says of itself.
struct Facts {
    dtype: &'static str,
    isa: &'static str,
    activations: &'static str,
    threads: usize,
}

/// Makes the model and starts its thread.
fn load_on<B: Backend>(
    backend: B,
    facts: &Facts,
    shared: Shared,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Engine> {
    let Shared { checkpoint, plan, warning, why, now, on_stats } = shared;
    let (limits, n_page) = (&plan.limits, plan.n_page);
    let mut model = Model::load(backend, &checkpoint, limits, n_page, report)?;
    let watch = checkpoint.watch();
    watch.check()?;
    let info = ModelInfo {
        architecture: checkpoint.config.model_type.clone(),
        parameters: checkpoint.parameters(),
        dtype: facts.dtype,
        context_length: limits.context_tokens_max,
        vocab_size: checkpoint.config.vocab_size,
        weight_bytes: plan.weight_bytes(),
        cache_bytes: plan.cache_bytes,
        n_page,
        scratch_bytes: plan.scratch_bytes,
        device: plan.card.clone().unwrap_or_else(|| "cpu".to_owned()),
        device_why: why,
        isa: facts.isa,
        activations: facts.activations,
        threads: facts.threads,
        generation: checkpoint.generation.clone(),
        warning,
    };
    let touched = Arc::new(AtomicU64::new(0));
    let on_stats = with_touched(on_stats, Arc::clone(&touched));
    let forward = move |step: &Step, sampled: &mut Vec<Sampled>| {
        model.forward(step, sampled)?;
        touched.store(model.experts_touched(), Ordering::Relaxed);
        watch.check()
    };
    let (handle, thread) = start(limits, n_page, info.vocab_size, forward, now, on_stats)?;
    Ok(Engine { handle, info, text: checkpoint.text, thread })
}

/// Adds to the scheduler's counters what the model alone knows.
fn with_touched(
    mut on_stats: Box<dyn FnMut(&Stats) + Send>,
    touched: Arc<AtomicU64>,
) -> Box<dyn FnMut(&Stats) + Send> {
    Box::new(move |stats| {
        on_stats(&Stats { experts_touched_total: touched.load(Ordering::Relaxed), ..*stats });
    })
}

/// Starts a model's thread over its forward pass.
fn start(
    limits: &Limits,
    n_page: usize,
    vocab_size: usize,
    forward: impl FnMut(&Step, &mut Vec<Sampled>) -> Result<()> + Send + 'static,
    now: Box<dyn Fn() -> u64 + Send>,
    on_stats: Box<dyn FnMut(&Stats) + Send>,
) -> Result<(EngineHandle, JoinHandle<()>)> {
    let live_max = limits.sequences_max + limits.queue_max;
    let (sender, commands) = sync_channel(live_max + CHANNEL_SPARE);
    let door = Door::new(live_max);
    let worker = Worker {
        commands,
        door: door.clone(),
        scheduler: Scheduler::new(limits, n_page),
        pages: PagePool::new(n_page),
        forward,
        sampled: Vec::with_capacity(limits.sequences_max),
        now,
        on_stats,
    };
    let thread = std::thread::Builder::new().name("hadal-engine".to_owned());
    let thread = thread.spawn(move || worker.run()).map_err(|error| no_thread(&error))?;
    Ok((EngineHandle::to_thread(sender, limits, vocab_size, door), thread))
}
