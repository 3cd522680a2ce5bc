//! Directives of a module: version, target, variables, kernels and their parameters.

use std::collections::HashMap;
use std::sync::Arc;

use super::body::{Body, Name, Scope, place};
use super::lex::{Token, tokens};
use super::words::bits;
use super::{Global, Kernel, Module, decode};
use crate::fault::{Result, ptx_error};

/// A place in the tokens.
pub(super) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    pub(super) fn peek_is(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.text == text)
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>> {
        let Some(token) = self.peek() else {
            let line = self.tokens.last().map_or(0, |token| token.line);
            return ptx_error(line, "the text ends in the middle of something");
        };
        self.at += 1;
        Ok(token)
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<()> {
        let token = self.next()?;
        if token.text == text {
            return Ok(());
        }
        ptx_error(token.line, format!("`{}` where `{text}` is wanted", token.text))
    }

    pub(super) fn skip_past(&mut self, text: &str) -> Result<()> {
        while self.next()?.text != text {}
        Ok(())
    }

    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|token| token.line == line) {
            self.at += 1;
        }
    }

    /// From behind an opening brace past its closing one.
    fn skip_braces(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()?.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A variable's declaration behind its space.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) align: u64,
    initial: Vec<u8>,
    addresses: Vec<(usize, String)>,
    unsized_array: bool,
}

/// `.align 16 .b8 name[128] = {...};`, up to and with its last character.
pub(super) fn declare_variable(cursor: &mut Cursor<'_>, line: u32) -> Result<Declared> {
    let mut declared = declare_head(cursor, line)?;
    let token = cursor.next()?;
    match token.text {
        ";" => Ok(declared),
        "=" => {
            initialise(cursor, &mut declared, line)?;
            cursor.expect(";")?;
            Ok(declared)
        }
        other => ptx_error(line, format!("`{other}` behind a variable")),
    }
}

/// The declaration without what ends it. `bytes` of an element are kept in `align` where none is given.
fn declare_head(cursor: &mut Cursor<'_>, line: u32) -> Result<Declared> {
    let (mut align, mut element, mut vector) = (None, None, 1);
    let name = loop {
        let token = cursor.next()?;
        match token.text {
            ".align" => align = integer(cursor.next()?.text),
            ".v2" => vector = 2,
            ".v4" => vector = 4,
            // Attributes of a parameter's pointer: `.ptr .global .align 16`.
            ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".volatile" => {}
            text if text.starts_with('.') => {
                element = bits(text.trim_start_matches('.'));
                if element.is_none() {
                    return ptx_error(line, format!("variable type `{text}`"));
                }
            }
            text => break text.to_owned(),
        }
    };
    let Some(element) = element else { return ptx_error(line, "a variable without a type") };
    let one = u64::from(element / 8) * vector;
    let (mut count, mut unsized_array) = (1u64, false);
    while cursor.peek_is("[") {
        cursor.next()?;
        if cursor.peek_is("]") {
            unsized_array = true;
            count = 0;
        } else {
            let n = integer(cursor.next()?.text).unwrap_or(u64::MAX);
            count = count.saturating_mul(n);
        }
        cursor.expect("]")?;
    }
    let bytes = one.saturating_mul(count);
    if bytes > 1 << 30 {
        return ptx_error(line, format!("variable `{name}` of {bytes} bytes"));
    }
    let align = align.unwrap_or(one);
    if !align.is_power_of_two() || align > 4096 {
        return ptx_error(line, format!("variable `{name}` aligned to {align}"));
    }
    Ok(Declared { name, bytes, align, initial: Vec::new(), addresses: Vec::new(), unsized_array })
}

/// `{1, 2, name, ...}` or one value. The element's size follows from the variable's alignment and the count.
fn initialise(cursor: &mut Cursor<'_>, declared: &mut Declared, line: u32) -> Result<()> {
    let mut values = Vec::new();
    let mut depth = 0;
    loop {
        let token = cursor.next()?;
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => {}
            "-" => {
                let value = number(cursor.next()?.text).unwrap_or(0);
                values.push((0u64.wrapping_sub(value), None));
            }
            text => match number(text) {
                Some(value) => values.push((value, None)),
                None => values.push((0, Some(text.to_owned()))),
            },
        }
        if depth == 0 {
            break;
        }
    }
    // An initialiser may be shorter than its array only by whole elements: a compiler writes all of them.
    let one = (declared.bytes as usize).checked_div(values.len()).unwrap_or(0);
    if !matches!(one, 1 | 2 | 4 | 8) {
        return ptx_error(line, format!("{} values for {} bytes", values.len(), declared.bytes));
    }
    for (value, name) in values {
        if let Some(name) = name {
            declared.addresses.push((declared.initial.len(), name));
        }
        declared.initial.extend_from_slice(&value.to_le_bytes()[..one]);
    }
    Ok(())
}

/// An integer literal: decimal, hexadecimal, octal or binary, with an optional `U`.
pub(super) fn integer(text: &str) -> Option<u64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(binary) = text.strip_prefix("0b") {
        return u64::from_str_radix(binary, 2).ok();
    }
    text.parse().ok()
}

/// A literal's bits: an integer, `0f` with 8 or `0d` with 16 hexadecimal digits.
pub(super) fn number(text: &str) -> Option<u64> {
    let float = |prefix: [&str; 2], digits: usize| {
        let rest = text.strip_prefix(prefix[0]).or_else(|| text.strip_prefix(prefix[1]))?;
        (rest.len() == digits).then(|| u64::from_str_radix(rest, 16).ok()).flatten()
    };
    float(["0f", "0F"], 8).or_else(|| float(["0d", "0D"], 16)).or_else(|| integer(text))
}

/// What a module has told before its next kernel.
#[derive(Default)]
struct Outer {
    globals: Vec<Global>,
    /// Module-wide shared variables: name, bytes, alignment, whether the launch gives the size.
    shared: Vec<(String, u64, u64, bool)>,
    files: HashMap<u32, String>,
}

pub(super) fn module(text: &str) -> Result<Module> {
    let mut cursor = Cursor { tokens: tokens(text)?, at: 0 };
    let (mut version, mut target) = ((0, 0), String::new());
    let mut outer = Outer::default();
    let mut kernels = Vec::new();
    while cursor.peek().is_some() {
        let token = cursor.next()?;
        match token.text {
            ".version" => {
                let number = cursor.next()?;
                let Some(pair) = number.text.split_once('.') else {
                    return ptx_error(number.line, format!("version `{}`", number.text));
                };
                version = (pair.0.parse().unwrap_or(0), pair.1.parse().unwrap_or(0));
            }
            ".target" => {
                target = cursor.next()?.text.to_owned();
                cursor.skip_line(token.line);
            }
            ".address_size" => cursor.expect("64")?,
            ".file" => {
                let number = cursor.next()?;
                let name = cursor.next()?.text.trim_matches('"').to_owned();
                outer.files.insert(integer(number.text).unwrap_or(0) as u32, name);
                cursor.skip_line(token.line);
            }
            ".section" => {
                cursor.skip_past("{")?;
                cursor.skip_braces()?;
            }
            ".visible" | ".extern" | ".weak" | ".common" | ";" => {}
            ".entry" => kernels.push(entry(&mut cursor, &outer)?),
            ".func" => skip_function(&mut cursor)?,
            ".global" | ".const" | ".shared" => outer.variable(&mut cursor, token)?,
            ".pragma" => cursor.skip_past(";")?,
            other => return ptx_error(token.line, format!("`{other}` in a module")),
        }
    }
    if target.is_empty() {
        return ptx_error(1, "no `.target`: this is no PTX");
    }
    // The names of files stand behind the kernels.
    let files = Arc::new(outer.files);
    let finish = |mut kernel: Kernel| {
        kernel.files = files.clone();
        (kernel.name.clone(), Arc::new(kernel))
    };
    let kernels = kernels.into_iter().map(finish).collect();
    Ok(Module { target, version, kernels, globals: outer.globals })
}

/// A device function is passed over: a kernel that calls one is refused where it calls.
fn skip_function(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        match cursor.next()?.text {
            ";" => return Ok(()),
            "{" => return cursor.skip_braces(),
            _ => {}
        }
    }
}

impl Outer {
    fn variable(&mut self, cursor: &mut Cursor<'_>, space: Token<'_>) -> Result<()> {
        let declared = declare_variable(cursor, space.line)?;
        let Declared { name, bytes, align, initial, addresses, unsized_array } = declared;
        if space.text == ".shared" {
            self.shared.push((name, bytes, align, unsized_array));
        } else {
            self.globals.push(Global { name, bytes, initial, addresses });
        }
        Ok(())
    }

    /// The names a kernel starts with.
    fn scope(&self) -> Scope {
        let mut scope = Scope::default();
        for global in &self.globals {
            scope.names.insert(global.name.clone(), Name::Global(global.name.clone()));
        }
        for (name, bytes, align, dynamic) in &self.shared {
            let value = if *dynamic {
                Name::SharedDynamic
            } else {
                Name::SharedOuter { bytes: *bytes, align: *align }
            };
            scope.names.insert(name.clone(), value);
        }
        scope
    }
}

fn entry(cursor: &mut Cursor<'_>, outer: &Outer) -> Result<Kernel> {
    let name = cursor.next()?;
    let mut scope = outer.scope();
    let mut params = Vec::new();
    let mut param_bytes = 0;
    if cursor.peek_is("(") {
        cursor.next()?;
        while !cursor.peek_is(")") {
            cursor.expect(".param")?;
            let declared = declare_head(cursor, name.line)?;
            let at = place(&mut param_bytes, declared.bytes, declared.align, name.line)?;
            params.push((at as usize, declared.bytes as usize));
            scope.names.insert(declared.name, Name::Param(at));
            if cursor.peek_is(",") {
                cursor.next()?;
            }
        }
        cursor.next()?;
    }
    let (mut threads_max, mut threads_required) = (None, None);
    loop {
        let token = cursor.next()?;
        match token.text {
            "{" => break,
            ".maxntid" => {
                let [x, y, z] = triple(cursor)?;
                threads_max = Some(x.saturating_mul(y).saturating_mul(z));
            }
            ".reqntid" => threads_required = Some(triple(cursor)?),
            ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                cursor.next()?;
            }
            other => return ptx_error(token.line, format!("`{other}` behind a kernel's name")),
        }
    }
    let body = Body::read(cursor, scope)?;
    let mut kernel = decode::kernel(name.text, body)?;
    (kernel.params, kernel.param_bytes) = (params, param_bytes as usize);
    (kernel.threads_max, kernel.threads_required) = (threads_max, threads_required);
    Ok(kernel)
}

/// `128, 1, 1`; what is left out is 1.
fn triple(cursor: &mut Cursor<'_>) -> Result<[u32; 3]> {
    let mut sizes = [1; 3];
    for size in &mut sizes {
        *size = integer(cursor.next()?.text).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        if !cursor.peek_is(",") {
            break;
        }
        cursor.next()?;
    }
    Ok(sizes)
}
