//! Runs a list of tokens through a model outside the worker and hands back its numbers: what one needs to compare
//! the engine with any reference.
//!
//! The prompt goes through in chunks of `step_rows` rows in prompt form, then tokens are drawn greedily, one row a
//! step, in decode form: the very steps a served request takes.

use crate::backend::Backend;
use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::cuda::{Cuda, CudaOptions, Device};
use crate::checkpoint::{Checkpoint, Opened, Source, open_with_cache};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::Model;
use crate::model::record::Recorder;
use crate::step::{PAGE_TOKENS, PageId, SampleRow, Sampled, Slot, Step, TokenId};

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct TraceOptions {
    /// The prompt.
    pub tokens: Vec<TokenId>,
    /// Tokens to continue with, greedily; end tokens do not end it.
    pub n_greedy: usize,
    /// Whether every intermediate result is wanted, or the logits alone.
    pub all: bool,
    /// Rows of one prompt chunk; 0 chooses.
    pub step_rows: usize,
    /// Threads, instruction set, activation form.
    pub cpu: CpuOptions,
    /// The card that computes instead, by number.
    pub cuda: Option<usize>,
}

/// One tensor of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceTensor {
    /// `logits`, `decode_logits`, `decode_tokens`, `hidden.0`, ...
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub data: TraceData,
}

/// Numbers of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum TraceData {
    /// Logits, states, weights.
    F32(Vec<f32>),
    /// Tokens and choices.
    I64(Vec<i64>),
}

/// What a run gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// `logits [T, V]`; with `n_greedy`, `decode_tokens [N]` and `decode_logits [N, V]`; with `all`, the prompt's
    /// `hidden.*`, `router.*`, `attn.*`, `mlp.*`, `mla.*`, `mtp.*` of draft heads, and where the checkpoint has an MTP
    /// layer `mtp.hidden`, `mtp.logits` and `mtp.draft_tokens`: row `i` has seen token `i + 1` and drafts token `i + 2`.
    pub tensors: Vec<TraceTensor>,
    /// Why there is no cache of quantised weights although one was asked for.
    pub warning: Option<String>,
}

/// The MTP layer's choices, one a row.
const DRAFT_TOKENS: &str = "mtp.draft_tokens";
/// Rows of a prompt chunk when nothing is asked for.
const STEP_ROWS: usize = 64;

/// Loads the checkpoint and runs.
///
/// # Errors
/// What loading refuses; a prompt that is empty, too long or outside the vocabulary.
pub fn run(source: &Source, options: &TraceOptions) -> Result<Trace> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Opened { checkpoint, warning } =
        open_with_cache(source, options.cpu.quant, threads, &mut |_, _| {})?;
    let n_token = options.tokens.len() + options.n_greedy;
    check(&checkpoint, options, n_token)?;
    let step_rows = if options.step_rows == 0 { STEP_ROWS } else { options.step_rows };
    let limits = Limits { step_rows_max: step_rows, sequences_max: step_rows, ..Limits::default() };
    limits.check()?;
    let tensors = match options.cuda {
        None => run_on(Cpu::new(&options.cpu)?, &checkpoint, options, &limits)?,
        Some(ordinal) => {
            // A recorded pass shows nothing of what is inside it, and every pass is watched here.
            let of_card = CudaOptions { quant: options.cpu.quant, records: false };
            run_on(Cuda::new(Device::open(ordinal)?, of_card), &checkpoint, options, &limits)?
        }
    };
    Ok(Trace { tensors, warning })
}

/// Loads into a backend and runs.
fn run_on<B: Backend>(
    backend: B,
    checkpoint: &Checkpoint,
    options: &TraceOptions,
    limits: &Limits,
) -> Result<Vec<TraceTensor>> {
    let step_rows = limits.step_rows_max;
    let n_page = (options.tokens.len() + options.n_greedy).div_ceil(PAGE_TOKENS);
    let mut model = Model::load(backend, checkpoint, limits, n_page, &mut |_, _| {})?;
    if options.all {
        model.load_drafts(checkpoint)?;
    }
    let has_mtp = options.all && checkpoint.has_mtp();
    if has_mtp {
        model.load_mtp(checkpoint, limits, n_page)?;
    }
    let mut run = Run { model, sampled: Vec::new() };

    let mut prompt = Recorder { all: options.all, ..Recorder::default() };
    let mut next = None;
    for (chunk, at) in options.tokens.chunks(step_rows).zip((0..).step_by(step_rows)) {
        next = run.forward(chunk, at, false, &mut prompt)?;
    }
    // The drafts need the state of every position.
    let mut decode = Recorder { all: has_mtp, ..Recorder::default() };
    let mut tokens = Vec::new();
    if let Some(logits) = prompt.rows.get("logits").filter(|_| options.n_greedy > 0) {
        // The first drawn token comes from the prompt's last row.
        decode.append("logits", logits.dim, &logits.values[logits.values.len() - logits.dim..]);
    }
    while tokens.len() < options.n_greedy {
        let Some(token) = next else { break };
        tokens.push(i64::from(token.0));
        if tokens.len() < options.n_greedy {
            next =
                run.forward(&[token], options.tokens.len() + tokens.len() - 1, true, &mut decode)?;
        }
    }
    let drafts = if has_mtp {
        let all = options.tokens.iter().copied().chain(tokens.iter().map(|id| TokenId(*id as u32)));
        run.drafts(&all.collect::<Vec<_>>(), &[&prompt, &decode], step_rows)?
    } else {
        Recorder::default()
    };
    Ok(collect(prompt, decode, drafts, tokens))
}

fn check(checkpoint: &Checkpoint, options: &TraceOptions, n_token: usize) -> Result<()> {
    let config = &checkpoint.config;
    if options.tokens.is_empty() {
        return Err(Error::PromptEmpty);
    }
    if n_token > config.max_position_embeddings {
        return Err(Error::PromptTooLong { got: n_token, max: config.max_position_embeddings });
    }
    match options.tokens.iter().find(|token| token.0 as usize >= config.vocab_size) {
        Some(token) => Err(Error::TokenOutOfRange { got: token.0, vocab_size: config.vocab_size }),
        None => Ok(()),
    }
}

struct Run<B: Backend> {
    model: Model<B>,
    sampled: Vec<Sampled>,
}

impl<B: Backend> Run<B> {
    /// One step of a single sequence; every row gives its logits. Returns the last row's greedy token.
    fn forward(
        &mut self,
        tokens: &[TokenId],
        position: usize,
        is_decode: bool,
        recorder: &mut Recorder,
    ) -> Result<Option<TokenId>> {
        let step = step(tokens, position, is_decode);
        self.model.forward_recorded(&step, &mut self.sampled, recorder)?;
        match self.sampled.last() {
            Some(Sampled::Token(token)) => Ok(Some(*token)),
            Some(Sampled::NotFinite) => {
                Err(Error::NotFinite { position: (position + tokens.len()) as u32 })
            }
            None => Ok(None),
        }
    }

    /// The MTP layer over all tokens but the first, each with the state of the position before it.
    fn drafts(
        &mut self,
        tokens: &[TokenId],
        recorded: &[&Recorder],
        step_rows: usize,
    ) -> Result<Recorder> {
        let mut drafts = Recorder::default();
        let states = recorded.iter().filter_map(|recorder| recorder.rows.get("hidden.final"));
        let (mut dim, mut hidden) = (1, Vec::new());
        for rows in states {
            dim = rows.dim;
            hidden.extend_from_slice(&rows.values);
        }
        let following = tokens.get(1..).unwrap_or_default();
        let chunks = following.chunks(step_rows).zip(hidden.chunks(step_rows * dim));
        for ((chunk, states), at) in chunks.zip((0..).step_by(step_rows)) {
            let states = states.get(..chunk.len() * dim).unwrap_or(states);
            self.model.draft_recorded(&step(chunk, at, false), states, &mut drafts)?;
        }
        let Some(logits) = drafts.rows.get("mtp.logits") else { return Ok(drafts) };
        let best = |row: &[f32]| {
            (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i64
        };
        let ids = logits.values.chunks(logits.dim.max(1)).map(best).collect();
        drafts.choices.insert(DRAFT_TOKENS.into(), (1, ids));
        Ok(drafts)
    }
}

/// One sequence's rows from `position` on; every row wants a token.
fn step(tokens: &[TokenId], position: usize, is_decode: bool) -> Step {
    let end = position + tokens.len();
    let slot = |p: usize| Slot::new(PageId((p / PAGE_TOKENS) as u32), p % PAGE_TOKENS);
    Step {
        tokens: tokens.to_vec(),
        positions: (position as u32..end as u32).collect(),
        slots: (position..end).map(slot).collect(),
        row_start: vec![0, tokens.len() as u32],
        n_decode: usize::from(is_decode),
        page_start: vec![0, end.div_ceil(PAGE_TOKENS) as u32],
        pages: (0..end.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect(),
        context_len: vec![end as u32],
        samples: (0..tokens.len() as u32)
            .map(|row| SampleRow::greedy(row, position as u32 + row + 1))
            .collect(),
        penalty_start: vec![0; tokens.len() + 1],
        bias_start: vec![0; tokens.len() + 1],
        ..Step::default()
    }
}

fn collect(
    prompt: Recorder,
    decode: Recorder,
    drafts: Recorder,
    tokens: Vec<i64>,
) -> Vec<TraceTensor> {
    let mut tensors = Vec::new();
    for (name, (dim, values)) in prompt.choices.into_iter().chain(drafts.choices) {
        let rows = values.len() / dim.max(1);
        let shape = if name == DRAFT_TOKENS { vec![rows] } else { vec![rows, dim] };
        tensors.push(TraceTensor { name, shape, data: TraceData::I64(values) });
    }
    let floats = prompt.rows.into_iter().chain(drafts.rows).chain(
        decode
            .rows
            .into_iter()
            .filter(|(name, _)| name == "logits")
            .map(|(name, rows)| (format!("decode_{name}"), rows)),
    );
    for (name, rows) in floats {
        let shape = vec![rows.values.len() / rows.dim.max(1), rows.dim];
        tensors.push(TraceTensor { name, shape, data: TraceData::F32(rows.values) });
    }
    if !tokens.is_empty() {
        let shape = vec![tokens.len()];
        tensors.push(TraceTensor {
            name: "decode_tokens".into(),
            shape,
            data: TraceData::I64(tokens),
        });
    }
    tensors
}
