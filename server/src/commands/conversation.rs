//! A conversation in the terminal: its messages, its commands, and how it stays within the model's context.

use hadal_engine::text::{Message, Role};

use super::Failure;
use super::sampling::{self, SamplingArgs};

const HELP: &str = "\
/set NAME VALUE  temperature, top-p, top-k, min-p, repetition-penalty, max-tokens or seed
/set             show what is set
/system TEXT     begin again with this system message; without a text, without one
/clear           begin again
/exit            leave (so does Ctrl-D)
Ctrl-C           stop the answer
";

/// A message of a role.
pub(super) fn message(role: Role, content: String) -> Message {
    Message { role, content }
}

/// A conversation as it stands.
pub(super) struct Chat {
    system: Option<String>,
    pub(super) history: Vec<Message>,
    pub(super) sampling: SamplingArgs,
}

/// What became of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    Nothing,
    /// A message for the model; it stands in the history.
    Ask,
    /// Words for the person.
    Say(String),
    Leave,
}

impl Chat {
    /// A conversation that begins.
    pub(super) fn new(system: Option<String>, sampling: SamplingArgs) -> Self {
        Self { system, history: Vec::new(), sampling }
    }

    /// A message or a command.
    pub(super) fn take(&mut self, line: &str) -> Taken {
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

    pub(super) fn messages(&self) -> Vec<Message> {
        self.messages_without(0)
    }

    /// What the model is asked, without the first `n` exchanges.
    fn messages_without(&self, n: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| message(Role::System, text.clone()));
        system.chain(self.history.iter().skip(2 * n).cloned()).collect()
    }

    /// Forgets as few of the earliest exchanges as leave room for an answer to the last message, and gives their
    /// number. Where that message alone is too long, nothing is forgotten for its sake.
    pub(super) fn make_room(
        &mut self,
        room: Room,
        tokens: impl Fn(&[Message]) -> Result<usize, Failure>,
    ) -> Result<usize, Failure> {
        let n_exchange = self.history.len() / 2;
        for n in 0..=n_exchange {
            let enough = if n == n_exchange { room.most } else { room.wanted };
            if tokens(&self.messages_without(n))? <= enough {
                self.history.drain(..2 * n);
                return Ok(n);
            }
        }
        Ok(0)
    }
}

/// Tokens that a prompt may have.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// So that there is room for an answer.
    wanted: usize,
    /// So that it can be answered at all.
    most: usize,
}

impl Room {
    /// An answer gets what it may take at most, but no more than a quarter of the context.
    pub(super) fn of(context_tokens: usize, max_tokens: u32) -> Self {
        let answer = (max_tokens as usize).min(context_tokens / 4).max(1);
        let (wanted, most) =
            (context_tokens.saturating_sub(answer), context_tokens.saturating_sub(1));
        Self { wanted, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Chat {
        Chat::new(None, SamplingArgs::default())
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

    /// A conversation whose messages have as many tokens as bytes.
    fn make_room(system: &str, history: &[&str], context_tokens: usize) -> (usize, Vec<String>) {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        let mut chat = chat();
        chat.system = Some(system.to_owned());
        chat.history =
            roles.zip(history).map(|(role, text)| message(role, (*text).to_owned())).collect();
        let tokens = |messages: &[Message]| Ok(messages.iter().map(|m| m.content.len()).sum());
        let left_out = chat.make_room(Room::of(context_tokens, 8), tokens).unwrap();
        (left_out, chat.history.into_iter().map(|message| message.content).collect())
    }

    #[test]
    fn the_earliest_exchanges_go_when_the_context_is_full_and_the_system_message_stays() {
        let history = ["one 1", "two 2", "three", "four4", "five5"];
        let check = |context_tokens, n: usize| {
            let want = history[2 * n..].iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(make_room("be!", &history, context_tokens), (n, want), "{context_tokens}");
        };
        // 28 tokens and 8 for the answer; without one exchange 18, without two 8.
        check(36, 0);
        check(35, 1);
        check(26, 1);
        // A quarter of the context is enough for an answer: 6 of 24.
        check(24, 1);
        check(22, 2);
        // The question alone must only fit.
        check(9, 2);
        // Nothing is forgotten for a question that can never be asked.
        check(8, 0);
    }

    #[test]
    fn unknown_commands_are_not_sent_to_the_model() {
        assert!(matches!(chat().take("/sytem x"), Taken::Say(_)));
        assert_eq!(chat().take("/exit"), Taken::Leave);
        assert_eq!(chat().take("/help"), Taken::Say(HELP.into()));
    }
}
