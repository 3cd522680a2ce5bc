//! The scheduler over a model without weights: a million random steps, and the cases worth a name.

// tidy: allow-long the scheduler's properties are one reading: model, invariants, named cases

mod budget;

use super::fake::{FakeModel, Order, Reader, VOCAB_SIZE};
use super::sequence::Lane;
use super::*;
use crate::request::{Event, Sampling};
use crate::step::{PAGE_TOKENS, TokenId};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True once in `n`.
    fn once_in(&mut self, n: usize) -> bool {
        self.within(1, n) == 1
    }
}

/// A scheduler, its pages and a fake model; every step is checked.
struct World {
    scheduler: Scheduler,
    pool: PagePool,
    model: FakeModel,
    context_tokens: usize,
    sampled: Vec<Sampled>,
    orders: Vec<Order>,
    readers: Vec<Reader>,
    /// The first request that may still be live.
    oldest_live: usize,
    /// Makes the result of the next sample row a `NotFinite`.
    poison: bool,
    poisoned: Vec<u64>,
    now: u64,
}

impl World {
    fn new(limits: &Limits, n_page: usize) -> Self {
        Self {
            scheduler: Scheduler::new(limits, n_page),
            pool: PagePool::new(n_page),
            model: FakeModel::new(n_page),
            context_tokens: limits.context_tokens_max,
            sampled: Vec::new(),
            orders: Vec::new(),
            readers: Vec::new(),
            oldest_live: 0,
            poison: false,
            poisoned: Vec::new(),
            now: 0,
        }
    }

    fn enqueue(&mut self, order: Order, room: usize) -> Reader {
        let reader = Reader::new(room);
        self.scheduler.enqueue(order.request(reader.sink()), self.now);
        self.orders.push(order);
        self.readers.push(reader.clone());
        reader
    }

    /// One turn of the engine's loop. The rows of the step, if there was one.
    fn turn(&mut self) -> Option<usize> {
        self.now += 1;
        let holds = |sequence: &&Sequence| !sequence.table.pages().is_empty();
        let held: Vec<_> =
            self.scheduler.running.iter().filter(holds).map(|it| it.arrival).collect();
        let step = self.scheduler.plan(&mut self.pool, self.now);
        self.check_preempted(&held);
        self.check_pages();
        self.check_decoders();
        let step = step?;
        self.check_step(&step);
        self.model.forward(&step, &mut self.sampled);
        if self.poison && !self.sampled.is_empty() {
            self.poison = false;
            self.sampled[0] = Sampled::NotFinite;
            let last_rows = step.row_start[1..].iter().map(|end| end - 1);
            let of_sample = |row| row == step.samples[0].row;
            let at = last_rows.into_iter().position(of_sample).unwrap();
            self.poisoned.push(self.scheduler.in_step[at]);
        }
        let n_row = step.n_row();
        self.scheduler.commit(step, &self.sampled, &mut self.pool, self.now);
        self.check_pages();
        Some(n_row)
    }

    /// No page is lost and none has two holders.
    fn check_pages(&self) {
        let mut held = 0;
        for sequence in &self.scheduler.running {
            for &page in sequence.table.pages() {
                assert_eq!(self.pool.n_holder(page), 1, "a page has one holder");
                held += 1;
            }
            assert!(sequence.computed <= sequence.table.pages().len() * PAGE_TOKENS);
        }
        let waiting = self.scheduler.waiting.iter();
        assert!(waiting.clone().all(|it| it.table.pages().is_empty() && it.computed == 0));
        assert_eq!(held + self.pool.n_free(), self.pool.n_page(), "free and held pages are all");
        let running = self.scheduler.running.iter();
        assert!(running.map(|it| it.arrival).is_sorted());
        assert!(waiting.map(|it| it.arrival).is_sorted());
    }

    /// Of those that `held` pages before the plan, only the youngest lost them. One whose reader is behind may.
    fn check_preempted(&self, held: &[u64]) {
        let scheduler = &self.scheduler;
        let waits = |arrival: &&u64| {
            scheduler.waiting.iter().any(|it| it.arrival == **arrival && !it.paused)
        };
        let oldest_preempted = held.iter().find(waits);
        let runs = |it: &&Sequence| !it.paused && held.contains(&it.arrival);
        let youngest_running = scheduler.running.iter().rfind(runs).map(|it| it.arrival);
        if let (Some(preempted), Some(running)) = (oldest_preempted, youngest_running) {
            assert!(running < *preempted, "{running} runs on the pages of {preempted}");
        }
    }

    /// Whoever has one row to its next token has it in every step.
    fn check_decoders(&self) {
        for sequence in &self.scheduler.running {
            if !sequence.paused && sequence.lane() == Lane::Decoding {
                assert_eq!(sequence.planned, 1, "an answer has its row in every step");
            }
        }
    }

    fn check_step(&self, step: &Step) {
        let scheduler = &self.scheduler;
        assert!(step.n_row() <= scheduler.step_rows_max);
        let has_answer = scheduler.running.iter().any(Sequence::is_answering);
        assert!(!has_answer || step.n_row() <= 4 * scheduler.answer_step_rows_max);
        assert!(scheduler.running.len() <= scheduler.sequences_max);
        assert_eq!(step.n_seq(), scheduler.in_step.len());
        assert_eq!([step.positions.len(), step.slots.len()], [step.n_row(); 2]);
        for (i, arrival) in scheduler.in_step.iter().enumerate() {
            assert!(!scheduler.in_step[..i].contains(arrival), "a sequence is in a step once");
            let order = &self.orders[*arrival as usize];
            let rows = step.row_start[i] as usize..step.row_start[i + 1] as usize;
            assert!(!rows.is_empty());
            let positions = &step.positions[rows];
            for &position in positions {
                assert_eq!(order.is_decode(position as usize), i < step.n_decode, "form of a row");
            }
            assert!(positions.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            assert_eq!(positions.last().map(|it| it + 1), Some(step.context_len[i]));
            let n_page = (step.page_start[i + 1] - step.page_start[i]) as usize;
            assert!(n_page >= pages_for(step.context_len[i] as usize));
        }
    }

    /// Once a request's sink is gone: what was heard is the answer alone, or the part of it before it was ended.
    fn check_ended(&mut self, cancelled_below: usize) {
        while let Some(reader) = self.readers.get(self.oldest_live) {
            if !reader.heard().dropped {
                break;
            }
            self.check_answer(self.oldest_live, self.oldest_live < cancelled_below);
            // Its place is kept: arrivals index these lists.
            self.readers[self.oldest_live] = Reader::new(0);
            self.oldest_live += 1;
        }
    }

    fn check_answer(&self, at: usize, cancelled: bool) {
        let (order, heard) = (&self.orders[at], self.readers[at].heard());
        let want = order.alone(self.context_tokens);
        assert_eq!(want.get(..heard.tokens.len()), Some(heard.tokens.as_slice()), "{order:?}");
        match &heard.end {
            None => assert!(heard.closed, "every request ends"),
            Some(Event::Done(FinishReason::Cancelled, _)) => assert!(cancelled),
            Some(Event::Done(reason, usage)) => {
                assert_eq!(heard.tokens, want);
                let stopped = want.last().is_some_and(|last| order.stop_tokens.contains(last));
                let wanted = if stopped { FinishReason::Stop } else { FinishReason::Length };
                assert_eq!(*reason, wanted);
                let counts = (usage.prompt_tokens as usize, usage.completion_tokens as usize);
                assert_eq!(counts, (order.tokens.len(), want.len()));
                assert!(usage.queue_ns <= usage.first_token_ns);
                assert!(usage.first_token_ns <= usage.total_ns);
            }
            Some(Event::Failed(_)) => {
                let rows_max = self.pool.n_page() * PAGE_TOKENS;
                let outgrown = order.tokens.len() + heard.tokens.len() > rows_max;
                assert!(outgrown || self.poisoned.contains(&(at as u64)));
            }
            Some(Event::Token(_)) => unreachable!(),
        }
    }
}

fn limits(step_rows_max: usize, sequences_max: usize, context_tokens_max: usize) -> Limits {
    Limits { step_rows_max, sequences_max, context_tokens_max, ..Limits::default() }
}

/// A random request: mostly short, sometimes as long as the context, with answers of earlier turns in it.
fn random_order(random: &mut Random, context_tokens: usize) -> Order {
    let longest = context_tokens - 1;
    let prompt_len = if random.once_in(4) {
        random.within(1, longest)
    } else {
        random.within(1, longest.min(24))
    };
    let mut decode_spans = Vec::new();
    let mut from = 0;
    while random.once_in(2) && from < prompt_len {
        let start = random.within(from, prompt_len);
        from = random.within(start, prompt_len);
        decode_spans.push(start as u32..from as u32);
    }
    let mut token = || TokenId(random.next() as u32 % VOCAB_SIZE);
    let tokens = (0..prompt_len).map(|_| token()).collect();
    let (stop, bias) = (token(), token());
    let sampling = Sampling {
        seed: random.next(),
        presence: random.within(0, 1) as f32,
        biases: if random.once_in(3) { vec![(bias, 1.5)] } else { Vec::new() },
        ..Sampling::greedy()
    };
    let max_tokens = if random.once_in(4) { 1000 } else { random.within(1, 30) as u32 };
    let stop_tokens = if random.once_in(2) { vec![stop] } else { Vec::new() };
    Order { tokens, decode_spans, sampling, max_tokens, stop_tokens }
}

/// Random arrivals, readers that stall, leave and come back, cancels, and far too few pages. Returns the steps made
/// and the preemptions among them.
fn random_life(seed: u64, n_turn: usize) -> (u64, u64) {
    let random = &mut Random(seed);
    let step_rows_max = random.within(1, 48);
    let context_tokens = random.within(2, 300);
    let sequences_max = random.within(1, step_rows_max.min(6));
    let limits = Limits {
        answer_step_rows_max: random.within(1, 48),
        ..limits(step_rows_max, sequences_max, context_tokens)
    };
    let n_page = random.within(1, 8);
    let mut world = World::new(&limits, n_page);
    let arrive_in = random.within(2, 20);
    let stall_in = random.within(2, 4);
    let mut cancelled_below = 0;
    for _ in 0..n_turn {
        if random.once_in(arrive_in) && world.scheduler.n_waiting() < 8 {
            let order = random_order(random, context_tokens);
            let reader = world.enqueue(order, random.within(1, 6));
            if random.once_in(10) {
                reader.heard().breaks_at = Some(random.within(0, 5));
            }
        }
        for reader in &world.readers[world.oldest_live..] {
            let mut heard = reader.heard();
            if !random.once_in(stall_in) {
                heard.unread = 0;
            }
            heard.closed |= random.once_in(400);
        }
        world.poison = random.once_in(300);
        if random.once_in(2000) {
            world.scheduler.cancel_all(&mut world.pool, world.now);
            cancelled_below = world.readers.len();
            assert!(world.scheduler.is_idle());
        }
        world.turn();
        world.check_ended(cancelled_below);
    }
    // Readers read again: everything that is left comes to its end.
    for _ in 0..100_000 {
        if world.scheduler.is_idle() {
            break;
        }
        world.readers.iter().for_each(|reader| reader.heard().unread = 0);
        world.turn();
        world.check_ended(cancelled_below);
    }
    assert!(world.scheduler.is_idle(), "everything ends");
    assert_eq!(world.oldest_live, world.readers.len());
    assert_eq!(world.pool.n_free(), n_page);
    let stats = world.scheduler.stats(&world.pool);
    assert_eq!(stats.finished_total, world.readers.len() as u64);
    assert_eq!((stats.running, stats.waiting, stats.pages_used), (0, 0, 0));
    (stats.steps_total, stats.preemptions_total)
}

#[test]
fn a_million_random_steps_lose_no_page_and_give_every_request_its_own_answer() {
    let (mut steps, mut preemptions, mut seed) = (0, 0, 0);
    while steps < 1_000_000 {
        let life = random_life(seed, 2000);
        steps += life.0;
        preemptions += life.1;
        seed += 1;
    }
    // Otherwise this test would say nothing of replays.
    assert!(preemptions > 10_000, "{preemptions} preemptions in {steps} steps");
}

/// Rows of each sequence in the next step, and how many sequences are in decode form; the step is carried out.
fn shape_of_turn(world: &mut World) -> (Vec<u32>, usize) {
    let step = world.scheduler.plan(&mut world.pool, world.now).unwrap();
    let rows = step.row_start.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let n_decode = step.n_decode;
    world.check_step(&step);
    world.model.forward(&step, &mut world.sampled);
    world.scheduler.commit(step, &world.sampled, &mut world.pool, world.now);
    (rows, n_decode)
}

#[test]
fn answers_come_first_and_the_oldest_prompt_takes_what_is_left() {
    let mut world = World::new(&limits(8, 4, 100), 8);
    world.enqueue(Order::plain(3, 10), 100);
    assert_eq!(shape_of_turn(&mut world), (vec![3], 0));
    world.enqueue(Order::plain(9, 10), 100);
    world.enqueue(Order::plain(4, 10), 100);
    assert_eq!(shape_of_turn(&mut world), (vec![1, 7], 1));
    assert_eq!(shape_of_turn(&mut world), (vec![1, 2, 4], 1));
    assert_eq!(shape_of_turn(&mut world), (vec![1, 1, 1], 3));
}

#[test]
fn an_earlier_answer_is_computed_in_decode_form_and_apart() {
    let mut world = World::new(&limits(16, 4, 100), 8);
    let mut order = Order::plain(10, 2);
    order.decode_spans.push(3..7);
    world.enqueue(order, 100);
    let turns = [0; 4].map(|_| shape_of_turn(&mut world));
    assert_eq!(turns, [(vec![3], 0), (vec![4], 1), (vec![3], 0), (vec![1], 1)]);
}

#[test]
fn the_youngest_gives_its_pages_and_its_answer_goes_on_as_if_nothing_had_been() {
    let mut world = World::new(&limits(64, 2, 128), 2);
    let old = world.enqueue(Order::plain(60, 20), 100);
    let young = world.enqueue(Order::plain(2, 20), 100);
    let mut steps = Vec::new();
    while !world.scheduler.is_idle() {
        steps.push(shape_of_turn(&mut world));
        world.check_pages();
    }
    assert_eq!(world.scheduler.stats(&world.pool).preemptions_total, 1);
    // Its prompt and then the tokens it had said, in one chunk of decode form.
    let replay = steps.iter().position(|(rows, n_decode)| *n_decode == 1 && rows[0] > 1).unwrap();
    assert_eq!(steps[replay - 1], (vec![2], 0));
    for (at, reader) in [old, young].iter().enumerate() {
        assert_eq!(reader.heard().tokens, world.orders[at].alone(128));
    }
}

#[test]
fn one_that_has_no_page_yet_takes_none_from_an_older_one() {
    let mut world = World::new(&limits(3, 3, 128), 3);
    world.enqueue(Order::plain(60, 60), 100);
    world.enqueue(Order::plain(60, 4), 100);
    world.enqueue(Order::plain(5, 4), 100);
    // The first outgrows its page and takes the last one, while the second's prompt leaves no row to the third.
    while world.scheduler.stats(&world.pool).preemptions_total == 0 {
        world.turn().unwrap();
    }
    assert_eq!(world.scheduler.waiting.front().map(|it| it.arrival), Some(2));
}

#[test]
fn a_stalled_reader_holds_up_nobody() {
    let mut world = World::new(&limits(64, 1, 128), 2);
    let stalled = world.enqueue(Order::plain(100, 20), 3);
    for _ in 0..6 {
        world.turn();
    }
    assert_eq!(stalled.heard().tokens.len(), 3);
    assert_eq!(world.turn(), None, "nobody can go on");
    assert_eq!(world.pool.n_free(), 0, "its pages are kept while nobody wants them");
    let other = world.enqueue(Order::plain(5, 20), 100);
    for _ in 0..20 {
        world.turn();
    }
    assert!(other.heard().end.is_some());
    stalled.heard().room = 100;
    while !world.scheduler.is_idle() {
        world.turn();
    }
    assert_eq!(stalled.heard().tokens, world.orders[0].alone(128));
}

#[test]
fn a_reader_that_leaves_frees_its_pages_before_the_next_plan() {
    let mut world = World::new(&limits(16, 1, 128), 2);
    let first = world.enqueue(Order::plain(100, 20), 100);
    let queued = world.enqueue(Order::plain(100, 20), 100);
    world.turn();
    first.heard().closed = true;
    queued.heard().closed = true;
    assert_eq!(world.turn(), None);
    assert!(first.heard().dropped && queued.heard().dropped);
    assert_eq!((world.pool.n_free(), world.scheduler.is_idle()), (2, true));
    assert_eq!(world.scheduler.stats(&world.pool).abandoned_total, 2);
}

#[test]
fn a_sequence_that_outgrows_the_whole_cache_fails_and_says_so() {
    let mut world = World::new(&limits(64, 2, 300), 1);
    let grows = world.enqueue(Order::plain(60, 20), 100);
    let never = world.enqueue(Order::plain(65, 20), 100);
    while !world.scheduler.is_idle() {
        world.turn();
    }
    assert_eq!(grows.heard().tokens.len(), 5);
    let sentence = "65 tokens need 2 pages of the latent cache, this model has 1";
    for reader in [grows, never] {
        assert_eq!(reader.heard().end, Some(Event::Failed(sentence.into())));
    }
}

#[test]
fn values_that_are_not_finite_fail_their_own_sequence_alone() {
    let mut world = World::new(&limits(64, 2, 128), 4);
    let bad = world.enqueue(Order::plain(5, 4), 100);
    let good = world.enqueue(Order::plain(5, 4), 100);
    world.poison = true;
    while !world.scheduler.is_idle() {
        world.turn();
    }
    assert_eq!(bad.heard().end, Some(Event::Failed(Error::NotFinite { position: 4 }.to_string())));
    assert_eq!(good.heard().tokens, world.orders[1].alone(128));
}

#[test]
fn the_cost_of_a_request_is_counted_from_its_submission() {
    let mut world = World::new(&limits(4, 1, 128), 4);
    world.now = 100;
    let reader = world.enqueue(Order::plain(8, 3), 100);
    while !world.scheduler.is_idle() {
        world.turn();
    }
    let usage = crate::request::Usage {
        prompt_tokens: 8,
        completion_tokens: 3,
        queue_ns: 1,
        first_token_ns: 2,
        total_ns: 4,
    };
    assert_eq!(reader.heard().end, Some(Event::Done(FinishReason::Length, usage)));
    let stats = world.scheduler.stats(&world.pool);
    assert_eq!((stats.prompt_rows_total, stats.prompt_tokens_total), (8, 8));
    assert_eq!((stats.generated_tokens_total, stats.steps_total), (3, 4));
}
