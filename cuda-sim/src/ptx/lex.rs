//! PTX text to tokens. A dotted word such as `ld.global.v4.u32` or `%tid.x` is one token.

use crate::fault::{Result, ptx_error};

/// A token's text and the line it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: u32,
}

/// Splits a text. Comments are dropped; a string keeps its quotes; all else that is no word is one character.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b if b.is_ascii_whitespace() || b == 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = find(bytes, at, b"\n").unwrap_or(bytes.len());
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let Some(end) = find(bytes, at + 2, b"*/") else {
                    return ptx_error(line, "a comment without its end");
                };
                line += count_lines(&bytes[at..end]);
                at = end + 2;
            }
            b'"' => {
                let Some(end) = find(bytes, at + 1, b"\"") else {
                    return ptx_error(line, "a string without its end");
                };
                at = end + 1;
                found.push(Token { text: &text[start..at], line });
                line += count_lines(&bytes[start..at]);
            }
            b if is_word(b) => {
                at = word_end(bytes, at);
                found.push(Token { text: &text[start..at], line });
            }
            b if b.is_ascii() => {
                at += 1;
                found.push(Token { text: &text[start..at], line });
            }
            b => return ptx_error(line, format!("byte {b:#04x} outside a comment")),
        }
    }
    Ok(found)
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

/// `::` belongs to a word, a lone `:` ends a label.
fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        if is_word(bytes[at]) {
            at += 1;
        } else if bytes[at] == b':' && bytes.get(at + 1) == Some(&b':') {
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| at + from)
}

fn count_lines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|b| **b == b'\n').count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_dots_and_lines_are_counted() {
        let text =
            "// x\n@%p1 ld.shared::cta.v2.u32 {%r1,%r2}, [%rd1+-8];\n/* a\nb */ $L_1: \"a;b\"";
        let found = tokens(text).unwrap();
        let words: Vec<&str> = found.iter().map(|t| t.text).collect();
        assert_eq!(
            words,
            [
                "@",
                "%p1",
                "ld.shared::cta.v2.u32",
                "{",
                "%r1",
                ",",
                "%r2",
                "}",
                ",",
                "[",
                "%rd1",
                "+",
                "-",
                "8",
                "]",
                ";",
                "$L_1",
                ":",
                "\"a;b\""
            ]
        );
        assert_eq!((found[0].line, found[16].line), (2, 4));
    }

    #[test]
    fn what_does_not_end_is_refused() {
        assert!(tokens("/* x").is_err());
        assert!(tokens("\"x").is_err());
        assert!(tokens("é").is_err());
    }
}
