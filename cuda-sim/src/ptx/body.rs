//! A kernel's body to statements: scopes, registers, variables, labels and lines. Nothing is decoded here.

use std::collections::HashMap;

use super::lex::Token;
use super::parse::{Cursor, declare_variable, integer};
use super::words::bits;
use crate::fault::{Result, ptx_error};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Reg {
        index: u32,
        bits: u8,
    },
    Pred(u32),
    /// Offset in the parameters.
    Param(u32),
    /// Offset in the declared shared memory.
    Shared(u32),
    SharedDynamic,
    /// A module's shared variable: takes room in the kernels that name it.
    SharedOuter {
        bytes: u64,
        align: u64,
    },
    /// Offset in the thread's local memory.
    Local(u32),
    Global(String),
}

/// Names of one pair of braces.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) parent: Option<usize>,
    pub(super) names: HashMap<String, Name>,
    /// `%r<62>`: prefix to first index, count and bits.
    pub(super) ranges: HashMap<String, (u32, u32, u8)>,
    pub(super) labels: HashMap<String, u32>,
    /// Label lists of `brx.idx`.
    pub(super) targets: HashMap<String, Vec<String>>,
}

/// One operand as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand<'a> {
    /// A name, or an immediate with its sign taken in.
    Word(&'a str),
    Negative(&'a str),
    Not(&'a str),
    List(Vec<Operand<'a>>),
    Address {
        base: &'a str,
        offset: i64,
    },
    /// `%r1|%p1`.
    Pair(&'a str, &'a str),
}

/// One instruction as it is written.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) scope: usize,
    pub(super) guard: Option<(&'a str, bool)>,
    pub(super) word: &'a str,
    pub(super) operands: Vec<Operand<'a>>,
    pub(super) line: u32,
    pub(super) source: (u32, u32),
}

/// A body, split.
#[derive(Debug, Default)]
pub(super) struct Body<'a> {
    pub(super) scopes: Vec<Scope>,
    pub(super) statements: Vec<Statement<'a>>,
    pub(super) regs: u32,
    pub(super) preds: u32,
    pub(super) shared_bytes: u32,
    pub(super) local_bytes: u32,
}

/// Nested braces of inline assembly; more is not PTX that a compiler made.
const DEPTH_MAX: usize = 64;
/// Registers a kernel may declare.
const REGS_MAX: u32 = 1 << 20;

impl<'a> Body<'a> {
    /// Reads from behind the opening brace to the closing one. `outer` holds the module's names and the parameters.
    pub(super) fn read(cursor: &mut Cursor<'a>, outer: Scope) -> Result<Self> {
        let mut body = Self::default();
        body.scopes.push(outer);
        body.scopes.push(Scope { parent: Some(0), ..Scope::default() });
        let mut open = vec![1];
        let mut source = (0, 0);
        while let Some(&scope) = open.last() {
            let token = cursor.next()?;
            match token.text {
                "}" => {
                    open.pop();
                }
                "{" => {
                    if open.len() >= DEPTH_MAX {
                        return ptx_error(token.line, "braces nested too deep");
                    }
                    body.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                    open.push(body.scopes.len() - 1);
                }
                ";" => {}
                ".loc" => source = location(cursor, token.line)?,
                ".pragma" => cursor.skip_past(";")?,
                ".reg" => body.registers(cursor, scope)?,
                ".shared" | ".local" | ".param" | ".const" | ".global" => {
                    body.variable(cursor, token, scope)?;
                }
                text if text.starts_with('.') && !text.starts_with(".branchtargets") => {
                    return ptx_error(token.line, format!("directive `{text}` in a body"));
                }
                _ if cursor.peek_is(":") => {
                    cursor.next()?;
                    body.label(cursor, token, scope)?;
                }
                _ => {
                    let statement = statement(cursor, token, scope, source)?;
                    body.statements.push(statement);
                }
            }
        }
        Ok(body)
    }

    fn label(&mut self, cursor: &mut Cursor<'a>, token: Token<'a>, scope: usize) -> Result<()> {
        if cursor.peek_is(".branchtargets") {
            cursor.next()?;
            let mut targets = Vec::new();
            loop {
                targets.push(cursor.next()?.text.to_owned());
                if cursor.next()?.text == ";" {
                    break;
                }
            }
            self.scopes[scope].targets.insert(token.text.to_owned(), targets);
            return Ok(());
        }
        let at = self.statements.len() as u32;
        self.scopes[scope].labels.insert(token.text.to_owned(), at);
        Ok(())
    }

    fn registers(&mut self, cursor: &mut Cursor<'a>, scope: usize) -> Result<()> {
        let ty = cursor.next()?;
        let Some(width) = bits(ty.text.trim_start_matches('.')) else {
            return ptx_error(ty.line, format!("register type `{}`", ty.text));
        };
        loop {
            let name = cursor.next()?;
            let ranged = cursor.peek_is("<");
            let mut count = 1;
            if ranged {
                cursor.next()?;
                let token = cursor.next()?;
                count = integer(token.text).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
                cursor.expect(">")?;
            }
            let next = if width == 1 { &mut self.preds } else { &mut self.regs };
            let first = *next;
            *next = next.saturating_add(count);
            if *next > REGS_MAX {
                return ptx_error(name.line, format!("more than {REGS_MAX} registers"));
            }
            let names = &mut self.scopes[scope];
            if ranged {
                names.ranges.insert(name.text.to_owned(), (first, count, width));
            } else {
                let value = if width == 1 {
                    Name::Pred(first)
                } else {
                    Name::Reg { index: first, bits: width }
                };
                names.names.insert(name.text.to_owned(), value);
            }
            match cursor.next()?.text {
                "," => {}
                ";" => return Ok(()),
                other => return ptx_error(name.line, format!("`{other}` in a list of registers")),
            }
        }
    }

    fn variable(&mut self, cursor: &mut Cursor<'a>, space: Token<'a>, scope: usize) -> Result<()> {
        let declared = declare_variable(cursor, space.line)?;
        let (total, make): (&mut u32, fn(u32) -> Name) = match space.text {
            ".shared" => (&mut self.shared_bytes, Name::Shared),
            ".local" => (&mut self.local_bytes, Name::Local),
            other => {
                return ptx_error(space.line, format!("a variable in `{other}` inside a body"));
            }
        };
        let at = place(total, declared.bytes, declared.align, space.line)?;
        self.scopes[scope].names.insert(declared.name, make(at));
        Ok(())
    }
}

/// Takes room at the end of a space; no kernel has more than 4 MiB of one.
pub(super) fn place(total: &mut u32, bytes: u64, align: u64, line: u32) -> Result<u32> {
    let at = u64::from(*total).next_multiple_of(align.max(1));
    match at.checked_add(bytes).and_then(|end| u32::try_from(end).ok()) {
        Some(end) if end <= 4 << 20 => {
            *total = end;
            Ok(at as u32)
        }
        _ => ptx_error(line, format!("a variable of {bytes} bytes is too large for its space")),
    }
}

/// `.loc file line column`, and what may follow on the same line.
fn location(cursor: &mut Cursor<'_>, line: u32) -> Result<(u32, u32)> {
    let mut numbers = Vec::new();
    while cursor.peek().is_some_and(|token| token.line == line) {
        numbers.push(integer(cursor.next()?.text).unwrap_or(0) as u32);
    }
    match numbers[..] {
        [file, at, ..] => Ok((file, at)),
        _ => ptx_error(line, "`.loc` without file and line"),
    }
}

fn statement<'a>(
    cursor: &mut Cursor<'a>,
    first: Token<'a>,
    scope: usize,
    source: (u32, u32),
) -> Result<Statement<'a>> {
    let mut token = first;
    let mut guard = None;
    if token.text == "@" {
        let mut name = cursor.next()?;
        let not = name.text == "!";
        if not {
            name = cursor.next()?;
        }
        guard = Some((name.text, not));
        token = cursor.next()?;
    }
    let word = token;
    let mut operands = Vec::new();
    while !cursor.peek_is(";") {
        operands.push(operand(cursor, word.line)?);
        if cursor.peek_is(",") {
            cursor.next()?;
        }
    }
    cursor.next()?;
    Ok(Statement { scope, guard, word: word.text, operands, line: word.line, source })
}

fn operand<'a>(cursor: &mut Cursor<'a>, line: u32) -> Result<Operand<'a>> {
    let token = cursor.next()?;
    match token.text {
        "{" => Ok(Operand::List(list(cursor, "}", line)?)),
        "(" => Ok(Operand::List(list(cursor, ")", line)?)),
        "[" => address(cursor, line),
        "!" => Ok(Operand::Not(cursor.next()?.text)),
        "-" => Ok(Operand::Negative(cursor.next()?.text)),
        text if text.starts_with(|c: char| c.is_alphanumeric() || "_$%.".contains(c)) => {
            if cursor.peek_is("|") {
                cursor.next()?;
                return Ok(Operand::Pair(text, cursor.next()?.text));
            }
            Ok(Operand::Word(text))
        }
        text => ptx_error(line, format!("`{text}` where an operand is wanted")),
    }
}

fn list<'a>(cursor: &mut Cursor<'a>, end: &str, line: u32) -> Result<Vec<Operand<'a>>> {
    let mut parts = Vec::new();
    while !cursor.peek_is(end) {
        // One level is enough for vectors and argument lists, and bounds the recursion.
        let token = cursor.peek().map(|token| token.text);
        if matches!(token, Some("{" | "(")) {
            return ptx_error(line, "a list in a list");
        }
        parts.push(operand(cursor, line)?);
        if cursor.peek_is(",") {
            cursor.next()?;
        }
    }
    cursor.next()?;
    Ok(parts)
}

fn address<'a>(cursor: &mut Cursor<'a>, line: u32) -> Result<Operand<'a>> {
    let base = cursor.next()?.text;
    let mut offset = 0;
    while !cursor.peek_is("]") {
        let mut negative = false;
        let mut token = cursor.next()?;
        while matches!(token.text, "+" | "-") {
            negative ^= token.text == "-";
            token = cursor.next()?;
        }
        let Some(value) = integer(token.text) else {
            return ptx_error(line, format!("offset `{}` in an address", token.text));
        };
        offset = if negative { 0i64.wrapping_sub(value as i64) } else { value as i64 };
    }
    cursor.next()?;
    Ok(Operand::Address { base, offset })
}
