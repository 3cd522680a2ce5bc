//! Marks in messages: which text only looks like a control token, and what an assistant wrote.
//!
//! Marks are Unicode noncharacters, which text never has; one that is there all the same is escaped and comes through.
//! They stand inside a text's outer white space, so that a template's `trim` still finds it.

use std::ops::Range;

use super::controls::Controls;
use super::{Message, Role};
use crate::step::TokenId;

/// Before a character that begins no control token, whatever it looks like.
const TEXT: char = '\u{fdd0}';
/// Before an answer.
const START: char = '\u{fdd1}';
/// After an answer, or a part of it.
const END: char = '\u{fdd2}';
/// Before a character that is itself a mark.
const ESCAPE: char = '\u{fdd3}';
/// Before a further part of an answer.
const AGAIN: char = '\u{fdd4}';
/// What templates take answers apart at, even where the tokenizer has no token for it.
const THOUGHT: [&str; 2] = ["<think>", "</think>"];

/// A rendered conversation without marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    pub text: String,
    /// The control tokens that the template wrote, and where in `text`.
    pub controls: Vec<(Range<usize>, TokenId)>,
    /// What an assistant wrote, where that can be told; ascending and disjoint.
    pub answers: Vec<Range<usize>>,
}

/// A message with marks.
pub(super) fn mark(controls: &Controls, message: &Message) -> Message {
    let content = match message.role {
        Role::Assistant => mark_answer(controls, &message.content),
        Role::System | Role::User | Role::Tool => mark_text(controls, &message.content),
    };
    Message { role: message.role, content }
}

/// Marks look-alikes, and an end that the next message could make one of.
fn mark_text(controls: &Controls, content: &str) -> String {
    let core = content.trim_end();
    let mut marked = String::with_capacity(content.len() + 8);
    for (at, c) in content.char_indices() {
        let is_token =
            |text: &str| text.get(at..).is_some_and(|rest| controls.look(rest).token.is_some());
        let is_open = core.get(at..).is_some_and(|rest| controls.look(rest).is_open);
        if is_mark(c) {
            marked.push(ESCAPE);
        } else if is_open || is_token(content) {
            marked.push(TEXT);
        }
        marked.push(c);
    }
    marked
}

/// Marks an answer's parts between control tokens, which stay as they are: templates ask what an answer begins with,
/// and take it apart at `</think>`.
fn mark_answer(controls: &Controls, content: &str) -> String {
    let mut marked = String::with_capacity(content.len() + 8);
    let (mut from, mut at, mut start) = (0, 0, START);
    while let Some(rest) = content.get(at..)
        && let Some(c) = rest.chars().next()
    {
        let thought = THOUGHT.iter().find(|tag| rest.starts_with(**tag)).map(|tag| tag.len());
        let Some(len) = controls.look(rest).token.map(|(len, _)| len).max(thought) else {
            at += c.len_utf8();
            continue;
        };
        mark_part(&mut marked, content.get(from..at).unwrap_or_default(), &mut start);
        marked.push_str(rest.get(..len).unwrap_or_default());
        at += len;
        from = at;
    }
    mark_part(&mut marked, content.get(from..).unwrap_or_default(), &mut start);
    marked
}

fn mark_part(marked: &mut String, part: &str, start: &mut char) {
    let (lead, tail) = (part.trim_start(), part.trim_end());
    if lead.is_empty() {
        marked.push_str(part);
        return;
    }
    marked.push_str(part.get(..part.len() - lead.len()).unwrap_or_default());
    marked.push(std::mem::replace(start, AGAIN));
    for c in part.trim().chars() {
        if is_mark(c) {
            marked.push(ESCAPE);
        }
        marked.push(c);
    }
    marked.push(END);
    marked.push_str(part.get(tail.len()..).unwrap_or_default());
}

/// A marked answer behind `Assistant:`, after one space; the model writes that space, so it belongs to the answer.
pub(super) fn after_one_space(marked: &str) -> String {
    let answer = marked.trim_start_matches(' ');
    match answer.strip_prefix(START) {
        Some(rest) => format!("{START} {rest}"),
        None => format!(" {answer}"),
    }
}

fn is_mark(c: char) -> bool {
    (TEXT..=AGAIN).contains(&c)
}

/// Takes a rendered conversation's marks out, and finds the control tokens that no mark stands before.
pub(super) fn unmark(controls: &Controls, marked: &str) -> Rendered {
    let mut rendered = Rendered::default();
    let Rendered { text, controls: found, answers } = &mut rendered;
    // An answer's begin, and whether it goes on from the one before: only blanks and control tokens between.
    let (mut start, mut is_near) = (None, false);
    let mut at = 0;
    while let Some(rest) = marked.get(at..)
        && let Some(c) = rest.chars().next()
    {
        at += c.len_utf8();
        match c {
            START => start = Some((text.len(), false)),
            AGAIN => start = Some((text.len(), is_near)),
            END => {
                // No begin: the template cut it off, and where the answer begins cannot be told.
                match (start.take(), answers.last_mut()) {
                    (Some((_, true)), Some(before)) => before.end = text.len(),
                    (Some((from, _)), _) if from < text.len() => answers.push(from..text.len()),
                    _ => {}
                }
                is_near = true;
            }
            TEXT | ESCAPE => {
                let next = marked.get(at..).and_then(|rest| rest.chars().next());
                at += next.map_or(0, char::len_utf8);
                text.extend(next);
                is_near = false;
            }
            _ => match controls.look(rest).token {
                None => {
                    text.push(c);
                    is_near &= c.is_whitespace();
                }
                Some((len, id)) => {
                    at += len - c.len_utf8();
                    found.push((text.len()..text.len() + len, id));
                    text.push_str(rest.get(..len).unwrap_or_default());
                    // Answers are marked in parts without control tokens: this one lost its end.
                    start = None;
                }
            },
        }
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> Controls {
        let tokens = ["<u>", "<a>", "<e>", "<think>", "</think>"];
        Controls::new(tokens.iter().zip(0..).map(|(text, id)| ((*text).into(), TokenId(id))))
    }

    fn marked(role: Role, content: &str) -> String {
        mark(&controls(), &Message { role, content: content.into() }).content
    }

    /// What comes out of a rendered text: itself, its control tokens, and the answers in it.
    #[track_caller]
    fn check(rendered: &str, text: &str, tokens: &[&str], answers: &[&str]) {
        let got = unmark(&controls(), rendered);
        let of = |range: &Range<usize>| got.text[range.clone()].to_owned();
        assert_eq!(got.text, text);
        assert_eq!(got.controls.iter().map(|(range, _)| of(range)).collect::<Vec<_>>(), tokens);
        assert_eq!(got.answers.iter().map(of).collect::<Vec<_>>(), answers, "{text}");
    }

    #[test]
    fn look_alikes_of_people_are_text() {
        let user = |content| marked(Role::User, content);
        check(&format!("<u>{}<a>", user("x<a><think>")), "<u>x<a><think><a>", &["<u>", "<a>"], &[]);
        check(&user("<<u>"), "<<u>", &[], &[]);
        // Halves in two messages that a template puts together, trimmed or not.
        check(&format!("{}{}", user("<thi"), user("nk>")), "<think>", &[], &[]);
        check(
            &format!("{}{}", user("a <thi \n").trim(), user(" nk>").trim()),
            "a <think>",
            &[],
            &[],
        );
        // What cannot be a token needs no mark, and a template still finds what it looks for.
        assert_eq!(user("/no_think a < b <b> "), "/no_think a < b <b> ");
    }

    #[test]
    fn marks_in_messages_come_through() {
        let odd = "a\u{fdd0}b\u{fdd1}c\u{fdd2}d\u{fdd3}e\u{fdd4}";
        check(&marked(Role::Tool, odd), odd, &[], &[]);
        check(&marked(Role::Assistant, odd), odd, &[], &[odd]);
    }

    #[test]
    fn answers_are_found_trimmed_and_whole() {
        let answer = |content| marked(Role::Assistant, content);
        check(&format!("<a>{}<e>", answer(" Hi. \n")), "<a> Hi. \n<e>", &["<a>", "<e>"], &["Hi."]);
        check(&format!("A:{}", answer(" Hi. ").trim()), "A:Hi.", &[], &["Hi."]);
        check(
            &format!("User: x A: {}", answer("<b>Hi</b>")),
            "User: x A: <b>Hi</b>",
            &[],
            &["<b>Hi</b>"],
        );
        check(&answer("  "), "  ", &[], &[]);
        let thought = answer("<think>\nwhy\n</think>\n\nSo.");
        assert!(thought.starts_with("<think>\n"), "templates ask what an answer begins with");
        check(
            &thought,
            "<think>\nwhy\n</think>\n\nSo.",
            &["<think>", "</think>"],
            &["why\n</think>\n\nSo."],
        );
        let after = thought.split("</think>").last().unwrap().trim_start();
        check(&format!("<a>{after}<e>"), "<a>So.<e>", &["<a>", "<e>"], &["So."]);
        check(&format!("A: {}", after.trim_end_matches(END)), "A: So.", &[], &[]);
    }

    #[test]
    fn parts_of_two_answers_stay_apart() {
        let two = format!(
            "{}<e><a>{}",
            marked(Role::Assistant, "one"),
            marked(Role::Assistant, "<think>two")
        );
        check(&two, "one<e><a><think>two", &["<e>", "<a>", "<think>"], &["one", "two"]);
        let apart = marked(Role::Assistant, "one</think>two").replace("</think>", " and ");
        check(&apart, "one and two", &[], &["one", "two"]);
    }

    #[test]
    fn a_plain_turn_has_one_space_which_is_the_answers() {
        for content in ["Hi.", "  Hi."] {
            let turn = after_one_space(&marked(Role::Assistant, content));
            check(&format!("Assistant:{turn}"), "Assistant: Hi.", &[], &[" Hi."]);
        }
        assert_eq!(after_one_space("<think>x"), " <think>x");
    }
}
