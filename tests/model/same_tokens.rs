//! The invariant: the same request gives the same tokens, whatever else runs, however its prompt was cut, whether it
//! was preempted and replayed, on any number of threads, greedy and seeded.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::checkpoint::Source;
use hadal_engine::{Engine, Event, Limits, LoadOptions, Request, Sampling, Sink, Stats, TokenId};

/// Far beyond what a tiny model needs; a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(2);

struct ChannelSink(Sender<Event>);

impl Sink for ChannelSink {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        if self.0.send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
    fn is_closed(&self) -> bool {
        false
    }
    fn has_room(&self) -> bool {
        true
    }
}

/// How a run is set up; everything that must not change a token.
#[derive(Debug, Clone)]
struct Setting {
    step_rows: usize,
    sequences: usize,
    threads: usize,
    n_page: Option<u64>,
    activations: Activations,
}

impl Setting {
    fn plain(activations: Activations) -> Self {
        Self { step_rows: 128, sequences: 32, threads: 2, n_page: None, activations }
    }
}

struct Model {
    engine: Engine,
    stats: Receiver<Stats>,
}

fn load(case: &str, setting: &Setting) -> Model {
    let (stats_in, stats) = channel();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case);
    let source = if path.is_file() { Source::File(path) } else { Source::Directory(path) };
    let start = Instant::now();
    let page_bytes = |bytes: u64| setting.n_page.map(|n| n * bytes);
    let options = |cache_bytes| LoadOptions {
        limits: Limits {
            step_rows_max: setting.step_rows,
            sequences_max: setting.sequences,
            cache_bytes,
            ..Limits::default()
        },
        cpu: CpuOptions {
            threads: Some(setting.threads),
            // Where they run changes nothing either.
            pin: Some(setting.threads > 1),
            isa: None,
            activations: Some(setting.activations),
            ..CpuOptions::default()
        },
        device: hadal_engine::DeviceChoice::Cpu,
        now: Box::new(move || start.elapsed().as_nanos() as u64),
        on_stats: Box::new({
            let stats_in = stats_in.clone();
            move |stats: &Stats| {
                // Nobody counts any more.
                let _ = stats_in.send(*stats);
            }
        }),
    };
    let mut engine = Engine::load(&source, options(None), &mut |_| {}).unwrap();
    if let Some(bytes) = page_bytes(engine.info.cache_bytes / engine.info.n_page as u64) {
        engine.join();
        engine = Engine::load(&source, options(Some(bytes)), &mut |_| {}).unwrap();
    }
    Model { engine, stats }
}

/// A request made from a number: prompts of 1 to 150 tokens, greedy or drawn, with penalties and earlier answers.
fn request(i: u64, sink: Box<dyn Sink>) -> Request {
    let mut state = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut next = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let len = if i == 0 { 1 } else { 1 + next(150) };
    let tokens = (0..len).map(|_| TokenId(5 + next(270) as u32)).collect();
    // An earlier answer in the middle of every third prompt, computed in decode form.
    let decode_spans =
        if i.is_multiple_of(3) && len > 12 { vec![4..9, 10..11] } else { Vec::new() };
    let drawn =
        Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, seed: i, ..Sampling::greedy() };
    let sampling = match i % 4 {
        0 => Sampling::greedy(),
        1 => drawn,
        2 => Sampling { repetition: 1.2, min_p: 0.02, ..drawn },
        _ => Sampling { presence: 0.5, frequency: 0.3, temperature: 1.3, ..drawn },
    };
    Request { tokens, decode_spans, sampling, max_tokens: 40, stop_tokens: Vec::new(), sink }
}

fn collect(events: &Receiver<Event>) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Done(..) => return tokens,
            Event::Failed(why) => panic!("{why}"),
        }
    }
}

impl Model {
    fn submit(&self, i: u64) -> Receiver<Event> {
        let (sender, events) = channel();
        self.engine.handle.submit(request(i, Box::new(ChannelSink(sender)))).unwrap();
        events
    }

    /// All requests at once.
    fn together(&self, requests: std::ops::Range<u64>) -> Vec<Vec<TokenId>> {
        let running: Vec<_> = requests.map(|i| self.submit(i)).collect();
        running.iter().map(collect).collect()
    }

    /// One after the other.
    fn alone(&self, requests: std::ops::Range<u64>) -> Vec<Vec<TokenId>> {
        requests.map(|i| collect(&self.submit(i))).collect()
    }

    fn preemptions(&self) -> u64 {
        self.stats.try_iter().map(|stats| stats.preemptions_total).max().unwrap_or(0)
    }
}

const CASES: [&str; 4] =
    ["v3-moe-bf16", "v2-group-f32", "v3-noqlora-bf16", "mini-tied/state_dict_bf16.pt"];

fn for_each_case(test: impl Fn(&str, Activations, &[Vec<TokenId>])) {
    for case in CASES {
        for activations in [Activations::F32, Activations::Bf16] {
            let alone = load(case, &Setting::plain(activations)).alone(0..32);
            assert!(alone.iter().all(|tokens| tokens.len() == 40), "{case}: an answer is short");
            test(case, activations, &alone);
        }
    }
}

#[test]
fn in_a_batch_of_32() {
    for_each_case(|case, activations, alone| {
        assert_eq!(
            load(case, &Setting::plain(activations)).together(0..32),
            alone,
            "{case} {activations:?}"
        );
    });
}

#[test]
fn with_any_chunking_and_any_number_of_threads() {
    for_each_case(|case, activations, alone| {
        for (step_rows, sequences, threads) in [(1, 1, 1), (7, 5, 3), (64, 8, 1), (33, 32, 2)] {
            let setting = Setting { step_rows, sequences, threads, ..Setting::plain(activations) };
            assert_eq!(load(case, &setting).together(0..32), alone, "{case} {setting:?}");
        }
    });
}

#[test]
fn after_preemption_and_replay() {
    for_each_case(|case, activations, alone| {
        // Six pages of 64 rows hold two or three of these sequences.
        let setting = Setting { n_page: Some(6), ..Setting::plain(activations) };
        let model = load(case, &setting);
        assert_eq!(model.together(0..32), alone, "{case} {setting:?}");
        assert!(model.preemptions() > 0, "{case}: nothing was preempted, the test shows nothing");
    });
}
