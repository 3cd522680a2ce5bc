//! Whole engines on the simulated card: recorded passes, faults, memory, where a model goes.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::backend::cuda::{Cuda, CudaOptions, Depth, Device, Shrink, report, time_kernels};
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::model::Model;
use hadal_engine::step::{PAGE_TOKENS, SampleRow, Sampled};
use hadal_engine::worker::DeviceChoice;
use hadal_engine::{
    Engine, ErrorKind, Event, Limits, LoadOptions, PageId, Request, Sampling, Sink, Slot, Step,
    TokenId,
};

use super::card::{Card, card};
use super::held::folder;

/// A simulated step takes a while.
const PATIENCE: Duration = Duration::from_mins(2);
const CASE: &str = "v3-tied-bf16";

struct ChannelSink(Sender<Event>);

impl Sink for ChannelSink {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        match self.0.send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        true
    }
}

fn limits() -> Limits {
    Limits { step_rows_max: 32, sequences_max: 6, queue_max: 16, ..Limits::default() }
}

fn options(device: DeviceChoice) -> LoadOptions {
    LoadOptions {
        limits: limits(),
        cpu: CpuOptions {
            threads: Some(1),
            activations: Some(Activations::F32),
            ..CpuOptions::default()
        },
        device,
        now: Box::new(|| 0),
        on_stats: Box::new(|_| {}),
    }
}

fn load(device: DeviceChoice) -> hadal_engine::Result<Engine> {
    Engine::load(&Source::Directory(folder(CASE)), options(device), &mut |_| {})
}

fn submit(engine: &Engine, i: u64) -> Receiver<Event> {
    let (sender, events) = channel();
    let drawn =
        Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, seed: i, ..Sampling::greedy() };
    let sampling = match i % 3 {
        0 => Sampling::greedy(),
        1 => Sampling { repetition: 1.3, presence: 0.5, ..drawn },
        _ => Sampling { biases: vec![(TokenId(9), 4.0)], ..drawn },
    };
    let tokens = (0..3 + 7 * i % 40).map(|n| TokenId(5 + ((n * 31 + i) % 300) as u32)).collect();
    let request = Request {
        tokens,
        decode_spans: Vec::new(),
        sampling,
        max_tokens: 6,
        stop_tokens: Vec::new(),
        sink: Box::new(ChannelSink(sender)),
    };
    engine.handle.submit(request).unwrap();
    events
}

/// The tokens of an answer, or why there is none.
fn heard(events: &Receiver<Event>) -> Result<Vec<TokenId>, String> {
    let mut tokens = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Done(..) => return Ok(tokens),
            Event::Failed(why) => return Err(why),
        }
    }
}

fn device(card: &Card) -> Device {
    Device::open(0).unwrap_or_else(|error| panic!("{error}: {}", card.message()))
}

/// Sequences of one row each at different lengths, over pages of their own that prompts have filled.
struct Rows {
    lengths: Vec<usize>,
}

impl Rows {
    fn pages(&self, sequence: usize) -> Vec<PageId> {
        let before: usize = self.lengths[..sequence].iter().map(|n| n.div_ceil(PAGE_TOKENS)).sum();
        let n = self.lengths[sequence].div_ceil(PAGE_TOKENS);
        (before..before + n).map(|page| PageId(page as u32)).collect()
    }

    fn step(&self, rows: impl Fn(usize) -> std::ops::Range<usize>, is_decode: bool) -> Step {
        let mut step = Step { row_start: vec![0], page_start: vec![0], ..Step::default() };
        for i in 0..self.lengths.len() {
            let pages = self.pages(i);
            for position in rows(i) {
                step.tokens.push(TokenId(5 + ((position * 17 + i * 29) % 300) as u32));
                step.positions.push(position as u32);
                let page = pages[position / PAGE_TOKENS];
                step.slots.push(Slot::new(page, position % PAGE_TOKENS));
            }
            let row = step.tokens.len() as u32;
            step.row_start.push(row);
            step.samples.push(SampleRow {
                temperature: if i % 2 == 0 { 0.0 } else { 0.8 },
                seed: i as u64,
                ..SampleRow::greedy(row - 1, rows(i).end as u32)
            });
            step.pages.extend(&pages);
            step.page_start.push(step.pages.len() as u32);
            step.context_len.push(rows(i).end as u32);
        }
        step.n_decode = if is_decode { self.lengths.len() } else { 0 };
        step.penalty_start = vec![0; step.samples.len() + 1];
        step.bias_start = vec![0; step.samples.len() + 1];
        step
    }
}

fn model(card: &Card, records: bool) -> Model<Cuda> {
    let checkpoint = Checkpoint::open(&Source::Directory(folder(CASE))).unwrap();
    let options = CudaOptions { records, ..CudaOptions::default() };
    let cuda = Cuda::new(device(card), options);
    Model::load(cuda, &checkpoint, &limits(), 12, &mut |_, _| {}).unwrap()
}

#[test]
fn a_recorded_pass_draws_what_the_operations_draw() {
    let Some(card) = card("devices=h100 seed=5") else { return };
    let rows = Rows { lengths: vec![9, 70, 3, 20, 1] };
    let run = |records: bool| {
        let mut model = model(&card, records);
        let mut drawn: Vec<Vec<Sampled>> = Vec::new();
        let mut sampled = Vec::new();
        for chunk in [0, 1, 2, 3, 4] {
            // Prompts of several steps, of all sequences at once.
            let part = |i: usize| {
                let n = rows.lengths[i] - 1;
                n * chunk / 5..(n * (chunk + 1) / 5).max(n * chunk / 5)
            };
            let filled = Rows { lengths: rows.lengths.clone() }.step(part, false);
            if filled.n_row() > 0 {
                let step = Step { samples: Vec::new(), ..filled };
                model.forward(&step, &mut sampled).unwrap();
            }
        }
        // Five rows run as a recording of six; then each alone.
        let decode = rows.step(|i| rows.lengths[i] - 1..rows.lengths[i], true);
        model.forward(&decode, &mut sampled).unwrap();
        drawn.push(sampled.clone());
        let touched = model.experts_touched();
        for _ in 0..2 {
            model.forward(&decode, &mut sampled).unwrap();
            drawn.push(sampled.clone());
        }
        (drawn, touched)
    };
    let recorded = run(true);
    // A pass for each of three steps, or the two ways would be one.
    assert_eq!(card.graph_launches().unwrap_or(3), 3);
    let plain = run(false);
    assert_eq!(card.graph_launches().unwrap_or(3), 3);
    assert_eq!(recorded, plain, "{}", card.message());
    assert_eq!(recorded.0[0].len(), 5);
    assert_eq!(recorded.0[0], recorded.0[1], "a step again is the same step");
    assert_eq!(card.live_bytes(), 0);
}

#[test]
fn answers_do_not_depend_on_the_company() {
    let Some(card) = card("devices=rtx4090 seed=2") else { return };
    let engine = load(DeviceChoice::Cuda(0)).unwrap();
    assert!(engine.info.device.starts_with("cuda:0 ("), "{}", engine.info.device);
    let alone: Vec<_> = (0..5).map(|i| heard(&submit(&engine, i)).unwrap()).collect();
    let together: Vec<_> = (0..5).map(|i| submit(&engine, i)).collect();
    let together: Vec<_> = together.iter().map(|events| heard(events).unwrap()).collect();
    assert_eq!(alone, together);
    engine.join();
    assert_eq!(card.live_bytes(), 0, "an unloaded model leaves memory behind");
}

#[test]
fn a_model_takes_what_its_plan_says() {
    let Some(card) = card("devices=h100") else { return };
    let source = Source::Directory(folder(CASE));
    let cuda = DeviceChoice::Cuda(0);
    let options = options(cuda);
    let (plan, why) =
        hadal_engine::MemoryPlan::on(&source, &options.limits, &options.cpu, cuda).unwrap();
    assert_eq!((why.as_str(), card.live_bytes()), ("asked for", 0));
    let engine = load(cuda).unwrap();
    let (taken, planned) = (card.live_bytes() as f64, plan.needed_bytes() as f64);
    assert!((taken / planned - 1.0).abs() < 0.03, "took {taken}, planned {planned}");
    engine.join();
}

#[test]
fn every_allocation_may_fail_and_nothing_stays_behind() {
    let Some(card) = card("devices=h100") else { return };
    let mut failed = 0;
    for n in (1..).step_by(9) {
        card.configure(&format!("devices=h100 fail_alloc={n}"));
        match load(DeviceChoice::Cuda(0)) {
            Ok(engine) => {
                engine.join();
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Memory, "allocation {n}: {error}");
                failed += 1;
            }
        }
        assert_eq!(card.live_bytes(), 0, "after allocation {n} failed");
    }
    assert!(failed > 5, "{failed} allocations were made to fail");
}

#[test]
fn where_there_is_no_card_auto_says_so_and_a_card_that_was_asked_for_is_an_error() {
    let Some(_card) = card("devices=") else { return };
    let engine = load(DeviceChoice::Auto).unwrap();
    assert_eq!(engine.info.device, "cpu");
    assert!(engine.info.device_why.contains("no CUDA"), "{}", engine.info.device_why);
    engine.join();
    let error = load(DeviceChoice::Cuda(0)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
}

#[test]
fn auto_takes_a_card_that_fits_and_else_tells_what_was_lacking() {
    let Some(card) = card("devices=a100") else { return };
    let error = load(DeviceChoice::Cuda(1)).err().unwrap().to_string();
    assert!(error.contains("there is no such device, the driver has 1"), "{error}");
    let engine = load(DeviceChoice::Auto).unwrap();
    assert!(engine.info.device.contains("A100"), "{}", engine.info.device);
    assert!(heard(&submit(&engine, 0)).is_ok());
    engine.join();
    card.configure("devices=a100 memory=300000");
    let engine = load(DeviceChoice::Auto).unwrap();
    assert_eq!(engine.info.device, "cpu");
    let why = &engine.info.device_why;
    assert!(why.starts_with("cuda:0") && why.contains("are free"), "{why}");
    engine.join();
}

#[test]
fn a_lost_card_fails_its_model_alone_and_says_why() {
    let Some(card) = card("devices=h100") else { return };
    let beside = load(DeviceChoice::Cpu).unwrap();
    for fault in ["fail_launch=400", "lose_after=900"] {
        card.configure(&format!("devices=h100 {fault}"));
        let engine = load(DeviceChoice::Cuda(0)).unwrap();
        // Answers until the fault is reached, then a failure with the card's name.
        let why = (0..200).find_map(|i| heard(&submit(&engine, i % 3)).err()).unwrap();
        assert!(why.contains("cuda:0 ("), "{fault}: {why}");
        // The thread says its last word before it closes the door.
        assert!(heard(&submit(&beside, 1)).is_ok(), "a model on the processor goes on");
        engine.join();
    }
    beside.join();
    card.configure("devices=h100");
    let engine = load(DeviceChoice::Cuda(0)).unwrap();
    assert!(heard(&submit(&engine, 0)).is_ok(), "the next load has the card again");
    engine.join();
    assert_eq!(card.live_bytes(), 0);
}

#[test]
fn a_self_test_passes_on_the_simulated_card_and_says_what_it_ran() {
    // Little memory, so that little is written over before each launch that is timed.
    let Some(card) = card("devices=rtx4090 memory=50000000") else { return };
    let report = report(0, Depth::OneIn(100), Shrink(64), &mut |_, _| {}).unwrap();
    assert_eq!(report.failures, Vec::<String>::new());
    assert!(report.n_check >= 10, "{}", report.n_check);
    for words in ["compute capability 8.9", "rms_norm", "passed", "mla_decode_16", "1.01 TB/s"] {
        assert!(report.text.contains(words), "{words} in\n{}", report.text);
    }
    assert_eq!(card.live_bytes(), 0);
}

#[test]
fn every_kernel_is_timed_by_the_cards_own_clock() {
    let Some(card) = card("devices=a100 memory=50000000") else { return };
    let mut lines = Vec::new();
    let failures = time_kernels(0, Shrink(64), &mut |line| lines.push(line.to_owned())).unwrap();
    assert_eq!(failures, Vec::<String>::new(), "{}", card.message());
    // A simulated card's clock counts what it was asked to do: between the events there is one launch.
    let timed: Vec<&String> = lines.iter().filter(|line| line.ends_with(" us")).collect();
    assert!(timed.len() > 100, "{lines:#?}");
    for line in timed {
        assert!(line.ends_with(" 1000.0 us") || line.ends_with(" 2000.0 us"), "{line}");
    }
    for kernel in ["experts_down_int4_g128_mid ", "linear_fp8_few ", "sample ", "page_copy "] {
        assert!(lines.iter().any(|line| line.starts_with(kernel)), "{kernel}\n{lines:#?}");
    }
    assert_eq!(card.live_bytes(), 0);
}
