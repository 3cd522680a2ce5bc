//! Comparisons, selects, predicate logic, packing and carrying additions.

use super::Class;
use super::body::Operand;
use super::decode::Decoder;
use super::instr::{Logic, Op};
use super::words::{Words, bits};
use crate::exec::alu;
use crate::fault::Result;

impl<'a> Decoder<'a> {
    /// Comparisons, selects, predicates, moves and packing.
    pub(super) fn decode_logic(
        &mut self,
        w: &Words<'_>,
        o: &[Operand<'a>],
    ) -> Result<Option<(Op, Class)>> {
        let ty = w.last();
        let found = match (w.root, o) {
            ("setp", [d, a, b, rest @ ..]) => (self.setp(w, d, a, b, rest)?, Class::Compare),
            ("set", [d, a, b]) => (self.set(w, d, a, b)?, Class::Compare),
            ("selp", [d, a, b, p]) => {
                let (p, not) = self.pred_operand(p)?;
                let (d, a, b) = (self.destination(d)?, self.source(a)?, self.source(b)?);
                (Op::Selp { d, a, b, p, not }, Class::Move)
            }
            ("and" | "or" | "xor", [d, a, b]) if ty == "pred" => {
                let op = logic(w.root).unwrap_or(Logic::And);
                let (a, b) = (self.pred_operand(a)?, self.pred_operand(b)?);
                (Op::PredLogic { op, d: self.pred_destination(d)?, a, b }, Class::Compare)
            }
            ("not" | "mov", [d, a]) if ty == "pred" => {
                let (p, not) = self.pred_operand(a)?;
                let not = not ^ (w.root == "not");
                (Op::PredMove { d: self.pred_destination(d)?, a: p, not }, Class::Compare)
            }
            ("mov", [Operand::List(parts), a]) => {
                let count = parts.len() as u8;
                let bits = bits(ty).unwrap_or(0).checked_div(count).unwrap_or(0);
                let mut d = Vec::new();
                for part in parts {
                    let sink = *part == Operand::Word("_");
                    d.push(if sink { None } else { Some(self.destination(part)?) });
                }
                (Op::Unpack { d, a: self.source(a)?, bits }, Class::Move)
            }
            ("mov", [d, Operand::List(parts)]) => {
                let bits = bits(ty).unwrap_or(0).checked_div(parts.len() as u8).unwrap_or(0);
                let d = self.destination(d)?;
                (Op::Pack { d, parts: self.sources(parts)?, bits }, Class::Move)
            }
            ("isspacep", [p, a]) => {
                let space = self.space(w);
                (
                    Op::IsSpace { p: self.pred_destination(p)?, a: self.source(a)?, space },
                    Class::Compare,
                )
            }
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    fn setp(
        &mut self,
        w: &Words<'_>,
        d: &Operand<'a>,
        a: &Operand<'a>,
        b: &Operand<'a>,
        rest: &[Operand<'a>],
    ) -> Result<Op> {
        let (p, q) = match d {
            Operand::Pair(p, q) => (self.pred_or_sink(p)?, self.pred_or_sink(q)?),
            Operand::Word(p) => (self.pred_or_sink(p)?, None),
            other => return self.refuse(format!("`setp` into {other:?}")),
        };
        let (a, b) = (self.source(a)?, self.source(b)?);
        let ty = w.last();
        let compare = w.mods.first().copied().unwrap_or_default();
        if matches!(ty, "f16x2" | "bf16x2") {
            let both = (alu::compare2(compare, ty, 0), alu::compare2(compare, ty, 16));
            let ((Some(low), Some(high)), Some(p), Some(q)) = (both, p, q) else {
                return self.refuse(format!("comparison `{compare}` of `{ty}`"));
            };
            return Ok(Op::Setp2 { low, high, p, q, a, b });
        }
        let Some(f) = alu::compare(compare, ty, w.has("ftz")) else {
            return self.refuse(format!("comparison `{compare}` of `{ty}`"));
        };
        let with = match (w.mods.iter().find_map(|word| logic(word)), rest) {
            (Some(op), [c]) => {
                let (c, not) = self.pred_operand(c)?;
                Some((op, c, not))
            }
            (None, []) => None,
            _ => return self.refuse("`setp` with a predicate and no operation, or the reverse"),
        };
        Ok(Op::Setp { f, p, q, a, b, with })
    }

    fn set(
        &mut self,
        w: &Words<'_>,
        d: &Operand<'a>,
        a: &Operand<'a>,
        b: &Operand<'a>,
    ) -> Result<Op> {
        let types: Vec<&str> = w.types().collect();
        let compare = w.mods.first().copied().unwrap_or_default();
        let [to, from] = types[..] else { return self.refuse("`set` without two types") };
        let yes = match to {
            "u32" | "s32" => u64::from(u32::MAX),
            "f32" => u64::from(1f32.to_bits()),
            "u16" | "s16" => u64::from(u16::MAX),
            "f16" => 0x3c00,
            "bf16" => 0x3f80,
            other => return self.refuse(format!("`set` of `{other}`")),
        };
        let Some(f) = alu::compare(compare, from, w.has("ftz")) else {
            return self.refuse(format!("comparison `{compare}` of `{from}`"));
        };
        Ok(Op::Set { f, d: self.destination(d)?, a: self.source(a)?, b: self.source(b)?, yes })
    }

    pub(super) fn decode_carry(
        &mut self,
        w: &Words<'_>,
        o: &[Operand<'a>],
    ) -> Result<Option<(Op, Class)>> {
        let carry_out = w.has("cc");
        let (subtract, carry_in) = match w.root {
            "add" if carry_out => (false, false),
            "sub" if carry_out => (true, false),
            "addc" => (false, true),
            "subc" => (true, true),
            _ => return Ok(None),
        };
        let [d, a, b] = o else { return self.refuse("a carrying addition without two sources") };
        let bits = bits(w.last()).unwrap_or(32);
        let (d, a, b) = (self.destination(d)?, self.source(a)?, self.source(b)?);
        Ok(Some((Op::Carry { d, a, b, bits, subtract, carry_in, carry_out }, Class::Integer)))
    }
}

fn logic(word: &str) -> Option<Logic> {
    match word {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}
