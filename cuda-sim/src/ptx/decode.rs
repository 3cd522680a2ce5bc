//! Statements to instructions: names become registers, words become operations.

use std::collections::HashMap;
use std::sync::Arc;

use super::body::{Body, Name, Operand, Statement, place};
use super::instr::{Instr, Op, P, R};
use super::parse::number;
use super::words::Words;
use super::{Class, Constant, Kernel, LaneMask, Special};
use crate::exec::alu;
use crate::fault::{Result, ptx_error};

/// Turns one body into a kernel. Parameters and files are the caller's to fill in.
pub(super) fn kernel(name: &str, body: Body<'_>) -> Result<Kernel> {
    let mut decoder = Decoder::new(&body);
    let mut code = Vec::with_capacity(body.statements.len() + 1);
    for statement in &body.statements {
        decoder.scope = statement.scope;
        decoder.line = statement.line;
        code.push(decoder.statement(statement)?);
    }
    // A body may end without `ret`.
    code.push(Instr { op: Op::Exit, class: Class::Branch, guard: None });
    let last = body.statements.last();
    let at = |f: fn(&Statement<'_>) -> u32| last.map_or(0, f);
    let mut lines: Vec<u32> = body.statements.iter().map(|s| s.line).collect();
    lines.push(at(|s| s.line));
    let mut sources: Vec<(u32, u32)> = body.statements.iter().map(|s| s.source).collect();
    sources.push(last.map_or((0, 0), |s| s.source));
    Ok(Kernel {
        name: name.to_owned(),
        code,
        lines,
        sources,
        files: Arc::default(),
        regs: decoder.regs as usize,
        preds: decoder.preds as usize,
        constants: decoder.constants,
        params: Vec::new(),
        param_bytes: 0,
        shared_bytes: decoder.shared_bytes,
        local_bytes: body.local_bytes,
        threads_max: None,
        threads_required: None,
    })
}

/// A body's names, and the constants met so far.
pub(super) struct Decoder<'a> {
    body: &'a Body<'a>,
    scope: usize,
    pub(super) line: u32,
    regs: u32,
    preds: u32,
    constants: Vec<(R, Constant)>,
    known: HashMap<Constant, R>,
    shared_bytes: u32,
    shared_placed: HashMap<String, u32>,
}

impl<'a> Decoder<'a> {
    fn new(body: &'a Body<'a>) -> Self {
        Self {
            body,
            scope: 0,
            line: 0,
            regs: body.regs,
            preds: body.preds,
            constants: Vec::new(),
            known: HashMap::new(),
            shared_bytes: body.shared_bytes,
            shared_placed: HashMap::new(),
        }
    }

    pub(super) fn refuse<T>(&self, what: impl Into<String>) -> Result<T> {
        ptx_error(self.line, what)
    }

    fn statement(&mut self, statement: &Statement<'a>) -> Result<Instr> {
        let guard = match statement.guard {
            Some((name, not)) => Some((self.pred(name)?, not)),
            None => None,
        };
        let words = Words::new(statement.word);
        let operands = &statement.operands[..];
        let (op, class) = self.decode(&words, operands, statement.word)?;
        Ok(Instr { op, class, guard })
    }

    fn decode(&mut self, words: &Words<'_>, o: &[Operand<'a>], word: &str) -> Result<(Op, Class)> {
        if let Some(found) = self.decode_memory(words, o)? {
            return Ok(found);
        }
        if let Some(found) = self.decode_warp(words, o)? {
            return Ok(found);
        }
        if let Some(found) = self.decode_logic(words, o)? {
            return Ok(found);
        }
        if let Some(found) = self.decode_carry(words, o)? {
            return Ok(found);
        }
        if let ("cvt", [d, a], None, Some(how)) =
            (words.root, o, alu::find(words), alu::conversion(words))
        {
            let (d, a, how) = (self.destination(d)?, self.source(a)?, Box::new(how));
            return Ok((Op::Convert { how, d, a }, Class::Convert));
        }
        let Some((f, sources, class)) = alu::find(words) else {
            return self
                .refuse(format!("instruction `{word}` is not one that the simulator executes"));
        };
        let (f, sources) = match alu::extreme3(words) {
            Some(three) if o.len() == 4 => (three, 3),
            _ => (f, sources),
        };
        let [d, rest @ ..] = o else { return self.refuse(format!("`{word}` without operands")) };
        if rest.len() != sources {
            return self.refuse(format!("`{word}` with {} sources, {sources} wanted", rest.len()));
        }
        let d = self.destination(d)?;
        let mut s = [0; 4];
        for (slot, operand) in s.iter_mut().zip(rest) {
            *slot = self.source(operand)?;
        }
        Ok((Op::Alu { f, d, s }, class))
    }

    /// Looks a name up, from the innermost scope outwards.
    pub(super) fn lookup(&self, name: &str) -> Option<Name> {
        let mut scope = Some(self.scope);
        while let Some(at) = scope {
            let names = self.body.scopes.get(at)?;
            if let Some(found) = names.names.get(name) {
                return Some(found.clone());
            }
            let digits = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let range = names.ranges.get(digits).filter(|_| digits.len() < name.len());
            if let Some(&(first, count, width)) = range {
                let n: u32 = name[digits.len()..].parse().ok()?;
                return (n < count).then(|| match width {
                    1 => Name::Pred(first + n),
                    _ => Name::Reg { index: first + n, bits: width },
                });
            }
            scope = names.parent;
        }
        None
    }

    pub(super) fn label(&self, name: &str) -> Result<u32> {
        let mut scope = Some(self.scope);
        while let Some(names) = scope.and_then(|at| self.body.scopes.get(at)) {
            if let Some(at) = names.labels.get(name) {
                return Ok(*at);
            }
            scope = names.parent;
        }
        self.refuse(format!("label `{name}` is nowhere"))
    }

    pub(super) fn branch_targets(&self, name: &str) -> Result<Vec<u32>> {
        let mut scope = Some(self.scope);
        while let Some(names) = scope.and_then(|at| self.body.scopes.get(at)) {
            if let Some(labels) = names.targets.get(name) {
                return labels.iter().map(|label| self.label(label)).collect();
            }
            scope = names.parent;
        }
        self.refuse(format!("branch targets `{name}` are nowhere"))
    }

    pub(super) fn pred(&self, name: &str) -> Result<P> {
        match self.lookup(name) {
            Some(Name::Pred(p)) => Ok(p),
            _ => self.refuse(format!("`{name}` is no predicate")),
        }
    }

    pub(super) fn pred_or_sink(&self, name: &str) -> Result<Option<P>> {
        if name == "_" { Ok(None) } else { self.pred(name).map(Some) }
    }

    pub(super) fn pred_destination(&self, operand: &Operand<'a>) -> Result<P> {
        match operand {
            Operand::Word(name) => self.pred(name),
            other => self.refuse(format!("{other:?} where a predicate is wanted")),
        }
    }

    /// A predicate, a negated one, or an immediate that is true or false.
    pub(super) fn pred_operand(&mut self, operand: &Operand<'a>) -> Result<(P, bool)> {
        match operand {
            Operand::Not(name) => Ok((self.pred(name)?, true)),
            Operand::Word(name) if self.lookup(name).is_some() => Ok((self.pred(name)?, false)),
            Operand::Word(name) | Operand::Negative(name) => match number(name) {
                // A predicate that nobody writes is false.
                Some(value) => {
                    self.preds += 1;
                    Ok((self.preds - 1, value != 0))
                }
                None => self.refuse(format!("`{name}` where a predicate is wanted")),
            },
            other => self.refuse(format!("{other:?} where a predicate is wanted")),
        }
    }

    /// A register to write, and its bits.
    pub(super) fn destination_bits(&mut self, operand: &Operand<'a>) -> Result<(R, u8)> {
        match operand {
            // What is written into the sink goes to a register that nobody reads.
            Operand::Word("_") => Ok((self.fresh(), 64)),
            Operand::Word(name) => match self.lookup(name) {
                Some(Name::Reg { index, bits }) => Ok((index, bits)),
                _ => self.refuse(format!("`{name}` is no register")),
            },
            other => self.refuse(format!("{other:?} where a register is wanted")),
        }
    }

    pub(super) fn destination(&mut self, operand: &Operand<'a>) -> Result<R> {
        Ok(self.destination_bits(operand)?.0)
    }

    /// A new register.
    pub(super) fn fresh(&mut self) -> R {
        self.regs += 1;
        self.regs - 1
    }

    pub(super) fn constant(&mut self, value: Constant) -> R {
        if let Some(known) = self.known.get(&value) {
            return *known;
        }
        let register = self.fresh();
        self.known.insert(value.clone(), register);
        self.constants.push((register, value));
        register
    }

    pub(super) fn source(&mut self, operand: &Operand<'a>) -> Result<R> {
        match operand {
            Operand::Word(name) => self.named(name),
            Operand::Negative(text) => match number(text) {
                Some(value) => Ok(self.constant(Constant::Value(0u64.wrapping_sub(value)))),
                None => self.refuse(format!("`-{text}` is no number")),
            },
            other => self.refuse(format!("{other:?} where a value is wanted")),
        }
    }

    /// A register, a special register, an immediate or a variable's address.
    pub(super) fn named(&mut self, name: &str) -> Result<R> {
        if let Some(found) = self.lookup(name) {
            let constant = match found {
                Name::Reg { index, .. } => return Ok(index),
                Name::Pred(_) => return self.refuse(format!("predicate `{name}` as a value")),
                Name::Param(at) | Name::Local(at) => Constant::Value(u64::from(at)),
                Name::Shared(at) => Constant::Shared(at),
                Name::SharedOuter { bytes, align } => {
                    Constant::Shared(self.shared_variable(name, bytes, align)?)
                }
                Name::SharedDynamic => Constant::SharedDynamic,
                Name::Global(name) => Constant::Global(name),
            };
            return Ok(self.constant(constant));
        }
        if let Some(value) = number(name) {
            return Ok(self.constant(Constant::Value(value)));
        }
        match special(name) {
            Some(special) => Ok(self.constant(Constant::Special(special))),
            None => self.refuse(format!("`{name}` is not declared")),
        }
    }

    fn shared_variable(&mut self, name: &str, bytes: u64, align: u64) -> Result<u32> {
        if let Some(at) = self.shared_placed.get(name) {
            return Ok(*at);
        }
        let at = place(&mut self.shared_bytes, bytes, align, self.line)?;
        self.shared_placed.insert(name.to_owned(), at);
        Ok(at)
    }

    pub(super) fn sources(&mut self, operands: &[Operand<'a>]) -> Result<Vec<R>> {
        operands.iter().map(|operand| self.source(operand)).collect()
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |rest: &str| match rest {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    let (base, rest) = name.find('.').map_or((name, ""), |at| name.split_at(at));
    Some(match base {
        "%tid" => Special::Tid(axis(rest)?),
        "%ntid" => Special::Ntid(axis(rest)?),
        "%ctaid" => Special::Ctaid(axis(rest)?),
        "%nctaid" => Special::Nctaid(axis(rest)?),
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::WarpCount,
        "%lanemask_eq" => Special::LaneMask(LaneMask::Eq),
        "%lanemask_le" => Special::LaneMask(LaneMask::Le),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Lt),
        "%lanemask_ge" => Special::LaneMask(LaneMask::Ge),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Gt),
        "%dynamic_smem_size" => Special::SharedDynamicBytes,
        "%total_smem_size" => Special::SharedBytes,
        // Time has no meaning here, and no launch is a cluster.
        "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%smid" | "%gridid"
        | "%cluster_ctarank" => Special::Zero,
        _ => return None,
    })
}
