//! The command line, described once: `--help` is this file. Values are checked here as far as they can be without
//! looking at a file; what passes has the type the rest of the program wants.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use hadal_engine::Limits;
use hadal_engine::backend::cpu::{Activations, CpuOptions, Isa};
use hadal_engine::checkpoint::{Quant, Target};

use crate::commands::{
    bench::BenchArgs, chat::ChatArgs, convert::ConvertArgs, inspect::InspectArgs,
    logits::LogitsArgs, plan::PlanArgs, run::RunArgs, serve::ServeArgs, verify::VerifyArgs,
};

/// Serves DeepSeek-V3-family models from this machine: a chat page and an HTTP API, a terminal chat, and tools.
///
/// Without a subcommand, `hadal` serves: `hadal --port 8080` is `hadal serve --port 8080`. In a folder without
/// checkpoints it serves the small demo model that is part of the binary.
#[derive(Debug, Parser)]
#[command(name = "hadal", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The flags of `serve`, for the bare form.
    #[command(flatten)]
    pub(crate) serve: Box<ServeArgs>,
}

/// The subcommands, one file each in `commands/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the chat page and the HTTP API (what a bare `hadal` does)
    Serve(Box<ServeArgs>),
    /// Chat in the terminal; also reads messages line by line from a pipe
    Chat(Box<ChatArgs>),
    /// Answer one prompt on standard output
    Run(Box<RunArgs>),
    /// Say what a checkpoint holds and all that is wrong with it, from its headers
    Inspect(InspectArgs),
    /// Write a checkpoint anew: other number formats, in safetensors
    Convert(ConvertArgs),
    /// Say what memory a model will take here, whether it fits, and how fast it can be
    Plan(PlanArgs),
    /// Read all of a checkpoint: a hash of every tensor, and values that are no numbers
    Verify(VerifyArgs),
    /// Write a model's logits and intermediate values for given tokens, to compare with a reference
    Logits(LogitsArgs),
    /// Measure load time, prompt speed and answer speed, beside what this machine's memory and arithmetic allow
    Bench(BenchArgs),
}

/// Which model.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Folder below which checkpoints are found [default: checkpoints]
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoints: Option<PathBuf>,
    /// The model: a name below the checkpoint folder, or the path of a checkpoint's folder or file [default: sft/demo]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) model: Option<OsString>,
}

impl ModelArgs {
    /// The checkpoint folder. The default one need not be there.
    pub(crate) fn root(&self) -> &Path {
        self.checkpoints.as_deref().unwrap_or(Path::new("checkpoints"))
    }
}

/// How to compute.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ComputeArgs {
    /// Compute threads [default: the physical cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[arg(long, value_name = "NAME", value_parser = isa,
          help = "Instruction set: portable, avx2, avx512 or amx [default: $HADAL_ISA, else the best this processor has]")]
    pub(crate) isa: Option<Isa>,
    /// What bf16 matrices are multiplied with: f32 or bf16 [default: bf16 with avx512 and amx, else f32]
    #[arg(long, value_name = "TYPE", value_parser = activations)]
    pub(crate) activations: Option<Activations>,
    /// Quantise matrices while loading: q8 or q4; takes less memory and time, and costs some accuracy
    #[arg(long, value_name = "FORMAT", value_parser = quant)]
    pub(crate) quant: Option<Target>,
    /// Keep the quantised weights beside the checkpoint, in a hidden folder, and use them the next time
    #[arg(long, requires = "quant")]
    pub(crate) quant_cache: bool,
}

impl ComputeArgs {
    /// As the engine wants them.
    pub(crate) fn options(&self) -> CpuOptions {
        let quant = self.quant.map(|target| Quant { target, cache: self.quant_cache });
        CpuOptions { threads: self.threads, isa: self.isa, activations: self.activations, quant }
    }
}

/// Bounds of a loaded model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits of a model")]
pub(crate) struct LimitArgs {
    /// Tokens of one conversation, prompt and answer [default: what the checkpoint was made for]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Answers that run at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().sequences_max)]
    sequences: usize,
    /// Rows of one forward pass: more is better use of memory bandwidth, fewer is smoother streaming
    #[arg(long, value_name = "N", default_value_t = Limits::default().step_rows_max)]
    step_rows: usize,
    /// Requests that wait for a place; one more is refused
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue_max)]
    queue: usize,
    /// Memory for the latent cache, in MiB [default: chosen from the memory that is free]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=(1 << 30)))]
    cache_mb: Option<u64>,
}

impl LimitArgs {
    /// As the engine wants them; the engine holds them to their ranges.
    pub(crate) fn limits(&self) -> Limits {
        let limits = Limits::default();
        Limits {
            step_rows_max: self.step_rows,
            sequences_max: self.sequences,
            queue_max: self.queue,
            context_tokens_max: self.context.unwrap_or(limits.context_tokens_max),
            cache_bytes: self.cache_mb.map(|mib| mib << 20),
            ..limits
        }
    }
}

/// `--isa`, and `HADAL_ISA`.
pub(crate) fn isa(text: &str) -> Result<Isa, String> {
    Isa::parse(text).map_err(|_| "wanted portable, avx2, avx512 or amx".into())
}

/// `--quant`.
fn quant(text: &str) -> Result<Target, String> {
    let target = Target::parse(text).ok().filter(|target| target.is_blocks());
    target.ok_or_else(|| "wanted q8 or q4".into())
}

fn activations(text: &str) -> Result<Activations, String> {
    match text {
        "f32" => Ok(Activations::F32),
        "bf16" => Ok(Activations::Bf16),
        _ => Err("wanted f32 or bf16".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("hadal").chain(line.split_whitespace()))
    }

    #[track_caller]
    fn refused(line: &str) {
        let problem = parse(line).unwrap_err();
        assert_eq!(problem.exit_code(), 2, "{problem}");
    }

    #[test]
    fn the_description_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_call_serves_with_the_defaults() {
        let cli = parse("").unwrap();
        assert!(cli.command.is_none());
        let http = &cli.serve.http;
        assert_eq!((http.host.as_str(), http.port), ("127.0.0.1", 5001));
        assert_eq!(
            (http.head_kib, http.head_timeout, http.body_mib, http.body_timeout),
            (64, 10, 8, 30)
        );
        assert_eq!((http.idle_timeout, http.connections, http.drain_timeout), (75, 1024, 30));
        assert_eq!(cli.serve.limits.limits(), Limits::default());
        assert_eq!(cli.serve.model.root(), Path::new("checkpoints"));
    }

    #[test]
    fn the_flags_of_serve_work_without_its_name() {
        let bare = parse("--port 8080 --api-key a --api-key b").unwrap().serve;
        let Some(Command::Serve(named)) =
            parse("serve --port 8080 --api-key a --api-key b").unwrap().command
        else {
            panic!("another command")
        };
        for args in [bare, named] {
            assert_eq!((args.http.port, args.http.api_key.len()), (8080, 2));
        }
    }

    #[test]
    fn limits_and_computing_reach_the_engine() {
        let line = "--context 4096 --sequences 4 --step-rows 16 --queue 8 --cache-mb 3 --isa avx2 --threads 2";
        let args = parse(line).unwrap().serve;
        let limits = args.limits.limits();
        assert_eq!((limits.context_tokens_max, limits.sequences_max), (4096, 4));
        assert_eq!(
            (limits.step_rows_max, limits.queue_max, limits.cache_bytes),
            (16, 8, Some(3 << 20))
        );
        assert_eq!(
            (args.compute.options().isa, args.compute.options().threads),
            (Some(Isa::Avx2), Some(2))
        );
    }

    #[test]
    fn wrong_flags_and_values_are_usage_errors() {
        for line in [
            "--prot 1",
            "--port 70000",
            "--port x",
            "--isa sse",
            "--activations f16",
            "--head-kib 0",
            "--cors-origin junk",
            "bench --runs 0",
        ] {
            refused(line);
        }
        for line in ["run --temperature 9", "run --top-p 0", "run --top-p nan", "logits"] {
            refused(line);
        }
        for line in ["run --max-tokens 0", "frob", "--cache-mb 99999999999999"] {
            refused(line);
        }
    }
}
