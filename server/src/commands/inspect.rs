//! `hadal inspect`: what a checkpoint holds and all that is wrong with it, from its headers alone.

mod list;
mod report;

use clap::Args;
use hadal_engine::checkpoint::Survey;
use hadal_engine::text::Text;

use super::target::{TargetArgs, plural, print_json, print_text, unless_told};
use super::{Failure, Outcome};

/// Flags of `hadal inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// List every tensor by itself; otherwise layers and experts of one shape share a line
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Print one JSON object, with every tensor
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the report; fails when something is wrong.
pub(crate) fn run(args: &InspectArgs) -> Outcome {
    let located = args.target.locate().map_err(|failure| unless_told(args.json, failure))?;
    let mut survey = Survey::of(&located.source);
    // Without a tokenizer a model computes, but nobody can talk to it.
    let text = survey.text.as_ref().map(|text| match (survey.format, &text.chat_template) {
        // Its vocabulary was looked at where it lies: made into a tokenizer it takes many times its bytes.
        ("gguf", template) => template.as_deref().map_or(Ok(()), Text::check_template),
        _ => Text::open(text).map(drop),
    });
    survey.problems.extend(text.and_then(Result::err).map(|problem| problem.to_string()));
    if args.json {
        print_json(&report::json(&located.name, &survey))?;
    } else {
        print_text(&report::text(&located.name, &survey, args.tensors))?;
    }
    match survey.problems.len() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("{}: {} found", located.name, plural(n, "problem")))),
    }
}
