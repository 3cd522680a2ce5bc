//! `hadal run`: one prompt, one answer on standard output; nothing else is written there.

use std::io::{Read, Write};

use clap::Args;
use hadal_engine::text::{Message, Role};
use tokio::runtime::Runtime;

use super::answer::{Asked, Talker};
use super::sampling::SamplingArgs;
use super::unfinished::Unfinished;
use super::{Failure, Outcome};
use crate::args::{Compute, ComputeArgs, LimitArgs, ModelArgs};

/// Flags of `hadal run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; `-`, or none at all, reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// The model.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// How to draw.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Bounds of a model.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Answers and ends.
pub(crate) fn run(args: &RunArgs, runtime: &Runtime, unfinished: &Unfinished) -> Outcome {
    let prompt = match args.prompt.as_deref() {
        Some(prompt) if prompt != "-" => prompt.to_owned(),
        _ => from_standard_input()?,
    };
    if prompt.is_empty() {
        return Err(Failure::Usage("the prompt is empty".into()));
    }
    let (compute, limits) = (Compute::from(&args.compute), args.limits.limits());
    let talker = Talker::load(runtime, &args.model, compute, limits, unfinished)?;
    let messages = [Message { role: Role::User, content: prompt }];
    let asked = if args.raw { Asked::Raw(&messages[0].content) } else { Asked::Chat(&messages) };
    talker.answer(asked, &args.sampling, std::future::pending)?;
    Ok(std::io::stdout().flush()?)
}

fn from_standard_input() -> Result<String, Failure> {
    let mut prompt = String::new();
    let read = std::io::stdin().read_to_string(&mut prompt);
    read.map_err(|problem| Failure::Failed(format!("standard input: {problem}")))?;
    // The line break that a shell or an editor puts at the end belongs to no prompt.
    let without =
        prompt.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    prompt.truncate(without.unwrap_or(prompt.len()));
    Ok(prompt)
}
