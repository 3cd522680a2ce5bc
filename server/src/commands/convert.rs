//! `hadal convert`: a checkpoint written anew in another format, as a folder in Hugging Face layout.

use std::path::PathBuf;

use clap::Args;
use hadal_engine::checkpoint::{ConvertOptions, Converted, Target, convert};

use super::target::{TargetArgs, bar, plural, print_json, print_text, size, unless_told};
use super::unfinished::Unfinished;
use super::{Failure, Outcome};
use serde_json::json;

/// Flags of `hadal convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The format: f32, bf16, f16, fp8 (DeepSeek's own, with a factor for every 128 x 128 block), q8 or q4
    #[arg(long, value_name = "FORMAT", value_parser = target)]
    pub(crate) to: Target,
    /// The folder to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Largest weights file, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 5120, value_parser = clap::value_parser!(u64).range(1..=(1 << 30)))]
    pub(crate) shard_mb: u64,
    /// Threads that encode [default: the processors this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Replace a checkpoint that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|_| "wanted f32, bf16, f16, fp8, q8 or q4".into())
}

/// Converts and says what was written.
pub(crate) fn run(args: &ConvertArgs, unfinished: &Unfinished) -> Outcome {
    let (name, converted) =
        made(args, unfinished).map_err(|failure| unless_told(args.json, failure))?;
    if args.json {
        return print_json(&json!({
            "model": name,
            "to": args.to.name(),
            "out": args.out.display().to_string(),
            "files": converted.n_file,
            "tensors": converted.n_tensor,
            "bytes": converted.bytes,
            "left_out": converted.left_out,
            "kept": converted.kept,
        }));
    }
    print_text(&said(args, &name, &converted))
}

/// Converts.
fn made(args: &ConvertArgs, unfinished: &Unfinished) -> Result<(String, Converted), Failure> {
    let located = args.target.locate()?;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = ConvertOptions {
        to: args.to,
        out: args.out.clone(),
        shard_bytes: args.shard_mb << 20,
        threads: args.threads.map_or_else(cores, usize::from),
        force: args.force,
        note: None,
    };
    let _making = unfinished.begin(&args.out);
    let bar = bar("converting");
    let converted = convert(&located.source, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok((located.name, converted?))
}

fn said(args: &ConvertArgs, name: &str, converted: &Converted) -> String {
    let Converted { n_file, n_tensor, bytes, left_out, kept } = *converted;
    let mut lines = vec![format!(
        "{name} in {}: {}, {}, {}",
        args.to.name(),
        plural(n_tensor, "tensor"),
        plural(n_file, "file"),
        size(bytes)
    )];
    if left_out > 0 {
        lines.push(format!("left out {} that the model does not use", plural(left_out, "tensor")));
    }
    if kept > 0 {
        lines.push(format!(
            "{} kept as stored: rows that are no multiple of 32 numbers",
            plural(kept, "tensor")
        ));
    }
    lines.push(format!("{}\n", args.out.display()));
    lines.join("\n")
}
