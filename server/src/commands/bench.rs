//! `hadal bench`: how fast a model loads, reads a prompt and answers, beside what this machine allows.
//!
//! Every sequence gets its own random tokens, so that each chooses its own experts; a batch of equal sequences would
//! read the same few experts and flatter the numbers. For every figure the bytes and operations that it needed are
//! counted, under the routing that happened, and set against memory and arithmetic measured in the same run.

mod clock;
mod figures;
mod log;
pub(crate) mod machine;
mod measure;
mod report;
mod spread;
mod tables;
pub(crate) mod work;

use std::cell::Cell;
use std::io::Write;
use std::time::Instant;

use clap::Args;
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::{Engine, Limits, LoadOptions};

use super::load::load_with;
use super::locate::locate;
use super::unfinished::Unfinished;
use super::{Failure, Outcome};
use crate::args::{Compute, ComputeArgs, ModelArgs};
use clock::Clock;
use figures::Bench;
use log::Log;
use machine::Machine;
use report::Report;
use spread::Spread;
use work::Sizes;

/// Flags of `hadal bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Repetitions; the tables show their median, minimum and maximum
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Tokens of a lone prompt, one measurement each; 0 measures none
    #[arg(long, value_name = "N,N", default_value = "64,512", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) prompt_tokens: Vec<u32>,
    /// Tokens that each sequence decodes, in every repetition
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tokens: u32,
    /// Sequences that decode at once, one measurement each; 0 measures none
    #[arg(long, value_name = "N,N", default_value = "1,4,8,16,32", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) batch: Vec<u32>,
    /// Tokens that each of these sequences holds already, one measurement each; they are computed before the clock runs
    #[arg(long, value_name = "N,N", default_value = "0", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) context: Vec<u32>,
    /// Rows of one forward pass [default: as `serve`]
    #[arg(long, value_name = "N")]
    pub(crate) step_rows: Option<usize>,
    /// Count the processor's time instead of the wall's, so that other programs do not matter; for one thread
    #[arg(long)]
    pub(crate) cpu_clock: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

impl BenchArgs {
    /// Batches with their contexts; an empty sequence has its first token yet.
    fn decodes(&self) -> impl Iterator<Item = (u32, u32)> {
        let batches = self.batch.iter().copied().filter(|batch| *batch > 0);
        batches.flat_map(|batch| self.context.iter().map(move |context| (batch, *context)))
    }

    fn prompts(&self) -> impl Iterator<Item = u32> {
        self.prompt_tokens.iter().copied().filter(|tokens| *tokens > 0)
    }

    /// Tokens of an answer: the prompt's own, then each repetition's.
    fn answer_tokens(&self) -> u32 {
        1 + self.runs * self.tokens
    }
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs, unfinished: &Unfinished) -> Outcome {
    if args.cpu_clock && args.compute.threads != Some(1) {
        // Threads that wait for each other take the processor's time as well.
        return Err(Failure::Usage("--cpu-clock wants --threads 1".into()));
    }
    let model = locate(&args.model)?;
    let sizes = Sizes::of(&Checkpoint::open(&model.source)?, &args.compute.options())?;
    let clock = if args.cpu_clock { Clock::Cpu } else { Clock::Wall(Instant::now()) };
    let (log, limits) = (Log::new(clock), limits(args));
    let (engine, load_seconds) = loaded(args, &model.source, &limits, &log, unfinished)?;
    let bench = Bench { args, engine, sizes, clock, log, limits, requests: Cell::default() };
    let prompts = bench.prompts()?;
    let decodes = bench.decodes()?;
    let peak_rss_bytes = machine::peak_rss_bytes();
    let Bench { engine, limits, .. } = bench;
    let info = engine.info.clone();
    // Its memory is given back before other memory is measured.
    engine.join();
    let report = Report {
        model: model.name,
        machine: Machine::measure(info.threads, args.runs),
        info,
        clock: clock.name(),
        runs: args.runs,
        answer_tokens: args.tokens,
        step_rows: limits.step_rows_max,
        load_seconds,
        prompts,
        decodes,
        peak_rss_bytes,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{}", tables::tables(&report))?;
    }
    Ok(out.flush()?)
}

/// Loads as often as asked and keeps the last one. Repeated loads find the file in the page cache. Seconds are the
/// wall's: a load waits for files.
fn loaded(
    args: &BenchArgs,
    source: &Source,
    limits: &Limits,
    log: &Log,
    unfinished: &Unfinished,
) -> Result<(Engine, Spread), Failure> {
    let mut seconds = Vec::new();
    loop {
        let (start, log) = (Instant::now(), log.clone());
        let options = LoadOptions {
            on_stats: Box::new(move |stats| log.note(stats)),
            ..super::load::options(Compute::from(&args.compute), limits.clone())
        };
        let engine = load_with(source, options, unfinished)?;
        seconds.push(start.elapsed().as_secs_f64());
        if seconds.len() >= args.runs as usize {
            return Ok((engine, Spread::of(&seconds)));
        }
        engine.join();
    }
}

/// Room for the largest batch, each sequence as long as it gets.
fn limits(args: &BenchArgs) -> Limits {
    let limits = Limits::default();
    let batch = args.decodes().map(|(batch, _)| batch).max().unwrap_or(1) as usize;
    let longest = args.decodes().map(|(_, context)| context.max(1) + args.answer_tokens());
    let context = longest.chain(args.prompts().map(|tokens| tokens + 1)).max().unwrap_or(2);
    Limits {
        sequences_max: batch,
        step_rows_max: args.step_rows.unwrap_or(limits.step_rows_max.max(batch)),
        queue_max: limits.queue_max.max(batch),
        context_tokens_max: context as usize,
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.bench)
    }

    #[test]
    fn lists_make_every_batch_over_every_context() {
        let args = parse("--batch 1,8 --context 0,2048 --prompt-tokens 64,512").unwrap();
        let decodes: Vec<(u32, u32)> = args.decodes().collect();
        assert_eq!(decodes, [(1, 0), (1, 2048), (8, 0), (8, 2048)]);
        assert_eq!(args.prompts().collect::<Vec<_>>(), [64, 512]);
        let none = parse("--batch 0 --prompt-tokens 0").unwrap();
        assert_eq!((none.decodes().count(), none.prompts().count()), (0, 0));
    }

    #[test]
    fn limits_have_room_for_the_longest_sequence_of_the_largest_batch() {
        let args = parse("--batch 1,200 --context 0,1000 --tokens 10 --runs 2").unwrap();
        let wanted = limits(&args);
        assert_eq!((wanted.sequences_max, wanted.step_rows_max), (200, 512));
        assert_eq!(wanted.context_tokens_max, 1000 + 1 + 2 * 10);
        assert!(wanted.check().is_ok());
        let long = parse("--batch 1 --prompt-tokens 5000 --step-rows 512").unwrap();
        assert_eq!(limits(&long).context_tokens_max, 5001);
        assert_eq!(limits(&long).step_rows_max, 512);
        assert!(limits(&parse("--batch 0 --prompt-tokens 0").unwrap()).check().is_ok());
    }

    #[test]
    fn values_out_of_range_are_usage_errors() {
        for line in ["--tokens 0", "--batch 2000", "--runs 0", "--context -1", "--batch x"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["--cpu-clock", "--cpu-clock --threads 2"] {
            let problem = run(&parse(line).unwrap(), &Unfinished::default()).unwrap_err();
            assert!(
                matches!(&problem, Failure::Usage(why) if why.contains("--threads 1")),
                "{line}"
            );
        }
    }
}
