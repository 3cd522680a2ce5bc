//! A scripted engine behind the real `EngineHandle`: chosen tokens, waits and faults, so that HTTP is tested without
//! weights.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::text::Text;
use hadal_engine::worker::{Command, HandleLimits};
use hadal_engine::{
    EngineHandle, Error, Event, FinishReason, ModelInfo, Progress, Request, Result, TokenId, Usage,
};
use hadal_server::models::{Loaded, Loader, StatsCell};

/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A door that tests open.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through, from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, or `give_up` holds; `false` when given up.
    fn pass(&self, give_up: impl Fn() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut is_open = self.0.0.lock().unwrap();
        while !*is_open {
            if give_up() || Instant::now() > end {
                return false;
            }
            is_open = self.0.1.wait_timeout(is_open, Duration::from_millis(2)).unwrap().0;
        }
        true
    }
}

/// What the engine does for a request, one after the other.
#[derive(Clone)]
pub enum Act {
    /// Emits the tokens of a text.
    Say(&'static str),
    /// Emits one token.
    Token(u32),
    /// Waits for a test.
    Wait(Gate),
    /// Computes for so long.
    Rest(Duration),
    /// Ends.
    Done(FinishReason),
    /// Fails.
    Fail(&'static str),
    /// Drops the sink without a word, as a lost thread would.
    Vanish,
}

/// The scripted engine's settings, and what it saw.
#[derive(Default)]
pub struct Script {
    /// What every request gets.
    pub acts: Vec<Act>,
    /// Loading waits for this.
    pub loading: Option<Gate>,
    /// Loading fails with this much memory missing.
    pub missing_bytes: Option<u64>,
    /// Loading fails after the check.
    pub fails_to_load: bool,
    /// Loading panics: a bug in the engine.
    pub panics_in_load: bool,
    /// Requests are taken from the queue only after this.
    pub queue: Option<Gate>,
    /// Requests that fit into the queue.
    pub queue_max: Option<usize>,
    /// Loads that were made.
    pub loads: AtomicUsize,
    /// Models that have ended.
    pub ends: AtomicUsize,
    /// Requests whose reader went away.
    pub abandoned: AtomicUsize,
    /// The last request's sampling seed and settings, as text.
    pub seen: Mutex<Vec<String>>,
}

/// The folder whose tokenizer and template the scripted engine has.
pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

/// A loader that starts scripted engines.
pub struct ScriptedLoader(pub Arc<Script>);

impl Loader for ScriptedLoader {
    fn check(&self, _source: &Source) -> Result<()> {
        match self.0.missing_bytes {
            Some(needed_bytes) => {
                Err(Error::Memory { what: "the model", needed_bytes, free_bytes: 1000 })
            }
            None => Ok(()),
        }
    }

    fn load(
        &self,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
        stats: Arc<StatsCell>,
    ) -> Result<Loaded> {
        let script = Arc::clone(&self.0);
        script.loads.fetch_add(1, Ordering::SeqCst);
        progress(Progress { done_bytes: 25, total_bytes: 100 });
        if let Some(gate) = &script.loading {
            gate.pass(|| false);
        }
        assert!(!script.panics_in_load, "scripted to panic");
        if script.fails_to_load {
            let Source::Directory(path) = source else { panic!("no folder") };
            let message = format!("{}/model.safetensors: the script says so", path.display());
            return Err(Error::Internal { message });
        }
        let checkpoint = Checkpoint::open(source)?;
        let text = Arc::new(Text::open(&checkpoint.text)?.within(256));
        let queue_max = script.queue_max.unwrap_or(64);
        let (sender, commands) = sync_channel(queue_max);
        let vocab_size = checkpoint.config.vocab_size;
        let handle =
            EngineHandle::new(sender, HandleLimits { context_tokens: 256, vocab_size, queue_max });
        let (words, of) = (Arc::clone(&text), Arc::clone(&script));
        let thread = std::thread::spawn(move || serve(&of, &words, &commands));
        let end = Box::new(move || {
            thread.join().unwrap();
            script.ends.fetch_add(1, Ordering::SeqCst);
        });
        Ok(Loaded { handle, text, info: info(&checkpoint), stats, end })
    }
}

fn info(checkpoint: &Checkpoint) -> ModelInfo {
    ModelInfo {
        architecture: checkpoint.config.model_type.clone(),
        parameters: checkpoint.parameters(),
        dtype: checkpoint.dtype().name(),
        context_length: 256,
        vocab_size: checkpoint.config.vocab_size,
        weight_bytes: checkpoint.weight_bytes(),
        cache_bytes: 0,
        n_page: 0,
        scratch_bytes: 0,
        device: "cpu".into(),
        device_why: "asked for".into(),
        isa: "portable",
        activations: "f32",
        threads: 1,
        generation: checkpoint.generation.clone(),
        warning: None,
    }
}

/// Takes commands until all handles are gone; every request runs on a thread of its own.
fn serve(script: &Arc<Script>, text: &Arc<Text>, commands: &Receiver<Command>) {
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    if let Some(queue) = &script.queue {
        queue.pass(|| false);
    }
    while let Ok(command) = commands.recv() {
        match command {
            Command::Submit(request) => {
                script
                    .seen
                    .lock()
                    .unwrap()
                    .push(format!("{:?} max_tokens: {}", request.sampling, request.max_tokens));
                let (script, text, cancelled) =
                    (Arc::clone(script), Arc::clone(text), Arc::clone(&cancelled));
                running.push(std::thread::spawn(move || play(&script, &text, request, &cancelled)));
            }
            Command::CancelAll => cancelled.store(true, Ordering::SeqCst),
        }
    }
    for thread in running {
        thread.join().unwrap();
    }
}

fn play(script: &Script, text: &Text, mut request: Request, cancelled: &AtomicBool) {
    let mut left = request.max_tokens;
    let usage = Usage::default();
    for act in script.acts.clone() {
        let mut tokens = Vec::new();
        match act {
            Act::Say(words) => {
                let start = text.encode_raw("").unwrap().tokens.len();
                tokens = text.encode_raw(words).unwrap().tokens.split_off(start);
            }
            Act::Token(id) => tokens.push(TokenId(id)),
            Act::Wait(gate) => {
                gate.pass(|| request.sink.is_closed() || cancelled.load(Ordering::SeqCst));
            }
            Act::Rest(time) => std::thread::sleep(time),
            Act::Done(reason) => {
                let _ = request.sink.emit(Event::Done(reason, usage));
                return;
            }
            Act::Fail(why) => {
                let _ = request.sink.emit(Event::Failed(why.into()));
                return;
            }
            Act::Vanish => return,
        }
        for token in tokens {
            while !request.sink.has_room() && !request.sink.is_closed() {
                std::thread::yield_now();
            }
            if request.sink.is_closed() || request.sink.emit(Event::Token(token)).is_break() {
                script.abandoned.fetch_add(1, Ordering::SeqCst);
                return;
            }
            left -= 1;
            if left == 0 {
                let _ = request.sink.emit(Event::Done(FinishReason::Length, usage));
                return;
            }
        }
        if request.sink.is_closed() {
            script.abandoned.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if cancelled.load(Ordering::SeqCst) {
            let _ = request.sink.emit(Event::Done(FinishReason::Cancelled, usage));
            return;
        }
    }
    let _ = request.sink.emit(Event::Done(FinishReason::Stop, usage));
}
