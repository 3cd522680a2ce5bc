//! An answer on standard output, as it comes: up to a stop string, and harmless to a terminal.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;

use super::Failure;

/// Prints text up to a stop string, and nothing of the stop string.
pub(super) struct Printer<'a> {
    stops: &'a [String],
    /// Text that may yet become a stop string.
    held: String,
    answer: String,
    is_terminal: bool,
}

impl<'a> Printer<'a> {
    pub(super) fn new(stops: &'a [String]) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { stops, held: String::new(), answer: String::new(), is_terminal }
    }

    /// Prints what is certain; `Break` when a stop string is complete.
    pub(super) fn push(&mut self, text: &str) -> Result<ControlFlow<()>, Failure> {
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
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
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
    pub(super) fn end(self) -> Result<String, Failure> {
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
}
