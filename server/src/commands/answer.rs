//! A loaded model that answers on standard output, for `chat` and `run`: the engine in this process, no HTTP.

use std::ops::ControlFlow;

use hadal_engine::text::{Message, Text};
use hadal_engine::{Engine, Event, Limits, Request, Sink};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Failure;
use super::load::load;
use super::locate::locate;
use super::printer::Printer;
use super::sampling::SamplingArgs;
use super::unfinished::Unfinished;
use crate::args::{Compute, ModelArgs};

/// Events that may wait to be printed; a terminal that is further behind pauses its answer.
const EVENTS_MAX: usize = 1024;

/// What to answer.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// A conversation, through the model's template.
    Chat(&'a [Message]),
    /// A text to go on with, as it is.
    Raw(&'a str),
}

/// A loaded model with its name and its text side.
pub(crate) struct Talker<'a> {
    runtime: &'a Runtime,
    name: String,
    engine: Engine,
    text: Text,
}

impl<'a> Talker<'a> {
    /// Finds and loads a model.
    pub(crate) fn load(
        runtime: &'a Runtime,
        model: &ModelArgs,
        compute: Compute,
        limits: Limits,
        unfinished: &Unfinished,
    ) -> Result<Self, Failure> {
        let located = locate(model)?;
        let (engine, text) = load(&located.source, compute, limits, unfinished)?;
        Ok(Self { runtime, name: located.name, engine, text })
    }

    /// What the model is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of a conversation, as the model would be asked.
    pub(crate) fn prompt_tokens(&self, messages: &[Message]) -> Result<usize, Failure> {
        Ok(self.text.encode_chat(messages)?.tokens.len())
    }

    /// What prompt and answer share.
    pub(crate) fn context_tokens(&self) -> usize {
        self.engine.info.context_length
    }

    /// Prints the answer as it comes and returns it; `interrupted` cuts it short.
    pub(crate) fn answer(
        &self,
        asked: Asked,
        sampling: &SamplingArgs,
        interrupted: impl AsyncFn(),
    ) -> Result<String, Failure> {
        let (encoded, stops) = match asked {
            Asked::Chat(messages) => (self.text.encode_chat(messages)?, self.text.default_stops()),
            Asked::Raw(prompt) => (self.text.encode_raw(prompt)?, &[] as &[String]),
        };
        let generation = &self.engine.info.generation;
        let (events, received) = channel(EVENTS_MAX);
        let request = Request {
            tokens: encoded.tokens,
            decode_spans: encoded.decode_spans,
            sampling: sampling.resolve(generation),
            max_tokens: sampling.max_tokens,
            stop_tokens: self.text.end_tokens(&generation.eos_token_ids),
            sink: Box::new(Pipe(events)),
        };
        let submitted = self.engine.handle.submit(request);
        submitted.map_err(|refused| Failure::Failed(refused.to_string()))?;
        self.runtime.block_on(self.print(received, stops, interrupted))
    }

    async fn print(
        &self,
        mut events: Receiver<Event>,
        stops: &[String],
        interrupted: impl AsyncFn(),
    ) -> Result<String, Failure> {
        let mut detokenizer = self.text.detokenizer();
        let mut printer = Printer::new(stops);
        let mut interrupt = std::pin::pin!(interrupted());
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = &mut interrupt => break,
            };
            match event {
                Some(Event::Token(id)) => {
                    if printer.push(&detokenizer.push(id))?.is_break() {
                        break;
                    }
                }
                Some(Event::Done(..)) => {
                    let rest = detokenizer.finish();
                    if printer.push(&rest)?.is_continue() {
                        printer.finish()?;
                    }
                    break;
                }
                Some(Event::Failed(problem)) => return Err(Failure::Failed(problem)),
                None => return Err(Failure::Failed("the model is no longer running".into())),
            }
        }
        printer.end()
    }
}

/// Hands events to the printing side; never blocks the model.
struct Pipe(Sender<Event>);

impl Sink for Pipe {
    fn emit(&mut self, event: Event) -> ControlFlow<()> {
        match self.0.try_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn has_room(&self) -> bool {
        // One place is kept for the event that ends the answer.
        self.0.capacity() > 1
    }
}

#[cfg(test)]
mod tests {
    use hadal_engine::TokenId;

    use super::*;

    /// The demo model's answer, its configuration with or without end tokens.
    fn answer(ends: bool) -> String {
        let name = format!("hadal-answer-{}-{ends}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in crate::embedded::FILES {
            let text = String::from_utf8_lossy(bytes);
            if !ends && ["config.json", "generation_config.json"].contains(name) {
                assert!(text.contains("\"eos_token_id\""), "{name}");
                let without = text.replace("\"eos_token_id\"", "\"was_eos_token_id\"");
                std::fs::write(folder.join(name), without).unwrap();
            } else {
                std::fs::write(folder.join(name), bytes).unwrap();
            }
        }
        let runtime = Runtime::new().unwrap();
        let model = ModelArgs { checkpoints: None, model: Some(folder.as_os_str().to_owned()) };
        let sampling =
            SamplingArgs { temperature: Some(0.0), max_tokens: 100, ..SamplingArgs::default() };
        let talker = Talker::load(
            &runtime,
            &model,
            Compute::plain(),
            Limits::default(),
            &Unfinished::default(),
        )
        .unwrap();
        let content = "What is the capital of Japan?".to_owned();
        let messages = [Message { role: hadal_engine::text::Role::User, content }];
        let answer = talker.answer(Asked::Chat(&messages), &sampling, std::future::pending);
        drop(talker);
        std::fs::remove_dir_all(&folder).unwrap();
        answer.unwrap()
    }

    #[test]
    fn the_end_token_that_only_the_tokenizer_names_ends_an_answer_too() {
        assert_eq!(answer(false), answer(true));
    }

    #[test]
    fn a_pipe_keeps_a_place_for_the_end_and_notices_when_nobody_listens() {
        let (events, received) = channel(2);
        let mut pipe = Pipe(events);
        assert!(pipe.has_room());
        assert!(pipe.emit(Event::Token(TokenId(1))).is_continue());
        assert!(!pipe.has_room());
        drop(received);
        assert!(pipe.is_closed());
        assert!(pipe.emit(Event::Token(TokenId(2))).is_break());
    }
}
