//! `hadal bench`: how fast a model loads, reads a prompt and answers, beside what this machine's memory allows.
//!
//! Every sequence gets its own random tokens, so that each chooses its own experts; a batch of equal sequences would
//! read the same few experts and flatter the numbers.

mod measure;
pub(crate) mod memory;
pub(crate) mod report;

use std::io::Write;
use std::time::Instant;

use clap::Args;
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::{Engine, Limits, ModelInfo};

use super::load::load;
use super::locate::locate;
use super::unfinished::Unfinished;
use super::{Failure, Outcome};
use crate::args::{ComputeArgs, ModelArgs};
use measure::{Answer, answers};
use report::{Decode, Report, Spread, Weights};

/// Flags of `hadal bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Repetitions; the tables show their median, minimum and maximum
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub(crate) tokens: u32,
    /// Sequences that decode at once, one measurement each
    #[arg(long, value_name = "N,N", default_value = "1,32", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) batch: Vec<u32>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs, unfinished: &Unfinished) -> Outcome {
    let model = locate(&args.model)?;
    let weights = weights(&model.source, args)?;
    let (engine, load_seconds) = loaded(args, &model.source, unfinished)?;
    let bandwidth = memory::read_bandwidth(engine.info.threads, args.runs);
    let prompt = prompt(args, &engine)?;
    let mut decode = Vec::new();
    for &batch in &args.batch {
        decode.push(Decode {
            batch,
            tokens_per_second: decode_speed(args, &engine, batch)?,
            bytes_per_step: weights.bytes_per_step(f64::from(batch)),
        });
    }
    let report = Report {
        model: model.name,
        info: engine.info.clone(),
        runs: args.runs,
        prompt_tokens: args.prompt_tokens,
        answer_tokens: args.tokens,
        load_seconds,
        bandwidth,
        prompt_per_second: prompt.map(|seconds| f64::from(args.prompt_tokens) / seconds),
        first_token_seconds: prompt,
        decode,
        peak_rss_bytes: memory::peak_rss_bytes(),
    };
    engine.join();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{}", report.tables())?;
    }
    Ok(out.flush()?)
}

/// Loads as often as asked and keeps the last one. Repeated loads find the file in the page cache.
fn loaded(
    args: &BenchArgs,
    source: &Source,
    unfinished: &Unfinished,
) -> Result<(Engine, Spread), Failure> {
    let mut seconds = Vec::new();
    loop {
        let start = Instant::now();
        let engine = load(source, args.compute.options(), limits(args), unfinished)?;
        seconds.push(start.elapsed().as_secs_f64());
        if seconds.len() >= args.runs as usize {
            check_context(args, &engine.info)?;
            return Ok((engine, Spread::of(&seconds)));
        }
        engine.join();
    }
}

/// Room for the largest batch, each sequence as long as it gets.
fn limits(args: &BenchArgs) -> Limits {
    let limits = Limits::default();
    let batch = args.batch.iter().copied().max().unwrap_or(1) as usize;
    Limits {
        sequences_max: batch,
        step_rows_max: limits.step_rows_max.max(batch),
        queue_max: limits.queue_max.max(batch),
        ..limits
    }
}

fn check_context(args: &BenchArgs, info: &ModelInfo) -> Outcome {
    let wanted = args.prompt_tokens as usize + args.tokens as usize;
    if wanted <= info.context_length {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--prompt-tokens and --tokens make {wanted}, this model's context is {}",
        info.context_length
    )))
}

/// The sizes that decide how much a step reads.
fn weights(source: &Source, args: &BenchArgs) -> Result<Weights, Failure> {
    let checkpoint = Checkpoint::open(source)?;
    Ok(Weights::of(&checkpoint, args.compute.quant))
}

/// Seconds from submission to the first token of a lone request, which are the prompt's.
fn prompt(args: &BenchArgs, engine: &Engine) -> Result<Spread, Failure> {
    let mut seconds = Vec::new();
    for run in 0..args.runs {
        let answers = answers(
            &engine.handle,
            engine.info.vocab_size,
            1,
            args.prompt_tokens,
            1,
            u64::from(run),
        )?;
        seconds.extend(answers.iter().filter_map(Answer::first_token_seconds));
    }
    Ok(Spread::of(&seconds))
}

/// Tokens of all sequences a second, while all of them decode.
fn decode_speed(args: &BenchArgs, engine: &Engine, batch: u32) -> Result<Spread, Failure> {
    let mut speeds = Vec::new();
    for run in 0..args.runs {
        let seed = u64::from(run) << 32 | u64::from(batch);
        let vocab_size = engine.info.vocab_size;
        let answers =
            answers(&engine.handle, vocab_size, batch, args.prompt_tokens, args.tokens, seed)?;
        let speed = measure::decode_speed(&answers).ok_or_else(|| {
            let problem = format!("{batch} sequences never decoded all at once: raise --tokens, or lower --prompt-tokens");
            Failure::Usage(problem)
        })?;
        speeds.push(speed);
    }
    Ok(Spread::of(&speeds))
}
