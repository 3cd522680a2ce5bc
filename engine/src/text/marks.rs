//! Marks in messages: which text only looks like a control token, and what an assistant wrote.
//!
//! Marks are Unicode noncharacters, which text never has; one that is there all the same is escaped and comes through.

use std::ops::Range;

use super::tokenizer::Tokenizer;
use super::{Message, Role};
use crate::step::TokenId;

/// Before a look-alike: what follows is text.
const TEXT: char = '\u{fdd0}';
/// Before an answer.
const START: char = '\u{fdd1}';
/// After an answer.
const END: char = '\u{fdd2}';
/// Before a character that is itself one of the four.
const ESCAPE: char = '\u{fdd3}';

/// A part of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A control token that the template wrote.
    Control(TokenId),
    /// Text, and which bytes of it an assistant wrote.
    Text {
        /// Without marks.
        text: String,
        /// Ascending and disjoint.
        answers: Vec<Range<usize>>,
    },
}

fn is_mark(c: char) -> bool {
    (TEXT..=ESCAPE).contains(&c)
}

/// A message with marks. An assistant's content keeps its control tokens (templates take `</think>` apart) and is
/// marked at both ends, inside its outer white space, so that a template's `trim` still finds it.
pub(super) fn mark(tokenizer: &Tokenizer, message: &Message) -> Message {
    let is_answer = message.role == Role::Assistant;
    let mut content = String::with_capacity(message.content.len() + 8);
    for (at, c) in message.content.char_indices() {
        if is_mark(c) {
            content.push(ESCAPE);
        } else if !is_answer
            && message.content.get(at..).is_some_and(|rest| tokenizer.control_at(rest).is_some())
        {
            content.push(TEXT);
        }
        content.push(c);
    }
    if is_answer {
        content = mark_answer(&content);
    }
    Message { role: message.role, content }
}

fn mark_answer(content: &str) -> String {
    let core = content.trim();
    let Some((before, after)) = content.split_once(core).filter(|_| !core.is_empty()) else {
        return content.to_owned();
    };
    // A template may ask what an answer starts with; what starts with `<` is left as it is, and the answer then
    // counts from the last control token.
    let start = if core.starts_with('<') { String::new() } else { START.to_string() };
    format!("{before}{start}{core}{END}{after}")
}

/// Takes a rendered conversation apart: control tokens, and text without marks.
pub(super) fn parts(tokenizer: &Tokenizer, rendered: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut text, mut answers, mut start) = (String::new(), Vec::new(), None);
    let mut at = 0;
    while let Some(rest) = rendered.get(at..)
        && let Some(c) = rest.chars().next()
    {
        at += c.len_utf8();
        match c {
            START => start = Some(text.len()),
            END => {
                let from = start.take().unwrap_or(0);
                if from < text.len() {
                    answers.push(from..text.len());
                }
            }
            TEXT | ESCAPE => {
                if let Some(next) = rendered.get(at..).and_then(|rest| rest.chars().next()) {
                    at += next.len_utf8();
                    text.push(next);
                }
            }
            _ => match tokenizer.control_at(rest) {
                None => text.push(c),
                Some((len, id)) => {
                    at += len - c.len_utf8();
                    flush(&mut parts, &mut text, &mut answers);
                    // An answer that holds a control token counts from behind it.
                    start = start.map(|_| 0);
                    parts.push(Part::Control(id));
                }
            },
        }
    }
    flush(&mut parts, &mut text, &mut answers);
    parts
}

fn flush(parts: &mut Vec<Part>, text: &mut String, answers: &mut Vec<Range<usize>>) {
    if !text.is_empty() {
        parts.push(Part::Text { text: std::mem::take(text), answers: std::mem::take(answers) });
    }
    answers.clear();
}
