//! From a checkpoint to a running model. Tests plug in a scripted one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::checkpoint::{Source, TextFiles};
use hadal_engine::text::Text;
use hadal_engine::{
    DeviceChoice, Engine, EngineHandle, Limits, LoadOptions, ModelInfo, Progress, Result, Stats,
};

/// The last counters a model's thread reported.
#[derive(Debug, Default)]
pub struct StatsCell(Mutex<Stats>);

impl StatsCell {
    /// Takes new counters.
    pub fn set(&self, stats: &Stats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = *stats;
    }

    /// The last counters.
    pub fn get(&self) -> Stats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running model and its text side.
pub struct Loaded {
    /// The way to it.
    pub handle: EngineHandle,
    /// Tokenizer and template.
    pub text: Arc<Text>,
    /// What is known of it.
    pub info: ModelInfo,
    /// Its counters.
    pub stats: Arc<StatsCell>,
    /// Waits until its memory is given back; called after the handle here is gone.
    pub end: Box<dyn FnOnce() + Send + Sync>,
}

impl Loaded {
    /// Drops the handle and waits for the end.
    pub(super) fn end(self) {
        let Self { handle, end, .. } = self;
        drop(handle);
        end();
    }
}

/// How checkpoints become running models.
pub trait Loader: Send + Sync + 'static {
    /// Whether the model could be loaded now; reads headers alone.
    ///
    /// # Errors
    /// What loading would refuse, memory included.
    fn check(&self, source: &Source) -> Result<()>;

    /// Loads; blocks, and reports progress.
    ///
    /// # Errors
    /// What the checkpoint, its text files or the memory refuses.
    fn load(
        &self,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
        stats: Arc<StatsCell>,
    ) -> Result<Loaded>;
}

/// The engine itself.
pub struct EngineLoader {
    /// Bounds of each model.
    pub limits: Limits,
    /// Threads, instruction set, activation form.
    pub cpu: CpuOptions,
    /// Where to compute.
    pub device: DeviceChoice,
}

impl Loader for EngineLoader {
    fn check(&self, source: &Source) -> Result<()> {
        Engine::check(source, &self.limits, &self.cpu, self.device)
    }

    fn load(
        &self,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
        stats: Arc<StatsCell>,
    ) -> Result<Loaded> {
        let start = Instant::now();
        let cell = Arc::clone(&stats);
        let options = LoadOptions {
            limits: self.limits.clone(),
            cpu: self.cpu.clone(),
            device: self.device,
            now: Box::new(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            on_stats: Box::new(move |stats| cell.set(stats)),
        };
        let (mut engine, text) = Engine::load_beside(source, options, progress, Text::open)?;
        // What it was read from is not needed any more.
        engine.text = TextFiles::default();
        if let Some(warning) = &engine.info.warning {
            tracing::warn!("{warning}");
        }
        let info = &engine.info;
        tracing::info!("{} on {}: {}", info.architecture, info.device, info.device_why);
        let text = Arc::new(text?.within(engine.info.context_length));
        let (handle, info) = (engine.handle.clone(), engine.info.clone());
        Ok(Loaded { handle, text, info, stats, end: Box::new(move || engine.join()) })
    }
}
