//! Loads, stores, atomics, address conversions and asynchronous copies.

use super::body::Operand;
use super::decode::Decoder;
use super::instr::{Access, AtomOp, AtomType, Op, R, Space};
use super::words::{Words, bits};
use super::{Class, Constant};
use crate::exec::alu;
use crate::fault::Result;

impl<'a> Decoder<'a> {
    pub(super) fn space(&self, w: &Words<'_>) -> Space {
        let space = |part: &&str| {
            Some(match part.split("::").next()? {
                "global" => Space::Global,
                "const" => Space::Const,
                "shared" => Space::Shared,
                "local" => Space::Local,
                "param" => Space::Param,
                _ => return None,
            })
        };
        w.mods.iter().find_map(space).unwrap_or(Space::Generic)
    }

    pub(super) fn decode_memory(
        &mut self,
        w: &Words<'_>,
        o: &[Operand<'a>],
    ) -> Result<Option<(Op, Class)>> {
        let found = match (w.root, o) {
            ("ld" | "ldu", [d, at, ..]) => self.load(w, d, at)?,
            ("st", [at, s, ..]) => self.store(w, at, s)?,
            ("atom", [d, at, rest @ ..]) => self.atom(w, Some(d), at, rest)?,
            ("red", [at, rest @ ..]) => self.atom(w, None, at, rest)?,
            ("cvta", [d, a]) => self.cvta(w, d, a)?,
            ("cp", _) if w.mods.first() == Some(&"async") => self.cp_async(w, o)?,
            ("ldmatrix", [Operand::List(d), at]) => {
                self.matrix_shape(w, d.len())?;
                let d = d.iter().map(|d| self.destination(d)).collect::<Result<Vec<_>>>()?;
                let (base, offset) = self.address(at)?;
                (Op::Ldmatrix { d, base, offset, trans: w.has("trans") }, Class::Shared)
            }
            ("stmatrix", [at, Operand::List(s)]) => {
                self.matrix_shape(w, s.len())?;
                let (base, offset) = self.address(at)?;
                (
                    Op::Stmatrix { s: self.sources(s)?, base, offset, trans: w.has("trans") },
                    Class::Shared,
                )
            }
            ("prefetch" | "prefetchu" | "discard" | "applypriority", _) => (Op::Nop, Class::Global),
            // A policy is a hint; its value is never looked at.
            ("createpolicy", [d, ..]) => {
                let zero = self.constant(Constant::Value(0));
                let f = alu::copy(64);
                (Op::Alu { f, d: self.destination(d)?, s: [zero; 4] }, Class::Move)
            }
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    /// `.m8n8.x1|x2|x4` of 16-bit elements, with as many registers.
    fn matrix_shape(&self, w: &Words<'_>, count: usize) -> Result<()> {
        let wanted = ["x1", "x2", "x4"].into_iter().zip([1, 2, 4]).find(|(word, _)| w.has(word));
        match wanted {
            Some((_, n)) if n == count && w.has("m8n8") && w.has("b16") => Ok(()),
            _ => self.refuse(format!("`{}` of shape {:?} with {count} registers", w.root, w.mods)),
        }
    }

    pub(super) fn address(&mut self, operand: &Operand<'a>) -> Result<(R, i64)> {
        match operand {
            Operand::Address { base, offset } => Ok((self.named(base)?, *offset)),
            other => self.refuse(format!("{other:?} where an address is wanted")),
        }
    }

    fn access(&mut self, w: &Words<'_>, at: &Operand<'a>) -> Result<Access> {
        let ty = w.last();
        let count = match (w.has("v2"), w.has("v4"), w.has("v8")) {
            (true, ..) => 2,
            (_, true, _) => 4,
            (.., true) => 8,
            _ => 1,
        };
        let Some(bits) = bits(ty).filter(|bits| *bits >= 8) else {
            return self.refuse(format!("an access of type `{ty}`"));
        };
        if u32::from(bits) * count > 256 || bits > 64 {
            return self.refuse(format!("an access of {count} times {bits} bits"));
        }
        let (base, offset) = self.address(at)?;
        let strong = ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|s| w.has(s));
        let sign_bits = if ty.starts_with('s') { bits } else { 0 };
        Ok(Access {
            space: self.space(w),
            bytes: bits / 8,
            count: count as u8,
            base,
            offset,
            strong,
            sign_bits,
            width: 64,
        })
    }

    fn class(at: &Access) -> Class {
        match at.space {
            Space::Generic | Space::Global => Class::Global,
            Space::Shared => Class::Shared,
            Space::Local => Class::Local,
            Space::Param | Space::Const => Class::Parameter,
        }
    }

    fn load(&mut self, w: &Words<'_>, d: &Operand<'a>, at: &Operand<'a>) -> Result<(Op, Class)> {
        let mut at = self.access(w, at)?;
        let single = std::slice::from_ref(d);
        let parts = if let Operand::List(parts) = d { &parts[..] } else { single };
        if parts.len() != usize::from(at.count) {
            return self.refuse(format!("{} registers for {} elements", parts.len(), at.count));
        }
        let mut registers = Vec::new();
        for part in parts {
            let (register, width) = self.destination_bits(part)?;
            at.width = width;
            registers.push(register);
        }
        let class = Self::class(&at);
        Ok((Op::Load { d: registers, at }, class))
    }

    fn store(&mut self, w: &Words<'_>, at: &Operand<'a>, s: &Operand<'a>) -> Result<(Op, Class)> {
        let at = self.access(w, at)?;
        if at.space == Space::Param {
            return self.refuse("a store into parameters: calls are not executed");
        }
        let s = match s {
            Operand::List(parts) => self.sources(parts)?,
            one => vec![self.source(one)?],
        };
        if s.len() != usize::from(at.count) {
            return self.refuse(format!("{} registers for {} elements", s.len(), at.count));
        }
        let class = Self::class(&at);
        Ok((Op::Store { s, at }, class))
    }

    fn atom(
        &mut self,
        w: &Words<'_>,
        d: Option<&Operand<'a>>,
        at: &Operand<'a>,
        rest: &[Operand<'a>],
    ) -> Result<(Op, Class)> {
        let mut at = self.access(w, at)?;
        (at.strong, at.sign_bits) = (true, 0);
        let operations = [
            ("add", AtomOp::Add),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
        ];
        let Some((_, op)) = operations.into_iter().find(|(word, _)| w.has(word)) else {
            return self.refuse(format!("atomic operation {:?}", w.mods));
        };
        let ty = match w.last() {
            "f32" => AtomType::F32,
            "f64" => AtomType::F64,
            "f16x2" => AtomType::F16x2,
            "bf16x2" => AtomType::Bf16x2,
            "f16" => AtomType::F16,
            "bf16" => AtomType::Bf16,
            "s32" | "s64" => AtomType::Signed,
            _ => AtomType::Unsigned,
        };
        if at.count != 1 {
            return self.refuse("an atomic on a vector");
        }
        let (b, c) = match rest {
            [b] if op != AtomOp::Cas => (self.source(b)?, 0),
            [b, c] if op == AtomOp::Cas => (self.source(b)?, self.source(c)?),
            _ => return self.refuse(format!("an atomic with {} sources", rest.len())),
        };
        let d = match d {
            Some(d) => Some(self.destination(d)?),
            None => None,
        };
        Ok((Op::Atom { op, ty, d, b, c, at }, Class::Atomic))
    }

    /// Between a window's own addresses and generic ones: windows lie at fixed places, so it is one addition.
    fn cvta(&mut self, w: &Words<'_>, d: &Operand<'a>, a: &Operand<'a>) -> Result<(Op, Class)> {
        let f = alu::convert_address(self.space(w), w.has("to"));
        let (d, a) = (self.destination(d)?, self.source(a)?);
        Ok((Op::Alu { f, d, s: [a; 4] }, Class::Integer))
    }

    fn cp_async(&mut self, w: &Words<'_>, o: &[Operand<'a>]) -> Result<(Op, Class)> {
        let class = Class::Async;
        let op = match (w.mods.get(1).copied().unwrap_or_default(), o) {
            ("commit_group", []) => Op::CpAsyncCommit,
            ("wait_all", []) => Op::CpAsyncWait { pending: None },
            ("wait_group", [Operand::Word(n)]) => match n.parse() {
                Ok(n) => Op::CpAsyncWait { pending: Some(n) },
                Err(_) => return self.refuse(format!("`cp.async.wait_group {n}`")),
            },
            ("ca" | "cg", [to, from, Operand::Word(bytes), rest @ ..]) => {
                let bytes = match bytes.parse() {
                    Ok(bytes @ (4 | 8 | 16)) if bytes == 16 || w.has("ca") => bytes,
                    _ => return self.refuse(format!("`cp.async` of `{bytes}` bytes")),
                };
                if !w.has("global") {
                    return self.refuse(format!("`cp.async` with {:?}", w.mods));
                }
                let (to, to_offset) = self.address(to)?;
                let (from, from_offset) = self.address(from)?;
                let (take, ignore) = self.cp_async_size(rest)?;
                Op::CpAsync { to, to_offset, from, from_offset, bytes, take, ignore }
            }
            (other, _) => return self.refuse(format!("`cp.async.{other}`")),
        };
        Ok((op, class))
    }

    /// The bytes that are really read, or the predicate under which none are. A cache policy may follow.
    #[allow(clippy::type_complexity, reason = "two optional operands of one instruction")]
    fn cp_async_size(&mut self, rest: &[Operand<'a>]) -> Result<(Option<R>, Option<(u32, bool)>)> {
        let Some(first) = rest.first() else { return Ok((None, None)) };
        let is_pred = match first {
            Operand::Not(_) => true,
            Operand::Word(name) => self.pred(name).is_ok(),
            _ => false,
        };
        if is_pred {
            return Ok((None, Some(self.pred_operand(first)?)));
        }
        Ok((Some(self.source(first)?), None))
    }
}
