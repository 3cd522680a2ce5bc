//! Runs a list of tokens through a model outside the worker and hands back its numbers: what one needs to compare
//! the engine with any reference.
//!
//! The prompt goes through in chunks of `step_rows` rows in prompt form, then tokens are drawn greedily, one row a
//! step, in decode form: the very steps a served request takes.

use crate::backend::cpu::{Cpu, CpuOptions};
use crate::checkpoint::{Checkpoint, Source, open_with_cache};
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
    /// `hidden.*`, `router.*`, `attn.*`, `mlp.*`, `mla.*`, and `mtp.*` of draft heads.
    pub tensors: Vec<TraceTensor>,
}

/// Rows of a prompt chunk when nothing is asked for.
const STEP_ROWS: usize = 64;

/// Loads the checkpoint and runs.
///
/// # Errors
/// What loading refuses; a prompt that is empty, too long or outside the vocabulary.
pub fn run(source: &Source, options: &TraceOptions) -> Result<Trace> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checkpoint =
        open_with_cache(source, options.cpu.quant, threads, &mut |_, _| {})?.checkpoint;
    let n_token = options.tokens.len() + options.n_greedy;
    check(&checkpoint, options, n_token)?;
    let step_rows = if options.step_rows == 0 { STEP_ROWS } else { options.step_rows };
    let limits = Limits { step_rows_max: step_rows, sequences_max: step_rows, ..Limits::default() };
    limits.check()?;
    let n_page = n_token.div_ceil(PAGE_TOKENS);
    let mut model =
        Model::load(Cpu::new(&options.cpu)?, &checkpoint, &limits, n_page, &mut |_, _| {})?;
    if options.all {
        model.load_drafts(&checkpoint)?;
    }
    let mut run = Run { model, sampled: Vec::new() };

    let mut prompt = Recorder { all: options.all, ..Recorder::default() };
    let mut next = None;
    for (chunk, at) in options.tokens.chunks(step_rows).zip((0..).step_by(step_rows)) {
        next = run.forward(chunk, at, false, &mut prompt)?;
    }
    let mut decode = Recorder::default();
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
    Ok(collect(prompt, decode, tokens))
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

struct Run {
    model: Model<Cpu>,
    sampled: Vec<Sampled>,
}

impl Run {
    /// One step of a single sequence; every row gives its logits. Returns the last row's greedy token.
    fn forward(
        &mut self,
        tokens: &[TokenId],
        position: usize,
        is_decode: bool,
        recorder: &mut Recorder,
    ) -> Result<Option<TokenId>> {
        let end = position + tokens.len();
        let step = Step {
            tokens: tokens.to_vec(),
            positions: (position as u32..end as u32).collect(),
            slots: (position..end)
                .map(|p| Slot::new(PageId((p / PAGE_TOKENS) as u32), p % PAGE_TOKENS))
                .collect(),
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
        };
        self.model.forward_recorded(&step, &mut self.sampled, recorder)?;
        match self.sampled.last() {
            Some(Sampled::Token(token)) => Ok(Some(*token)),
            Some(Sampled::NotFinite) => Err(Error::NotFinite { position: end as u32 }),
            None => Ok(None),
        }
    }
}

fn collect(prompt: Recorder, decode: Recorder, tokens: Vec<i64>) -> Trace {
    let mut tensors = Vec::new();
    for (name, (dim, values)) in prompt.choices {
        let shape = vec![values.len() / dim.max(1), dim];
        tensors.push(TraceTensor { name, shape, data: TraceData::I64(values) });
    }
    let floats = prompt.rows.into_iter().chain(
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
    Trace { tensors }
}
