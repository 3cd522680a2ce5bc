//! A model's thread over a model without weights.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::request::{Event, FinishReason};
use crate::sched::fake::{FakeModel, Order, Reader, VOCAB_SIZE};

/// Far beyond what any of these tests needs; a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running thread whose forward passes wait for leave, one `Ok` each, and fail or panic on demand.
struct Running {
    handle: EngineHandle,
    thread: JoinHandle<()>,
    leave: Sender<Leave>,
    stats: Receiver<Stats>,
    /// Dropped with the forward pass, as a model's memory would be.
    memory: Receiver<()>,
}

#[derive(Clone, Copy)]
enum Leave {
    Compute,
    Fail,
    Panic,
}

fn run(limits: &Limits, n_page: usize) -> Running {
    let (leave, leaves) = channel();
    let (stats_in, stats) = channel();
    let (memory_held, memory) = channel::<()>();
    let mut model = FakeModel::new(n_page);
    let forward = move |step: &Step, sampled: &mut Vec<Sampled>| {
        let _held = &memory_held;
        // A test that has dropped its end lets everything run.
        match leaves.recv().unwrap_or(Leave::Compute) {
            Leave::Compute => model.forward(step, sampled),
            Leave::Fail => return Err(Error::Damaged { path: "model.safetensors".into() }),
            Leave::Panic => panic!("a bug"),
        }
        Ok(())
    };
    let clock = std::sync::atomic::AtomicU64::new(0);
    let now = move || clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let on_stats = move |stats: &Stats| {
        let _ = stats_in.send(*stats);
    };
    let (handle, thread) =
        start(limits, n_page, VOCAB_SIZE as usize, forward, Box::new(now), Box::new(on_stats))
            .unwrap();
    Running { handle, thread, leave, stats, memory }
}

impl Running {
    fn submit(&self, order: &Order) -> Reader {
        let reader = Reader::new(1000);
        self.handle.submit(order.request(reader.sink())).unwrap();
        reader
    }

    /// Waits for counters that satisfy `is_it`.
    #[track_caller]
    fn wait_for(&self, is_it: impl Fn(&Stats) -> bool) -> Stats {
        loop {
            let stats = self.stats.recv_timeout(PATIENCE).unwrap();
            if is_it(&stats) {
                return stats;
            }
        }
    }

    /// Lets everything run, drops the handle and waits for the end.
    fn join(self) {
        drop((self.handle, self.leave));
        self.thread.join().unwrap();
        let gone = self.memory.recv_timeout(PATIENCE);
        assert_eq!(gone, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}

fn limits(sequences_max: usize, queue_max: usize) -> Limits {
    let (step_rows_max, context_tokens_max) = (16, 100);
    Limits { step_rows_max, sequences_max, queue_max, context_tokens_max, ..Limits::default() }
}

#[test]
fn requests_are_answered_and_the_thread_ends_with_its_last_handle() {
    let running = run(&limits(2, 8), 4);
    let orders: Vec<_> = (1..9).map(|n| Order::plain(n * 8, n as u32)).collect();
    let readers: Vec<_> = orders.iter().map(|order| running.submit(order)).collect();
    running.join();
    for (order, reader) in orders.iter().zip(readers) {
        assert_eq!(reader.heard().tokens, order.alone(100));
        assert!(matches!(reader.heard().end, Some(Event::Done(FinishReason::Length, _))));
    }
}

#[test]
fn one_more_than_the_queue_holds_is_refused_until_one_ends() {
    let running = run(&limits(1, 2), 4);
    let order = Order::plain(3, 1);
    let first: Vec<_> = (0..3).map(|_| running.submit(&order)).collect();
    let refused = running.handle.submit(order.request(Reader::new(1).sink()));
    let sentence = "2 requests wait already, the queue holds 2";
    assert_eq!(refused.unwrap_err().to_string(), sentence);
    running.leave.send(Leave::Compute).unwrap();
    running.wait_for(|stats| stats.finished_total == 1);
    assert!(first[0].heard().end.is_some());
    running.submit(&order);
    running.join();
}

#[test]
fn cancelling_ends_what_runs_and_what_waits_and_the_model_goes_on() {
    let running = run(&limits(1, 8), 4);
    let readers = [(); 3].map(|()| running.submit(&Order::plain(40, 50)));
    running.leave.send(Leave::Compute).unwrap();
    running.wait_for(|stats| stats.steps_total == 1);
    running.handle.cancel_all();
    running.leave.send(Leave::Compute).unwrap();
    let stats = running.wait_for(|stats| stats.finished_total == 3);
    assert_eq!((stats.pages_used, stats.running, stats.waiting), (0, 0, 0));
    for reader in readers {
        assert!(matches!(reader.heard().end, Some(Event::Done(FinishReason::Cancelled, _))));
    }
    let order = Order::plain(3, 2);
    let next = running.submit(&order);
    running.join();
    assert_eq!(next.heard().tokens, order.alone(100));
}

/// Whatever takes the model away, each sink hears why, and later requests are refused.
#[track_caller]
fn check_lost(leave: Leave, sentence: &str) {
    let running = run(&limits(1, 8), 4);
    let readers = [(); 3].map(|()| running.submit(&Order::plain(5, 5)));
    assert!(running.handle.is_alive());
    // The first pass may begin before all are there; the second knows all three.
    running.leave.send(Leave::Compute).unwrap();
    running.wait_for(|stats| stats.steps_total == 1);
    running.leave.send(leave).unwrap();
    running.wait_for(|stats| stats.finished_total == 3);
    for reader in readers {
        assert_eq!(reader.heard().end, Some(Event::Failed(sentence.into())));
    }
    assert!(!running.handle.is_alive());
    let reader = Reader::new(1);
    let refused = running.handle.submit(Order::plain(5, 5).request(reader.sink()));
    assert!(matches!(refused, Err(Refused::Invalid(Error::Closed))));
    assert_eq!(reader.heard().end, None);
    running.handle.cancel_all();
    running.join();
}

#[test]
fn a_forward_pass_that_fails_ends_every_request_with_its_reason() {
    let sentence =
        "model.safetensors: the file was truncated or became unreadable while the model was loaded";
    check_lost(Leave::Fail, sentence);
}

#[test]
fn a_panic_ends_every_request_and_not_the_process() {
    check_lost(Leave::Panic, "engine failure: a bug");
}

#[test]
fn readers_that_are_all_behind_are_waited_for_without_spinning() {
    let running = run(&limits(2, 8), 4);
    let order = Order::plain(5, 5);
    let reader = Reader::new(2);
    running.handle.submit(order.request(reader.sink())).unwrap();
    let Running { handle, thread, leave, stats, .. } = running;
    // No handle is left: only the reader keeps the thread alive.
    drop((handle, leave));
    while stats.recv_timeout(PATIENCE).unwrap().generated_tokens_total < 2 {}
    let idle = stats.recv_timeout(PATIENCE).unwrap();
    assert_eq!((idle.steps_total, idle.running), (2, 1));
    reader.heard().room = 5;
    thread.join().unwrap();
    assert_eq!(reader.heard().tokens, order.alone(100));
}
