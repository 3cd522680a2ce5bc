//! A loaded model that answers on standard output, for `chat` and `run`: the engine in this process, no HTTP.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::step::TokenId;
use hadal_engine::text::{Message, Text};
use hadal_engine::{Engine, Event, Limits, Request, Sink};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Failure;
use super::load::load;
use super::locate::locate;
use super::sampling::SamplingArgs;
use crate::args::ModelArgs;

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
        cpu: CpuOptions,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let located = locate(model)?;
        let engine = load(&located.source, cpu, limits)?;
        let text = Text::open(&engine.text)?;
        Ok(Self { runtime, name: located.name, engine, text })
    }

    /// What the model is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
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
            stop_tokens: generation.eos_token_ids.iter().copied().map(TokenId).collect(),
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

/// Prints text up to a stop string, and nothing of the stop string.
struct Printer<'a> {
    stops: &'a [String],
    /// Text that may yet become a stop string.
    held: String,
    answer: String,
    is_terminal: bool,
}

impl<'a> Printer<'a> {
    fn new(stops: &'a [String]) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { stops, held: String::new(), answer: String::new(), is_terminal }
    }

    /// Prints what is certain; `Break` when a stop string is complete.
    fn push(&mut self, text: &str) -> Result<ControlFlow<()>, Failure> {
        self.held.push_str(text);
        let (certain, flow) = match certain(&self.held, self.stops) {
            Certain::Stopped(at) => (at, ControlFlow::Break(())),
            Certain::UpTo(at) => (at, ControlFlow::Continue(())),
        };
        let rest = self.held.split_off(certain);
        let certain = std::mem::replace(&mut self.held, rest);
        self.show(&certain)?;
        Ok(flow)
    }

    /// Prints what was held back: no stop string came of it.
    fn finish(&mut self) -> Result<(), Failure> {
        let held = std::mem::take(&mut self.held);
        self.show(&held)
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.answer.push_str(text);
        let mut out = std::io::stdout().lock();
        if self.is_terminal {
            out.write_all(harmless(text).as_bytes())?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// Ends the line and gives the whole answer.
    fn end(self) -> Result<String, Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out)?;
        out.flush()?;
        Ok(self.answer)
    }
}

/// How much of a text cannot be part of a stop string.
#[derive(Debug, PartialEq)]
enum Certain {
    /// A stop string begins here.
    Stopped(usize),
    /// What follows may be the beginning of one.
    UpTo(usize),
}

fn certain(text: &str, stops: &[String]) -> Certain {
    if let Some(at) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        return Certain::Stopped(at);
    }
    let begins = |at: &usize| stops.iter().any(|stop| stop.starts_with(&text[*at..]));
    Certain::UpTo(text.char_indices().map(|(at, _)| at).find(begins).unwrap_or(text.len()))
}

/// A model's text without the control characters that steer a terminal.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_possible_stop_string_is_held_back() {
        let stops = ["\n\nHuman:".to_owned()];
        assert_eq!(certain("Hi", &stops), Certain::UpTo(2));
        assert_eq!(certain("Hi\n", &stops), Certain::UpTo(2));
        assert_eq!(certain("Hi\n\nHum", &stops), Certain::UpTo(2));
        assert_eq!(certain("Hi\n\nHug", &stops), Certain::UpTo(7));
        assert_eq!(certain("Hi\n\nHuman: no", &stops), Certain::Stopped(2));
        assert_eq!(certain("é\n", &stops), Certain::UpTo(2));
    }

    #[test]
    fn a_terminal_gets_no_escapes() {
        assert_eq!(harmless("a\u{1b}[2J\tb\r\n\u{9b}c"), "a[2J\tb\nc");
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
