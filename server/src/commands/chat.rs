//! `hadal chat`: a conversation in the terminal. Messages come from a line editor, or line by line from a pipe.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use hadal_engine::text::Role;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::runtime::Runtime;

use super::answer::{Asked, Talker};
use super::conversation::{Chat, Room, Taken, message};
use super::sampling::SamplingArgs;
use super::unfinished::Unfinished;
use super::{Failure, Outcome, tell};
use crate::args::{Compute, ComputeArgs, LimitArgs, ModelArgs};

/// Flags of `hadal chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Begin with this system message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
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

/// Reads messages and answers them until there are no more. `interrupted` ends when the person presses Ctrl-C.
pub(crate) fn run(
    args: &ChatArgs,
    runtime: &Runtime,
    unfinished: &Unfinished,
    interrupted: impl AsyncFn(),
) -> Outcome {
    let (compute, limits) = (Compute::from(&args.compute), args.limits.limits());
    let talker = Talker::load(runtime, &args.model, compute, limits, unfinished)?;
    let mut chat = Chat::new(args.system.clone(), args.sampling.clone());
    let mut lines = Lines::open()?;
    if lines.is_terminal() {
        tell(format_args!("{}: type a message, or /help", talker.name()));
    }
    while let Some(line) = lines.next()? {
        match chat.take(&line) {
            Taken::Nothing => {}
            Taken::Leave => break,
            Taken::Say(text) => {
                let mut out = std::io::stdout().lock();
                write!(out, "{text}")?;
                out.flush()?;
            }
            Taken::Ask => {
                // Only a terminal sends Ctrl-C for the answer alone; to a pipe it means the whole program.
                let answered = if lines.is_terminal() {
                    ask(&talker, &mut chat, &interrupted)
                } else {
                    ask(&talker, &mut chat, std::future::pending)
                };
                match answered {
                    Ok(text) => chat.history.push(message(Role::Assistant, text)),
                    Err(Failure::Failed(problem)) if lines.is_terminal() => {
                        tell(problem);
                        chat.history.pop();
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
    }
    Ok(())
}

/// Answers the last message, after leaving out what the context no longer holds.
fn ask(talker: &Talker, chat: &mut Chat, interrupted: impl AsyncFn()) -> Result<String, Failure> {
    let room = Room::of(talker.context_tokens(), chat.sampling.max_tokens);
    let left_out = chat.make_room(room, |messages| talker.prompt_tokens(messages))?;
    if left_out > 0 {
        let exchanges = match left_out {
            1 => "exchange is".to_owned(),
            n => format!("{n} exchanges are"),
        };
        tell(format_args!(
            "the conversation fills the model's context: its first {exchanges} left out from here on; /clear begins again"
        ));
    }
    talker.answer(Asked::Chat(&chat.messages()), &chat.sampling, interrupted)
}

/// Where messages come from.
enum Lines {
    Editor(Box<DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Lines {
    fn open() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe(std::io::stdin().lock().lines()));
        }
        let editor = DefaultEditor::new()
            .map_err(|problem| Failure::Failed(format!("terminal: {problem}")))?;
        Ok(Self::Editor(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Self::Pipe(lines) => {
                let line = lines.next().transpose();
                line.map_err(|problem| Failure::Failed(format!("standard input: {problem}")))
            }
            Self::Editor(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // Only remembers the line for the arrow keys; an editor without memory still edits.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
                Err(ReadlineError::Eof) => Ok(None),
                Err(problem) => Err(Failure::Failed(format!("terminal: {problem}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use hadal_engine::Limits;

    use super::*;

    #[test]
    fn a_conversation_goes_on_beyond_the_context() {
        let runtime = Runtime::new().unwrap();
        let model = ModelArgs { checkpoints: None, model: None };
        let limits = Limits { context_tokens_max: 64, ..Limits::default() };
        let talker =
            Talker::load(&runtime, &model, Compute::plain(), limits, &Unfinished::default())
                .unwrap();
        let mut chat = Chat::new(None, SamplingArgs::default());
        chat.sampling.max_tokens = 30;
        for turn in 0..8 {
            assert_eq!(chat.take("What is the capital of Japan, please?"), Taken::Ask);
            let answer = ask(&talker, &mut chat, std::future::pending);
            let answer = answer.unwrap_or_else(|failure| panic!("turn {turn}: {failure:?}"));
            chat.history.push(message(Role::Assistant, answer));
        }
        assert!(chat.history.len() < 16, "{}", chat.history.len());
        // What no leaving out can help says what can.
        chat.take(&"word ".repeat(100));
        let Err(Failure::Failed(problem)) = ask(&talker, &mut chat, std::future::pending) else {
            panic!("was answered")
        };
        assert!(problem.contains("over this model's 63: shorten it"), "{problem}");
    }
}
