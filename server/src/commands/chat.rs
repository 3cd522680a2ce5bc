//! `hadal chat`: a conversation in the terminal. Messages come from a line editor, or line by line from a pipe.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use hadal_engine::text::{Message, Role};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::runtime::Runtime;

use super::answer::{Asked, Talker};
use super::sampling::{self, SamplingArgs};
use super::{Failure, Outcome, tell};
use crate::args::{ComputeArgs, LimitArgs, ModelArgs};

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

const HELP: &str = "\
/set NAME VALUE  temperature, top-p, top-k, min-p, repetition-penalty, max-tokens or seed
/set             show what is set
/system TEXT     begin again with this system message; without a text, without one
/clear           begin again
/exit            leave (so does Ctrl-D)
Ctrl-C           stop the answer
";

/// Reads messages and answers them until there are no more. `interrupted` ends when the person presses Ctrl-C.
pub(crate) fn run(args: &ChatArgs, runtime: &Runtime, interrupted: impl AsyncFn()) -> Outcome {
    let talker = Talker::load(runtime, &args.model, args.compute.options(), args.limits.limits())?;
    let mut chat =
        Chat { history: Vec::new(), system: args.system.clone(), sampling: args.sampling.clone() };
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
                let asked = Asked::Chat(&chat.messages());
                // Only a terminal sends Ctrl-C for the answer alone; to a pipe it means the whole program.
                let answered = if lines.is_terminal() {
                    talker.answer(asked, &chat.sampling, &interrupted)
                } else {
                    talker.answer(asked, &chat.sampling, std::future::pending)
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

fn message(role: Role, content: String) -> Message {
    Message { role, content }
}

/// A conversation as it stands.
struct Chat {
    system: Option<String>,
    history: Vec<Message>,
    sampling: SamplingArgs,
}

/// What became of a line.
#[derive(Debug, PartialEq)]
enum Taken {
    Nothing,
    /// A message for the model; it stands in the history.
    Ask,
    /// Words for the person.
    Say(String),
    Leave,
}

impl Chat {
    /// A message or a command.
    fn take(&mut self, line: &str) -> Taken {
        let line = line.trim();
        if line.is_empty() {
            return Taken::Nothing;
        }
        let Some(command) = line.strip_prefix('/') else {
            self.history.push(message(Role::User, line.to_owned()));
            return Taken::Ask;
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "exit" | "quit" => Taken::Leave,
            "help" => Taken::Say(HELP.into()),
            "clear" => {
                self.history.clear();
                Taken::Nothing
            }
            "system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                self.history.clear();
                Taken::Nothing
            }
            "set" if rest.is_empty() => Taken::Say(sampling::shown(&self.sampling)),
            "set" => match sampling::set(&mut self.sampling, rest) {
                Ok(()) => Taken::Nothing,
                Err(problem) => Taken::Say(format!("{problem}\n")),
            },
            _ => Taken::Say(format!("no command /{name}; /help lists them\n")),
        }
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| message(Role::System, text.clone()));
        system.chain(self.history.iter().cloned()).collect()
    }
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
    use super::*;

    fn chat() -> Chat {
        Chat { system: None, history: Vec::new(), sampling: SamplingArgs::default() }
    }

    #[test]
    fn a_line_is_a_message_and_the_history_keeps_it() {
        let mut chat = chat();
        assert_eq!(chat.take("  Hello!\n"), Taken::Ask);
        assert_eq!(chat.messages(), [message(Role::User, "Hello!".into())]);
        assert_eq!(chat.take("  "), Taken::Nothing);
    }

    #[test]
    fn clear_keeps_the_system_message_and_system_begins_again() {
        let mut chat = chat();
        chat.take("/system Be brief.");
        chat.take("Hello!");
        chat.take("/clear");
        assert_eq!(chat.messages(), [message(Role::System, "Be brief.".into())]);
        chat.take("Hello!");
        chat.take("/system");
        assert!(chat.messages().is_empty());
    }

    #[test]
    fn unknown_commands_are_not_sent_to_the_model() {
        assert!(matches!(chat().take("/sytem x"), Taken::Say(_)));
        assert_eq!(chat().take("/exit"), Taken::Leave);
        assert_eq!(chat().take("/help"), Taken::Say(HELP.into()));
    }
}
