//! A model without weights, for tests: what it draws depends on every row that a sequence can see, as found through
//! the step's own slots and pages. A row in the wrong place, form or order, or a page that two sequences write,
//! changes the answer.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

use crate::request::{Event, Request, Sampling, Sink};
use crate::step::{PAGE_TOKENS, Penalty, SampleRow, Sampled, Slot, Step, TokenId};

/// Ids that the fake model draws from.
pub(crate) const VOCAB_SIZE: u32 = 40;

/// One value a cache row.
pub(crate) struct FakeModel {
    rows: Vec<u64>,
}

impl FakeModel {
    pub(crate) fn new(n_page: usize) -> Self {
        Self { rows: vec![0; n_page * PAGE_TOKENS] }
    }

    /// As `Model::forward`.
    pub(crate) fn forward(&mut self, step: &Step, sampled: &mut Vec<Sampled>) {
        sampled.clear();
        let mut samples = step.samples.iter().enumerate().peekable();
        for i in 0..step.n_seq() {
            let range = |starts: &[u32]| starts[i] as usize..starts[i + 1] as usize;
            let pages = &step.pages[range(&step.page_start)];
            let slot = |position: usize| {
                Slot::new(pages[position / PAGE_TOKENS], position % PAGE_TOKENS).index()
            };
            for row in range(&step.row_start) {
                let position = step.positions[row] as usize;
                assert_eq!(step.slots[row].index(), slot(position), "a row is stored in its page");
                let before = if position == 0 { 0 } else { self.rows[slot(position - 1)] };
                self.rows[slot(position)] =
                    row_value(before, step.tokens[row], position, i < step.n_decode);
            }
            let last = step.row_start[i + 1] - 1;
            if let Some((at, sample)) = samples.next_if(|(_, sample)| sample.row == last) {
                let seen =
                    (0..step.context_len[i] as usize).map(|position| self.rows[slot(position)]);
                let sum = seen.fold(0, u64::wrapping_add);
                let penalties = part(&step.penalties, &step.penalty_start, at);
                let biases = part(&step.biases, &step.bias_start, at);
                sampled.push(Sampled::Token(draw(sum, sample, penalties, biases)));
            }
        }
        assert!(samples.next().is_none(), "every sample row is its sequence's last");
    }
}

fn part<'a, T>(all: &'a [T], starts: &[u32], at: usize) -> &'a [T] {
    &all[starts[at] as usize..starts[at + 1] as usize]
}

fn mix(state: u64, value: u64) -> u64 {
    let mixed = (state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

fn row_value(before: u64, token: TokenId, position: usize, decode: bool) -> u64 {
    mix(mix(mix(before, u64::from(token.0)), position as u64), u64::from(decode) + 7)
}

fn draw(sum: u64, sample: &SampleRow, penalties: &[Penalty], biases: &[(TokenId, f32)]) -> TokenId {
    let mut state = mix(mix(sum, sample.seed), u64::from(sample.position));
    for penalty in penalties {
        state = mix(state, u64::from(penalty.token.0));
        state = mix(state, u64::from(penalty.in_prompt) << 32 | u64::from(penalty.in_output));
    }
    for (token, amount) in biases {
        state = mix(state, u64::from(token.0) << 32 | u64::from(amount.to_bits()));
    }
    TokenId((mix(state, 1) >> 33) as u32 % VOCAB_SIZE)
}

/// What a test asks for; a `Request` without its sink.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) decode_spans: Vec<Range<u32>>,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: u32,
    pub(crate) stop_tokens: Vec<TokenId>,
}

impl Order {
    /// A greedy request for `max_tokens` after a prompt of `prompt_len`.
    pub(crate) fn plain(prompt_len: usize, max_tokens: u32) -> Self {
        Self {
            tokens: (0..prompt_len as u32).map(|i| TokenId(i * 7 % VOCAB_SIZE)).collect(),
            decode_spans: Vec::new(),
            sampling: Sampling::greedy(),
            max_tokens,
            stop_tokens: Vec::new(),
        }
    }

    pub(crate) fn request(&self, sink: Box<dyn Sink>) -> Request {
        Request {
            tokens: self.tokens.clone(),
            decode_spans: self.decode_spans.clone(),
            sampling: self.sampling.clone(),
            max_tokens: self.max_tokens,
            stop_tokens: self.stop_tokens.clone(),
            sink,
        }
    }

    /// The form that the decision asks for: a model wrote the token.
    pub(crate) fn is_decode(&self, position: usize) -> bool {
        let in_span = |span: &Range<u32>| span.contains(&(position as u32));
        position >= self.tokens.len() || self.decode_spans.iter().any(in_span)
    }

    /// The fake model's answer to this request alone, computed without scheduler, step or page.
    pub(crate) fn alone(&self, context_tokens: usize) -> Vec<TokenId> {
        let mut tokens = self.tokens.clone();
        let (mut value, mut sum, mut computed) = (0, 0_u64, 0);
        let penalises = self.sampling.penalises();
        let mut counts = vec![(0, 0); VOCAB_SIZE as usize];
        for token in &tokens {
            counts[token.0 as usize].0 += 1;
        }
        let longest = context_tokens.min(self.tokens.len() + self.max_tokens as usize);
        while tokens.len() < longest {
            for (position, token) in tokens.iter().enumerate().skip(computed) {
                value = row_value(value, *token, position, self.is_decode(position));
                sum = sum.wrapping_add(value);
            }
            computed = tokens.len();
            let seen = (0..).zip(&counts).filter(|(_, count)| penalises && **count != (0, 0));
            let penalties: Vec<_> = seen
                .map(|(id, &(in_prompt, in_output))| Penalty {
                    token: TokenId(id),
                    in_prompt,
                    in_output,
                })
                .collect();
            let mut sample = SampleRow::greedy(0, computed as u32);
            sample.seed = self.sampling.seed;
            let token = draw(sum, &sample, &penalties, &self.sampling.biases);
            counts[token.0 as usize].1 += 1;
            tokens.push(token);
            if self.stop_tokens.contains(&token) {
                break;
            }
        }
        tokens.split_off(self.tokens.len())
    }
}

/// The reading end of a test's sink.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Mutex<Heard>>);

/// What a sink was told.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) tokens: Vec<TokenId>,
    /// `Done` or `Failed`.
    pub(crate) end: Option<Event>,
    /// Tokens not read yet, and how many of them fit.
    pub(crate) unread: usize,
    pub(crate) room: usize,
    pub(crate) closed: bool,
    /// Answers `Break` to the token after this many, without having been closed before.
    pub(crate) breaks_at: Option<usize>,
    /// The engine let the sink go.
    pub(crate) dropped: bool,
}

impl Reader {
    /// A reader with room for `room` tokens.
    pub(crate) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Heard { room, ..Heard::default() })))
    }

    pub(crate) fn sink(&self) -> Box<dyn Sink> {
        Box::new(ReaderSink(self.0.clone()))
    }

    pub(crate) fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.lock().unwrap()
    }
}

struct ReaderSink(Arc<Mutex<Heard>>);

impl Sink for ReaderSink {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        let mut heard = self.0.lock().unwrap();
        assert_eq!(heard.end, None, "nothing comes after the end");
        if let Event::Token(token) = event {
            assert!(heard.unread < heard.room, "a token comes only where there is room");
            heard.unread += 1;
            heard.tokens.push(token);
        } else {
            heard.end = Some(event);
        }
        let breaks = heard.breaks_at.is_some_and(|at| heard.tokens.len() > at);
        heard.closed |= breaks;
        if heard.closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn is_closed(&self) -> bool {
        self.0.lock().unwrap().closed
    }

    fn has_room(&self) -> bool {
        let heard = self.0.lock().unwrap();
        heard.unread < heard.room
    }
}

impl Drop for ReaderSink {
    fn drop(&mut self) {
        self.0.lock().unwrap().dropped = true;
    }
}
