//! The command line, described once: `--help` is this file. Values are checked here as far as they can be without
//! looking at a file; what passes has the type the rest of the program wants.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use hadal_engine::backend::cpu::{Activations, CacheType, CpuOptions, Isa, Residence};
use hadal_engine::checkpoint::{Quant, Target};
use hadal_engine::{DeviceChoice, Limits};

use crate::commands::{
    bench::BenchArgs, chat::ChatArgs, convert::ConvertArgs, inspect::InspectArgs,
    logits::LogitsArgs, plan::PlanArgs, run::RunArgs, selftest::SelftestArgs, serve::ServeArgs,
    verify::VerifyArgs,
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
    /// Run every kernel's own checks on a CUDA card, and print a report to paste
    Selftest(SelftestArgs),
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
    /// Where: auto is a CUDA card that the model fits, else the processor; cpu; cuda; or cuda:N, the card of that number.
    /// The flags below are about the processor, but for --quant
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: DeviceChoice,
    /// Compute threads [default: one for each fast core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Whether each thread is held to a core: yes; no; or auto, where memory has several nodes or cores are of several
    /// kinds, if all fast ones are used
    #[arg(long, value_name = "WHETHER", default_value = "auto", value_parser = pin)]
    pub(crate) pin: Pin,
    #[arg(long, value_name = "NAME", value_parser = isa,
          help = "Instruction set: portable, avx2, avx-vnni, avx512-vnni, avx512 or amx [default: $HADAL_ISA, else the best this processor has]")]
    pub(crate) isa: Option<Isa>,
    /// What matrices are multiplied with: f32; bf16 (bf16 and FP8 matrices, inputs as pairs of bf16 numbers); bf16-rounded (the same,
    /// inputs rounded to one: faster prompts, less accurate); or int8 (quantised matrices, with a factor for every 32
    /// inputs; bf16 and FP8 matrices as with bf16) [default: int8, with portable f32]
    #[arg(long, value_name = "TYPE", value_parser = activations)]
    pub(crate) activations: Option<Activations>,
    /// Where weights are: resident copies them into memory of our own, in large pages and the order that products read,
    /// bf16 in twelve bits a number with every bit kept, and gives the file's pages back; mapped uses them where they lie;
    /// auto makes quantised matrices resident where inputs are int8, and bf16 ones where there is AVX-512 BF16
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = weights)]
    pub(crate) weights: Where,
    /// Quantise matrices while loading: q8 or q4; takes less memory and time, and costs some accuracy
    #[arg(long, value_name = "FORMAT", value_parser = quant)]
    pub(crate) quant: Option<Target>,
    /// The latent cache: f32; bf16, half of that; or int8, a little more than a quarter, with a factor for every 128
    /// numbers [default: bf16 for quantised weights with int8 activations, else f32]
    #[arg(long, value_name = "TYPE", value_parser = cache_type)]
    pub(crate) cache_type: Option<CacheType>,
    /// Keep the quantised weights beside the checkpoint, in a hidden folder, and use them the next time
    #[arg(long, requires = "quant")]
    pub(crate) quant_cache: bool,
}

impl ComputeArgs {
    /// As the engine wants them.
    pub(crate) fn options(&self) -> CpuOptions {
        let quant = self.quant.map(|target| Quant { target, cache: self.quant_cache });
        let (threads, isa, activations) = (self.threads, self.isa, self.activations);
        let (weights, cache) = (self.weights.0, self.cache_type);
        CpuOptions { threads, pin: self.pin.0, isa, activations, weights, quant, cache }
    }
}

/// Where and how a command computes.
#[derive(Debug, Clone)]
pub(crate) struct Compute {
    /// Threads, instruction set, formats.
    pub(crate) cpu: CpuOptions,
    /// Where.
    pub(crate) device: DeviceChoice,
}

impl From<&ComputeArgs> for Compute {
    fn from(args: &ComputeArgs) -> Self {
        Self { cpu: args.options(), device: args.device }
    }
}

#[cfg(test)]
impl Compute {
    /// The processor, as it comes.
    pub(crate) fn plain() -> Self {
        Self { cpu: CpuOptions::default(), device: DeviceChoice::Cpu }
    }
}

/// `--pin`; `None` is `auto`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin(pub(crate) Option<bool>);

/// `--weights`; `None` is `auto`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Where(pub(crate) Option<Residence>);

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
    /// Rows of one forward pass: more reads weights less often, and takes longer
    #[arg(long, value_name = "N", default_value_t = Limits::default().step_rows_max)]
    step_rows: usize,
    /// The same with a part of a long prompt while an answer is running, which waits for it; four times as many with a
    /// prompt that need not be cut, two and a half times with several. Fewer is smoother streaming, and slower
    #[arg(long, value_name = "N", default_value_t = Limits::default().answer_step_rows_max)]
    answer_step_rows: usize,
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
            answer_step_rows_max: self.answer_step_rows,
            sequences_max: self.sequences,
            queue_max: self.queue,
            context_tokens_max: self.context.unwrap_or(limits.context_tokens_max),
            cache_bytes: self.cache_mb.map(|mib| mib << 20),
            ..limits
        }
    }
}

/// `--device`.
pub(crate) fn device(text: &str) -> Result<DeviceChoice, String> {
    DeviceChoice::parse(text).map_err(|_| "wanted auto, cpu, cuda or cuda:N".into())
}

/// `--isa`, and `HADAL_ISA`.
pub(crate) fn isa(text: &str) -> Result<Isa, String> {
    Isa::parse(text)
        .map_err(|_| "wanted portable, avx2, avx-vnni, avx512-vnni, avx512 or amx".into())
}

/// `--quant`.
fn quant(text: &str) -> Result<Target, String> {
    let target = Target::parse(text).ok().filter(|target| target.is_blocks());
    target.ok_or_else(|| "wanted q8 or q4".into())
}

fn activations(text: &str) -> Result<Activations, String> {
    Activations::parse(text).map_err(|_| "wanted f32, bf16, bf16-rounded or int8".into())
}

/// `--cache-type`.
fn cache_type(text: &str) -> Result<CacheType, String> {
    CacheType::parse(text).map_err(|_| "wanted f32, bf16 or int8".into())
}

/// `--pin`.
fn pin(text: &str) -> Result<Pin, String> {
    match text {
        "auto" => Ok(Pin(None)),
        "yes" => Ok(Pin(Some(true))),
        "no" => Ok(Pin(Some(false))),
        _ => Err("wanted auto, yes or no".into()),
    }
}

/// `--weights`.
fn weights(text: &str) -> Result<Where, String> {
    Residence::parse(text).map(Where).map_err(|_| "wanted auto, resident or mapped".into())
}

#[cfg(test)]
mod tests;
